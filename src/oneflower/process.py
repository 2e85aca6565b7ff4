"""The one door through which the operator's side starts other programs. Never a shell."""

from __future__ import annotations

import os
import subprocess
from typing import IO, TYPE_CHECKING, NoReturn

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path


# For Flower's own commands: they report to nobody, and print text without colours.
QUIET_FLOWER = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "NO_COLOR": "1"}


def run(
    command: Sequence[str],
    what: str,
    hint: str,
    environment: Mapping[str, str] | None = None,
    *,
    apart_in: Path | None = None,
    stdin: IO[bytes] | None = None,
    accepts: Collection[int] = (0,),
) -> str:
    """Run a program to its end and return its output. It reads `stdin`, or nothing.

    With `apart_in` it runs in that folder and in a session of its own, where no Ctrl-C of the terminal reaches it.

    Raises `OneflowerError` with the last lines of its output when it ends with none of the statuses that it `accepts`.
    `what` completes "Cannot ...", `hint` says what to do then.
    """
    try:
        done = subprocess.run(
            list(command), env=None if environment is None else dict(environment), stdin=stdin or subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False,
            cwd=apart_in, start_new_session=apart_in is not None,
        )  # fmt: skip
    except OSError as error:
        raise OneflowerError(f"Cannot {what}: {error}.", hint, ExitCode.ENVIRONMENT) from error
    if done.returncode not in accepts:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise OneflowerError(f"Cannot {what}:\n{last}", hint, ExitCode.ENVIRONMENT)
    return done.stdout


def attend(command: Sequence[str]) -> int:
    """Run a program in the foreground, on this one's terminal, and return its exit status. Raises `OneflowerError`."""
    try:
        return subprocess.run(list(command), stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        raise OneflowerError(f"Cannot start {command[0]}: {error}.", "Install it.", ExitCode.ENVIRONMENT) from error


def become(command: Sequence[str]) -> NoReturn:
    """Let a program take the place of this process, with its terminal. Raises `OneflowerError`."""
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - without a shell is how it should be
    except OSError as error:
        raise OneflowerError(f"Cannot start {command[0]}: {error}.", "Install it.", ExitCode.ENVIRONMENT) from error


def launch(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> int:
    """Start a program that outlives this one, its output appended to `log`, and return its process id."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            list(command), env=None if environment is None else dict(environment), stdin=subprocess.DEVNULL,
            stdout=stream, stderr=stream, start_new_session=True, cwd="/",
        )  # fmt: skip
    process.returncode = 0  # nobody waits for it here: the caller watches its pid
    return process.pid


class Background:
    """A program that runs beside this one until it is stopped; its output goes to a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        try:
            with log.open("wb") as stream:
                self._process = subprocess.Popen(
                    list(command), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
                )
        except OSError as error:
            raise OneflowerError(
                f"Cannot start {command[0]}: {error.strerror}.", f"Install {command[0]}.", ExitCode.ENVIRONMENT
            ) from error

    def ended(self) -> str | None:
        """Return its output if it has ended, else None."""
        return None if self._process.poll() is None else self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
