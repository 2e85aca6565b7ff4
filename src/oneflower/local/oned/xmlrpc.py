"""The part of OpenNebula's XML-RPC that registering, deploying and watching needs.

Every call answers `[success, value or message, error code]`. A method that is not here answers so, never silently.
"""

from __future__ import annotations

import hmac
import logging
import re
import xmlrpc.client as protocol
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from oneflower.local.models import CloudError
from oneflower.local.oned.compute import DATASTORES
from oneflower.local.oned.corexml import datastore_xml, image_xml, network_xml, text, user_xml, vm_template_xml, vm_xml
from oneflower.local.oned.vmtext import parse_template
from oneflower.local.wire import chunks_of
from oneflower.opennebula.states import ImageState, VmState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from xml.etree.ElementTree import Element

    from starlette.requests import Request

    from oneflower.local.oned.compute import Compute

    Method = Callable[..., Any]

log = logging.getLogger(__name__)

VERSION = "7.4.0"
_EAUTHENTICATION, _ENO_EXISTS, _EACTION, _EXMLRPCAPI, _EINTERNAL = 0x0100, 0x0400, 0x0800, 0x1000, 0x2000

_CODES = {400: _EXMLRPCAPI, 404: _ENO_EXISTS, 501: _EXMLRPCAPI}
# Whose objects a pool call asks for, and in which state VMs.
_PRIMARY_GROUP, _ALL = -4, -2
_ANY_STATE, _NOT_DONE, _LAST_STATE = -2, -1, 11
# The session is the first parameter, so it stands at the beginning of a call.
_HEAD = 4096
_SESSION = re.compile(rb"<params>\s*<param>\s*<value>(?:\s*<string>)?([^<]*)")
_METHOD = re.compile(rb"<methodName>\s*([\w.]{1,100})\s*</methodName>")

Answer = tuple[bool, Any, int]


def xmlrpc_app(compute: Compute, secret: str) -> Starlette:
    """Return the application; `secret` is the session string `user:password`."""
    methods = xmlrpc_methods(compute)

    def answer(method: str, params: tuple[Any, ...]) -> Answer:
        session = params[0] if params and isinstance(params[0], str) else ""
        if not hmac.compare_digest(session.encode(errors="replace"), secret.encode()):
            return False, f"[{method}] User couldn't be authenticated, aborting call.", _EAUTHENTICATION
        if method not in methods:
            return False, f"The local cloud does not implement {method}", _EXMLRPCAPI
        try:
            return True, methods[method](*params[1:]), 0
        except CloudError as error:
            return False, error.message, _CODES.get(error.status, _EACTION)
        except (TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            return False, f"[{method}] {error}", _EXMLRPCAPI
        except Exception:
            log.exception("%s", method)
            return False, f"[{method}] Internal error.", _EINTERNAL

    async def call(request: Request) -> Response:
        try:
            content = await _content(request, secret)
            params, method = protocol.loads(content, use_builtin_types=True)
        except CloudError as error:
            return Response(error.message, error.status, media_type="text/plain", headers={"Connection": "close"})
        except Exception as error:  # noqa: BLE001 - whatever a hostile body makes expat or the unmarshaller raise
            fault = protocol.Fault(-503, f"Call XML not a proper XML-RPC call. {error}")
            return Response(protocol.dumps(fault), media_type="text/xml")
        reply = protocol.dumps((list(answer(method or "", params)),), methodresponse=True)
        return Response(reply, media_type="text/xml")

    return Starlette(routes=[Route("/RPC2", call, methods=["POST"])])


async def _content(request: Request, secret: str) -> bytes:
    """Return the body: all of it when its beginning shows the right session, else only as much as a refusal needs.

    Raises `CloudError` 413 or 408 where the body is too long or takes too long.
    """
    content, trusted = bytearray(), False
    async for chunk in chunks_of(request):
        content += chunk
        if not trusted and len(content) > _HEAD:
            head = bytes(content[:_HEAD])
            trusted = _shows(head, secret)
            if not trusted:
                return _refusable(head)
    return bytes(content)


def _shows(head: bytes, secret: str) -> bool:
    found = _SESSION.search(head)
    return found is not None and hmac.compare_digest(
        unescape(found[1].decode(errors="replace")).encode(), secret.encode()
    )


def _refusable(head: bytes) -> bytes:
    """Return a call of the same method without a session, so that the refusal names the method."""
    found = _METHOD.search(head)
    return protocol.dumps((), found[1].decode() if found else "unknown").encode()


def xmlrpc_methods(compute: Compute) -> Mapping[str, Method]:
    """Return every method that is implemented, by name; the session is checked before."""
    return {
        "one.system.version": lambda: VERSION,
        "one.user.info": lambda *_: text(user_xml(compute.user)),
        **_template_methods(compute),
        **_vm_methods(compute),
        **_image_methods(compute),
        **_infrastructure_methods(compute),
    }


def _pool(name: str, elements: Iterable[Element]) -> str:
    return f"<{name}>{''.join(map(text, elements))}</{name}>"


def _chosen(numbers: Iterable[int], whose: int = _ALL, start: int = -1, end: int = -1) -> list[int]:
    """Return which ids a pool call asks for, in order: those from `start` to `end`, or a page when `end` is negative.

    A page has `-end` objects and begins with the one numbered `start`. There is one user, 0, who owns everything.
    Source: PoolSharedAPI.cc, PoolSQL.cc. Raises `CloudError` 400.
    """
    if whose < _PRIMARY_GROUP:
        raise CloudError(400, "Incorrect filter_flag")
    found = sorted(numbers) if whose <= 0 else []
    if end < -1:
        first = max(start, 0)
        return found[first : first - end]
    if start != -1:
        found = [number for number in found if number >= start and (end == -1 or number <= end)]
    return found


def _template_methods(compute: Compute) -> dict[str, Method]:
    def allocate(content: str, *_: Any) -> int:
        template = parse_template(content)
        known = {body.get("NAME"): number for number, body in compute.templates.items()}
        _check_name("one.template.allocate", "TEMPLATE", template, known)
        return compute.save_template(template)

    def update(number: int, content: str, append: int = 0) -> int:
        known = compute.template(number, "one.template.update")
        fresh = {key: value for key, value in parse_template(content).items() if key != "NAME"}
        compute.save_template({**(known if append else {"NAME": known.get("NAME", "")}), **fresh}, number)
        return number

    def rename(number: int, name: str) -> int:
        compute.save_template({**compute.template(number, "one.template.rename"), "NAME": name}, number)
        return number

    def delete(number: int, *_: Any) -> int:
        compute.delete_template(number)
        return number

    def info(number: int, *_: Any) -> str:
        return text(vm_template_xml(number, compute.template(number, "one.template.info")))

    def pool(*which: int) -> str:
        chosen = _chosen(compute.templates, *which[:3])
        return _pool("VMTEMPLATE_POOL", [vm_template_xml(number, compute.templates[number]) for number in chosen])

    def clone(number: int, name: str, *_: Any) -> int:
        return compute.save_template({**compute.template(number, "one.template.clone"), "NAME": name})

    def instantiate(number: int, name: str = "", hold: bool = False, extra: str = "", *_: Any) -> int:  # noqa: FBT001, FBT002
        return compute.instantiate(number, name, extra, hold=hold).id

    return {
        "one.template.allocate": allocate, "one.template.update": update, "one.template.rename": rename,
        "one.template.delete": delete, "one.template.info": info, "one.template.clone": clone,
        "one.template.instantiate": instantiate, "one.templatepool.info": pool,
    }  # fmt: skip


def _check_name(call: str, what: str, template: dict[str, Any], known: Mapping[Any, int]) -> None:
    """Raise `CloudError` unless a new object has a name that no other has."""
    name = template.get("NAME")
    if not name:
        raise CloudError(500, f"[{call}] Cannot create {what.lower()} without a NAME.")
    if name in known:
        raise CloudError(500, f"[{call}] NAME is already taken by {what} {known[name]}.")


def _vm_pool(
    compute: Compute, whose: int = _ALL, start: int = -1, end: int = -1, state: int = _NOT_DONE, query: str = ""
) -> str:
    if query:
        raise CloudError(500, "JSON query search is not supported by the SQL backend")
    if not _ANY_STATE <= state <= _LAST_STATE:
        raise CloudError(400, f"Incorrect state filter {state}")
    numbers = compute.every_vm() if state in (_ANY_STATE, VmState.DONE) else list(compute.vms)
    vms = (compute.find(number) for number in numbers)
    wanted = {vm.id: vm for vm in vms if state < 0 or vm.state == state}
    return _pool("VM_POOL", [vm_xml(wanted[number]) for number in _chosen(wanted, whose, start, end)])


def _vm_methods(compute: Compute) -> dict[str, Method]:
    def info(number: int, *_: Any) -> str:
        return text(vm_xml(compute.find(number)))

    def pool(*which: Any) -> str:
        return _vm_pool(compute, *which)

    def some(numbers: str, *_: Any) -> str:
        wanted = [int(number) for number in numbers.split(",") if number.strip().isdigit()]
        return _pool("VM_POOL", [vm_xml(compute.vms[number]) for number in wanted if number in compute.vms])

    def act(action: str, number: int) -> int:
        compute.act(compute.find(number), action)
        return number

    def recover(number: int, operation: int) -> int:
        compute.recover(compute.find(number), operation)
        return number

    def update(number: int, content: str, append: int = 0) -> int:
        compute.update(compute.find(number), content, append=append == 1)
        return number

    return {
        "one.vm.info": info, "one.vm.action": act, "one.vm.recover": recover, "one.vm.update": update,
        "one.vmpool.info": pool, "one.vmpool.infoextended": pool, "one.vmpool.infoset": some,
    }  # fmt: skip


def _image_methods(compute: Compute) -> dict[str, Method]:
    def allocate(content: str, datastore: int, *_: Any) -> int:
        template = parse_template(content)
        if datastore not in DATASTORES:
            raise CloudError(404, f"[one.image.allocate] Error getting datastore [{datastore}].")
        _check_name(
            "one.image.allocate", "IMAGE", template, {image.name: image.id for image in compute.images.values()}
        )
        path = str(template.get("PATH", ""))
        there = not path.startswith("/") or Path(path).is_file()
        if not there:
            template["ERROR"] = f"Error copying image in the datastore: {path} cannot be read"
        return compute.save_image(template, ImageState.READY if there else ImageState.ERROR)

    def info(number: int, *_: Any) -> str:
        if number not in compute.images:
            raise CloudError(404, f"[one.image.info] Error getting image [{number}].")
        return text(image_xml(compute.images[number]))

    def pool(*which: int) -> str:
        chosen = _chosen(compute.images, *which[:3])
        return _pool("IMAGE_POOL", [image_xml(compute.images[number]) for number in chosen])

    def delete(number: int, *_: Any) -> int:
        compute.delete_image(number)
        return number

    return {
        "one.image.allocate": allocate, "one.image.info": info, "one.image.delete": delete, "one.imagepool.info": pool,
    }  # fmt: skip


def _infrastructure_methods(compute: Compute) -> dict[str, Method]:
    def datastores(*_: Any) -> str:
        return _pool("DATASTORE_POOL", [datastore_xml(number, name) for number, name in DATASTORES.items()])

    def networks(*which: int) -> str:
        chosen = _chosen(compute.networks, *which[:3])
        return _pool("VNET_POOL", [network_xml(number, compute.networks[number]) for number in chosen])

    def network(number: int, *_: Any) -> str:
        if number not in compute.networks:
            raise CloudError(404, f"[one.vn.info] Error getting virtual network [{number}].")
        return text(network_xml(number, compute.networks[number]))

    def allocate(content: str, *_: Any) -> int:
        template = parse_template(content)
        _check_name("one.vn.allocate", "NET", template, {name: number for number, name in compute.networks.items()})
        return compute.add_network(str(template["NAME"]))

    return {
        "one.datastorepool.info": datastores, "one.vnpool.info": networks, "one.vn.info": network,
        "one.vn.allocate": allocate,
    }  # fmt: skip
