"""Looks for what keeps an operator, or a tenant, from a federation on an OpenNebula. It changes nothing."""

from __future__ import annotations

import ipaddress
import shutil
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from oneflower.cloud import releases
from oneflower.cloud.document import roles_of
from oneflower.cloud.image_refused import is_front_end
from oneflower.cloud.image_source import ImageFacts
from oneflower.cloud.machine import disks
from oneflower.cloud.registered import find_document, template_names
from oneflower.cloud.service import Service
from oneflower.cloud.site import Site
from oneflower.opennebula.states import ImageState
from oneflower_appliance.checks import FAIL, OK, WARN, Check
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower.cloud.client import Cloud

_MACHINES = 3  # of the smallest federation that is usual
_ROOM = 2048  # MB, for an image and its copies
_READY = (ImageState.READY, ImageState.USED, ImageState.USED_PERS)
_SEVEN = 7


def checkup(cloud: Cloud, name: str) -> Iterator[Check]:
    """Yield what was looked at, one after the other. `name` is that of the registration. Never raises."""
    site = Site(cloud)
    first = list(_guarded("OpenNebula", lambda: _version(cloud)))
    yield from first
    if any(check.status == FAIL for check in first):
        return
    yield from _guarded("OneFlow", lambda: _oneflow(cloud))
    yield from _guarded("rights", lambda: _rights(site))
    yield from _guarded("OneGate", lambda: _onegate(site))
    yield from _guarded("secrets", lambda: _secrets(site))
    yield from _guarded("hosts", lambda: _hosts(site))
    yield from _guarded("networks", lambda: _networks(site))
    yield from _guarded("datastores", lambda: _datastores(cloud, site))
    yield from _guarded("quotas", lambda: _quotas(site))
    yield from _guarded("registered", lambda: _registered(cloud, name))
    yield from look_at_federations(cloud)
    yield from _guarded("views", lambda: _views(site))
    yield from _guarded("SSH", lambda: _ssh(site))


def _guarded(what: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except OneflowerError as error:
        yield Check(FAIL, what, error.message, error.hint)


def _version(cloud: Cloud) -> Iterator[Check]:
    version = cloud.core.version()
    text = ".".join(map(str, version))
    if version >= (_SEVEN,):
        yield Check(OK, "OpenNebula", f"{text} at {cloud.endpoints.xmlrpc}")
    else:
        yield Check(WARN, "OpenNebula", f"{text}: there is no form for Sunstone before 7", "Upgrade, or use `up`.")


def _oneflow(cloud: Cloud) -> Iterator[Check]:
    count = len(cloud.oneflow.service_templates())
    yield Check(OK, "OneFlow", f"answers at {cloud.endpoints.oneflow}; {count} service templates are visible")


def _rights(site: Site) -> Iterator[Check]:
    user = site.user()
    who = f"{user.name} in the group {user.group}"
    if user.admin:
        yield Check(OK, "rights", f"{who}: an administrator")
        return
    refused = site.may_create()
    if not refused:
        yield Check(OK, "rights", f"{who} may create images, VM templates and service templates")
    for what, why in refused.items():
        kind = {"images": "IMAGE", "VM templates": "TEMPLATE", "service templates": "DOCUMENT"}[what]
        fix = f"An operator registers as oneadmin, or allows it: oneacl create '#{user.id} {kind}/* CREATE'"
        yield Check(FAIL, "rights", f"{who} may not create {what}: {why}", fix)
    yield Check(WARN, "rights", "GPU and serial console need an administrator", "Register as oneadmin for these.")


def _onegate(site: Site) -> Iterator[Check]:
    endpoint = site.onegate()
    fix = (
        "In /etc/one/oned.conf set ONEGATE_ENDPOINT to an address of the front-end that machines reach "
        "(http://ADDRESS:5030). Let OneGate listen there (/etc/one/onegate-server.conf). Restart both."
    )
    if not endpoint:
        yield Check(FAIL, "OneGate", "oned.conf has no ONEGATE_ENDPOINT, so machines cannot report READY", fix)
        return
    host = urlsplit(endpoint).hostname or ""
    if host == "localhost" or _address(host, "is_loopback"):
        yield Check(FAIL, "OneGate", f"{endpoint} is loopback: in a machine it leads to that machine itself", fix)
    elif _address(host, "is_unspecified"):
        yield Check(FAIL, "OneGate", f"{endpoint} is not an address that a machine can reach", fix)
    elif _address(host, "is_link_local"):
        detail = f"{endpoint}: each host must run OneGate's proxy (opennebula-onegate-proxy)"
        yield Check(WARN, "OneGate", detail, "Look on each host: systemctl status opennebula-onegate-proxy")
    else:
        yield Check(OK, "OneGate", f"{endpoint}; whether machines reach it shows when the first one boots")


def _address(host: str, kind: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host), kind))
    except ValueError:
        return False


def _secrets(site: Site) -> Iterator[Check]:
    wanted = {f"CONTEXT/{name}" for name, parameter in PARAMETERS.items() if parameter.secret}
    open_ = sorted(wanted - site.encrypted())
    if not open_:
        yield Check(OK, "secrets", "are encrypted in the context of machines")
    for name in open_:
        detail = f"{name}, if a tenant gives one, is readable for the other machines of the service"
        yield Check(WARN, "secrets", detail, f'Add to /etc/one/oned.conf: VM_ENCRYPTED_ATTR = "{name}". Restart oned.')


def _hosts(site: Site) -> Iterator[Check]:
    hosts = site.hosts()
    up = [host for host in hosts if host.up]
    if not hosts:
        yield Check(WARN, "hosts", "none is visible to this user", "As oneadmin: onehost list")
    elif not up:
        yield Check(FAIL, "hosts", f"none of {len(hosts)} is up", "Look at them: onehost list, onehost show HOST")
    for host in up:
        if host.v2 is False:
            fix = "NumPy needs x86-64-v2. Use a newer host; if it is a virtual machine, give it host-passthrough."
            yield Check(FAIL, f"host {host.name}", "its processors lack x86-64-v2", fix)
        elif host.v2 is None:
            detail = f"{host.hypervisor}; it does not say which processors it has"
            yield Check(WARN, f"host {host.name}", detail, "On the host: /lib64/ld-linux-x86-64.so.2 --help")
        else:
            yield Check(OK, f"host {host.name}", f"{host.hypervisor}, with x86-64-v2")


def _networks(site: Site) -> Iterator[Check]:
    networks = site.networks()
    if not networks:
        yield Check(FAIL, "networks", "this user may use none", "Create one, or: onevnet chgrp, onevnet chmod 640")
    for network in networks:
        what = f"network {network.name}"
        if network.free < _MACHINES:
            fix = f"A small federation needs {_MACHINES}. Add addresses: onevnet addar {network.name}"
            yield Check(WARN, what, f"{network.free} addresses are free", fix)
        elif not network.gateway or not network.dns:
            lacks = " and ".join(
                key for key, value in (("GATEWAY", network.gateway), ("DNS", network.dns)) if not value
            )
            fix = "Machines need them only to reach what is outside, such as NTP and NFS: onevnet update"
            yield Check(WARN, what, f"{network.free} addresses are free; it has no {lacks}", fix)
        else:
            yield Check(OK, what, f"{network.free} addresses are free; gateway {network.gateway}, DNS {network.dns}")


def _datastores(cloud: Cloud, site: Site) -> Iterator[Check]:
    stores = site.datastores()
    for kind in ("image", "system"):
        found = [store for store in stores if store.kind == kind]
        if not found:
            yield Check(FAIL, "datastores", f"this user may use none of type {kind}", "As oneadmin: onedatastore list")
        for store in found:
            what, free = f"datastore {store.name}", f"{store.free / 1024:.1f} GB are free"
            remote = kind == "system" and store.free == 0  # those on the hosts do not say it here
            if store.free < _ROOM and not remote:
                yield Check(FAIL, what, f"only {free}", "Remove images that nobody uses, or add a disk.")
                continue
            detail = "its room is that of the hosts" if remote else free
            if kind == "image" and not store.safe and not is_front_end(cloud.endpoints.xmlrpc):
                fix = "A path is refused below /var/lib/one and /etc/one, and where RESTRICTED_DIRS says."
                yield Check(OK, what, f"{detail}; it has no SAFE_DIRS", fix)
            else:
                yield Check(OK, what, detail + (f"; takes images from {store.safe}" if store.safe else ""))


def _quotas(site: Site) -> Iterator[Check]:
    quotas = site.quotas()
    short = [quota for quota in quotas if quota.what == "VMS" and quota.left < _MACHINES]
    for quota in short:
        detail = f"{quota.left:g} more machines for {quota.whose}; a small federation needs {_MACHINES}"
        yield Check(FAIL, "quotas", detail, "oneuser quota, onegroup quota: raise VMS, CPU and MEMORY.")
    if not short:
        left = ", ".join(f"{quota.left:g} {quota.what} for {quota.whose}" for quota in quotas)
        yield Check(OK, "quotas", f"left: {left}" if left else "no limits")


def _registered(cloud: Cloud, name: str) -> Iterator[Check]:
    documents = [found for known in template_names(name) if (found := find_document(cloud, known)) is not None]
    if not documents:
        fix = "An operator registers it: oneflower --cloud opennebula register --image DIR --network NAME"
        yield Check(WARN, "registered", f"there is no service template {name}, or none that you may use", fix)
        return
    yield Check(OK, "registered", f"service template {', '.join(each['NAME'] for each in documents)}")
    roles: dict[str, Any] = {}
    for document in documents:
        roles = roles_of(document["TEMPLATE"]["BODY"]) | roles
    for role, body in roles.items():
        yield from _machines(cloud, role, int(body.get("template_id", body.get("vm_template", -1))))


def _machines(cloud: Cloud, role: str, number: int) -> Iterator[Check]:
    """Look at the VM template of a role, and at its image."""
    what = f"machines of {role}"
    content = cloud.core.vm_template(number)
    if content is None:
        yield Check(FAIL, what, f"VM template {number} is gone", "Register again: oneflower register")
        return
    first = next(iter(disks(content)), {})
    if "IMAGE_ID" not in first:
        yield Check(FAIL, what, f"VM template {number} has no image to boot from", "oneflower register --image DIR")
        return
    image = cloud.core.find_image(int(first["IMAGE_ID"]))
    if image is None:
        yield Check(FAIL, what, f"image {first['IMAGE_ID']} is gone", "oneflower register --image DIR")
    elif image.state not in _READY:
        state = ImageState(image.state).name
        yield Check(FAIL, what, f"image {image.name} is {state} {image.error}".rstrip(), f"oneimage show {image.id}")
    elif "NIC" not in content:
        yield Check(FAIL, what, f"VM template {number} has no network", "oneflower register --network NAME")
    else:
        size = f"{content.get('CPU', '?')} cores, {content.get('MEMORY', '?')} MB"
        yield Check(OK, what, f"{size}, image {image.name}")
        release = ImageFacts.read(image.attributes).release
        if release and (other := releases.mismatch(f"image {image.name}", release)):
            yield Check(WARN, what, other.what, other.fix)


def look_at_federations(cloud: Cloud) -> Iterator[Check]:
    """Yield whether the machines of the federations have the oneflower of this client. Never raises."""
    yield from _guarded("federations", lambda: _federations(cloud))


def _federations(cloud: Cloud) -> Iterator[Check]:
    count = 0
    for count, service in enumerate(Service.all(cloud), 1):  # noqa: B007 - it is counted
        for other in service.status().releases:
            yield Check(WARN, f"federation {service.name}", other.what, other.fix)
    yield Check(OK, "federations", f"there are {count}" if count else "there are none")


def _views(site: Site) -> Iterator[Check]:
    for group, views in site.views().items():
        if "groupadmin" not in views:
            fix = f'onegroup update {group}: FIREEDGE=[ VIEWS="groupadmin,user,cloud", DEFAULT_VIEW="groupadmin" ]'
            yield Check(WARN, f"view of {group}", "in Sunstone its users see no service templates", fix)
        else:
            yield Check(OK, f"view of {group}", views)


def _ssh(site: Site) -> Iterator[Check]:
    user = site.user()
    if not user.ssh_key:
        fix = "Set SSH_PUBLIC_KEY in Sunstone (Settings) or with `oneuser update`, before you deploy."
        yield Check(WARN, "SSH", f"{user.name} has no key in OpenNebula: `run` and `model` cannot log in", fix)
    elif shutil.which("ssh") is None:
        yield Check(FAIL, "SSH", "there is no ssh here, which `run` and `model` need", "apt install openssh-client")
    else:
        yield Check(OK, "SSH", f"{user.name} has a key in OpenNebula")
