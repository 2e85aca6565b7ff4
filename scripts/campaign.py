"""Kill every process of a federation in every phase of a run, and print what became of it as a table.

usage: python scripts/campaign.py [--kills N] [--seed N] [--seconds S]    docs/survival.md has the table of a long one
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.e2e.campaign import Campaign
from tests.e2e.conftest import User


def main() -> int:
    """Run a campaign. Returns the exit status."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after as long")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oneflower-campaign-") as folder:
        user = User(Path(folder))
        try:
            report = Campaign(user, lambda line: print(line, file=sys.stderr, flush=True)).run(
                options.kills, options.seed
            )
        finally:
            user.leave()
    print(report.table)
    for problem in report.problems:
        print(problem)
    return bool(report.problems)


if __name__ == "__main__":
    sys.exit(main())
