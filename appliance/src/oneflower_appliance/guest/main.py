"""`oneflower-guest prepare | online`: what the units of an image run before the agent."""

from __future__ import annotations

import argparse
import grp
import os
import re
import shlex
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance import previous_disk, scripts
from oneflower_appliance.context import FAILED, read_context, read_token
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.guest import confining, disc, identity, mounting, previous, reserve, start_script
from oneflower_appliance.guest.network import network_files
from oneflower_appliance.log_lines import JSON, about, entry, line_of
from oneflower_appliance.process import call
from oneflower_appliance.roles import NODES
from oneflower_appliance.volumes import Volume, volumes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NETWORK = Path("/run/systemd/network")
ONLINE = "oneflower-online.service"
USER = "oneflower"
_LEVELS = {3: "ERROR", 4: "WARNING", 5: "INFO"}
_as_json = False  # FL_LOG_FORMAT, once the context is read
_PAUSE = 10.0
# What one-context would act on, and this does not: docs/images.md says why.
_UNUSED = re.compile(
    "USERNAME|(CRYPTED_)?PASSWORD(_BASE64)?|DNS_HOSTNAME|TIMEZONE|GROW_FS|READY_SCRIPT|USER_?DATA|EC2_USER_DATA|PCI[0-9]+_ADDRESS"
)


def say(text: str, level: int = 5) -> None:
    """Write a line to the journal, which shows it on the console: 5 for progress, 3 for what is wrong."""
    line = line_of(entry("guest", text, _LEVELS[level])) if _as_json else text
    sys.stderr.write(f"<{level}>{line}\n")
    sys.stderr.flush()


def prepare() -> None:
    """Take over the context, and do what needs no network. If one part of it fails, the others are still done."""
    group = grp.getgrnam(USER).gr_gid
    try:
        with disc.found() as source:
            disc.hand_over(source, group, disc.FOLDER)
            later = _has_scripts(source)
        context = _context()
    except OneflowerError as error:
        say(error.sentence, 3)
        write_atomic(disc.FOLDER / FAILED, error.sentence, SHARED)
        return
    (disc.FOLDER / FAILED).unlink(missing_ok=True)
    say(f"the context of VM {context.get('VMID', '(without a number)')} is read")
    take_over(context, group)
    if disc.own_context_is_installed():
        say("one-context is installed, and sets up network, name and keys")
        later = False  # it runs the scripts, too
    else:
        _set_up(context)
    _confine(context)
    missing = [volume for volume in _volumes(context) if volume.online or _mount(volume)]
    if missing or later:
        call(["systemctl", "start", "--no-block", ONLINE])


def take_over(context: Mapping[str, str], group: int) -> None:
    """Take over the state of the disk before if the context says so. If that fails, the agent starts nothing."""
    try:
        if done := previous.take_over(context, previous.Place(group)):
            say(done)
    except (OneflowerError, OSError) as error:
        say(_sentence(error), 3)
        write_atomic(previous_disk.FAILED, _sentence(error), SHARED)
        return
    previous_disk.FAILED.unlink(missing_ok=True)


def _confine(context: Mapping[str, str]) -> None:
    wanted = context.get("ONEFLOWER_ROLE") == NODES and confining.confines(context)
    try:
        confining.allow(wanted=wanted)
    except (OneflowerError, OSError) as error:
        say(_sentence(error), 3)
    if wanted:
        say("the policy of the site confines tasks: the agent may make namespaces")


def _context() -> dict[str, str]:
    global _as_json  # noqa: PLW0603 - this process has one log
    context = read_context(disc.FOLDER)
    _as_json = context.get("FL_LOG_FORMAT") == JSON
    about(process="guest", vm=context.get("VMID", ""), role=context.get("ONEFLOWER_ROLE", ""))
    return context


def _has_scripts(source: Path) -> bool:
    """Whether there is a script to run, or an error to report about one."""
    try:
        return bool(start_script.scripts(read_context(source), source))
    except OneflowerError:
        return True


def _set_up(context: Mapping[str, str]) -> None:
    write_atomic(disc.FOLDER / "one_env", environment_file({**context, **_token()}), 0o400)
    files, remarks = network_files(context)
    for name, text in files.items():
        write_atomic(NETWORK / name, text, SHARED)
    NETWORK.mkdir(parents=True, exist_ok=True)
    NETWORK.chmod(0o755)
    if not files:
        remarks = [*remarks, "The context describes no network (ETH0_MAC): give the VM a NIC and NETWORK=YES."]
    if unused := sorted(key for key, value in context.items() if value.strip() and _UNUSED.fullmatch(key)):
        remarks = [*remarks, f"The context sets {', '.join(unused)}, of which this image makes no use."]
    for remark in remarks:
        say(remark, 4)
    name, keys = identity.host_name(context), identity.keys(context)
    changes: list[Callable[[], object]] = [lambda: identity.set_host_name(name)] if name else []
    if keys:
        changes.append(lambda: identity.authorize(keys))
    for change in changes:
        try:
            change()
        except (OneflowerError, OSError) as error:  # the disk is full, or cannot be written
            say(_sentence(error), 3)
    say(f"{len(files)} network interfaces, host name {name or 'unchanged'}, {len(keys)} SSH keys")


def _sentence(error: Exception) -> str:
    return error.sentence if isinstance(error, OneflowerError) else f"{error}."


def _token() -> dict[str, str]:
    """Return the token for OneGate under the name by which scripts know it."""
    with suppress(OneflowerError):
        return {"TOKENTXT": read_token(disc.FOLDER)}
    return {}


def environment_file(context: Mapping[str, str]) -> str:
    """Return the context as a file that a shell may source, as one-context writes it, but quoted."""
    return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in sorted(context.items()) if _is_name(key))


def _is_name(key: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) is not None


def _volumes(context: Mapping[str, str]) -> list[Volume]:
    try:
        return volumes(context)
    except OneflowerError as error:
        say(error.sentence, 3)
        return []


def _mount(volume: Volume, said: str = "") -> str:
    """Mount a volume. Returns why it cannot be mounted.

    The reason is kept for the agent, and logged unless it was `said` before.
    """
    try:
        say(mounting.mount(volume, grp.getgrnam(USER).gr_gid))
    except (OneflowerError, OSError) as error:
        reason = _sentence(error)
        if reason != said:
            say(reason, 3)
        write_atomic(volume.reason, reason, SHARED)
        return reason
    volume.reason.unlink(missing_ok=True)
    return ""


def online() -> None:
    """Do what needs the network: mount the folders of servers and run the scripts. Then the agent may start.

    What cannot be mounted is tried again, however long that takes, and scripts may end late. Meanwhile the agent says
    what is missing.
    """
    context = _context()
    missing = {volume: _mount(volume) for volume in _volumes(context)}
    if not disc.own_context_is_installed():
        Scripts(context).wait(scripts.LIMIT)
    call(["systemd-notify", "--ready"])
    while missing := {volume: reason for volume, reason in missing.items() if reason}:
        time.sleep(_PAUSE)
        missing = {volume: _mount(volume, reason) for volume, reason in missing.items()}


class Scripts:
    """The scripts of the context, which run one after the other."""

    def __init__(self, context: Mapping[str, str]) -> None:
        self._context = context
        self._now = ""
        self._thread = threading.Thread(target=self._run, name="scripts")
        self._thread.start()

    def wait(self, limit: float) -> None:
        """Wait until they have ended. After `limit` seconds they continue, and a file tells the agent so."""
        self._thread.join(limit)
        if self._thread.is_alive():
            say(f"{self._now} has not ended within {limit / 60:.0f} minutes; the agent says so until it has", 3)
            write_atomic(scripts.UNFINISHED, self._now, SHARED)
            if not self._thread.is_alive():
                scripts.UNFINISHED.unlink(missing_ok=True)

    def _run(self) -> None:
        try:
            with disc.found() as source:
                for name, script in start_script.scripts(self._context, source).items():
                    self._now = name
                    say(f"{name} runs; the agent starts when it has ended")
                    status = start_script.run(name, script, self._context, source)
                    if status:
                        say(f"{name} ended with status {status}; its output is in the journal", 4)
                    else:
                        say(f"{name} is done")
        except OneflowerError as error:
            say(error.sentence, 3)
        scripts.UNFINISHED.unlink(missing_ok=True)


def main() -> None:
    """Entry point of `oneflower-guest`."""
    parser = argparse.ArgumentParser(prog="oneflower-guest", description=__doc__)
    parser.add_argument("command", choices=("prepare", "online"))
    os.umask(0o022)
    command = parser.parse_args().command
    if command == "prepare":
        reserve.keep_less_free()
    {"prepare": prepare, "online": online}[command]()
