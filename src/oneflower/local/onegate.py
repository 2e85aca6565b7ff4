"""OneGate's REST interface, for the machines. Facts: ids of VMs are strings, `deploy_id` an integer, `running` null."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from oneflower.local import ruby
from oneflower.local.models import CloudError, Document, Vm, node_ids
from oneflower.local.oned.corexml import vm_data
from oneflower.local.wire import Call, application, json_body, parse_json, text_body, whole
from oneflower.opennebula.tokens import is_token

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oneflow.documents import Documents
    from oneflower.local.oneflow.lifecycle import Lifecycle

_TYPE = "application/json;charset=utf-8"
_RESTRICTED = ("SCHED_REQUIREMENTS", "SERVICE_ID", "ROLE_NAME")
FORBIDDEN = ("reboot",)
_SHOWN_OF_NIC = ("IP", "IP6_LINK", "IP6_SITE", "IP6_GLOBAL", "NETWORK", "MAC", "NAME", "PARENT", "EXTERNAL",
                 "EXTERNAL_IP")  # fmt: skip
_SPECIAL = re.compile(r"[=,\\\n\[\]]")
LEGACY = {"delete": "terminate-hard", "shutdown": "terminate"}
ACTIONS = frozenset({
    "deploy", "hold", "livemigrate", "migrate", "resume", "release", "stop", "suspend", "saveas", "snapshot_create",
    "snapshot_revert", "snapshot_delete", "terminate", "reboot", "poweroff", "chown", "chmod", "resize", "attachdisk",
    "detachdisk", "attachnic", "detachnic", "rename", "undeploy", "resched", "unresched", "recover", "delete",
    "shutdown",
})  # fmt: skip


def onegate_app(documents: Documents, lifecycle: Lifecycle, compute: Compute) -> Starlette:
    """Return the application."""

    def refuse(request: Request) -> Response | None:
        number = request.headers.get("x-onegate-vmid", "")
        vm = compute.vms.get(int(number)) if re.fullmatch(r"[0-9]{1,18}", number) else None
        request.state.vm = vm
        if vm is None or not is_token(
            request.headers.get("x-onegate-token", ""), compute.token_password, vm.id, vm.stime
        ):
            return Response("Not authorized", 401, media_type=_TYPE)
        return None

    async def unsupported(_: Request) -> Response:
        # As by the real server: this one answers whoever asks.
        return Response("OneGate server doesn't support this feature", 400, media_type=_TYPE)

    return application(onegate_calls(documents, lifecycle, compute), refuse, unsupported, _TYPE)


def onegate_calls(documents: Documents, lifecycle: Lifecycle, compute: Compute) -> list[Call]:
    """Return every call that OneGate 7.4 has."""

    def own_service(vm: Vm) -> Document:
        """Return the service that a VM names in its user template, if that knows it. Raises `CloudError`."""
        number = vm.user_template.get("SERVICE_ID")
        if not isinstance(number, str) or not re.search(r"^\d+$", number, re.MULTILINE):
            raise CloudError(400, "Empty or invalid SERVICE_ID")
        service = documents.service(whole(number))
        if service is None:
            raise CloudError(404, f"Service {number} not found")
        need_member(service, vm.id)
        return service

    def need_member(service: Document, number: int) -> None:
        if not any(number in node_ids(role) for role in service.roles):
            raise CloudError(400, f"Service {service.id} does not contain VM {number}.")

    def peer(request: Request) -> Vm:
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
        need_member(own_service(vm), number)
        return compute.find(number)

    async def root(request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        return _json({"vm_info": f"{base}/vm", "service_info": f"{base}/service"})

    async def own_vm(request: Request) -> Response:
        return _json(_vm(request.state.vm))

    async def other_vm(request: Request) -> Response:
        return _json(_vm(peer(request)))

    async def update_own(request: Request) -> Response:
        return await update(request, request.state.vm)

    async def update_other(request: Request) -> Response:
        return await update(request, peer(request))

    async def update(request: Request, vm: Vm) -> Response:
        text, given = await text_body(request), dict(request.query_params)
        is_form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        if is_form or text.startswith(("data=", "type=")):
            given |= {key: values[-1] for key, values in parse_qs(text, keep_blank_values=True).items()}
        text, kind = given.get("data", text), given.get("type")
        appends = kind is None or whole(kind) == 1
        attributes = escape(text)
        _check_restricted(attributes, "modified" if appends else "deleted")
        if appends:
            append(vm, attributes)
        else:
            erase(vm, attributes)
        return Response(media_type=_TYPE)

    def append(vm: Vm, attributes: str) -> None:
        try:
            compute.update(vm, attributes, append=True)
        except CloudError as error:
            raise CloudError(500, "Internal server error") from error

    def erase(vm: Vm, name: str) -> None:
        if not re.fullmatch(r"\w+", name):
            raise CloudError(500, f"Invalid expression: USER_TEMPLATE/{name}")
        if name not in vm.user_template:
            raise CloudError(500, "Internal server error")
        compute.erase(vm, name)

    async def show_service(request: Request) -> Response:
        service = own_service(request.state.vm)
        extended = "extended" in request.query_params or "extended" in await text_body(request)
        roles = [
            {
                "name": role["name"],
                "cardinality": role["cardinality"],
                "state": role["state"],
                "nodes": [node(entry, extended=extended) for entry in role["nodes"]],
            }
            for role in service.roles
        ]
        body = {"name": service.name, "id": str(service.id), "state": service.body["state"], "roles": roles}
        return _json({"SERVICE": body})

    def node(entry: dict[str, Any], *, extended: bool) -> dict[str, Any]:
        vm_info = {"VM": vm_data(compute.find(entry["deploy_id"]))} if extended else entry["vm_info"]
        return {"deploy_id": entry["deploy_id"], "running": None, "vm_info": vm_info}

    async def scale(request: Request) -> Response:
        service, role = own_service(request.state.vm), request.path_params["role"]
        body = await json_body(request)
        if not isinstance(body, dict):
            raise CloudError(500, "no implicit conversion of String into Integer")
        number = body.get("cardinality")
        try:
            lifecycle.scale(service, role, number if isinstance(number, int) else whole(number), force=False)
        except CloudError as error:
            raise CloudError(400, f"Error performing action on service {service.id} role {role}") from error
        return Response(media_type=_TYPE)

    async def act(request: Request) -> Response:
        vm, text = peer(request), await text_body(request)
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
            compute.act(vm, f"{verb}-hard" if hard else verb)
        except CloudError as error:
            status = error.status if error.status == 501 else 500
            raise CloudError(status, error.message if status == 501 else "Internal server error") from error
        return Response(status_code=204)

    async def vrouter(_: Request) -> Response:
        raise CloudError(400, "Empty or invalid VROUTER_ID")

    async def vnet(request: Request) -> Response:
        number = request.path_params["id"]
        if not re.fullmatch(r"[+-]?\d+", number):
            raise CloudError(400, f"Invalid id format (ID: {number}). ID must be an integer.")
        raise CloudError(400, "Virtual networks information can only be retrieved from Virtual Routers.")

    return [
        Call("GET", "/", root),
        Call("GET", "/vm", own_vm),
        Call("PUT", "/vm", update_own),
        Call("GET", "/vms/{id}", other_vm),
        Call("PUT", "/vms/{id}", update_other),
        Call("POST", "/vms/{id}/action", act, "hold, resume, release, stop, suspend, terminate, poweroff, undeploy"),
        Call("GET", "/service", show_service),
        Call("PUT", "/service/role/{role}", scale),
        Call("GET", "/vrouter", vrouter, "no VM here is a virtual router, so it is refused as the real one refuses"),
        Call("GET", "/vnet/{id}", vnet, "as above"),
    ]


def escape(text: str) -> str:
    """Return the text of a PUT as OneGate hands it on to the core: quotes are put in where it thinks they are missing.

    What it gets wrong (commas, brackets, backslashes, an equals sign within quotes) is wrong here in the same way.
    Source: escape_attr of onegate-server.rb.
    """
    out, inside, done = [], False, 0
    for found in _SPECIAL.finditer(text):
        index, character = found.start(), found[0]
        before, after = text[index - 1], text[index + 1 : index + 2]
        insert = ""
        if character == "=":
            if not inside and after not in ("[", '"'):
                insert, inside = '="', True
        elif before != '"' and (character not in "[]" or before != "="):
            insert = '"' + character
            inside = inside and character in ",["
        if insert:
            out += [text[done:index], insert]
            done = index + 1
    escaped = "".join([*out, text[done:]]).replace("\\n", "\n")
    return escaped + '"' if inside and escaped[-1] not in ']"' else escaped


def _check_restricted(text: str, verb: str) -> None:
    for line in text.split("\n"):
        name = line.split("=")[0]
        if name.upper() in _RESTRICTED:
            raise CloudError(403, f"Attribute ({name}) cannot be {verb}")


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
