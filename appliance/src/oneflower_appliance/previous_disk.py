"""A machine that boots another disk than before: which variable has it take over the state of the disk before.

Only with that variable is another disk looked at: one that is attached alone is never adopted.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from oneflower_appliance.errors import ExitCode, OneflowerError

# Neither FL_ nor ONEFLOWER_: an agent that does not know such a variable refuses to start, and an older image on the
# disk before must boot again when a machine goes back.
VARIABLE = "TAKE_OVER_DISK"
ROOT_PARTITION = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"  # the type of the partition with the root of an image
CONTAINER = Path("/disks")  # where a container sees the disks from which it has not booted
FAILED = Path("/run/oneflower/previous-disk.failed")  # why the state could not be taken over, if it could not


def check_previous_disk() -> None:
    """Raise `OneflowerError` if the state of the disk before was to be taken over, and was not."""
    with suppress(FileNotFoundError):
        raise OneflowerError(FAILED.read_text(encoding="utf-8"), "", ExitCode.ENVIRONMENT)
