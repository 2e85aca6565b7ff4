"""Used inside Flower's ServerApp and ClientApp processes."""
