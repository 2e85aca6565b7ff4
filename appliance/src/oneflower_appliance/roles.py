"""The names of the two roles of a service, by which machines and clients find each other, and of a node's profiles."""

from __future__ import annotations

COORDINATOR = "superlink"
NODES = "supernode"
ROLES = (COORDINATOR, NODES)

STANDARD, EDGE = PROFILES = ("standard", "edge")  # what the machine of a SuperNode is made for (FL_PROFILE)
