"""OpenNebula on one machine: OneFlow, OneGate and the part of XML-RPC that the client needs, with processes as VMs."""
