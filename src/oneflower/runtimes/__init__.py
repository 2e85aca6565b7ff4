"""Runtimes: the local counterparts of appliance images, with their pinned lists of packages in `locks/`."""
