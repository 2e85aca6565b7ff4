"""A machine whose world is not as it should be, as `test_images.py` runs it: one container that boots an image.

It runs as root in network, mount and process namespaces of its own. What should not be so fails an assertion.
"""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

from oneflower.local.host.bridge import NAMESPACES, Bridge
from oneflower.local.host.container_driver import ContainerDriver
from oneflower.opennebula.text import context_sh
from oneflower_appliance.proof import PROOF

NUMBER = 7
MACS = ("02:00:0a:4d:00:07", "02:00:0a:4d:01:07")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGpZ somebody"
SCRIPT = b'[[ $VMID == 7 ]] && . /run/one-context/one_env && echo "$TOKENTXT" >/run/said'  # not for sh
PROXY = "169.254.16.9"  # where OpenNebula's OneGate proxy listens on each host
LIMIT = 60.0


class OneGate(http.server.BaseHTTPRequestHandler):
    """OneGate of a service with one machine."""

    published: dict[str, str]

    def log_message(self, *_):
        pass

    def do_GET(self):
        vm = {"ID": str(NUMBER), "USER_TEMPLATE": self.published, "TEMPLATE": {"NIC": []}}
        links = {"name": "superlink", "cardinality": 1, "nodes": [{"deploy_id": NUMBER}]}
        self.answer({"VM": vm} if self.path.startswith("/vm") else {"SERVICE": {"roles": [links]}})

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.published.update(line.split("=", 1) for line in body.splitlines())
        self.answer({})

    def answer(self, what):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(what).encode())


class Machine:
    """The machine, and what it publishes."""

    def __init__(self, image, folder):
        self.folder, self.published = folder, {}
        bridge = Bridge(77)
        self.gateway = bridge.gateway
        self.driver = ContainerDriver(image, bridge, folder / "unpacked")
        network = next(name for _, name in socket.if_nameindex() if name.startswith("oneflower"))
        subprocess.run(["ip", "address", "add", f"{PROXY}/32", "dev", network], check=True)
        (folder / "context").mkdir(parents=True)
        (folder / "context" / "token.txt").write_text("the-token")
        self.process = None

    def context(self, **more):
        usual = {
            "VMID": str(NUMBER), "ONEFLOWER_ROLE": "superlink", "ONEGATE_ENDPOINT": f"http://{PROXY}:5030",
            "ETH0_MAC": MACS[0], "ETH0_IP": "10.77.0.7", "ETH0_MASK": "255.255.0.0", "ETH0_GATEWAY": self.gateway,
            "ETH0_DNS": self.gateway, "ETH0_IP6": "2001:db8::7", "ETH0_MTU": "1400",
            "ETH0_ALIAS0_MAC": "02:00:0a:4d:00:08", "ETH0_ALIAS0_IP": "10.77.0.8", "ETH0_ALIAS0_MASK": "255.255.0.0",
            "ETH1_MAC": MACS[1], "ETH1_IP": "192.168.77.7", "ETH1_ROUTES": "192.168.99.0/24 via 192.168.77.1",
            "SET_HOSTNAME": "Lab Link", "SSH_PUBLIC_KEY": KEY, "START_SCRIPT_BASE64": base64.b64encode(SCRIPT).decode(),
        }  # fmt: skip
        (self.folder / "context" / "context.sh").write_text(context_sh(usual | more))

    def boot(self):
        nics = [{"MAC": mac} for mac in MACS]
        boot = asyncio.run(self.driver.prepare(SimpleNamespace(id=NUMBER, template={"NIC": nics}), self.folder))
        with (self.folder / "console").open("ab") as console:
            self.process = subprocess.Popen(
                boot.command, env=boot.environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )

    def switch_off(self):
        self.driver.shut_down(self.process.pid, self.folder)
        self.process.wait(LIMIT)
        self.driver.sweep(self.folder)

    def cut_the_power(self):
        self.process.kill()
        self.process.wait()
        self.driver.sweep(self.folder)
        cables = [name for _, name in socket.if_nameindex() if name.startswith("of")]
        assert (cables, list(NAMESPACES.iterdir()), (self.folder / "root").is_mount()) == ([], [], False)

    def onegate(self):
        """Let OneGate answer from now on."""
        handler = type("Answering", (OneGate,), {"published": self.published})
        server = http.server.ThreadingHTTPServer((PROXY, 5030), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(self, command):
        """Return what a command of a shell in the machine prints."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until(lambda: children.read_text().split(), "the first process of the machine")
        inside = ["nsenter", "--target", children.read_text().split()[0], "--all", "/bin/bash", "-c", command]
        path = "/opt/oneflower/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(inside, env={"PATH": path}, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    @property
    def console(self):
        return (self.folder / "console").read_text(errors="replace")

    @property
    def error(self):
        return base64.b64decode(self.published.get("FL_ERROR", "").rstrip("-")).decode()

    @property
    def is_ready(self):
        return self.published.get("READY") == "YES"


def until(condition, what):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"{what}: it did not happen"
        time.sleep(0.1)


def main():
    image, folder = map(Path, sys.argv[1:])
    NAMESPACES.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "names", NAMESPACES], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    machine = Machine(image, folder / str(NUMBER))
    try:
        live(machine)
    except BaseException:
        sys.stderr.write(machine.console + machine.error)
        raise
    finally:
        machine.cut_the_power()


def live(machine):
    machine.context(ONEFLOWER_CHECKPOINTS="disk:LABEL=absent")
    machine.boot()
    until(lambda: "ONEFLOWER_CHECKPOINTS cannot be mounted" in machine.console, "a word of the missing disk")
    time.sleep(2)
    said("a OneGate that comes late hears why the machine is not ready")
    machine.onegate()
    until(lambda: "LABEL=absent" in machine.error, "the reason, published")
    assert not machine.is_ready

    said("and that it is ready, when the disk is there")
    machine.run("mount -t tmpfs -o uid=900,mode=700 disk /var/lib/oneflower/checkpoints")
    until(lambda: machine.is_ready, "READY")
    set_up_as_the_context_says(machine)
    closed_and_bounded(machine)

    said("what is killed comes back")
    pids = machine.run(
        "systemctl show -P MainPID oneflower-agent systemd-networkd systemd-resolved ssh systemd-journald"
    )
    machine.published["READY"] = "NO"
    machine.run(f"kill -9 {' '.join(pids.split())}")
    until(lambda: machine.is_ready, "READY after the kill")
    assert "10.77.0.7/16" in machine.run("ip -4 address show eth0")
    assert machine.run("systemctl --failed --no-legend") == ""

    said("a disk that is read-only is said, and no machine is ready on it")
    machine.run("mount -t tmpfs -o ro,uid=900,gid=900,mode=700 disk /var/lib/oneflower")
    until(lambda: "Cannot write" in machine.error, "the read-only disk, published")
    assert not machine.is_ready
    assert "ready=0" not in machine.run("/usr/lib/oneflower/ready; echo ready=$?")
    machine.run("umount /var/lib/oneflower")
    until(lambda: machine.is_ready, "READY on a disk that can be written")

    said("a machine that is switched off is not ready any more")
    machine.switch_off()
    assert not machine.is_ready
    machine.context()  # without the disk of before
    machine.boot()
    until(lambda: machine.is_ready, "READY after it was switched on again")

    said("a power cut takes nothing that SuperNodes know it by")
    known = {name: machine.published[name] for name in ("FL_CA_CERT", "FL_SSH_HOST_KEYS")}
    machine.cut_the_power()
    machine.boot()
    until(lambda: not machine.is_ready, "READY, withdrawn")
    until(lambda: machine.is_ready, "READY after a power cut")
    assert known == {name: machine.published[name] for name in known}
    assert PROOF in machine.published


def set_up_as_the_context_says(machine):
    said("network, name, keys and scripts are as the context says")
    first, second = machine.run("ip address show eth0"), machine.run("ip address show eth1; ip route; ip -6 route")
    for what in ("10.77.0.7/16", "10.77.0.8/16", "2001:db8::7/64", "mtu 1400"):
        assert what in first, first
    for what in ("192.168.77.7/24", "192.168.99.0/24 via 192.168.77.1", "default via 10.77.0.1"):
        assert what in second, second
    assert "10.77.0.1" in machine.run("resolvectl dns eth0")
    assert machine.run("hostname").strip() == "lab-link"
    assert KEY in machine.run("cat /root/.ssh/authorized_keys")
    assert machine.run("cat /run/said").strip() == "the-token"
    assert machine.run("/usr/lib/oneflower/ready; echo ready=$?").strip() == "ready=0"


def closed_and_bounded(machine):
    said("it is closed, and its logs are bounded")
    rating = machine.run("systemd-analyze security --no-pager oneflower-agent.service | tail -1")
    assert float(rating.split(":")[1].split()[0]) <= 3.0, rating
    assert machine.run("systemctl --failed --no-legend") == ""
    assert "cycle" not in machine.run("systemd-analyze verify default.target; journalctl --boot -t systemd")
    sshd = machine.run("sshd -T")
    for line in ("passwordauthentication no", "kbdinteractiveauthentication no", "permitrootlogin without-password"):
        assert line in sshd, sshd
    assert "SystemMaxUse=100M" in machine.run("systemd-analyze cat-config systemd/journald.conf")
    assert "apt" not in machine.run("systemctl list-timers --all --no-legend; command -v apt-get")


def said(what):
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.umask(0o022)
    main()
