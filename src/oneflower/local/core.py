"""The small part of OpenNebula's XML-RPC that registering and watching a federation needs.

Every call answers `[success, value or message, error code]`. A method that is not here answers so, never silently.
"""

from __future__ import annotations

import hmac
import xmlrpc.client
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from oneflower.local.models import CloudError, Vm
from oneflower.local.vmtext import parse_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from oneflower.local.lifecycle import Engine

VERSION = "7.4.0"
_EAUTHENTICATION, _ENO_EXISTS, _EXMLRPCAPI = 0x0100, 0x0400, 0x0800

Answer = tuple[bool, Any, int]


def core_app(engine: Engine, secret: str) -> Starlette:
    """Return the application; `secret` is the session string `user:password`."""

    def version() -> Any:
        return VERSION

    def allocate_template(text: str, *_: Any) -> Any:
        return engine.save_vm_template(parse_template(text))

    def update_template(number: int, text: str, append: int = 0) -> Any:
        fresh = parse_template(text)
        known(number)
        engine.save_vm_template({**engine.vm_templates[number], **fresh} if append else fresh, number)
        return number

    def delete_template(number: int, *_: Any) -> Any:
        known(number)
        engine.delete_vm_template(number)
        return number

    def template_info(number: int, *_: Any) -> Any:
        return vm_template_xml(number, known(number))

    def template_pool(*_: Any) -> Any:
        inner = "".join(vm_template_xml(number, body) for number, body in sorted(engine.vm_templates.items()))
        return f"<VMTEMPLATE_POOL>{inner}</VMTEMPLATE_POOL>"

    def vm_info(number: int, *_: Any) -> Any:
        return vm_xml(engine.vm(number))

    def vm_set(numbers: str, *_: Any) -> Any:
        wanted = [int(text) for text in numbers.split(",") if text.strip().isdigit()]
        return f"<VM_POOL>{''.join(vm_xml(engine.vms[n]) for n in wanted if n in engine.vms)}</VM_POOL>"

    def known(number: int) -> dict[str, Any]:
        if number not in engine.vm_templates:
            raise CloudError(404, f"[one.template.info] Error getting template [{number}].")
        return engine.vm_templates[number]

    methods: dict[str, Callable[..., Any]] = {
        "one.system.version": version,
        "one.template.allocate": allocate_template,
        "one.template.update": update_template,
        "one.template.delete": delete_template,
        "one.template.info": template_info,
        "one.templatepool.info": template_pool,
        "one.vm.info": vm_info,
        "one.vmpool.infoset": vm_set,
    }

    def answer(method: str, params: tuple[Any, ...]) -> Answer:
        session = str(params[0]) if params else ""
        if not hmac.compare_digest(session.encode(), secret.encode()):
            return False, f"[{method}] User couldn't be authenticated, aborting call.", _EAUTHENTICATION
        if method not in methods:
            return False, f"The local cloud does not implement {method}", _EXMLRPCAPI
        try:
            return True, methods[method](*params[1:]), 0
        except CloudError as error:
            return False, error.message, _ENO_EXISTS if error.status == 404 else _EXMLRPCAPI
        except (TypeError, ValueError) as error:
            return False, f"[{method}] {error}", _EXMLRPCAPI

    async def call(request: Request) -> Response:
        try:
            params, method = xmlrpc.client.loads(await request.body(), use_builtin_types=True)
        except Exception as error:  # noqa: BLE001 - whatever a hostile body makes expat or the unmarshaller raise
            fault = xmlrpc.client.Fault(-503, f"Call XML not a proper XML-RPC call. {error}")
            return Response(xmlrpc.client.dumps(fault), media_type="text/xml")
        reply = xmlrpc.client.dumps((list(answer(method or "", params)),), methodresponse=True)
        return Response(reply, media_type="text/xml")

    return Starlette(routes=[Route("/RPC2", call, methods=["POST"])])


def _element(name: str, content: Any) -> str:
    if isinstance(content, list):
        return "".join(_element(name, item) for item in content)
    if isinstance(content, dict):
        return f"<{name}>{''.join(_element(key, value) for key, value in content.items())}</{name}>"
    return f"<{name}>{escape(str(content))}</{name}>"


_OWNER = {"UID": "0", "GID": "0", "UNAME": "oneadmin", "GNAME": "oneadmin"}


def vm_template_xml(number: int, body: dict[str, Any]) -> str:
    """Return a VM template as one.template.info does."""
    rest = {key: value for key, value in body.items() if key != "NAME"}
    content = {"ID": number, **_OWNER, "NAME": body.get("NAME", ""), "REGTIME": "0", "TEMPLATE": rest}
    return _element("VMTEMPLATE", content)


def vm_xml(vm: Vm) -> str:
    """Return a VM as one.vm.info does."""
    content = {
        **vm.owner(),
        "STATE": int(vm.state),
        "LCM_STATE": int(vm.lcm_state),
        "STIME": vm.stime,
        "ETIME": 0,
        "TEMPLATE": vm.template,
        "USER_TEMPLATE": {**vm.user_template, **({"ERROR": vm.error} if vm.error else {})},
    }
    return _element("VM", content)
