"""Variables of earlier releases that are no longer there. A template that still sets one is otherwise a good template.

None of them ever had an effect. So a machine whose context has one boots, and says that the variable has none.
"""

from __future__ import annotations

_SOCKETS = "connections carry HTTP, not gRPC, and both ends always notice within 30 s that the other end is gone"

REMOVED = {
    "FL_ISOLATION": (
        "app code always runs in processes of its own, which the SuperLink and the SuperNodes start. FL_EXECUTION says "
        "how they start, and a site policy confines them"
    ),
    "FL_GRPC_KEEPALIVE_TIME": _SOCKETS,
    "FL_GRPC_KEEPALIVE_TIMEOUT": _SOCKETS,
}
