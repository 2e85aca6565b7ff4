"""The part of OpenNebula's XML-RPC that registering, deploying and watching needs.

Every call answers `[success, value or message, error code]`. A method that is not here answers so, never silently.
"""

from __future__ import annotations

import hmac
import logging
import xmlrpc.client as protocol
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from oneflower.local.models import CloudError, Image
from oneflower.local.oned.compute import DATASTORES
from oneflower.local.oned.corexml import datastore_xml, image_xml, network_xml, text, user_xml, vm_template_xml, vm_xml
from oneflower.local.oned.vmtext import parse_template

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from xml.etree.ElementTree import Element

    from starlette.requests import Request

    from oneflower.local.oned.compute import Compute

    Method = Callable[..., Any]

log = logging.getLogger(__name__)

VERSION = "7.4.0"
_EAUTHENTICATION, _ENO_EXISTS, _EACTION, _EXMLRPCAPI, _EINTERNAL = 0x0100, 0x0400, 0x0800, 0x1000, 0x2000

Answer = tuple[bool, Any, int]


def xmlrpc_app(compute: Compute, secret: str) -> Starlette:
    """Return the application; `secret` is the session string `user:password`."""
    methods = xmlrpc_methods(compute)

    def answer(method: str, params: tuple[Any, ...]) -> Answer:
        session = str(params[0]) if params else ""
        if not hmac.compare_digest(session.encode(), secret.encode()):
            return False, f"[{method}] User couldn't be authenticated, aborting call.", _EAUTHENTICATION
        if method not in methods:
            return False, f"The local cloud does not implement {method}", _EXMLRPCAPI
        try:
            return True, methods[method](*params[1:]), 0
        except CloudError as error:
            return False, error.message, {404: _ENO_EXISTS, 501: _EXMLRPCAPI}.get(error.status, _EACTION)
        except (TypeError, ValueError, AttributeError) as error:
            return False, f"[{method}] {error}", _EXMLRPCAPI
        except Exception:
            log.exception("%s", method)
            return False, f"[{method}] Internal error.", _EINTERNAL

    async def call(request: Request) -> Response:
        try:
            params, method = protocol.loads(await request.body(), use_builtin_types=True)
        except Exception as error:  # noqa: BLE001 - whatever a hostile body makes expat or the unmarshaller raise
            fault = protocol.Fault(-503, f"Call XML not a proper XML-RPC call. {error}")
            return Response(protocol.dumps(fault), media_type="text/xml")
        reply = protocol.dumps((list(answer(method or "", params)),), methodresponse=True)
        return Response(reply, media_type="text/xml")

    return Starlette(routes=[Route("/RPC2", call, methods=["POST"])])


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


def _pool(name: str, elements: list[Element]) -> str:
    return f"<{name}>{''.join(map(text, elements))}</{name}>"


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

    def pool(*_: Any) -> str:
        return _pool("VMTEMPLATE_POOL", [vm_template_xml(*item) for item in sorted(compute.templates.items())])

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


def _vm_methods(compute: Compute) -> dict[str, Method]:
    def info(number: int, *_: Any) -> str:
        return text(vm_xml(compute.find(number)))

    def pool(*_: Any) -> str:
        return _pool("VM_POOL", [vm_xml(vm) for _, vm in sorted(compute.vms.items())])

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
        return compute.save_image(template, Image.READY if there else Image.ERROR)

    def info(number: int, *_: Any) -> str:
        if number not in compute.images:
            raise CloudError(404, f"[one.image.info] Error getting image [{number}].")
        return text(image_xml(compute.images[number]))

    def pool(*_: Any) -> str:
        return _pool("IMAGE_POOL", [image_xml(image) for image in compute.images.values()])

    def delete(number: int, *_: Any) -> int:
        compute.delete_image(number)
        return number

    return {
        "one.image.allocate": allocate, "one.image.info": info, "one.image.delete": delete, "one.imagepool.info": pool,
    }  # fmt: skip


def _infrastructure_methods(compute: Compute) -> dict[str, Method]:
    def datastores(*_: Any) -> str:
        return _pool("DATASTORE_POOL", [datastore_xml(number, name) for number, name in DATASTORES.items()])

    def networks(*_: Any) -> str:
        return _pool("VNET_POOL", [network_xml(number, name) for number, name in compute.networks.items()])

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
