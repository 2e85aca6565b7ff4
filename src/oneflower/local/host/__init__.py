"""The hypervisor: machines as process trees, and their init."""
