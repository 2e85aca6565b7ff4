"""Federated anomaly detection: an autoencoder learns normal rows; a row that it cannot reconstruct is an anomaly."""
