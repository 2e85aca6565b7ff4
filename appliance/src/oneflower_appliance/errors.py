"""The one exception whose message is for people, and the exit codes that go with it.

A user's mistake never shows a traceback: it is raised as a `OneflowerError`, whose `str()` is the message, whose
`hint` says how to fix it, and whose `code` becomes the exit status of the command.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of `oneflower` and `oneflower-agent`; each is explained in docs/exit-codes.md."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    INVALID_INPUT = 3
    NOT_FOUND = 4
    CONFLICT = 5
    CLOUD = 6
    DEPLOY_FAILED = 7
    RUN_FAILED = 8
    ENVIRONMENT = 9
    TIMEOUT = 10
    TAMPERED = 11
    INTERRUPTED = 130


EXIT_CODE_MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "It worked.",
    ExitCode.INTERNAL: "A defect in oneflower. Please report it with the output of the same command and `--debug`.",
    ExitCode.USAGE: "The command line is wrong: an unknown option, for example, or a missing argument.",
    ExitCode.INVALID_INPUT: (
        "A value, a template or an app folder is not valid, and nothing was started. Every error is listed."
    ),
    ExitCode.NOT_FOUND: "The named federation, site, run, file or use case does not exist.",
    ExitCode.CONFLICT: "The name is taken, or the state of the federation does not allow this.",
    ExitCode.CLOUD: "OneFlow, OneGate or OpenNebula could not be reached, or refused the request.",
    ExitCode.DEPLOY_FAILED: "The federation did not become ready; the machine's own reason is printed.",
    ExitCode.RUN_FAILED: "The training run failed; the app's own reason is printed.",
    ExitCode.ENVIRONMENT: "This machine lacks something: disk space, a free port, or access to the package registry.",
    ExitCode.TIMEOUT: "It took longer than `--timeout` allows.",
    ExitCode.TAMPERED: "An audit log was changed or cut; the first line that does not fit is named.",
    ExitCode.INTERRUPTED: "Ctrl-C. What the command had begun was rolled back; the message names what could not be. "
    "An upgrade stays where it is, and the message names the command that finishes it. "
    "Training that the form started continues, and the message says so.",
}


class OneflowerError(Exception):
    """Something a person can fix. `str()` is the whole message: what is wrong, then what to do."""

    def __init__(self, message: str, hint: str = "", code: ExitCode = ExitCode.INVALID_INPUT) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    @property
    def sentence(self) -> str:
        """Message and hint on one line, as published in FL_ERROR."""
        return " ".join(f"{self.message} {self.hint}".split())
