"""The commands of `oneflower-agent` that answer a question and start nothing: `status`, `check` and `audit`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from oneflower_appliance.agent import supernode
from oneflower_appliance.agent.journal import Health, read_status
from oneflower_appliance.agent.self_check import check_without_joining
from oneflower_appliance.audit import FOLDER, AuditLog, verify
from oneflower_appliance.checks import FAIL
from oneflower_appliance.context import read_context
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.settings import resolve

if TYPE_CHECKING:
    import argparse

COMMANDS = ("status", "check", "audit")


def answer(options: argparse.Namespace) -> int:
    """Print the answer, and return the exit status."""
    try:
        return {"status": _status, "check": _check, "audit": _audit}[options.command](options)
    except OneflowerError as error:
        sys.stderr.write(f"oneflower-agent: {error}\n")
        return error.code


def _status(options: argparse.Namespace) -> int:
    status = read_status(options.home)
    if options.json:
        print(json.dumps(status, indent=1))  # noqa: T201 - the command's output
    else:
        causes = "".join(f"\n  {cause}" for cause in status["causes"])
        rows = (f"  {s['name']:12} {s['outcome']:12} {s['seconds']:7.2f} s  {s['detail']}" for s in status["steps"])
        print("\n".join([f"{status['role']}: {status['health']}{causes}", *rows]))  # noqa: T201
    return ExitCode.OK if status["health"] in (Health.DONE, Health.DEGRADED) else ExitCode.DEPLOY_FAILED


def _check(options: argparse.Namespace) -> int:
    context = read_context(options.context)
    settings = resolve({key: value for key, value in context.items() if key in PARAMETERS}, supernode.LEVELS)
    found = list(check_without_joining(settings, options.home))
    if options.json:
        print(json.dumps([asdict(check) for check in found], indent=1))  # noqa: T201
    else:
        for check in found:
            print(f"{check.status:5}{check.what:12} {check.detail}")  # noqa: T201
            if check.fix:
                print(f"{'':18}{check.fix}")  # noqa: T201
    return ExitCode.ENVIRONMENT if any(check.status == FAIL for check in found) else ExitCode.OK


def _audit(options: argparse.Namespace) -> int:
    content = AuditLog(options.home / FOLDER).read()
    if options.json:
        print(json.dumps(content.entry, indent=1))  # noqa: T201
    else:
        print("\n".join(content.lines))  # noqa: T201
    if broken := verify(content).broken:
        raise OneflowerError(
            f"The audit log in {options.home / FOLDER} is broken. {broken}",
            "Keep a copy of it, and find out who could write it.",
            ExitCode.TAMPERED,
        )
    return ExitCode.OK
