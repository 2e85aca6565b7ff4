"""What runs inside the virtual machines of a federation, and inside Flower's processes there.

The operator's side also imports the modules at the top level. The rooms below it are for the guest alone.
"""

__version__ = "0.1.0"
