"""The calls of OneFlow's REST interface that are about services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.local import ruby
from oneflower.local.errors import CloudError, internal
from oneflower.local.oned.rights import Right
from oneflower.local.oneflow import changes
from oneflower.local.oneflow.access import DocumentAccess
from oneflower.local.oneflow.arguments import action_of, number_of, pace_of, text_of
from oneflower.local.oneflow.models import SERVICE_TYPE, Document
from oneflower.local.oneflow.scheduling import ACTIONS, Scheduler
from oneflower.local.oneflow.schema import check_role, check_template
from oneflower.local.wire import Call, html, json_body, no_content, parse_json, whole

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oneflow.documents import Documents
    from oneflower.local.oneflow.lifecycle import Lifecycle


class ServiceCalls:
    """A method for each call; the table is at the end."""

    def __init__(self, documents: Documents, lifecycle: Lifecycle, compute: Compute) -> None:
        self._documents = documents
        self._lifecycle = lifecycle
        self._scheduler = Scheduler(documents, compute)
        self._access = DocumentAccess(compute.catalogue)
        self._changes = changes.Changes(documents, compute)

    def _service(self, request: Request, right: Right = Right.MANAGE) -> Document:
        """Return the service that a request is about, if its user has the right. Raises `CloudError`."""
        service = self._documents.get(whole(request.path_params["id"]), SERVICE_TYPE)
        self._access.need(request.state.user, service, right)
        return service

    async def pool(self, request: Request) -> Response:
        """List the services."""
        return html(self._documents.wire(SERVICE_TYPE, self._access.seen_by(request.state.user)))

    async def show(self, request: Request) -> Response:
        """Show a service."""
        return html(self._service(request, Right.USE).wire())

    async def delete(self, request: Request) -> Response:
        """Undeploy a service."""
        self._lifecycle.delete(self._service(request))
        return no_content()

    async def act(self, request: Request) -> Response:
        """Perform an action on a service, or on every VM of it."""
        perform, params = action_of(await json_body(request))
        options, changing = params or {}, perform in changes.NEEDED
        service = self._service(request, Right.USE if changing else Right.MANAGE)
        if perform == "recover":
            self._lifecycle.recover(service, delete=bool(options.get("delete")))
        elif perform == "release":
            self._lifecycle.release(service)
        elif changing:
            self._changes.apply(request.state.user, service, perform, options)
        elif perform in ACTIONS:
            period, number = pace_of(params)
            self._scheduler.schedule(service, service.roles, perform, period, number)
        else:
            raise CloudError(500, f"Action {perform} not supported")
        return no_content()

    async def update(self, request: Request) -> Response:
        """Replace the body of a service, or add to it."""
        body, append = await json_body(request, 400), False
        if not isinstance(body, dict):
            raise internal(ruby.no_method("key?", body))
        if "append" in body:
            if "template" not in body:
                raise CloudError(400, "Missing template to append")
            append = bool(body["append"])
            body = parse_json(text_of(body["template"]), 400)
        if not append:
            check_template(body)
        self._lifecycle.update(self._service(request), body, append=append)
        return no_content()

    async def scale(self, request: Request) -> Response:
        """Change how many VMs a role has."""
        body = await json_body(request)
        if not isinstance(body, dict):
            raise internal("no implicit conversion of String into Integer")
        service, cardinality = self._service(request), number_of(body.get("cardinality"))
        try:
            self._lifecycle.scale(service, ruby.text(body.get("role_name")), cardinality, body.get("force"))
        except ruby.JsonError as error:
            raise internal(str(error)) from error
        return no_content()

    async def act_on_role(self, request: Request) -> Response:
        """Perform an action on every VM of a role."""
        perform, params = action_of(await json_body(request))
        period, number = pace_of(params)
        service, name = self._service(request), request.path_params["role"]
        role = service.role(name)
        if role is None:
            raise CloudError(500, f"Role '{name}' not found")
        self._scheduler.schedule(service, [role], perform, period, number)
        return no_content()

    async def change_roles(self, request: Request) -> Response:
        """Add a role to a service, or remove one."""
        perform, params = action_of(await json_body(request))
        options, service = params or {}, self._service(request)
        if perform == "add_role":
            role: Any = options.get("role")
            if not isinstance(role, dict):
                role = parse_json(text_of(role), 400)
            self._lifecycle.add_role(service, check_role(role))
        elif perform == "remove_role":
            self._lifecycle.remove_role(service, ruby.text(options.get("role")))
        else:
            raise CloudError(500, f"Action {perform} not supported")
        return no_content()

    async def unschedule(self, request: Request) -> Response:
        """Take back an action that was scheduled for the VMs of a service, or of one role."""
        number = request.path_params["sched_id"]
        if not (number.isascii() and number.isdigit()):
            raise CloudError(400, "Sched action ID must be an integer number")
        service, name = self._service(request), request.path_params.get("role")
        if name is not None and service.role(name) is None:
            raise CloudError(500, f"Role '{name}' not found")
        self._scheduler.unschedule([role for role in service.roles if name in (None, role["name"])], int(number))
        return no_content()

    async def purge(self, _: Request) -> Response:
        """Do nothing: there is nothing to purge."""
        return no_content()

    def table(self) -> list[Call]:
        """Return every call about services that OneFlow 7.4 has."""
        return [
            Call("GET", "/service", self.pool),
            Call("GET", "/service/{id}", self.show),
            Call("DELETE", "/service/{id}", self.delete),
            Call("PUT", "/service/{id}", self.update),
            Call("POST", "/service/{id}/action", self.act, "not the snapshot actions"),
            Call("POST", "/service/{id}/scale", self.scale),
            Call("POST", "/service/{id}/role/{role}/action", self.act_on_role, "as above"),
            Call("POST", "/service/{id}/role_action", self.change_roles),
            Call("DELETE", "/service/{id}/sched_action/{sched_id}", self.unschedule),
            Call("DELETE", "/service/{id}/role/{role}/sched_action/{sched_id}", self.unschedule),
            Call("POST", "/service_pool/purge_done", self.purge, "there is never a service that is DONE"),
        ]
