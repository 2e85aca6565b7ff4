"""What an image does with the context before the agent starts: network, name, keys, folders, START_SCRIPT."""

from __future__ import annotations

import base64
import shlex
import subprocess

import pytest

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.guest import disc, identity, start_script
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
    assert {"Address=2001:db8::7/48", "Address=fd00::7/48", "Gateway=2001:db8::1", "Metric=50"} <= set(lines)


@pytest.mark.parametrize(
    ("methods", "there", "absent"),
    [
        ({"ETH0_METHOD": "dhcp"}, ["DHCP=ipv4"], ["Address=10.9.0.70/23", "Gateway=10.9.0.1"]),
        ({"ETH0_IP6_METHOD": "dhcp"}, ["DHCP=ipv6", "IPv6AcceptRA=yes", "Address=10.9.0.70/23"], []),
        ({"ETH0_METHOD": "dhcp", "ETH0_IP6_METHOD": "dhcp"}, ["DHCP=yes"], []),
        (
            {"ETH0_IP6_METHOD": "auto", "ETH0_IP6": "2001:db8::7"},
            ["IPv6AcceptRA=yes", "DHCP=no"],
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
    assert identity.let_in(keys, tmp_path) == 2
    assert identity.let_in(keys, tmp_path) == 0
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


def test_what_a_shell_sources_is_what_the_context_says(tmp_path):
    hairy = """a 'b' "c" $HOME `id` \\ \n end"""
    path = tmp_path / "one_env"
    path.write_text(environment_file({"K": hairy, "not a name": "x"}))
    done = subprocess.run(
        ["/bin/sh", "-c", f'. {shlex.quote(str(path))}; printf %s "$K"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == hairy


@pytest.mark.parametrize("shebang", ["", "#!/bin/sh\n"])
def test_a_start_script_sees_the_context_and_its_status_is_told(tmp_path, shebang):
    out = tmp_path / "out"
    context = {"START_SCRIPT": f'{shebang}echo "$GREETING" > {out}; exit 3', "GREETING": "hello $x"}
    assert start_script.wanted(context)
    assert start_script.run(context, tmp_path / "script") == 3
    assert out.read_text() == "hello $x\n"


def test_a_coded_start_script_goes_first_and_one_that_is_not_valid_is_none():
    coded = base64.b64encode(b"echo coded").decode()
    assert start_script.text({"START_SCRIPT": "echo plain", "START_SCRIPT_BASE64": coded}) == "echo coded"
    assert not start_script.wanted({"START_SCRIPT_BASE64": "***"})
    assert not start_script.wanted({})


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
