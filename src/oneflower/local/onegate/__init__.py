"""OneGate: the service through which machines publish attributes and read about their service."""
