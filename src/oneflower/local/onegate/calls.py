"""OneGate's REST interface, for machines. VM ids are strings, `deploy_id` is an integer, `running` is null."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from oneflower.local import ruby
from oneflower.local.errors import CloudError
from oneflower.local.oned.corexml import vm_data
from oneflower.local.oneflow.models import Document, node_ids
from oneflower.local.onegate.attributes import check_restricted, escape
from oneflower.local.wire import Call, application, json_body, no_content, parse_json, text_body, whole

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Vm
    from oneflower.local.oneflow.documents import Documents
    from oneflower.local.oneflow.lifecycle import Lifecycle

_TYPE = "application/json;charset=utf-8"
_SHOWN_OF_NIC = ("IP", "IP6_LINK", "IP6_SITE", "IP6_GLOBAL", "NETWORK", "MAC", "NAME", "PARENT", "EXTERNAL",
                 "EXTERNAL_IP")  # fmt: skip
FORBIDDEN = ("reboot",)
LEGACY = {"delete": "terminate-hard", "shutdown": "terminate"}
ACTIONS = frozenset({
    "deploy", "hold", "livemigrate", "migrate", "resume", "release", "stop", "suspend", "saveas", "snapshot_create",
    "snapshot_revert", "snapshot_delete", "terminate", "reboot", "poweroff", "chown", "chmod", "resize", "attachdisk",
    "detachdisk", "attachnic", "detachnic", "rename", "undeploy", "resched", "unresched", "recover", "delete",
    "shutdown",
})  # fmt: skip


def onegate_app(documents: Documents, lifecycle: Lifecycle, compute: Compute) -> Starlette:
    """Return the application."""
    calls = OneGateCalls(documents, lifecycle, compute)
    return application(calls.table(), calls.refuse, _unsupported, _TYPE)


class OneGateCalls:
    """A method for each call; the table is at the end."""

    def __init__(self, documents: Documents, lifecycle: Lifecycle, compute: Compute) -> None:
        self._documents = documents
        self._lifecycle = lifecycle
        self._compute = compute

    def refuse(self, request: Request) -> Response | None:
        """Return the refusal of a request, or None if it has the token of the machine that it names."""
        number = request.headers.get("x-onegate-vmid", "")
        vm = self._compute.vms.get(int(number)) if re.fullmatch(r"[0-9]{1,18}", number) else None
        request.state.vm = vm
        token = request.headers.get("x-onegate-token", "")
        if vm is None or not self._compute.proves(token, vm):
            return Response("Not authorized", 401, media_type=_TYPE)
        return None

    # -- VMs ---------------------------------------------------------------------------------------------------------

    async def root(self, request: Request) -> Response:
        """List the other calls."""
        base = str(request.base_url).rstrip("/")
        return _json({"vm_info": f"{base}/vm", "service_info": f"{base}/service"})

    async def own_vm(self, request: Request) -> Response:
        """Show the machine that sent the request."""
        return _json(_vm(request.state.vm))

    async def other_vm(self, request: Request) -> Response:
        """Show a machine of the same service."""
        return _json(_vm(self._peer(request)))

    async def update_own(self, request: Request) -> Response:
        """Change the user template of the machine that sent the request."""
        return await self._update(request, request.state.vm)

    async def update_other(self, request: Request) -> Response:
        """Change the user template of a machine of the same service."""
        return await self._update(request, self._peer(request))

    async def _update(self, request: Request, vm: Vm) -> Response:
        text, given = await text_body(request), dict(request.query_params)
        is_form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        if is_form or text.startswith(("data=", "type=")):
            given |= {key: values[-1] for key, values in parse_qs(text, keep_blank_values=True).items()}
        text, kind = given.get("data", text), given.get("type")
        appends = kind is None or whole(kind) == 1
        attributes = escape(text)
        check_restricted(attributes, "modified" if appends else "deleted")
        if appends:
            self._append(vm, attributes)
        else:
            self._erase(vm, attributes)
        return Response(media_type=_TYPE)

    def _append(self, vm: Vm, attributes: str) -> None:
        try:
            self._compute.update(vm, attributes, append=True)
        except CloudError as error:
            raise CloudError(500, "Internal server error") from error

    def _erase(self, vm: Vm, name: str) -> None:
        if not re.fullmatch(r"\w+", name):
            raise CloudError(500, f"Invalid expression: USER_TEMPLATE/{name}")
        if name not in vm.user_template:
            raise CloudError(500, "Internal server error")
        self._compute.erase(vm, name)

    async def act(self, request: Request) -> Response:
        """Perform an action on a machine of the same service."""
        vm, text = self._peer(request), await text_body(request)
        try:
            action = parse_json(text, 400)["action"]
            perform, params = ruby.text(action["perform"]), action.get("params")
        except (KeyError, TypeError, AttributeError) as error:
            raise CloudError(400, "Error parsing JSON: Wrong resource type") from error
        if perform.lower() in FORBIDDEN:
            raise CloudError(403, f"Action ({perform}) is not allowed on this resource")
        if perform not in ACTIONS:
            raise CloudError(500, "Internal server error")
        verb = LEGACY.get(perform, perform)
        hard = isinstance(params, dict) and params.get("hard") is True and verb in ("terminate", "poweroff", "undeploy")
        try:
            self._compute.act(vm, f"{verb}-hard" if hard else verb)
        except CloudError as error:
            status = error.status if error.status == 501 else 500
            raise CloudError(status, error.message if status == 501 else "Internal server error") from error
        return no_content()

    def _peer(self, request: Request) -> Vm:
        """Return the machine that a path names, if the sender may see it. Raises `CloudError`."""
        vm: Vm = request.state.vm
        number = whole(request.path_params["id"])
        if number == vm.id:
            return vm
        if "SERVICE_ID" not in vm.user_template:
            raise CloudError(
                400,
                "This VM does not belong to any Virtual Router or Service, "
                "so it cannot retrieve information from other VMs",
            )
        _need_member(self._own_service(vm), number)
        return self._compute.find(number)

    # -- the service -------------------------------------------------------------------------------------------------

    async def show_service(self, request: Request) -> Response:
        """Show the service of the machine that sent the request."""
        service = self._own_service(request.state.vm)
        extended = "extended" in request.query_params or "extended" in await text_body(request)
        roles = [
            {
                "name": role["name"],
                "cardinality": role["cardinality"],
                "state": role["state"],
                "nodes": [self._node(entry, extended=extended) for entry in role["nodes"]],
            }
            for role in service.roles
        ]
        body = {"name": service.name, "id": str(service.id), "state": service.body["state"], "roles": roles}
        return _json({"SERVICE": body})

    def _node(self, entry: dict[str, Any], *, extended: bool) -> dict[str, Any]:
        vm_info = {"VM": vm_data(self._compute.find(entry["deploy_id"]))} if extended else entry["vm_info"]
        return {"deploy_id": entry["deploy_id"], "running": None, "vm_info": vm_info}

    async def scale(self, request: Request) -> Response:
        """Change how many machines a role of the service has."""
        service, role = self._own_service(request.state.vm), request.path_params["role"]
        body = await json_body(request)
        if not isinstance(body, dict):
            raise CloudError(500, "no implicit conversion of String into Integer")
        number = body.get("cardinality")
        try:
            self._lifecycle.scale(service, role, number if isinstance(number, int) else whole(number), force=False)
        except CloudError as error:
            raise CloudError(400, f"Error performing action on service {service.id} role {role}") from error
        return Response(media_type=_TYPE)

    def _own_service(self, vm: Vm) -> Document:
        """Return the service that a VM names in its user template, if that service has the VM. Raises `CloudError`."""
        number = vm.user_template.get("SERVICE_ID")
        if not isinstance(number, str) or not re.search(r"^\d+$", number, re.MULTILINE):
            raise CloudError(400, "Empty or invalid SERVICE_ID")
        service = self._documents.service(whole(number))
        if service is None:
            raise CloudError(404, f"Service {number} not found")
        _need_member(service, vm.id)
        return service

    # -- what machines here do not have-------------------------------------------------------------------------------

    async def virtual_router(self, _: Request) -> Response:
        """Refuse: no machine here is a virtual router."""
        raise CloudError(400, "Empty or invalid VROUTER_ID")

    async def virtual_network(self, request: Request) -> Response:
        """Refuse: only virtual routers may ask this."""
        number = request.path_params["id"]
        if not re.fullmatch(r"[+-]?\d+", number):
            raise CloudError(400, f"Invalid id format (ID: {number}). ID must be an integer.")
        raise CloudError(400, "Virtual networks information can only be retrieved from Virtual Routers.")

    def table(self) -> list[Call]:
        """Return every call that OneGate 7.4 has."""
        actions = "hold, resume, release, stop, suspend, terminate, poweroff, undeploy"
        refused = "no VM here is a virtual router, so it is refused as the real one refuses"
        return [
            Call("GET", "/", self.root),
            Call("GET", "/vm", self.own_vm),
            Call("PUT", "/vm", self.update_own),
            Call("GET", "/vms/{id}", self.other_vm),
            Call("PUT", "/vms/{id}", self.update_other),
            Call("POST", "/vms/{id}/action", self.act, actions),
            Call("GET", "/service", self.show_service),
            Call("PUT", "/service/role/{role}", self.scale),
            Call("GET", "/vrouter", self.virtual_router, refused),
            Call("GET", "/vnet/{id}", self.virtual_network, "as above"),
        ]


async def _unsupported(_: Request) -> Response:
    """Refuse a call that does not exist. The real server also answers it without a token."""
    return Response("OneGate server doesn't support this feature", 400, media_type=_TYPE)


def _need_member(service: Document, number: int) -> None:
    if not any(number in node_ids(role) for role in service.roles):
        raise CloudError(400, f"Service {service.id} does not contain VM {number}.")


def _json(content: Any) -> Response:
    return JSONResponse(content, media_type=_TYPE)


def _vm(vm: Vm) -> dict[str, Any]:
    nic = vm.template.get("NIC") or []
    nics = nic if isinstance(nic, list) else [nic]
    shown = [{key: value for key, value in nic.items() if key in _SHOWN_OF_NIC} for nic in nics]
    user = {key: value for key, value in sorted(vm.user_template.items()) if key != "SCHED_MESSAGE"}
    return {
        "VM": {
            "NAME": vm.name,
            "ID": str(vm.id),
            "STATE": str(int(vm.state)),
            "LCM_STATE": str(int(vm.lcm_state)),
            "USER_TEMPLATE": user,
            "TEMPLATE": {"NIC": shown, "NIC_ALIAS": []},
        }
    }
