"""The one thing that is told by OneGate's words, because OneGate tells it in no other way.

OneGate answers 400 for a VM that is not in the service, and for much else. Only its text says which: there is no code.
A recorded answer of a real OneGate tests it. If a release words it otherwise, nodes that are gone stay registered.
"""

from __future__ import annotations

_NOT_IN_SERVICE = "does not contain"


def no_such_vm(reason: str) -> bool:
    """Whether the text of a 400 says that the service has no such VM."""
    return _NOT_IN_SERVICE in reason
