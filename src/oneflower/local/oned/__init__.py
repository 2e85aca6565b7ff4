"""OpenNebula's core: VMs, what they are made of, and XML-RPC."""
