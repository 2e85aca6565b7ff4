"""OpenNebula on one machine: OneFlow, OneGate and as much of XML-RPC as the client needs, with processes for VMs."""
