"""The names of the two roles of a service, by which machines and clients find each other."""

from __future__ import annotations

COORDINATOR = "superlink"
NODES = "supernode"
