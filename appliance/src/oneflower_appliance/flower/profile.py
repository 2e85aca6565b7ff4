"""Whether this machine is a small one (FL_PROFILE=edge). Then memory counts for more than the time of a round.

Flower's processes share what they have imported, but only until they use it: a process that counts a reference has its
own copy. So a small machine has fewer processes. The SuperExec is there only while there is work, with no spare one
behind it, and a framework that does not survive a fork is imported for each task, not in advance for the next one too.
Nothing has huge pages.
"""

from __future__ import annotations

import os

from oneflower_appliance.orders import PROFILE_VARIABLE
from oneflower_appliance.roles import EDGE


def is_edge() -> bool:
    """Return whether this process is on a small machine."""
    return os.environ.get(PROFILE_VARIABLE) == EDGE
