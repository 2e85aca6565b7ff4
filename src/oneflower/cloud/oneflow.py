"""Talks to OneFlow, over REST.

OneFlow answers JSON as text/html and errors as plain text. So this relies neither on its content type nor on the form
of its errors.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx

from oneflower.cloud import direct
from oneflower.cloud.answer import Answer
from oneflower.cloud.refused import RefusedError, foreign, reason, unreachable
from oneflower_appliance.peers import StrangerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.cloud.credentials import Endpoints
    from oneflower.cloud.outages import Limits, Outages


class OneFlowClient:
    """OneFlow's services and service templates. Methods raise `OneflowerError`.

    `help_of` returns what to do when the server does not answer, given the variable that holds its address.
    """

    def __init__(self, endpoints: Endpoints, outages: Outages, help_of: Callable[[str], str], limits: Limits) -> None:
        self._outages = outages
        self._help_of = help_of
        self._limits = limits
        self._http = self._connected(endpoints)

    def _connected(self, endpoints: Endpoints) -> httpx.Client:
        self._where = f"OneFlow at {endpoints.oneflow}"
        if endpoints.direct:
            return direct.client(endpoints.oneflow, endpoints.login, self._limits.silence)
        return httpx.Client(base_url=endpoints.oneflow, auth=endpoints.login, timeout=self._limits.silence)

    def connect(self, endpoints: Endpoints) -> None:
        """Use the server at these endpoints from now on."""
        self._http.close()
        self._http = self._connected(endpoints)

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def services(self) -> list[dict[str, Any]]:
        """Return all service documents."""
        return self._pool("/service")

    def service(self, number: int) -> dict[str, Any] | None:
        """Return a service document, or None if it is gone."""
        try:
            return self._document("GET", f"/service/{number}")
        except RefusedError as error:
            if error.not_found:
                return None
            raise

    def service_templates(self) -> list[dict[str, Any]]:
        """Return all service template documents."""
        return self._pool("/service_template")

    def service_template(self, number: int) -> dict[str, Any]:
        """Return the body of a service template."""
        body: dict[str, Any] = self._document("GET", f"/service_template/{number}")["TEMPLATE"]["BODY"]
        return body

    def create_service_template(self, body: dict[str, Any]) -> int:
        """Store a service template and return its id."""
        return int(self._document("POST", "/service_template", body)["ID"])

    def update_service_template(self, number: int, body: dict[str, Any]) -> None:
        """Replace a service template."""
        self._document("PUT", f"/service_template/{number}", body)

    def delete_service_template(self, number: int) -> None:
        """Remove a service template, and nothing else."""
        self._call("DELETE", f"/service_template/{number}")

    def share_service_template(self, number: int, group: int, octet: str) -> None:
        """Give a service template to a group, with these permissions. Raises `RefusedError` if that did not happen.

        OneFlow answers well even if the core refused.
        """
        for perform, params in (("chgrp", {"group_id": group}), ("chmod", {"octet": octet})):
            action = {"action": {"perform": perform, "params": params}}
            self._call("POST", f"/service_template/{number}/action", action)
        document = self._document("GET", f"/service_template/{number}")
        if document["GID"] != str(group) or document["PERMISSIONS"]["GROUP_U"] != "1":
            raise RefusedError(403, f"service template {number} could not be given to group {group}")

    def instantiate(self, template: int, merge: dict[str, Any]) -> int:
        """Create a service and return its id."""
        action = {"action": {"perform": "instantiate", "params": {"merge_template": merge}}}
        return int(self._document("POST", f"/service_template/{template}/action", action)["ID"])

    def delete_service(self, number: int) -> None:
        """Undeploy a service, where OneFlow allows it. Never call it twice: see `deletion`."""
        self._call("DELETE", f"/service/{number}")

    def recover_service(self, number: int, *, delete: bool = False) -> None:
        """Ask OneFlow to retry, or to undeploy."""
        action = {"action": {"perform": "recover", "params": {"delete": True} if delete else {}}}
        self._call("POST", f"/service/{number}/action", action)

    def scale_service(self, number: int, role: str, cardinality: int) -> None:
        """Scale a role, within its bounds. `force` must be sent: without it OneFlow fails."""
        self._call("POST", f"/service/{number}/scale", {"role_name": role, "cardinality": cardinality, "force": False})

    def update_service(self, number: int, body: dict[str, Any]) -> None:
        """Replace the body of a service. OneFlow refuses if its state, its machines or its inputs would change."""
        self._call("PUT", f"/service/{number}", body)

    def _document(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = self._call(method, path, body)
        if not isinstance(answer, dict) or not isinstance(answer.get("DOCUMENT"), dict):
            raise foreign(self._where)
        document: dict[str, Any] = answer["DOCUMENT"]
        return document

    def _pool(self, path: str) -> list[dict[str, Any]]:
        answer = self._call("GET", path)
        if not isinstance(answer, dict) or not isinstance(answer.get("DOCUMENT_POOL"), dict):
            raise foreign(self._where)
        return list(answer["DOCUMENT_POOL"].get("DOCUMENT", []))

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        return self._outages.ask(lambda: self._request(method, path, body), again=method == "GET")

    def _request(self, method: str, path: str, body: Any) -> Any:
        try:
            answer = Answer(lambda: self._http.request(method, path, json=body)).wait(self._limits.answer)
        except (httpx.HTTPError, TimeoutError, StrangerError) as error:
            asked = not isinstance(error, httpx.ConnectError | StrangerError)
            raise unreachable(self._where, self._help_of("ONEFLOW_URL"), error, asked=asked) from error
        if answer.is_error:
            raise RefusedError(answer.status_code, reason(answer.text))
        try:
            return json.loads(answer.text) if answer.text.strip() else None
        except ValueError as error:
            raise foreign(self._where) from error
