"""Try the releases of Flower that are supported beside the default one.

For each release: the tests of what knows Flower's internals and its strategies, in a virtual environment made of the
pinned list of its runtime (kept in .tools/releases); then, with its real processes, the demo, an app on the legacy
API, a warm run in which a ClientApp is killed, and the front door.

usage: python scripts/releases.py [RELEASE ...]      (default: every supported release but the default one)
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from uv import find_uv_bin

from oneflower.runtimes.runtime import requirements
from oneflower_appliance.parameters import FLOWER_MINORS, FLOWER_TESTED

ROOT = Path(__file__).parent.parent
VARIABLE = "ONEFLOWER_TEST_FLOWER"
UNIT = (
    "tests/unit/flower",
    "tests/unit/test_abandoned.py",
    "tests/unit/test_form_rule.py",
    "tests/unit/test_secure_aggregation.py",
    "tests/unit/test_strategies.py",
    "tests/unit/test_supervisor.py",
)
WITH_PROCESSES = (
    "tests/e2e/test_training.py::test_the_demo_does_the_whole_job_and_cleans_up",
    "tests/e2e/test_apps.py::test_an_app_with_numpy_clients_and_a_server_fn_is_recorded_as_any_other",
    "tests/e2e/test_warm.py::test_a_clientapp_that_is_killed_costs_its_node_the_round_which_says_so_at_once",
    "tests/e2e/test_faults.py::test_a_node_that_is_not_of_the_service_cannot_join_with_the_right_ca",
)


def entries(listed: str) -> list[tuple[str, str]]:
    """Return the entries of a pinned list, each with the name of its package: a line, with those of its hashes."""
    found = re.findall(r"^[A-Za-z0-9].*(?:\n[ \t].*)*", listed, re.MULTILINE)
    return [(re.split(r"[^A-Za-z0-9._-]", entry, maxsplit=1)[0].lower(), entry) for entry in found]


def environment(release: str) -> Path:
    """Return the Python of a virtual environment with that release and what the tests need, made when it is not there.

    The release brings the versions that its runtime has; what it does not bring is what uv.lock has.
    """
    uv = find_uv_bin()
    export = [uv, "export", "--quiet", "--frozen", "--no-emit-workspace", "--no-annotate", "--no-header"]
    tools = subprocess.run(export, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    brought = entries(requirements(release, "sklearn"))
    names = {name for name, _ in brought}
    listed = "\n".join(entry for _, entry in [*brought, *(one for one in entries(tools) if one[0] not in names)])
    folder = (
        ROOT / ".tools/releases" / f"{release}-{hashlib.sha256(f'{sys.version}{listed}'.encode()).hexdigest()[:12]}"
    )
    python = folder / "bin/python"
    if not (folder / ".complete").is_file():
        print(
            f"Flower {release}: installing it and what its tests need into {folder.relative_to(ROOT)}, once", flush=True
        )
        subprocess.run(
            [uv, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, folder], check=True
        )
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--compile-bytecode", "--only-binary",
             ":all:", "--python", python, "--requirement", "-"],
            input=listed, text=True, check=True, env={"UV_SYSTEM_CERTS": "1", **os.environ},
        )  # fmt: skip
        (folder / ".complete").touch()
    return python


def tries(release: str) -> bool:
    """Whether the tests pass on a release."""
    python = environment(release)
    variables = {**os.environ, VARIABLE: release, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'appliance/src'}"}
    variables.pop("VIRTUAL_ENV", None)
    print(f"Flower {release}: the tests of what knows its internals", flush=True)
    begun = time.monotonic()
    passed = subprocess.run([python, "-m", "pytest", "-q", "-n", "4", *UNIT], cwd=ROOT, env=variables, check=False)
    print(
        f"Flower {release}: the demo, a warm run, a fault and the front door ({time.monotonic() - begun:.0f} s so far)",
        flush=True,
    )
    run = [sys.executable, "-m", "pytest", "-q", "-m", "e2e", *WITH_PROCESSES]
    worked = subprocess.run(run, cwd=ROOT, env={**os.environ, VARIABLE: release}, check=False)
    print(f"Flower {release}: done in {time.monotonic() - begun:.0f} s", flush=True)
    return passed.returncode == worked.returncode == 0


if __name__ == "__main__":
    others = [f"{minor}.0" for minor in FLOWER_MINORS if f"{minor}.0" != FLOWER_TESTED]
    failed = [release for release in sys.argv[1:] or others if not tries(release)]
    if failed:
        sys.exit(f"Tests failed on Flower {', '.join(failed)}.")
