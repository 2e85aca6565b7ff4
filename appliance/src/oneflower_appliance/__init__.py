"""What runs inside the virtual machines of a federation, and inside Flower's processes there.

`parameters`, `errors` and `files` are also what the operator's side builds on; the rest is the guest's alone.
"""

__version__ = "0.1.0"
