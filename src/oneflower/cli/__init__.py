"""The command line: it parses and prints, and leaves the work to `cloud`, `local` and `template`."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from types import FrameType


def main() -> None:
    """Entry point of `oneflower`."""
    import click  # noqa: PLC0415 - so that importing this package costs nothing

    from oneflower.cli.app import app  # noqa: PLC0415

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = app(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else ExitCode.OK)
    except OneflowerError as error:
        _say(f"Error: {error}")
        sys.exit(error.code)
    except click.exceptions.Abort:
        _say("Interrupted.")
        sys.exit(ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(ExitCode.OK)
    except KeyboardInterrupt:
        _say("Interrupted.")
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        _say(f"Error: a defect in oneflower: {type(error).__name__}: {error}\nRun it again with --debug and report it.")
        sys.exit(ExitCode.INTERNAL)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
