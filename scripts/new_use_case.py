"""Makes the folder of a new use case: a copy of scripts/skeleton with the new name, which trains at once.

usage: scripts/new_use_case.py NAME [--apps FOLDER]     (make new-use-case NAME=...)

What is left is one entry in use_cases.py, which it prints.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

SKELETON = Path(__file__).parent / "skeleton"
APPS = Path(__file__).parent.parent / "appliance/src/oneflower_appliance/apps"


def make(name: str, apps: Path) -> str:
    """Make the folder of a use case in `apps` and return its entry. Raises `ValueError` saying what is wrong."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"{name!r} is not a name: small letters and digits, parts joined by hyphens.")
    folder, package = apps / name, name.replace("-", "_")
    if folder.exists():
        raise ValueError(f"{folder} exists already.")
    shutil.copytree(SKELETON, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / SKELETON.name).rename(folder / package)
    for path in folder.rglob("*.*"):
        text = path.read_text(encoding="utf-8")
        text = text.partition("\n\n")[2] if path.name == "pyproject.toml" else text
        words = {f'"{SKELETON.name}"': f'"{name}"', SKELETON.name: package}
        for old, new in words.items():
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    return f'    "{name}": UseCase(_APPS / "{name}", ("sklearn",), ()),'


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("name", help="for example text-classification")
    parser.add_argument("--apps", type=Path, default=APPS, help="the folder of all pre-built apps")
    options = parser.parse_args()
    try:
        entry = make(options.name, options.apps)
    except ValueError as error:
        sys.exit(f"new_use_case.py: {error}")
    sys.stderr.write(f"{options.apps / options.name} is there. Put this line into USE_CASES in use_cases.py:\n")
    print(entry)


if __name__ == "__main__":
    main()
