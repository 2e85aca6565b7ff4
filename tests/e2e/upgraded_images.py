"""A federation of containers that moves to another image, as `test_images.py` runs it: real images of two releases.

It runs as root in network, mount and process namespaces of its own. What should not be so fails an assertion.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from oneflower.api import opennebula_cloud
from oneflower.cli.image_option import ImageOption
from oneflower.cloud import Federation, upgrade
from oneflower.cloud.register import Registration
from oneflower.cloud.tunnel import SshOptions, make_key
from oneflower.cloud.wishes import Wishes
from oneflower.images.app_image import manifest_of, read_image
from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.opennebula import COORDINATOR, NODES
from oneflower.trial.inside import isolate
from oneflower.trial.shell import ssh
from oneflower_appliance.errors import ExitCode, OneflowerError

ONE = dict.fromkeys(("FL_MIN_FIT_CLIENTS", "FL_MIN_EVALUATE_CLIENTS", "FL_MIN_AVAILABLE_CLIENTS"), "1")
APP = "image-classification"


def source(cloud, image):
    sources, _ = ImageOption(cloud, str(image), "").of_roles({COORDINATOR: ("", ""), NODES: ("", "")})
    return sources


def register(cloud, images):
    Registration(cloud, Wishes(images=images)).apply()


def disks(lab):
    return [len(vm.disks) for vm in lab.cloud.core.vms([vm.id for vm in lab.status().vms]).values()]


def say(text, began):
    sys.stderr.write(f"{time.monotonic() - began:5.1f} s  {text}\n")


def main():
    old, new, state, cache = map(Path, sys.argv[1:])
    began = time.monotonic()
    isolate()
    fake = state / "no-image" / "usr/lib/systemd"
    fake.mkdir(parents=True)
    (fake / "systemd").touch()
    home = LocalHome(state, cache).make()
    os.environ["ONEFLOWER_HOME"] = str(home.state)
    found = daemon.start(home, ["--stay", "--image", str(state / "no-image")])
    os.environ |= {"ONE_XMLRPC": found.xmlrpc, "ONEFLOW_URL": found.oneflow, "ONE_AUTH": str(home.one_auth)}
    try:
        live(old, new, state, lambda text: say(text, began))
    finally:
        daemon.stop(home)


def live(old, new, state, tell):
    cloud = opennebula_cloud(ssh=SshOptions(key=state / "key"))
    cloud.core.set_user_attribute("SSH_PUBLIC_KEY", make_key(state / "key"))
    first, second = (read_image(manifest_of(image)).flower for image in (old, new))
    register(cloud, source(cloud, old))
    tell("registered")
    lab = Federation.deploy(cloud, 1, {"FLOWER_VERSION": first, **ONE}, "lab", limits=(1, 2))
    tell("deployed")
    run = lab.run(APP, 1, save=state / "first")
    before = lab.status()
    node = before.vms[1]
    tell("trained")

    images = source(cloud, new)
    fake = replace(source(cloud, old)[NODES], title="fake", checksum="", facts=images[NODES].facts)
    register(cloud, images | {NODES: fake})  # which says that it carries the newer release
    upgrade.GRACE = 1.0
    with pytest.raises(OneflowerError, match=f"{node.name}: FLOWER_VERSION asks for.*It is back on Flower") as failed:
        lab.upgrade(notify=lambda event: tell(str(event)))
    assert failed.value.code is ExitCode.DEPLOY_FAILED
    now = lab.status()
    assert (now.ready, now.version, now.partitions, disks(lab)) == (True, first, before.partitions, [1, 1])
    assert [found.id for found in lab.runs()] == [run.id]

    register(cloud, images)
    host_key, seconds = before.host_keys, time.monotonic()
    plan = lab.upgrade(notify=lambda event: tell(str(event)))
    tell(f"upgraded {plan.origin} to {plan.to} in {time.monotonic() - seconds:.1f} s")
    now = lab.status()
    assert (now.ready, now.version, now.ca, now.host_keys) == (True, second, before.ca, host_key)
    assert [vm.partition for vm in now.vms] == [vm.partition for vm in before.vms]
    assert [found.id for found in lab.runs()] == [run.id]
    assert lab.fetch_model(state / "model.npz").rows == run.rows
    assert lab.run(APP, 1, save=state / "second").rows
    tell("trained again")
    assert disks(lab) == [1, 1]
    ssh(node.ip, state, "systemctl", "reboot")
    lab.scale(2)
    assert {vm.image for vm in cloud.core.vms([vm.id for vm in lab.status().vms]).values()} == {
        plan.to.images[NODES]
    }, "a machine that is added later boots the new image, too"
    assert lab.status().partitions
    tell("scaled")
    lab.delete(60)


if __name__ == "__main__":
    main()
