"""What an image does with the context before the agent starts: network, name, keys, folders, START_SCRIPT."""

from __future__ import annotations

import base64
import errno
import json
import os
import shlex
import socket
import subprocess
import threading

import pytest

from oneflower.opennebula.text import context_sh
from oneflower_appliance import log_lines, scripts
from oneflower_appliance.context import FAILED, read_context
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.guest import disc, identity, main, mounting, reserve, start_script
from oneflower_appliance.guest.main import environment_file
from oneflower_appliance.guest.network import network_files
from oneflower_appliance.volumes import Volume, check_volumes, volumes

# As OpenNebula 7.4 writes it: every key, most of them empty.
NIC = {
    "ETH0_DNS": "10.9.0.1 10.9.0.2", "ETH0_EXTERNAL": "", "ETH0_GATEWAY": "10.9.0.1", "ETH0_IP": "10.9.0.70", "ETH0_IP6": "",
    "ETH0_IP6_GATEWAY": "", "ETH0_IP6_METHOD": "", "ETH0_IP6_METRIC": "", "ETH0_IP6_PREFIX_LENGTH": "", "ETH0_IP6_ULA": "",
    "ETH0_MAC": "02:00:0A:09:00:46", "ETH0_MASK": "255.255.254.0", "ETH0_METHOD": "", "ETH0_METRIC": "", "ETH0_MTU": "1450",
    "ETH0_NETWORK": "10.9.0.0", "ETH0_ROUTES": "10.20.0.0/16 via 10.9.0.3, 10.30.0.0/16 via 10.9.0.4",
    "ETH0_SEARCH_DOMAIN": "lab.example.org", "ETH0_VLAN_ID": "", "NETWORK": "YES",
}  # fmt: skip


def file_of(context):
    files, remarks = network_files(context)
    assert remarks == []
    assert list(files) == ["50-oneflower-eth0.network"]
    return files["50-oneflower-eth0.network"]


def test_a_nic_with_everything():
    assert file_of(NIC).splitlines() == [
        "[Match]", "MACAddress=02:00:0a:09:00:46", "",
        "[Link]", "MTUBytes=1450", "",
        "[Network]", "DHCP=no", "IPv6AcceptRA=no", "LinkLocalAddressing=ipv6", "Address=10.9.0.70/23",
        "DNS=10.9.0.1", "DNS=10.9.0.2", "Domains=lab.example.org", "",
        "[Route]", "Gateway=10.9.0.1", "GatewayOnLink=yes", "",
        "[Route]", "Destination=10.20.0.0/16", "Gateway=10.9.0.3", "",
        "[Route]", "Destination=10.30.0.0/16", "Gateway=10.9.0.4",
    ]  # fmt: skip


def test_ipv6_with_a_gateway_and_a_metric():
    six = {"ETH0_IP6": "2001:db8::7", "ETH0_IP6_PREFIX_LENGTH": "48", "ETH0_IP6_ULA": "fd00::7", "ETH0_IP6_GATEWAY": "2001:db8::1",
           "ETH0_IP6_METRIC": "50"}  # fmt: skip
    lines = file_of(NIC | six).splitlines()
    assert {"Address=2001:db8::7/48", "Address=fd00::7/64", "Gateway=2001:db8::1", "Metric=50"} <= set(lines)
    assert file_of(NIC | six | {"ETH0_IP6_METRIC": "", "ETH0_METRIC": "7"}).count("Metric=7") == 2


@pytest.mark.parametrize(
    ("methods", "there", "absent"),
    [
        ({"ETH0_METHOD": "dhcp"}, ["DHCP=yes"], ["Address=10.9.0.70/23", "Gateway=10.9.0.1"]),
        (
            {"ETH0_METHOD": "dhcp", "ETH0_IP6_METHOD": "static", "ETH0_IP6": "2001:db8::7"},
            ["DHCP=ipv4", "IPv6AcceptRA=no", "Address=2001:db8::7/64"],
            ["Address=10.9.0.70/23"],
        ),
        ({"ETH0_IP6_METHOD": "skip", "ETH0_IP6": "2001:db8::7"}, ["DHCP=no"], ["Address=2001:db8::7/64"]),
        (
            {"ETH0_METHOD": "skip", "ETH0_IP6_METHOD": "static", "ETH0_IP6": "2001:db8::7"},
            ["Address=2001:db8::7/64"],
            ["Address=10.9.0.70/23", "Gateway=10.9.0.1"],
        ),
        ({"ETH0_IP6_METHOD": "dhcp"}, ["DHCP=ipv6", "IPv6AcceptRA=yes", "Address=10.9.0.70/23"], []),
        ({"ETH0_METHOD": "dhcp", "ETH0_IP6_METHOD": "dhcp"}, ["DHCP=yes"], []),
        (
            {"ETH0_IP6_METHOD": "auto", "ETH0_IP6": "2001:db8::7"},
            ["IPv6AcceptRA=yes", "DHCP=no", "DHCPv6Client=no"],
            ["Address=2001:db8::7/64"],
        ),
        ({"ETH0_IP6_METHOD": "disable"}, ["LinkLocalAddressing=no"], []),
    ],
)
def test_methods(methods, there, absent):
    lines = file_of(NIC | methods).splitlines()
    assert set(there) <= set(lines)
    assert not set(absent) & set(lines)


def test_several_nics_each_by_its_own_address_and_one_that_is_skipped():
    more = {"ETH1_MAC": "02:00:0a:09:00:47", "ETH1_IP": "192.168.1.5", "ETH2_MAC": "02:00:0a:09:00:48", "ETH2_METHOD": "skip",
            "ETH10_MAC": "02:00:0a:09:00:49", "ETH10_IP": "192.168.2.5", "DNS": "9.9.9.9"}  # fmt: skip
    files, remarks = network_files(NIC | more)
    assert remarks == []
    assert list(files) == ["50-oneflower-eth0.network", "50-oneflower-eth1.network", "50-oneflower-eth10.network"]
    assert "Address=192.168.1.5/24" in files["50-oneflower-eth1.network"]
    assert ["DNS=9.9.9.9" in text for text in files.values()] == [True, False, False]


def test_aliases_unless_they_are_external():
    more = {"ETH0_ALIAS0_MAC": "02:00:0a:09:00:50", "ETH0_ALIAS0_IP": "10.9.0.80", "ETH0_ALIAS0_MASK": "255.255.255.0",
            "ETH0_ALIAS1_MAC": "02:00:0a:09:00:51", "ETH0_ALIAS1_IP": "10.9.0.81", "ETH0_ALIAS1_EXTERNAL": "YES"}  # fmt: skip
    text = file_of(NIC | more)
    assert "Address=10.9.0.80/24" in text
    assert "10.9.0.81" not in text


def test_the_dns_of_all_nics_goes_to_the_first_that_is_not_skipped():
    more = {"ETH0_METHOD": "skip", "ETH1_MAC": "02:00:0a:09:00:47", "ETH1_IP": "192.168.1.5", "DNS": "9.9.9.9"}
    files, _ = network_files(NIC | more)
    assert list(files) == ["50-oneflower-eth1.network"]
    assert "DNS=9.9.9.9" in files["50-oneflower-eth1.network"]


def test_ipv6_of_an_alias():
    more = {"ETH0_ALIAS0_MAC": "02:00:0a:09:00:50", "ETH0_ALIAS0_IP6": "2001:db8::8", "ETH0_METHOD": "dhcp"}
    assert "Address=2001:db8::8/64" in file_of(NIC | more)


def test_the_onegate_proxy_of_the_host_is_reached_over_the_first_nic():
    more = {"ETH1_MAC": "02:00:0a:09:00:47", "ETH1_IP": "192.168.1.5", "ONEGATE_ENDPOINT": "http://169.254.16.9:5030"}
    files, _ = network_files(NIC | more)
    assert ["Destination=169.254.16.9\nScope=link" in text for text in files.values()] == [True, False]
    for other in ("http://10.9.0.1:5030", "http://onegate.example.org:5030", "", "http://[fe80::1]:5030"):
        assert "Scope=link" not in file_of(NIC | {"ONEGATE_ENDPOINT": other})


def test_an_unknown_method_leaves_the_interface_alone_and_is_said():
    files, remarks = network_files(NIC | {"ETH0_METHOD": "pppoe"})
    assert files == {}
    assert "'pppoe', not one of static, dhcp, skip" in remarks[0]


def test_what_is_not_valid_is_left_out_and_said_and_nothing_gets_into_the_file_by_it():
    wrong = {"ETH0_GATEWAY": "10.9.0.1\n[Network]\nDNS=6.6.6.6", "ETH0_MTU": "big", "ETH0_ROUTES": "x via y",
             "ETH1_MAC": "*", "ETH1_IP": "10.9.0.9"}  # fmt: skip
    files, remarks = network_files(NIC | wrong)
    assert list(files) == ["50-oneflower-eth0.network"]
    assert "6.6.6.6" not in files["50-oneflower-eth0.network"]
    assert "Address=10.9.0.70/23" in files["50-oneflower-eth0.network"]
    assert len(remarks) == 3


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("lab-1", "lab-1"),
        ("Link One", "link-one"),
        ("a.b_c.org", "a.b-c.org"),
        ("--", ""),
        ("", ""),
        ("x\n127.0.0.1 y", "x-127.0.0.1-y"),
    ],
)
def test_host_names(given, name):
    assert identity.host_name({"SET_HOSTNAME": given}) == name


def test_a_host_name_is_known_to_the_machine_itself(tmp_path):
    identity.set_host_name("node.lab.org", tmp_path)
    assert (tmp_path / "etc/hostname").read_text() == "node.lab.org\n"
    assert "127.0.1.1 node.lab.org node\n" in (tmp_path / "etc/hosts").read_text()


def test_keys_are_added_once_and_those_of_others_stay(tmp_path):
    context = {"SSH_PUBLIC_KEY": "ssh-ed25519 A me\n\nssh-rsa B you\n", "EC2_PUBLIC_KEY": "ssh-rsa B you"}
    keys = identity.keys(context)
    assert keys == ["ssh-ed25519 A me", "ssh-rsa B you"]
    path = tmp_path / ".ssh/authorized_keys"
    path.parent.mkdir()
    path.write_text("ssh-rsa C other")
    assert identity.authorize(keys, tmp_path) == 2
    assert identity.authorize(keys, tmp_path) == 0
    assert path.read_text().splitlines() == ["ssh-rsa C other", *keys]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_context_is_for_the_agent_and_for_nobody_else(tmp_path):
    source, folder = tmp_path / "cd", tmp_path / "run"
    source.mkdir()
    (source / "context.sh").write_text("VMID='1'\n")
    folder.mkdir()
    (folder / "token.txt").write_text("of another boot")
    disc.hand_over(source, 0, folder)
    assert (folder / "context.sh").stat().st_mode & 0o777 == 0o640
    assert not (folder / "token.txt").exists()


def test_a_cd_without_the_label_is_not_taken_for_a_missing_one(tmp_path, monkeypatch):
    drives = {"sr0": "1024", "sr1": "0", "vda": "4096"}
    for name, size in drives.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "size").write_text(f"{size}\n")
    assert disc.media(tmp_path) == ["/dev/sr0"]
    monkeypatch.setattr(disc, "call", lambda _: (1, ""))
    monkeypatch.setattr(disc, "media", lambda: ["/dev/sr0"])
    with pytest.raises(OneflowerError) as refused, disc.found():
        pass
    assert "/dev/sr0 has no label CONTEXT" in refused.value.message
    assert "power the VM off and on" in refused.value.hint
    monkeypatch.setattr(disc, "media", list)
    with pytest.raises(OneflowerError) as refused, disc.found():
        pass
    assert "CONTEXT section" in refused.value.hint


def test_what_a_shell_sources_is_what_the_context_says(tmp_path):
    hairy = """a 'b' "c" $HOME `id` \\ \n end"""
    path = tmp_path / "one_env"
    path.write_text(environment_file({"K": hairy, "not a name": "x"}))
    done = subprocess.run(
        ["/bin/sh", "-c", f'. {shlex.quote(str(path))}; printf %s "$K"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == hairy


@pytest.mark.parametrize("shebang", [b"", b"#!/bin/sh\n"])
def test_a_start_script_sees_the_context_and_its_status_is_told(tmp_path, shebang):
    out = tmp_path / "out"
    context = {"GREETING": "hello $x"}
    script = shebang + f'echo "$GREETING $PWD" > {out}; exit 3'.encode()
    assert start_script.run("START_SCRIPT", script, context, tmp_path, tmp_path / "place") == 3
    assert out.read_text() == f"hello $x {tmp_path}\n"


def test_a_script_that_does_not_say_what_runs_it_is_run_by_bash(tmp_path):
    assert start_script.run("START_SCRIPT", b"[[ x == x ]] && a=(1 2)", {}, tmp_path, tmp_path / "place") == 0


def test_a_coded_start_script_goes_first_and_may_have_lines(tmp_path):
    coded = base64.encodebytes(b"echo coded" * 20).decode()
    context = {"START_SCRIPT": "echo plain", "START_SCRIPT_BASE64": coded}
    assert start_script.scripts(context, tmp_path) == {"START_SCRIPT": b"echo coded" * 20}
    assert start_script.scripts({"START_SCRIPT": " \n"}, tmp_path) == {}


def test_scripts_of_the_cd_run_after_it(tmp_path):
    (tmp_path / "init.sh").write_bytes(b"one")
    (tmp_path / "more.sh").write_bytes(b"two")
    assert start_script.scripts({}, tmp_path) == {"init.sh": b"one"}
    named = {"INIT_SCRIPTS": "more.sh ../init.sh", "START_SCRIPT": "x"}
    assert list(start_script.scripts(named, tmp_path)) == ["START_SCRIPT", "more.sh", "init.sh"]


@pytest.mark.parametrize(
    ("context", "what"),
    [({"START_SCRIPT_BASE64": "***"}, "not valid base64"), ({"INIT_SCRIPTS": "none.sh"}, "not among the files")],
)
def test_a_script_that_cannot_be_run_is_said(tmp_path, context, what):
    with pytest.raises(OneflowerError, match=what):
        start_script.scripts(context, tmp_path)


class Machine:
    """A guest without a machine: what it says, what it mounts and what it calls."""

    def __init__(self, folder, monkeypatch, context):
        self.said, self.calls, self.broken = [], [], {}
        (folder / "context.sh").write_text(context_sh(context))
        monkeypatch.setattr(disc, "CONTAINER", folder)
        monkeypatch.setattr(disc, "FOLDER", folder / "run")
        monkeypatch.setattr(disc, "own_context_is_installed", lambda: False)
        monkeypatch.setattr(start_script, "PLACE", folder / "place")
        monkeypatch.setattr("oneflower_appliance.volumes._REASONS", folder)
        monkeypatch.setattr(scripts, "UNFINISHED", folder / "scripts.unfinished")
        monkeypatch.setattr(main, "NETWORK", folder / "network")
        monkeypatch.setattr(main, "USER", "root")
        monkeypatch.setattr(main, "say", lambda text, level=5: self.said.append((level, text)))
        monkeypatch.setattr(main, "call", lambda command: self.calls.append(command[0]))
        monkeypatch.setattr(main.mounting, "mount", self.mount)
        monkeypatch.setattr(main.time, "sleep", lambda _: self.broken.clear())
        monkeypatch.setattr(start_script, "run", lambda name, *_: self.calls.append(name) or 0)
        monkeypatch.setattr(identity, "set_host_name", self.refuse)
        monkeypatch.setattr(identity, "authorize", self.calls.append)

    def mount(self, volume, _owner):
        self.calls.append(volume.source)
        if volume.source in self.broken:
            raise OneflowerError(f"{volume.source} is away.", "Bring it back.")
        return volume.where

    def refuse(self, _name):
        raise OneflowerError("Cannot write /etc/hostname: No space left on device.", "Free some.")


def test_as_json_a_line_of_the_guest_is_an_object_with_its_priority_before_it(tmp_path, monkeypatch, capsys):
    say = main.say
    Machine(tmp_path, monkeypatch, {"VMID": "7", "FL_LOG_FORMAT": "json", "ONEFLOWER_ROLE": "supernode"})
    monkeypatch.setattr(main, "say", say)
    monkeypatch.setattr(main, "_as_json", False)
    monkeypatch.setattr(log_lines, "_known", {})
    main.prepare()
    said = capsys.readouterr().err.splitlines()
    found = json.loads(said[0].removeprefix("<5>"))
    assert (found["message"], found["source"], found["vm"]) == ("the context of VM 7 is read", "guest", "7")
    assert all(log_lines.parse(line) for line in said)
    assert found["role"] == "supernode"


def test_of_a_cd_that_cannot_be_read_to_its_end_the_agent_says_what_the_guest_saw(tmp_path, monkeypatch):
    def fail(_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    machine = Machine(tmp_path, monkeypatch, NIC | {"VMID": "7"})
    with monkeypatch.context() as damaged:
        damaged.setattr(disc.Path, "read_bytes", fail)
        main.prepare()
    ((_, said),) = machine.said
    assert said.startswith("context.sh on the context CD cannot be read: Input/output error. It may be damaged:")
    with pytest.raises(OneflowerError) as refused:
        read_context(tmp_path / "run")
    assert refused.value.sentence == said
    main.prepare()
    assert read_context(tmp_path / "run")["VMID"] == "7"
    assert not (tmp_path / "run" / FAILED).exists()


def test_a_disk_that_cannot_be_written_keeps_nothing_else_from_being_done(tmp_path, monkeypatch):
    context = NIC | {"VMID": "7", "SET_HOSTNAME": "a", "SSH_PUBLIC_KEY": "ssh-rsa A", "PASSWORD": "x", "TIMEZONE": ""}
    machine = Machine(tmp_path, monkeypatch, context | {"ONEFLOWER_DATA": "disk:vdb"})
    main.prepare()
    assert (3, "Cannot write /etc/hostname: No space left on device. Free some.") in machine.said
    assert (4, "The context sets PASSWORD, of which this image makes no use.") in machine.said
    assert machine.calls == [["ssh-rsa A"], "/dev/vdb"]
    assert list((tmp_path / "network").glob("*.network"))


def test_scripts_find_the_token_where_one_context_has_it(tmp_path, monkeypatch):
    (tmp_path / "token.txt").write_text("secret\n")
    Machine(tmp_path, monkeypatch, {"VMID": "7"})
    main.prepare()
    path = tmp_path / "run" / "one_env"
    assert "export TOKENTXT=secret\n" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o400


def test_what_cannot_be_mounted_keeps_the_agent_from_nothing_and_is_tried_again(tmp_path, monkeypatch):
    context = {"ONEFLOWER_DATA": "nfs:store:/x", "START_SCRIPT": "id"}
    machine = Machine(tmp_path, monkeypatch, context)
    main.prepare()
    assert machine.calls == ["systemctl"]  # it needs the network: oneflower-online does it
    machine.calls.clear()
    machine.broken = {"store:/x": True}
    reason = tmp_path / "ONEFLOWER_DATA.failed"

    def agent_starts(command):
        machine.calls.append(command[0])
        assert reason.read_text() == "store:/x is away. Bring it back."

    monkeypatch.setattr(main, "call", agent_starts)
    main.online()
    assert machine.calls == ["store:/x", "START_SCRIPT", "systemd-notify", "store:/x"]
    assert [level for level, text in machine.said if "is away" in text] == [3]
    assert not reason.exists()


def test_a_script_that_hangs_does_not_keep_the_agent_from_saying_so(tmp_path, monkeypatch):
    machine = Machine(tmp_path, monkeypatch, {"VMID": "7", "START_SCRIPT": "sleep infinity"})
    main.prepare()
    hangs, notified = threading.Event(), threading.Event()
    monkeypatch.setattr(start_script, "run", lambda *_: hangs.wait(10) and 0)
    monkeypatch.setattr(scripts, "LIMIT", 0.01)
    monkeypatch.setattr(main, "call", lambda _command: notified.set())
    main.online()
    assert notified.is_set()
    with pytest.raises(OneflowerError, match="START_SCRIPT has not ended within"):
        scripts.check_scripts()
    hangs.set()
    [running] = [thread for thread in threading.enumerate() if thread.name == "scripts"]
    running.join(10)
    scripts.check_scripts()
    assert [level for level, text in machine.said if "has not ended" in text] == [3]
    assert (5, "START_SCRIPT is done") in machine.said


def test_beside_one_context_only_what_it_does_not_do_is_done(tmp_path, monkeypatch):
    machine = Machine(tmp_path, monkeypatch, NIC | {"ONEFLOWER_DATA": "nfs:store:/x", "START_SCRIPT": "id"})
    monkeypatch.setattr(disc, "own_context_is_installed", lambda: True)
    main.prepare()
    assert machine.calls == ["systemctl"]
    assert not (tmp_path / "network").exists()
    main.online()
    assert machine.calls == ["systemctl", "store:/x", "systemd-notify"]
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755


def test_volumes_are_mounted_where_the_form_points():
    context = {"ONEFLOWER_DATA": "nfs:store.lab.org:/export/lab", "FL_DATA_PATH": "/srv/data/{partition}",
               "ONEFLOWER_CHECKPOINTS": "disk:vdb"}  # fmt: skip
    assert volumes(context) == [
        Volume("ONEFLOWER_DATA", "nfs", "store.lab.org:/export/lab", "/srv/data"),
        Volume("ONEFLOWER_CHECKPOINTS", "disk", "/dev/vdb", "/var/lib/oneflower/checkpoints"),
    ]
    assert volumes({"ONEFLOWER_DATA": "disk:LABEL=lab"})[0].source == "LABEL=lab"
    assert volumes({"ONEFLOWER_DATA": "virtiofs:lab"})[0] == Volume(
        "ONEFLOWER_DATA", "virtiofs", "lab", "/var/lib/oneflower/data"
    )
    assert volumes({"ONEFLOWER_DATA": ""}) == []
    tag = {
        "DISK2_MOUNT_TAG": "shared",
        "DISK2_MOUNT_POINT": "/mnt/shared",
        "DISK3_MOUNT_TAG": "",
        "DISK4_MOUNT_TAG": "x",
    }
    assert volumes(tag) == [Volume("DISK2_MOUNT_TAG", "virtiofs", "shared", "/mnt/shared")]


@pytest.mark.parametrize(
    "context",
    [
        {"ONEFLOWER_DATA": "nfs:host"}, {"ONEFLOWER_DATA": "nfs:host:/x,exec"}, {"ONEFLOWER_DATA": "disk:../etc/shadow"},
        {"ONEFLOWER_DATA": "disk:vdb", "FL_DATA_PATH": "/srv/../etc"}, {"ONEFLOWER_DATA": "disk:vdb", "FL_DATA_PATH": "/"},
    ],
)  # fmt: skip
def test_a_volume_that_is_not_valid_is_refused(context):
    with pytest.raises(OneflowerError):
        volumes(context)


def test_a_folder_on_which_nothing_is_mounted_does_not_pass_for_a_volume(tmp_path):
    check_volumes({})
    check_volumes({"ONEFLOWER_DATA": "virtiofs:lab", "FL_DATA_PATH": "/proc"})  # something is mounted there
    with pytest.raises(OneflowerError) as missing:
        check_volumes({"ONEFLOWER_DATA": "virtiofs:lab", "FL_DATA_PATH": str(tmp_path)})
    assert "nothing is mounted" in missing.value.message


def test_why_a_volume_is_missing_is_said_by_the_agent_too(tmp_path, monkeypatch):
    monkeypatch.setattr("oneflower_appliance.volumes._REASONS", tmp_path)
    (tmp_path / "ONEFLOWER_DATA.failed").write_text("The server store does not answer.")
    with pytest.raises(OneflowerError, match="The server store does not answer"):
        check_volumes({"ONEFLOWER_DATA": "nfs:store:/x", "FL_DATA_PATH": str(tmp_path)})


def test_checkpoints_have_to_be_written(monkeypatch):
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)
    check_volumes({"ONEFLOWER_DATA": "virtiofs:lab", "FL_DATA_PATH": "/proc"})
    with pytest.raises(OneflowerError, match=r"virtiofs|lab on /proc cannot be written"):
        check_volumes({"ONEFLOWER_CHECKPOINTS": "virtiofs:lab", "FL_CHECKPOINT_PATH": "/proc"})


def test_the_agents_folder_is_the_agents_before_a_volume_is_mounted_in_it(tmp_path, monkeypatch):
    owners, home = [], tmp_path / "home"
    monkeypatch.setattr(mounting, "HOME", home)
    monkeypatch.setattr(mounting, "call", lambda _: (0, ""))
    monkeypatch.setattr(os, "chown", lambda *given: owners.append(given))
    for where in (tmp_path / "srv", home / "data", home / "checkpoints"):
        mounting.mount(Volume("ONEFLOWER_DATA", "virtiofs", "lab", str(where)), 900)
    assert owners == [(home, 900, 900)]
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_link_that_an_app_left_is_not_followed(tmp_path, monkeypatch):
    """The default places are in the folder of the agent's user, as whom apps run; root mounts there."""
    called = []
    monkeypatch.setattr(mounting, "call", lambda command: called.append(command) or (0, ""))
    (tmp_path / "data").symlink_to("/root/.ssh")
    for where in (tmp_path / "data", tmp_path / "data" / "below"):
        with pytest.raises(OneflowerError, match="links are not followed"):
            mounting.mount(Volume("ONEFLOWER_DATA", "virtiofs", "lab", str(where)), 0)
    assert called == []


def test_a_server_that_does_not_answer_is_named_at_once():
    with socket.socket() as closed:
        closed.bind(("127.9.9.9", 0))
        with pytest.raises(OneflowerError, match=r"the server 127\.9\.9\.9 does not answer on port 2049"):
            mounting.mount(Volume("ONEFLOWER_DATA", "nfs", "127.9.9.9:/x", "/nowhere"), 0)


@pytest.mark.parametrize(
    ("kind", "source", "said", "told"),
    [  # what mount said in a virtual machine
        (
            "virtiofs", "absent", "wrong fs type, bad option, bad superblock on absent, missing codepage or other error.",
            "no folder of the host has the tag absent",
        ),
        (
            "nfs", "store:/absent", "special device store:/absent does not exist.",
            "the server does not give store:/absent to this machine (special device store:/absent does not exist).",
        ),
    ],
)  # fmt: skip
def test_why_a_folder_cannot_be_mounted_is_said_without_the_words_of_disks(
    tmp_path, monkeypatch, kind, source, said, told
):
    advice = "       dmesg(1) may have more information after failed mount system call.\n"
    monkeypatch.setattr(mounting, "call", lambda _: (32, f"mount: {tmp_path}: {said}\n{advice}"))
    monkeypatch.setattr(mounting, "_address", lambda *_: "10.0.0.1")
    with pytest.raises(OneflowerError) as refused:
        mounting.mount(Volume("ONEFLOWER_DATA", kind, source, str(tmp_path)), 0)
    assert told in refused.value.message
    assert not {"dmesg", "superblock"} & set(refused.value.sentence.replace("(", " ").split())
    assert "it is tried again" in refused.value.hint


def test_a_disk_that_is_not_there_is_not_formatted(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(mounting, "call", lambda command: called.append(command[0]) or (0, ""))
    with pytest.raises(OneflowerError, match="cannot be read"):
        mounting.mount(Volume("ONEFLOWER_DATA", "disk", "/dev/none", str(tmp_path)), 0)
    assert called == []


@pytest.mark.parametrize(
    ("megabytes", "kept"), [(1, 128), (2048, 5792), (4096, 8192), (16384, 16384), (1 << 26, 262144)]
)
def test_as_much_memory_is_kept_free_as_the_kernels_own_table_says(megabytes, kept):
    assert reserve.formula(megabytes * 1024) == kept


def test_the_reserve_is_set_but_not_of_a_kernel_that_is_not_ours(tmp_path, monkeypatch):
    kept = tmp_path / "sys/vm/min_free_kbytes"
    (tmp_path / "meminfo").write_text("MemTotal:        2097152 kB\nMemFree:         1234567 kB\n")
    monkeypatch.setattr(reserve, "CONTAINER", tmp_path / "container")
    reserve.keep_less_free(tmp_path)  # there is no such setting: more is kept free, and the machine boots
    kept.parent.mkdir(parents=True)
    reserve.keep_less_free(tmp_path)
    assert kept.read_text() == "5792\n"
    reserve.CONTAINER.touch()
    kept.write_text("67584\n")
    reserve.keep_less_free(tmp_path)
    assert kept.read_text() == "67584\n"
