"""Federated training on the handwritten digits that scikit-learn ships."""
