"""Speaks with a cloud: OneFlow over REST (httpx), OpenNebula's core over XML-RPC (pyone).

OneFlow answers JSON as text/html and errors as plain text, so neither its content type nor its error form is relied
on. Whatever goes wrong on the way becomes one `OneflowerError`.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import httpx

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oneflower.cloud.credentials import Endpoints

_SECONDS = 30.0
_NOT_FOUND = 404


class RefusedError(OneflowerError):
    """The cloud understood and said no. `status` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        hints = {401: "Check user and password (ONE_AUTH).", 403: "Ask the operator for the right to do this."}
        super().__init__(f"OneFlow answered {status}: {text}", hints.get(status, ""), ExitCode.CLOUD)
        self.status = status


class Cloud:
    """One OpenNebula, or the local cloud. Every method raises `OneflowerError`."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self._http = httpx.Client(base_url=endpoints.oneflow, auth=endpoints.login, timeout=_SECONDS, trust_env=False)

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    # -- OneFlow -----------------------------------------------------------------------------------------------------

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise OneflowerError(
                f"OneFlow at {self.endpoints.oneflow} cannot be reached: {error}.",
                "Check the address (ONEFLOW_URL) and that the OneFlow server runs.",
                ExitCode.CLOUD,
            ) from error
        if answer.is_error:
            raise RefusedError(answer.status_code, _reason(answer.text))
        try:
            return json.loads(answer.text) if answer.text.strip() else None
        except ValueError as error:
            raise OneflowerError(
                f"{self.endpoints.oneflow} answered something that is not OneFlow's.",
                "Check the address: ONEFLOW_URL must name the OneFlow server, not a proxy's error page.",
                ExitCode.CLOUD,
            ) from error

    def services(self) -> list[dict[str, Any]]:
        """Return all service documents."""
        pool = self._call("GET", "/service")["DOCUMENT_POOL"]
        return list(pool.get("DOCUMENT", []))

    def service(self, number: int) -> dict[str, Any] | None:
        """Return a service document, None when it is gone."""
        try:
            document: dict[str, Any] = self._call("GET", f"/service/{number}")["DOCUMENT"]
        except RefusedError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        return document

    def service_templates(self) -> list[dict[str, Any]]:
        """Return all service template documents."""
        pool = self._call("GET", "/service_template")["DOCUMENT_POOL"]
        return list(pool.get("DOCUMENT", []))

    def create_service_template(self, body: dict[str, Any]) -> int:
        """Store a service template and return its id."""
        return int(self._call("POST", "/service_template", body)["DOCUMENT"]["ID"])

    def update_service_template(self, number: int, body: dict[str, Any]) -> None:
        """Replace a service template."""
        self._call("PUT", f"/service_template/{number}", body)

    def instantiate(self, template: int, merge: dict[str, Any]) -> int:
        """Make a service and return its id."""
        action = {"action": {"perform": "instantiate", "params": {"merge_template": merge}}}
        return int(self._call("POST", f"/service_template/{template}/action", action)["DOCUMENT"]["ID"])

    def delete_service(self, number: int) -> None:
        """Undeploy a service whatever its state: DELETE where OneFlow allows it, else recover with delete."""
        try:
            self._call("DELETE", f"/service/{number}")
        except RefusedError as error:
            if error.status == _NOT_FOUND:
                return
            try:
                self.recover_service(number, delete=True)
            except RefusedError as again:
                if again.status != _NOT_FOUND:
                    raise

    def recover_service(self, number: int, *, delete: bool = False) -> None:
        """Ask OneFlow to try again, or to undeploy."""
        action = {"action": {"perform": "recover", "params": {"delete": True} if delete else {}}}
        self._call("POST", f"/service/{number}/action", action)

    def scale_service(self, number: int, role: str, cardinality: int) -> None:
        """Scale a role, within its bounds. `force` must be sent: without it OneFlow fails."""
        self._call("POST", f"/service/{number}/scale", {"role_name": role, "cardinality": cardinality, "force": False})

    # -- the core ----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _one(self) -> Any:
        import pyone  # noqa: PLC0415 - costs time that most commands need not spend

        return pyone.OneServer(self.endpoints.xmlrpc, session=self.endpoints.session, timeout=int(_SECONDS))

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        import pyone  # noqa: PLC0415
        import requests  # noqa: PLC0415 - what pyone speaks through

        try:
            return call(self._one)
        except pyone.OneException as error:
            raise OneflowerError(f"OpenNebula refused: {error}", "", ExitCode.CLOUD) from error
        except (OSError, requests.RequestException) as error:
            raise OneflowerError(
                f"OpenNebula at {self.endpoints.xmlrpc} cannot be reached: {error}.",
                "Check the address (ONE_XMLRPC) and that OpenNebula runs.",
                ExitCode.CLOUD,
            ) from error

    def vms(self, numbers: Iterable[int]) -> dict[int, Vm]:
        """Return those of the VMs that exist, by id."""
        wanted = ",".join(map(str, numbers))
        if not wanted:
            return {}
        pool = self._ask(lambda one: one.vmpool.infoset(wanted, True))
        return {vm.ID: Vm(vm) for vm in pool.VM}

    def vm_templates(self) -> dict[str, int]:
        """Return the ids of the VM templates that we may use, by name."""
        pool = self._ask(lambda one: one.templatepool.info(-2, -1, -1))
        return {template.NAME: template.ID for template in pool.VMTEMPLATE}

    def create_vm_template(self, text: str) -> int:
        """Store a VM template and return its id."""
        return int(self._ask(lambda one: one.template.allocate(text)))


class Vm:
    """A VM as the core tells it."""

    def __init__(self, vm: Any) -> None:
        self.id: int = vm.ID
        self.name: str = vm.NAME
        self.state: int = vm.STATE
        self.lcm_state: int = vm.LCM_STATE
        self.attributes: dict[str, str] = {
            key: value for key, value in (vm.USER_TEMPLATE or {}).items() if isinstance(value, str)
        }
        nic = (vm.TEMPLATE or {}).get("NIC")
        first = nic[0] if isinstance(nic, list) else nic
        self.ip: str = (first or {}).get("IP", "")


def _reason(text: str) -> str:
    try:
        parsed = json.loads(text)
        text = parsed.get("reason") or parsed.get("message") or text
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:300] or "no reason given"
