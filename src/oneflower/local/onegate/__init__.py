"""OneGate: the service through which machines report what they are and ask about their federation."""
