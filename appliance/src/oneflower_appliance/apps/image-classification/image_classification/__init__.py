"""Federated image classification: folders of images, or the handwritten digits that scikit-learn ships."""
