"""Runs a command, and turns every way in which it can end into a sentence and an exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from oneflower.printable import printable
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from types import FrameType

_OBJECTS = 100_000  # new ones, after which Python looks for garbage: 700 by default


def run() -> None:
    """Run a command. Ends the process without the interpreter's clean-up, which would take a while."""
    # What is imported stays. To look for garbage among it again and again takes a tenth of most commands' CPU time.
    gc.set_threshold(_OBJECTS)
    status = _run()
    if status == ExitCode.INTERRUPTED:  # typer returns that number and prints nothing
        report("Interrupted.", ExitCode.INTERRUPTED)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        status = ExitCode.OK
    os._exit(status)


def _run() -> int:
    import click  # noqa: PLC0415 - so that importing this package costs nothing

    from oneflower.cli.app import app  # noqa: PLC0415

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = app(standalone_mode=False)
    except OneflowerError as error:
        return report(f"Error: {error}", error.code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except BrokenPipeError:
        return ExitCode.OK
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        what = f"{type(error).__name__}: {error}"
        return report(
            f"Error: a defect in oneflower: {what}\nRun it again with --debug and report it.", ExitCode.INTERNAL
        )
    return status if isinstance(status, int) else ExitCode.OK


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def report(text: str, status: ExitCode) -> ExitCode:
    """Print how a command ended, and return its exit code."""
    sys.stderr.write(printable(text) + "\n")
    return status
