"""Flower's own processes, and everything that depends on Flower's internals."""
