"""The command line: it parses and prints, and leaves the work to `cloud`, `local` and `opennebula`."""

from __future__ import annotations


def main() -> None:
    """Entry point of `oneflower`. Nothing is imported before this, so that Ctrl-C has an answer from the start."""
    try:
        from oneflower.cli.entry import run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        import os  # noqa: PLC0415

        os.write(2, b"Interrupted.\n")
        os._exit(130)
