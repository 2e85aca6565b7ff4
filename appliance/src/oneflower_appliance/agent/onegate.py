r"""The guest's side of OneGate, through which a virtual machine reaches its own service in OpenNebula.

Facts this rests on (OpenNebula 7.4): requests carry X-ONEGATE-TOKEN and X-ONEGATE-VMID; `GET /service` without
`extended` costs the server no look-up per VM; `deploy_id` is an integer while every id in a VM is a string; a PUT is
`KEY=value` lines, which the server mangles unless each value is unquoted and free of `, [ ] \ "` and newlines; right
after boot `GET /service` may answer 400 until OneFlow has saved its nodes.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower_appliance.agent.wording import no_such_vm
from oneflower_appliance.approvals import proven
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.log_lines import about
from oneflower_appliance.peers import check_server, is_loopback
from oneflower_appliance.proof import PROOF, prove

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNSAFE = re.compile(r'[,\[\]\\"\x00-\x1f]')
_KEY = re.compile(r"[A-Z][A-Z0-9_]*")
_ADDRESSES = ("IP", "IP6_GLOBAL", "IP6_SITE")
_LONGEST_REPLY = 64 * 1024 * 1024


class OneGateError(OneflowerError):
    """OneGate failed. `heals` says whether a retry may help.

    `answered` is true if it did answer, and the VM in the request may be the cause; `no_such_vm` if it said that the
    service has no such VM.
    """

    def __init__(
        self, message: str, hint: str, *, heals: bool, answered: bool = False, no_such_vm: bool = False
    ) -> None:
        super().__init__(message, hint, ExitCode.CLOUD)
        self.heals = heals
        self.answered = answered
        self.no_such_vm = no_such_vm


@dataclass(frozen=True)
class Role:
    """A role of the service as a guest sees it: its name and the ids of its VMs, oldest first."""

    name: str
    cardinality: int
    nodes: tuple[int, ...]


class _CheckedConnection(http.client.HTTPConnection):
    """A connection to this machine itself: the owner of the server is looked up before anything is sent."""

    def connect(self) -> None:
        super().connect()
        try:
            check_server(self.sock, self.timeout or 0.0)
        except OSError:
            self.close()
            raise


class _OnThisMachine(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_CheckedConnection, req)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """OneGate sends nobody elsewhere, and the token is for nobody else."""

    def redirect_request(self, *_: object) -> None:
        return None


class OneGate:
    """A client for one virtual machine. Every method raises `OneGateError`."""

    def __init__(self, endpoint: str, token: str, vm_id: str, timeout: float = 10.0) -> None:
        self.endpoint = endpoint.rstrip("/")
        host = _host(self.endpoint)
        self._token, self._vm_id = token, vm_id
        self._headers = {"X-ONEGATE-TOKEN": token, "X-ONEGATE-VMID": vm_id}
        self._timeout = timeout
        # In the local cloud any user of the machine can listen on OneGate's port while its daemon is down.
        handlers = (urllib.request.ProxyHandler({}), _OnThisMachine()) if is_loopback(host) else ()
        self._open = urllib.request.build_opener(_NoRedirect, *handlers).open

    def within(self, seconds: float) -> OneGate:
        """Return the same client, whose every request has `seconds` for an answer."""
        return OneGate(self.endpoint, self._token, self._vm_id, seconds)

    def attributes(self, vm_id: int | None = None) -> dict[str, str]:
        """Return the published attributes (USER_TEMPLATE) of this VM, or of another VM of the same service."""
        reply = self._json("/vm" if vm_id is None else f"/vms/{vm_id}")
        try:
            template = reply["VM"]["USER_TEMPLATE"] or {}
            return {str(key): value for key, value in template.items() if isinstance(value, str)}
        except (KeyError, TypeError, AttributeError) as error:
            raise self._garbage() from error

    def addresses(self, vm_id: int) -> frozenset[str]:
        """Return the addresses that OpenNebula gave a VM of the same service. No guest can change them."""
        reply = self._json(f"/vms/{vm_id}")
        try:
            return frozenset(
                str(nic[key]) for nic in reply["VM"]["TEMPLATE"]["NIC"] for key in _ADDRESSES if key in nic
            )
        except (KeyError, TypeError) as error:
            raise self._garbage() from error

    def context(self, vm_id: int) -> dict[str, str]:
        """Return the context of a VM of the same service, which no guest can change. It costs a look-up of every VM."""
        reply = self._json("/service?extended=true")
        try:
            found = [
                node["vm_info"]["VM"]["TEMPLATE"]["CONTEXT"]
                for role in reply["SERVICE"]["roles"]
                for node in role.get("nodes") or ()
                if int(node["deploy_id"]) == vm_id
            ]
            return {str(key): value for key, value in found[0].items() if isinstance(value, str)}
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise self._garbage() from error

    def prove(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return `values` with the proof that this VM publishes them."""
        return {**values, PROOF: prove(self._token, int(self._vm_id), values)}

    def approved(self, text: str) -> frozenset[str]:
        """Return the apps in an attribute of this VM that its user approved (`approvals`)."""
        return proven(self._token, int(self._vm_id), text)

    def service(self) -> dict[str, Role]:
        """Return the roles of this VM's service by name."""
        reply = self._json("/service")
        try:
            about(federation=str(reply["SERVICE"].get("name", "")))
            return {
                role["name"]: Role(
                    role["name"],
                    int(role["cardinality"]),
                    tuple(int(node["deploy_id"]) for node in role.get("nodes") or ()),
                )
                for role in reply["SERVICE"]["roles"]
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._garbage() from error

    def service_state(self) -> int:
        """Return the state of this VM's service, as OneFlow numbers it."""
        try:
            return int(self._json("/service")["SERVICE"]["state"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._garbage() from error

    def publish(self, values: Mapping[str, str]) -> None:
        """Set attributes of this VM, all in one request."""
        for key, value in values.items():
            if not _KEY.fullmatch(key) or not value or _UNSAFE.search(value) or value != value.strip():
                raise ValueError(f"{key}={value!r} would not survive OneGate")
        body = "\n".join(f"{key}={value}" for key, value in values.items())
        self._request("PUT", "/vm", body.encode())

    def _json(self, path: str) -> Any:
        try:
            return json.loads(self._request("GET", path))
        except ValueError as error:
            raise self._garbage() from error

    def _garbage(self) -> OneGateError:
        return OneGateError(
            f"OneGate at {self.endpoint} answered something that is not OneGate's.",
            "Check that ONEGATE_ENDPOINT in oned.conf names the OneGate server and not a proxy's error page.",
            heals=True,
            answered=True,
        )

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - the endpoint comes from OpenNebula's own context
            self.endpoint + path, data=body, method=method, headers=self._headers
        )
        try:
            with self._open(request, timeout=self._timeout) as response:
                answer: bytes = response.read(_LONGEST_REPLY)
                return answer
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read(2000).decode(errors="replace").strip()
            raise self._refused(error.code, reason) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            detail = getattr(error, "reason", error)
            unknown = isinstance(detail, socket.gaierror)
            raise OneGateError(
                f"OneGate at {self.endpoint} cannot be reached: {detail}.",
                "Check the DNS servers of the virtual network, or use an address in ONEGATE_ENDPOINT."
                if unknown
                else "Check that the OneGate server runs and that this VM's network reaches it.",
                heals=True,
            ) from error

    def _refused(self, status: int, reason: str) -> OneGateError:
        reason = " ".join(reason.split())[:200]
        if status in (401, 403):
            return OneGateError(
                f"OneGate at {self.endpoint} refused this VM ({status}: {reason}).",
                "The token in token.txt does not belong to this VM: instantiate the VM again, with TOKEN=YES.",
                heals=False,
            )
        foreign = status == 400 and no_such_vm(reason)
        outside = status == 400 and not foreign
        return OneGateError(
            f"OneGate at {self.endpoint} answered {status}: {reason}.",
            "Check that this VM belongs to a OneFlow service." if outside else "See the OneGate server's log.",
            heals=True,
            answered=True,
            no_such_vm=foreign or status == 404,
        )


def _host(endpoint: str) -> str:
    try:
        parts = urllib.parse.urlsplit(endpoint)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts.hostname
    except ValueError:
        pass
    raise OneGateError(
        f"ONEGATE_ENDPOINT is {endpoint!r}, not a valid URL.",
        "Set it in oned.conf to the address of OneGate that virtual machines reach, like http://10.0.0.1:5030.",
        heals=False,
    )
