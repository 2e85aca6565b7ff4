"""Flower's own processes, and all that is known of Flower's internals."""
