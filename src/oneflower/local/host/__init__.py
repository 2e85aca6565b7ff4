"""The hypervisor: machines as process trees with their init, as containers, or as virtual machines of QEMU."""
