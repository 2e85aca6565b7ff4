"""Virtual machines of the local cloud: what a VM template becomes for QEMU, and how one is shut down."""

from __future__ import annotations

import socket
import threading

import pytest

from oneflower.local.host import qemu
from oneflower.local.host.monitor import press_power_button, unplug_disk
from oneflower.local.host.qemu import Hardware, Nic, command, has_kvm
from oneflower.opennebula import COORDINATOR, vm_template
from oneflower_appliance.errors import OneflowerError

INTEL, PLAIN = "processor : 0\nflags\t\t: fpu vmx sse4_2\n", "processor : 0\nflags\t\t: fpu sse4_2\n"


def option(words, name):
    return [words[place + 1] for place, word in enumerate(words) if word == name]


def test_our_own_template_gets_the_processor_of_the_host():
    hardware = Hardware.of(vm_template(COORDINATOR))
    assert (hardware.cpu, hardware.cores, hardware.memory, hardware.uefi) == ("host-passthrough", 2, 2048, False)
    assert option(command(hardware, (), kvm=True), "-cpu") == ["host"]
    assert option(command(hardware, (), kvm=False), "-cpu") == ["max"]


def test_a_template_that_names_no_processor_gets_a_plain_one_as_on_opennebula():
    assert Hardware.of({}).cpu == "qemu64"
    assert option(command(Hardware.of({"CPU_MODEL": {"MODEL": "core2duo"}}), (), kvm=True), "-cpu") == ["core2duo"]


def test_firmware_chipset_and_disk_are_those_of_the_template():
    wanted = {"OS": {"FIRMWARE": "UEFI", "MACHINE": "q35"}, "DISK": [{"SIZE": "8192"}, {"SIZE": "1"}]}
    hardware = Hardware.of(wanted)
    assert (hardware.uefi, hardware.chipset, hardware.disk_size) == (True, "q35", 8 << 30)
    assert any(
        "pflash" in drive and qemu.UEFI_VARIABLES in drive
        for drive in option(command(hardware, (), kvm=True), "-drive")
    )
    assert not any("pflash" in drive for drive in option(command(Hardware(), (), kvm=True), "-drive"))


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ({"VCPU": "two"}, "VCPU"),
        ({"MEMORY": "-1"}, "MEMORY"),
        ({"DISK": {"SIZE": "0"}}, "DISK/SIZE"),
        ({"OS": {"MACHINE": "pc,dumpdtb=/etc/passwd"}}, "OS/MACHINE"),
        ({"CPU_MODEL": {"MODEL": "max,+x"}}, "CPU_MODEL"),
    ],
)
def test_a_value_that_is_not_valid_is_refused_and_cannot_become_another_option(template, named):
    with pytest.raises(OneflowerError) as refused:
        Hardware.of(template)
    assert named in refused.value.message


def test_a_machine_has_the_network_cards_and_the_cd_that_it_is_given():
    words = command(Hardware(), [Nic("of7x0", "02:00:00:00:00:07")], kvm=False)
    assert option(words, "-netdev") == ["tap,id=nic0,ifname=of7x0,script=no,downscript=no"]
    assert any("mac=02:00:00:00:00:07" in device for device in option(words, "-device"))
    assert any(qemu.CD in drive for drive in option(words, "-drive"))
    bare = command(Hardware(), (), kvm=False, cd=False)
    assert option(bare, "-netdev") == []
    assert not any(qemu.CD in word for word in bare)


def test_a_machine_boots_one_of_its_disks_and_sees_the_others():
    words = command(Hardware(), (), kvm=False, disks={0: False, 2: True})
    assert [drive.split(",")[2] for drive in option(words, "-drive")[:2]] == ["file=disk.qcow2", "file=disk-2.qcow2"]
    assert [device for device in option(words, "-device") if "virtio-blk" in device] == [
        "virtio-blk-pci,id=disk0,drive=drive0", "virtio-blk-pci,id=disk2,drive=drive2,bootindex=1",
    ]  # fmt: skip


def test_kvm_is_the_processors_and_a_device_that_may_be_used(tmp_path):
    device, processors = tmp_path / "kvm", tmp_path / "cpuinfo"
    processors.write_text(INTEL)
    assert not has_kvm(processors, device)
    device.touch()
    assert has_kvm(processors, device)
    processors.write_text(PLAIN)
    assert not has_kvm(processors, device)
    assert not has_kvm(tmp_path / "missing", device)


def answering(monitor, answers):
    """Serve one connection: send each answer after a line; return the thread and what was asked."""
    asked = []

    def serve():
        peer, _ = monitor.accept()
        with peer, peer.makefile("rwb", buffering=0) as lines:
            lines.write(b'{"QMP": {"version": {}}}\n')
            for answer in answers:
                asked.append(lines.readline())
                lines.write(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, asked


@pytest.fixture
def monitor(tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(qemu.MONITOR)
        listening.listen()
        yield listening, folder


def test_the_power_button_is_pressed_through_the_monitor_however_long_its_path_is(monitor):
    listening, folder = monitor
    event = b'{"timestamp": {}, "event": "POWERDOWN"}\n'
    thread, asked = answering(listening, [b'{"return": {}}\n', event + b'{"return": {}}\n'])
    press_power_button(folder)
    thread.join()
    assert b"system_powerdown" in asked[1]


def test_a_disk_is_unplugged_once_the_machine_let_go_of_it(monitor):
    listening, folder = monitor
    gone = b'{"event": "DEVICE_DELETED", "data": {"device": "disk0"}}\n'
    thread, asked = answering(listening, [b'{"return": {}}\n', b'{"return": {}}\n' + gone])
    unplug_disk(folder, "disk0")
    thread.join()
    assert b'"id": "disk0"' in asked[1]
    thread, _ = answering(listening, [b'{"return": {}}\n', b'{"error": {"class": "E", "desc": "no hotplug"}}\n'])
    with pytest.raises(OSError, match="no hotplug"):
        unplug_disk(folder, "disk0")
    thread.join()


def test_a_machine_whose_monitor_is_gone_is_not_taken_for_one_that_shuts_down(monitor):
    listening, folder = monitor
    thread, _ = answering(listening, [b'{"return": {}}\n'])
    with pytest.raises(ConnectionResetError):
        press_power_button(folder)
    thread.join()
    listening.close()
    with pytest.raises(ConnectionRefusedError):
        press_power_button(folder)
