"""Federated anomaly detection: an autoencoder learns normal rows, and a row that it cannot reconstruct is an anomaly."""
