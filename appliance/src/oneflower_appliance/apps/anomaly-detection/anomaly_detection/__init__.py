"""Federated anomaly detection: an autoencoder learns what is normal, and what it cannot reconstruct is not."""
