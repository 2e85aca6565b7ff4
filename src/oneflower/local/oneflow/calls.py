"""OneFlow's REST interface. As the server has it, replies are text/html holding JSON, errors plain text."""

from __future__ import annotations

import base64
import binascii
import hmac
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, Response

from oneflower.local import ruby
from oneflower.local.models import SERVICE_TYPE, TEMPLATE_TYPE, CloudError, Document, internal
from oneflower.local.oneflow.instantiation import rename_legacy_values
from oneflower.local.oneflow.lifecycle import ACTIONS
from oneflower.local.oneflow.schema import check_role, check_template
from oneflower.local.wire import Call, application, html, json_body, not_found, parse_json, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.applications import Starlette
    from starlette.requests import Request

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oneflow.documents import Documents
    from oneflower.local.oneflow.lifecycle import Lifecycle

_NO_CONTENT = 204


def oneflow_app(
    documents: Documents, lifecycle: Lifecycle, compute: Compute, secret: str, extra: Sequence[Call] = ()
) -> Starlette:
    """Return the application; `secret` is `user:password`, `extra` calls are of our own."""

    def refuse(request: Request) -> Response | None:
        kind, _, encoded = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return HTMLResponse("A username and password must be provided", 401)
        try:
            given = base64.b64decode(encoded)
        except binascii.Error:
            given = b""
        if not hmac.compare_digest(given, secret.encode()):
            return HTMLResponse("Invalid credentials", 401)
        return None

    async def unknown(request: Request) -> Response:
        return refuse(request) or not_found(request.method, request.url.path)

    return application([*oneflow_calls(documents, lifecycle, compute), *extra], refuse, unknown, "text/html")


def oneflow_calls(documents: Documents, lifecycle: Lifecycle, compute: Compute) -> list[Call]:
    """Return every call that OneFlow 7.4 has."""

    def pool(kind: int) -> Response:
        found = [entry.wire()["DOCUMENT"] for entry in documents.pool(kind)]
        return html({"DOCUMENT_POOL": {"DOCUMENT": found} if found else {}})

    def service_of(request: Request) -> Document:
        return documents.get(whole(request.path_params["id"]), SERVICE_TYPE)

    def template_of(request: Request) -> Document:
        return documents.get(whole(request.path_params["id"]), TEMPLATE_TYPE)

    async def services(_: Request) -> Response:
        return pool(SERVICE_TYPE)

    async def service(request: Request) -> Response:
        return html(service_of(request).wire())

    async def delete_service(request: Request) -> Response:
        lifecycle.delete(service_of(request))
        return Response(status_code=_NO_CONTENT)

    async def act_on_service(request: Request) -> Response:
        perform, params = _action(await json_body(request))
        found = service_of(request)
        options = params or {}
        if perform == "recover":
            lifecycle.recover(found, delete=bool(options.get("delete")))
        elif perform == "release":
            lifecycle.release(found)
        elif perform in _CHANGES:
            _change(documents, found, perform, options)
        elif perform in ACTIONS:
            period, number = _pace(params)
            lifecycle.schedule(found, found.roles, perform, period, number)
        else:
            raise CloudError(500, f"Action {perform} not supported")
        return Response(status_code=_NO_CONTENT)

    async def update_service(request: Request) -> Response:
        body, append = await json_body(request, 400), False
        if not isinstance(body, dict):
            raise internal(ruby.no_method("key?", body))
        if "append" in body:
            if "template" not in body:
                raise CloudError(400, "Missing template to append")
            append = bool(body["append"])
            if not isinstance(body["template"], str):
                raise internal(f"no implicit conversion of {ruby.kind(body['template'])} into String")
            body = parse_json(body["template"], 400)
        if not append:
            check_template(body)
        lifecycle.update(service_of(request), body, append=append)
        return Response(status_code=_NO_CONTENT)

    async def scale(request: Request) -> Response:
        body = await json_body(request)
        if not isinstance(body, dict):
            raise internal("no implicit conversion of String into Integer")
        found, cardinality = service_of(request), _number(body.get("cardinality"))
        try:
            lifecycle.scale(found, ruby.text(body.get("role_name")), cardinality, body.get("force"))
        except ruby.JsonError as error:
            raise internal(str(error)) from error
        return Response(status_code=_NO_CONTENT)

    async def act_on_role(request: Request) -> Response:
        perform, params = _action(await json_body(request))
        period, number = _pace(params)
        found, name = service_of(request), request.path_params["role"]
        role = found.role(name)
        if role is None:
            raise CloudError(500, f"Role '{name}' not found")
        lifecycle.schedule(found, [role], perform, period, number)
        return Response(status_code=_NO_CONTENT)

    async def change_roles(request: Request) -> Response:
        perform, params = _action(await json_body(request))
        options, found = params or {}, service_of(request)
        if perform == "add_role":
            role = options.get("role")
            if not isinstance(role, dict | str):
                raise internal(f"no implicit conversion of {ruby.kind(role)} into String")
            lifecycle.add_role(found, check_role(role if isinstance(role, dict) else parse_json(role, 400)))
        elif perform == "remove_role":
            lifecycle.remove_role(found, ruby.text(options.get("role")))
        else:
            raise CloudError(500, f"Action {perform} not supported")
        return Response(status_code=_NO_CONTENT)

    async def unschedule(request: Request) -> Response:
        number = request.path_params["sched_id"]
        if not (number.isascii() and number.isdigit()):
            raise CloudError(400, "Sched action ID must be an integer number")
        found, name = service_of(request), request.path_params.get("role")
        if name is not None and found.role(name) is None:
            raise CloudError(500, f"Role '{name}' not found")
        for role in found.roles:
            for node in role["nodes"] if name in (None, role["name"]) else ():
                if vm := compute.vms.get(node["deploy_id"]):
                    compute.unschedule(vm, int(number))
        return Response(status_code=_NO_CONTENT)

    async def purge(_: Request) -> Response:
        return Response(status_code=_NO_CONTENT)

    async def templates(_: Request) -> Response:
        return pool(TEMPLATE_TYPE)

    async def template(request: Request) -> Response:
        return html(template_of(request).wire())

    async def create_template(request: Request) -> Response:
        return html(documents.create_template(await json_body(request, 400)).wire(), 201)

    async def update_template(request: Request) -> Response:
        number = template_of(request).id
        return html(documents.update_template(number, await json_body(request, 400)).wire())

    async def delete_template(request: Request) -> Response:
        try:
            body = await json_body(request)
        except CloudError:
            body = {}
        what = body.get("delete_type") if isinstance(body, dict) else None
        documents.delete_template(template_of(request).id, ruby.text(what), compute)
        return Response(status_code=_NO_CONTENT)

    async def act_on_template(request: Request) -> Response:
        perform, params = _action(await json_body(request))
        options = params or {}
        if perform == "instantiate":
            number = template_of(request).id
            merge = options.get("merge_template") or {}
            if not isinstance(merge, dict):
                raise CloudError(400, ruby.no_method("key?", merge))
            rename_legacy_values(merge)
            return html(lifecycle.instantiate(number, merge), 201)
        if perform == "clone":
            found = template_of(request)
            name, recursive = ruby.text(options.get("name")), ruby.text(options.get("recursive") or "templates")
            return html(documents.clone_template(found.id, name, recursive, compute).wire(), 201)
        if perform == "update":
            return update_by_action(request, options)
        if perform not in _CHANGES:
            return Response(media_type="text/html")  # an error object is made, and never looked at
        with suppress(CloudError):  # the result is not looked at, either
            _change(documents, template_of(request), perform, options)
        given = options.get(_needed(perform)) not in (None, False) or perform == "rename"
        return Response(status_code=_NO_CONTENT if given else 200, media_type="text/html")

    def update_by_action(request: Request, options: dict[str, Any]) -> Response:
        if options.get("template_json"):
            if not isinstance(options["template_json"], str):
                raise internal(f"no implicit conversion of {ruby.kind(options['template_json'])} into String")
            body = parse_json(options["template_json"], 400)
            documents.update_template(template_of(request).id, body, append=options.get("append") is True)
            return Response(status_code=_NO_CONTENT)
        if "template_raw" in options:
            raise CloudError(501, "The local cloud does not implement updates of a document's raw attributes")
        return Response(media_type="text/html")

    return [
        Call("GET", "/service", services),
        Call("GET", "/service/{id}", service),
        Call("DELETE", "/service/{id}", delete_service),
        Call("PUT", "/service/{id}", update_service),
        Call("POST", "/service/{id}/action", act_on_service, "not the snapshot actions"),
        Call("POST", "/service/{id}/scale", scale),
        Call("POST", "/service/{id}/role/{role}/action", act_on_role, "as above"),
        Call("POST", "/service/{id}/role_action", change_roles),
        Call("DELETE", "/service/{id}/sched_action/{sched_id}", unschedule),
        Call("DELETE", "/service/{id}/role/{role}/sched_action/{sched_id}", unschedule),
        Call("POST", "/service_pool/purge_done", purge, "there is never a service that is DONE"),
        Call("GET", "/service_template", templates),
        Call("POST", "/service_template", create_template),
        Call("GET", "/service_template/{id}", template),
        Call("PUT", "/service_template/{id}", update_template),
        Call("DELETE", "/service_template/{id}", delete_template),
        Call("POST", "/service_template/{id}/action", act_on_template, "not `update` with `template_raw`"),
    ]


_CHANGES = {"chown": "owner_id", "chgrp": "group_id", "chmod": "octet", "rename": "name"}
_NAMES = {"owner_id": "a UID", "group_id": "a GID", "octet": "an OCTET", "name": "a name"}


def _needed(perform: str) -> str:
    return _CHANGES[perform]


def _change(documents: Documents, document: Document, perform: str, options: dict[str, Any]) -> None:
    """Change what any document has. Raises `CloudError` 500."""
    needed = _needed(perform)
    if options.get(needed) in (None, False):
        raise CloudError(500, f"Action {perform}: You have to specify {_NAMES[needed]}")
    if perform == "rename":
        documents.rename(document, ruby.text(options["name"]))
    elif perform == "chmod":
        octet = options["octet"]
        if not isinstance(octet, str | int) or isinstance(octet, bool):
            raise internal(ruby.no_method("[]", octet))
        documents.chmod(document, octet)
    else:
        owner = _number(options["owner_id"]) if perform == "chown" else -1
        documents.chown(document, owner, _number(options.get("group_id") or -1))


def _action(body: Any) -> tuple[str, dict[str, Any] | None]:
    """Return what is to be performed, and with what. Raises `CloudError` 500 where the body holds no action."""
    action = body.get("action") if isinstance(body, dict) else None
    if not isinstance(action, dict):
        raise internal("undefined method `[]' for nil:NilClass")
    params = action.get("params")
    if params is not None and not isinstance(params, dict):
        raise internal("no implicit conversion of String into Integer")
    return ruby.text(action.get("perform")), params


def _pace(params: dict[str, Any] | None) -> tuple[int, int]:
    """Return period and number of an action on VMs. Raises `CloudError` 500 without params, which OneFlow needs."""
    if params is None:
        code = "    opts['period'] ||= conf[:action_period]\n        ^^^^^^^^^^"
        raise internal(f"undefined method `[]' for nil:NilClass\n\n{code}")
    period, number = params.get("period"), params.get("number")
    return _number(60 if period is None else period), _number(1 if number is None else number)


def _number(value: Any) -> int:
    if isinstance(value, bool | dict | list):
        raise internal(ruby.no_method("to_i", value))
    return int(value) if isinstance(value, int | float) else whole(ruby.text(value))
