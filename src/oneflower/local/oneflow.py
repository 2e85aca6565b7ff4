"""OneFlow's REST interface. As the server has it, replies are text/html holding JSON, errors plain text."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from oneflower.local.models import SERVICE_TYPE, TEMPLATE_TYPE, CloudError, Document
from oneflower.local.wire import guarded, json_body, whole

if TYPE_CHECKING:
    from starlette.requests import Request

    from oneflower.local.lifecycle import Engine


def oneflow_app(engine: Engine, secret: str) -> Starlette:
    """Return the application; `secret` is `user:password`."""

    def refuse(request: Request) -> Response | None:
        kind, _, encoded = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return PlainTextResponse("A username and password must be provided", status_code=401)
        try:
            given = base64.b64decode(encoded)
        except binascii.Error:
            given = b""
        if not hmac.compare_digest(given, secret.encode()):
            return PlainTextResponse("Invalid credentials", status_code=401)
        return None

    def document(found: Document, status: int = 200) -> Response:
        return reply(found.wire(), status)

    def pool(kind: int) -> Response:
        found = [entry.wire()["DOCUMENT"] for entry in engine.pool(kind)]
        return reply({"DOCUMENT_POOL": {"DOCUMENT": found} if found else {}})

    def number(request: Request) -> int:
        return whole(request.path_params["id"], "Document")

    async def services(_: Request) -> Response:
        return pool(SERVICE_TYPE)

    async def service(request: Request) -> Response:
        return document(engine.get(number(request), SERVICE_TYPE))

    async def delete_service(request: Request) -> Response:
        engine.delete(number(request))
        return Response(status_code=204)

    async def act_on_service(request: Request) -> Response:
        perform, params = _action(await json_body(request))
        if perform == "recover":
            engine.recover(number(request), delete=bool(params.get("delete")))
        elif perform == "rename":
            engine.get(number(request), SERVICE_TYPE)
            engine.rename(number(request), str(params["name"]))
        else:
            raise CloudError(501, f"The local cloud does not implement the service action {perform!r}")
        return Response(status_code=204)

    async def scale(request: Request) -> Response:
        body = await json_body(request)
        if "force" not in body:
            reason = f'unexpected token at \'{{ "cardinality" : {body.get("cardinality")},\n  "force" :  }}\''
            return reply({"message": "Internal server error", "reason": reason}, 500)
        try:
            cardinality = int(body.get("cardinality") or 0)
        except (TypeError, ValueError):
            cardinality = 0  # Ruby's to_i
        engine.scale(number(request), str(body.get("role_name")), cardinality, force=bool(body["force"]))
        return Response(status_code=204)

    async def templates(_: Request) -> Response:
        return pool(TEMPLATE_TYPE)

    async def template(request: Request) -> Response:
        return document(engine.get(number(request), TEMPLATE_TYPE))

    async def create_template(request: Request) -> Response:
        return document(engine.create_template(await json_body(request)), 201)

    async def update_template(request: Request) -> Response:
        return document(engine.update_template(number(request), await json_body(request)))

    async def delete_template(request: Request) -> Response:
        engine.delete_template(number(request))
        return Response(status_code=204)

    async def act_on_template(request: Request) -> Response:
        perform, params = _action(await json_body(request))
        engine.get(number(request), TEMPLATE_TYPE)
        if perform != "instantiate":
            raise CloudError(501, f"The local cloud does not implement the template action {perform!r}")
        merge = params.get("merge_template") or {}
        if not isinstance(merge, dict):
            raise CloudError(400, "merge_template is not an object")
        return reply(engine.instantiate(number(request), merge), 201)

    async def missing(request: Request) -> Response:
        return PlainTextResponse(
            f"The local cloud does not implement {request.method} {request.url.path}", status_code=501
        )

    table = [
        ("/service", "GET", services),
        ("/service/{id}", "GET", service),
        ("/service/{id}", "DELETE", delete_service),
        ("/service/{id}/action", "POST", act_on_service),
        ("/service/{id}/scale", "POST", scale),
        ("/service_template", "GET", templates),
        ("/service_template", "POST", create_template),
        ("/service_template/{id}", "GET", template),
        ("/service_template/{id}", "PUT", update_template),
        ("/service_template/{id}", "DELETE", delete_template),
        ("/service_template/{id}/action", "POST", act_on_template),
    ]
    routes = [Route(path, guarded(handler, refuse), methods=[method]) for path, method, handler in table]
    every = ["GET", "POST", "PUT", "DELETE", "PATCH"]
    return Starlette(routes=[*routes, Route("/{path:path}", guarded(missing, refuse), methods=every)])


def reply(content: Any, status: int = 200) -> Response:
    """Return JSON as OneFlow sends it, but for its indentation, which would take ten times as long."""
    return HTMLResponse(json.dumps(content), status_code=status)


def _action(body: Any) -> tuple[str, dict[str, Any]]:
    action = body.get("action") if isinstance(body, dict) else None
    if not isinstance(action, dict):
        raise CloudError(400, "The body holds no action")
    params = action.get("params") or {}
    return str(action.get("perform")), params if isinstance(params, dict) else {}
