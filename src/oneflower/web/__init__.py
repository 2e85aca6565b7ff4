"""The page: federations and their training in a browser on this machine.

It does nothing that the Python API cannot. `server.py` serves it on the loopback, `guard.py` lets only the person in
who started it, and `views.py` answers requests. Calls of the API wait for a cloud, so they run in threads
(`background.py`).
"""
