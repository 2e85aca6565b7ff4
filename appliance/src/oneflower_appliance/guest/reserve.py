"""How much memory the kernel keeps free.

It has a formula for it. Where huge pages are on, it keeps up to 90 MB more, so that there are always some to be had. A
small machine has better use for that. Huge pages stay on: large arrays are faster in them.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path

_LEAST, _MOST = 128, 262144  # kB
CONTAINER = Path("/run/systemd/container")  # systemd makes it in a container


def keep_less_free(kernel: Path = Path("/proc")) -> None:
    """Have the kernel keep as much memory free as without huge pages. The kernel of a container is not ours."""
    if CONTAINER.exists():
        return
    with suppress(OSError):  # then more is kept free
        if found := re.search(r"^MemTotal: +(\d+) kB$", (kernel / "meminfo").read_text(encoding="ascii"), re.MULTILINE):
            (kernel / "sys/vm/min_free_kbytes").write_text(f"{formula(int(found[1]))}\n", encoding="ascii")


def formula(memory: int) -> int:
    """Return the kB to keep free of `memory` kB (`calculate_min_free_kbytes` in the kernel's mm/page_alloc.c)."""
    return min(max(math.isqrt(16 * memory), _LEAST), _MOST)
