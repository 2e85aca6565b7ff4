"""`oneflower-guest prepare | online`: what the units of an image run before the agent."""

from __future__ import annotations

import argparse
import grp
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.context import read_context
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.guest import disc, identity, mounting, start_script
from oneflower_appliance.guest.network import network_files
from oneflower_appliance.process import call
from oneflower_appliance.volumes import Volume, volumes

if TYPE_CHECKING:
    from collections.abc import Mapping

NETWORK = Path("/run/systemd/network")
ONLINE = "oneflower-online.service"
USER = "oneflower"
_PAUSE = 10.0


def say(text: str, level: int = 5) -> None:
    """Write a line to the journal, which shows it on the console: 5 for progress, 3 for what is wrong."""
    sys.stderr.write(f"<{level}>{text}\n")
    sys.stderr.flush()


def prepare() -> None:
    """Take over the context, and do what needs no network. Nothing of it may keep the rest from being done."""
    group = grp.getgrnam(USER).gr_gid
    try:
        with disc.found() as source:
            disc.hand_over(source, group)
        context = read_context(disc.FOLDER)
    except OneflowerError as error:
        say(error.sentence, 3)
        return
    say(f"the context of VM {context.get('VMID', '(without a number)')} is read")
    if disc.own_context_is_installed():
        say("one-context is installed, and sets up network, name and keys")
    else:
        _set_up(context)
    wanted = _volumes(context)
    for volume in wanted:
        if not volume.online:
            _mount(volume)
    later = any(volume.online for volume in wanted) or start_script.wanted(context)
    if later and not disc.own_context_is_installed():
        call(["systemctl", "start", "--no-block", ONLINE])


def _set_up(context: Mapping[str, str]) -> None:
    write_atomic(disc.FOLDER / "one_env", environment_file(context), 0o400)
    files, remarks = network_files(context)
    for name, text in files.items():
        write_atomic(NETWORK / name, text, SHARED)
    NETWORK.mkdir(parents=True, exist_ok=True)
    NETWORK.chmod(0o755)
    if not files:
        remarks = [*remarks, "The context describes no network (ETH0_MAC): give the VM a NIC and NETWORK=YES."]
    for remark in remarks:
        say(remark, 4)
    if name := identity.host_name(context):
        identity.set_host_name(name)
    keys = identity.keys(context)
    identity.let_in(keys)
    say(f"{len(files)} network interfaces, host name {name or 'unchanged'}, {len(keys)} SSH keys")


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


def _mount(volume: Volume) -> bool:
    try:
        say(f"mounted {mounting.mount(volume, grp.getgrnam(USER).gr_gid)}")
    except (OneflowerError, OSError) as error:
        say(error.sentence if isinstance(error, OneflowerError) else f"{volume.variable}: {error}.", 3)
        return False
    return True


def online() -> None:
    """Do what needs the network: mount the folders of servers, however long that takes, then run START_SCRIPT."""
    context = read_context(disc.FOLDER)
    missing = [volume for volume in _volumes(context) if volume.online]
    while missing := [volume for volume in missing if not _mount(volume)]:
        time.sleep(_PAUSE)
    if start_script.wanted(context):
        status = start_script.run(context)
        if status:
            say(f"START_SCRIPT ended with status {status}; its output is in the journal", 4)
        else:
            say("START_SCRIPT is done")


def main() -> None:
    """Entry point of `oneflower-guest`."""
    parser = argparse.ArgumentParser(prog="oneflower-guest", description=__doc__)
    parser.add_argument("command", choices=("prepare", "online"))
    os.umask(0o022)
    command = parser.parse_args().command
    {"prepare": prepare, "online": online}[command]()
