"""OneGate's REST interface, for the machines. Facts: ids of VMs are strings, `deploy_id` an integer, `running` null."""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from oneflower.local.models import CloudError, Document, Vm, node_ids
from oneflower.local.wire import guarded, json_body, whole

if TYPE_CHECKING:
    from starlette.requests import Request

    from oneflower.local.lifecycle import Engine

_RESTRICTED = ("SCHED_REQUIREMENTS", "SERVICE_ID", "ROLE_NAME")
_LINE = re.compile(r"([A-Za-z_]\w*)=(.*)")


def onegate_app(engine: Engine) -> Starlette:
    """Return the application."""

    def caller(request: Request) -> Vm | None:
        number = request.headers.get("x-onegate-vmid", "")
        vm = engine.vms.get(int(number)) if number.isdigit() and number.isascii() else None
        token = request.headers.get("x-onegate-token", "")
        return vm if vm is not None and hmac.compare_digest(token.encode(), vm.token.encode()) else None

    def refuse(request: Request) -> Response | None:
        vm = caller(request)
        request.state.vm = vm
        return None if vm is not None else PlainTextResponse("Not authorized", status_code=401)

    def own_service(vm: Vm) -> Document:
        service = engine.service_of(vm)
        if service is None or not any(vm.id in node_ids(role) for role in service.roles):
            raise CloudError(400, f"Service {vm.service_id} does not contain VM {vm.id}.")
        return service

    def peer(request: Request) -> Vm:
        vm: Vm = request.state.vm
        number = whole(request.path_params["id"], "VM")
        if number != vm.id and not any(number in node_ids(role) for role in own_service(vm).roles):
            raise CloudError(400, f"Service {vm.service_id} does not contain VM {number}.")
        return engine.vm(number)

    async def root(request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        return JSONResponse({"vm_info": f"{base}/vm", "service_info": f"{base}/service"})

    async def own_vm(request: Request) -> Response:
        return JSONResponse(_vm(request.state.vm))

    async def other_vm(request: Request) -> Response:
        return JSONResponse(_vm(peer(request)))

    async def update_own(request: Request) -> Response:
        return await update(request, request.state.vm)

    async def update_other(request: Request) -> Response:
        return await update(request, peer(request))

    async def update(request: Request, vm: Vm) -> Response:
        text = (await request.body()).decode(errors="replace")
        kind = request.query_params.get("type", "1")
        if text.startswith(("data=", "type=")):
            form = parse_qs(text, keep_blank_values=True)
            text, kind = form.get("data", [""])[0], form.get("type", [kind])[0]
        if kind == "1":
            engine.update_vm(vm, _attributes(text))
        elif kind == "2":
            _guard(text)
            engine.erase_vm_attribute(vm, text.strip())
        else:
            raise CloudError(500, "Internal server error")
        return Response()

    async def show_service(request: Request) -> Response:
        service = own_service(request.state.vm)
        extended = "extended" in request.query_params or b"extended" in await request.body()
        roles = [
            {
                "name": role["name"],
                "cardinality": role["cardinality"],
                "state": role["state"],
                "nodes": [
                    node(entry, extended=extended) for entry in role["nodes"] if entry["deploy_id"] in engine.vms
                ],
            }
            for role in service.roles
        ]
        body = {"name": service.body["name"], "id": str(service.id), "state": service.body["state"], "roles": roles}
        return JSONResponse({"SERVICE": body})

    def node(entry: dict[str, Any], *, extended: bool) -> dict[str, Any]:
        vm_info = entry["vm_info"]
        if extended:
            vm = engine.vm(entry["deploy_id"])
            vm_info = {"VM": vm.owner() | _states(vm) | {"TEMPLATE": vm.template, "USER_TEMPLATE": vm.user_template}}
        return {"deploy_id": entry["deploy_id"], "running": None, "vm_info": vm_info}

    async def scale(request: Request) -> Response:
        body = await json_body(request)
        service, role = own_service(request.state.vm), request.path_params["role"]
        try:
            engine.scale(service.id, role, int(body.get("cardinality") or 0), force=False)
        except (CloudError, ValueError, TypeError, AttributeError) as error:
            raise CloudError(400, f"Error performing action on service {service.id} role {role}") from error
        return Response()

    async def unsupported(_: Request) -> Response:
        return PlainTextResponse("OneGate server doesn't support this feature", status_code=400)

    table = [
        ("/vm", "GET", own_vm),
        ("/vm", "PUT", update_own),
        ("/vms/{id}", "GET", other_vm),
        ("/vms/{id}", "PUT", update_other),
        ("/service", "GET", show_service),
        ("/service/role/{role}", "PUT", scale),
    ]
    routes = [Route(path, guarded(handler, refuse), methods=[method]) for path, method, handler in table]
    every = ["GET", "POST", "PUT", "DELETE", "PATCH"]
    return Starlette(
        routes=[
            Route("/", guarded(root, lambda _: None), methods=["GET"]),
            *routes,
            Route("/{path:path}", guarded(unsupported, refuse), methods=every),
        ]
    )


def _attributes(text: str) -> dict[str, str]:
    """Read `KEY=value` lines under the limits of the real server, which fails or mangles everything else."""
    found: dict[str, str] = {}
    for line in text.replace("\\n", "\n").splitlines():
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip("\r"))
        if match is None:
            raise CloudError(500, "Internal server error")
        key, value = match[1].upper(), match[2]
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
            if "=" in value.rstrip("=") or value.endswith("=="):
                raise CloudError(500, "Internal server error")
        if re.search(r'[,\[\]"\\]', value) or not value:
            raise CloudError(500, "Internal server error")
        _guard(key)
        found[key] = value
    return found


def _guard(name: str) -> None:
    if name.strip().upper() in _RESTRICTED:
        raise CloudError(403, f"Attribute ({name.strip().upper()}) cannot be modified")


def _states(vm: Vm) -> dict[str, str]:
    return {"STATE": str(int(vm.state)), "LCM_STATE": str(int(vm.lcm_state))}


def _vm(vm: Vm) -> dict[str, Any]:
    return {
        "VM": {
            "NAME": vm.name,
            "ID": str(vm.id),
            **_states(vm),
            "USER_TEMPLATE": vm.user_template,
            "TEMPLATE": {"NIC": [vm.template["NIC"]], "NIC_ALIAS": []},
        }
    }
