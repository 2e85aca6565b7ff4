"""How soon after the end of a round its row is in the page's stream, on real processes.

usage: python scripts/bench_page.py [--rounds N] [--repeats N]

The page runs as `oneflower ui`, and the stream is read as a browser reads it. A round ends when its ServerApp says so:
that is the time `ended` in metrics.jsonl, of the same clock.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx
from bench import Bench

from oneflower.local import daemon

_ADDRESS = re.compile(r"http://\S+#\S+")
_EVENT = re.compile(r"event: rows\ndata: (.*)")


class Page:
    """The page, and when each round was in its stream: by run and round."""

    def __init__(self, said: IO[str]) -> None:
        address = next(found[0] for line in said if (found := _ADDRESS.search(line)))
        parts = urlsplit(address)
        origin = f"{parts.scheme}://{parts.netloc}"
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{parts.port}", headers={"Host": parts.netloc, "Origin": origin},
            trust_env=False, timeout=60,
        )  # fmt: skip
        entered = self._client.post(parts.path, data={"token": parts.fragment}).raise_for_status()
        self._client.headers["Cookie"] = entered.headers["set-cookie"].partition(";")[0]
        self.seen: dict[tuple[str, int], float] = {}

    def watch(self, federation: int) -> None:
        """Read the stream of a federation, in a thread of its own, as long as the page runs."""
        threading.Thread(target=self._read, args=(federation,), daemon=True).start()

    def _read(self, federation: int) -> None:
        text = ""
        with suppress(httpx.HTTPError), self._client.stream("GET", f"/federations/{federation}/events") as stream:
            for some in stream.iter_text():
                *events, text = (text + some).split("\n\n")
                for event in events:
                    self._take(event)

    def _take(self, event: str) -> None:
        if found := _EVENT.fullmatch(event):
            said: dict[str, Any] = json.loads(found[1])
            for row in said["rows"]:
                self.seen.setdefault((said["run"], row["round"]), time.time())


def delays(page: Page, home: Path) -> list[float]:
    """Return the seconds from the end of each round until it was in the stream."""
    ended = {
        (path.parent.name, row["round"]): row["ended"]
        for path in home.glob("machines/*/var/runs/*/metrics.jsonl")
        for row in map(json.loads, path.read_text().splitlines())
    }
    if missing := ended.keys() - page.seen.keys():
        raise SystemExit(f"Rounds that were not in the stream: {sorted(missing)}")
    return [page.seen[key] - ended[key] for key in ended]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        server = None
        try:
            bench.oneflower("up", "lab")
            number = json.loads(bench.oneflower("show", "lab", "-o", "json")[0])["id"]
            server = subprocess.Popen(
                [str(Path(sys.executable).parent / "oneflower"), "ui", "--no-browser"],
                env=bench.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            assert server.stdout is not None  # noqa: S101 - a pipe
            page = Page(server.stdout)
            page.watch(number)
            for _ in range(options.repeats):
                bench.oneflower("run", "image-classification", "-f", "lab", "-r", str(options.rounds))
            time.sleep(2)
            found = sorted(delays(page, bench.home.state))
        finally:
            if server:
                server.terminate()
                server.wait(20)
            bench.oneflower("down", "--all")
            daemon.stop(bench.home)
    slow = found[int(0.95 * len(found))]
    print(f"{len(found)} rounds were in the stream {statistics.median(found):.2f} s after they had ended (median); "
          f"95 % within {slow:.2f} s, all within {found[-1]:.2f} s. Goal: <= 0.5 s.")  # fmt: skip


if __name__ == "__main__":
    main()
