"""Kill every kind of process of a federation in every phase of a run, and print the results as a table.

A long campaign can be run in parts, each with its own seed. Their reports go into one file:

usage: python -m scripts.campaign [--kills N] [--seed N] [--seconds S] [--into FILE]
       python -m scripts.campaign --table FILE      docs/survival.md has the table of a long one
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.e2e.campaign import Campaign, Report
from tests.e2e.conftest import User


def main() -> int:
    """Run a campaign. Returns the exit status."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after this many seconds")
    parser.add_argument("--into", type=Path, help="add the report to this file, and print the table of all in it")
    parser.add_argument("--table", type=Path, help="kill nothing; print the table of the reports in this file")
    options = parser.parse_args()
    report = _collected(options.table) if options.table else _campaign(options)
    if options.into:
        with options.into.open("a", encoding="utf-8") as stream:
            stream.write(report.text)
        report = _collected(options.into)
    print(report.table)
    for problem in report.problems:
        print(problem)
    return bool(report.problems)


def _collected(path: Path) -> Report:
    return Report.read(path.read_text(encoding="utf-8").splitlines())


def _campaign(options: argparse.Namespace) -> Report:
    with tempfile.TemporaryDirectory(prefix="oneflower-campaign-") as folder:
        user = User(Path(folder))
        try:
            return Campaign(user, lambda line: print(line, file=sys.stderr, flush=True)).run(
                options.kills, options.seed, options.seconds
            )
        finally:
            user.leave()


if __name__ == "__main__":
    sys.exit(main())
