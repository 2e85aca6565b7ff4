"""Deploys and operates Flower federations on OpenNebula, and on one machine without it."""

__version__ = "0.1.0"
