"""The calls of OneFlow's REST interface that are about service templates."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from oneflower.local import ruby
from oneflower.local.errors import CloudError
from oneflower.local.oned.rights import Asking, Kind, Right, Want
from oneflower.local.oneflow import changes
from oneflower.local.oneflow.access import DocumentAccess
from oneflower.local.oneflow.arguments import action_of, text_of
from oneflower.local.oneflow.instantiation import rename_legacy_values
from oneflower.local.oneflow.models import TEMPLATE_TYPE, Document
from oneflower.local.wire import Call, html, json_body, no_content, parse_json, whole

if TYPE_CHECKING:
    from starlette.requests import Request

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oneflow.documents import Documents
    from oneflower.local.oneflow.lifecycle import Lifecycle


class TemplateCalls:
    """A method for each call; the table is at the end."""

    def __init__(self, documents: Documents, lifecycle: Lifecycle, compute: Compute) -> None:
        self._documents = documents
        self._lifecycle = lifecycle
        self._catalogue = compute.catalogue
        self._access = DocumentAccess(compute.catalogue)
        self._changes = changes.Changes(documents, compute)

    def _template(self, request: Request, right: Right = Right.USE, call: str = "") -> Document:
        """Return the service template that a request is about, if its user has the right. Raises `CloudError`."""
        template = self._documents.get(whole(request.path_params["id"]), TEMPLATE_TYPE)
        self._access.need(request.state.user, template, right, call)
        return template

    async def pool(self, request: Request) -> Response:
        """List the service templates."""
        return html(self._documents.wire(TEMPLATE_TYPE, self._access.seen_by(request.state.user)))

    async def show(self, request: Request) -> Response:
        """Show a service template."""
        return html(self._template(request).wire())

    async def create(self, request: Request) -> Response:
        """Store a service template."""
        body, access = await json_body(request, 400), self._access.of_new(request.state.user, "one.document.allocate")
        return html(self._documents.create_template(body, access).wire(), 201)

    async def update(self, request: Request) -> Response:
        """Replace a service template."""
        number = self._template(request, Right.MANAGE).id
        return html(self._documents.update_template(number, await json_body(request, 400)).wire())

    async def delete(self, request: Request) -> Response:
        """Remove a service template, and its VM templates if the body says so."""
        try:
            body = await json_body(request)
        except CloudError:
            body = {}
        what = body.get("delete_type") if isinstance(body, dict) else None
        template = self._template(request, Right.MANAGE, "one.document.delete")
        if what in ("templates", "all"):
            self._need_templates(request, template, Right.MANAGE, "one.template.delete")
        self._documents.delete_template(template.id, ruby.text(what), self._catalogue)
        return no_content()

    def _need_templates(self, request: Request, template: Document, right: Right, call: str) -> None:
        """Raise `CloudError` unless the user has a right on every VM template of a service template."""
        numbers = {role["template_id"] for role in template.roles}
        found = (self._catalogue.template(number, call) for number in numbers)
        wants = [Want(right, Kind.TEMPLATE, vm_template.id, vm_template.access) for vm_template in found]
        self._catalogue.rights.need(Asking(request.state.user, call), *wants)

    async def act(self, request: Request) -> Response:
        """Perform an action on a service template."""
        perform, params = action_of(await json_body(request))
        options = params or {}
        if perform == "instantiate":
            return self._instantiate(request, options)
        if perform == "clone":
            return self._clone(request, options)
        if perform == "update":
            return self._update_by_action(request, options)
        if perform in changes.NEEDED:
            return self._change(request, perform, options)
        return _empty()  # OneFlow makes an error object here and never looks at it

    def _instantiate(self, request: Request, options: dict[str, Any]) -> Response:
        number = self._template(request).id
        merge = options.get("merge_template") or {}
        if not isinstance(merge, dict):
            raise CloudError(400, ruby.no_method("key?", merge))
        rename_legacy_values(merge)
        access = self._access.of_new(request.state.user, "one.document.allocate")
        return html(self._lifecycle.instantiate(number, merge, access), 201)

    def _clone(self, request: Request, options: dict[str, Any]) -> Response:
        template = self._template(request)
        name, recursive = ruby.text(options.get("name")), ruby.text(options.get("recursive") or "templates")
        access = self._access.of_new(request.state.user, "one.document.clone")
        if recursive != "none":
            self._need_templates(request, template, Right.USE, "one.template.clone")
        return html(self._documents.clone_template(template.id, name, recursive, access, self._catalogue).wire(), 201)

    def _update_by_action(self, request: Request, options: dict[str, Any]) -> Response:
        if options.get("template_json"):
            body = parse_json(text_of(options["template_json"]), 400)
            append = options.get("append") is True
            self._documents.update_template(self._template(request, Right.MANAGE).id, body, append=append)
            return no_content()
        if "template_raw" in options:
            raise CloudError(501, "The local cloud does not implement updates of a document's raw attributes")
        return _empty()

    def _change(self, request: Request, change: str, options: dict[str, Any]) -> Response:
        with suppress(CloudError):  # OneFlow does not look at the result
            self._changes.apply(request.state.user, self._template(request), change, options)
        return no_content("text/html") if changes.is_given(change, options) or change == "rename" else _empty()

    def table(self) -> list[Call]:
        """Return every call about service templates that OneFlow 7.4 has."""
        return [
            Call("GET", "/service_template", self.pool),
            Call("POST", "/service_template", self.create),
            Call("GET", "/service_template/{id}", self.show),
            Call("PUT", "/service_template/{id}", self.update),
            Call("DELETE", "/service_template/{id}", self.delete),
            Call("POST", "/service_template/{id}/action", self.act, "not `update` with `template_raw`"),
        ]


def _empty() -> Response:
    return Response(media_type="text/html")
