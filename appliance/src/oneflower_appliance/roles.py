"""The names of the two roles of a service. Machines and clients find each other by these."""

from __future__ import annotations

COORDINATOR = "superlink"
NODES = "supernode"
ROLES = (COORDINATOR, NODES)
