"""Speaks with a cloud: OneFlow over REST (httpx), OpenNebula's core over XML-RPC (pyone).

OneFlow answers JSON as text/html and errors as plain text, so neither its content type nor its error form is relied
on. Whatever goes wrong on the way becomes one `OneflowerError`. Nothing is waited for without an end, and whoever waits
for a cloud anyway can wait through its short outages, too (`Cloud.patient`).
"""

from __future__ import annotations

import functools
import json
import ssl
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from oneflower.cloud import direct
from oneflower.cloud.answer import Answer
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.peers import StrangerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oneflower.cloud.credentials import Endpoints
    from oneflower.cloud.site import Site

T = TypeVar("T")

_SILENCE = 30.0  # seconds without a single byte
_LONGEST = 60.0  # seconds for a whole answer
_OUTAGE = 60.0  # seconds that a cloud may be away while something is waited for
_PAUSE = 1.0
_NOT_FOUND = 404
_AWAY = (502, 503, 504)
DONE = 6  # STATE of a VM that is terminated
_ALL_MINE_AND_USABLE = -2


class RefusedError(OneflowerError):
    """The cloud understood and said no. `status` is HTTP's, 500 for refusals of the core."""

    def __init__(self, status: int, text: str, who: str = "OneFlow") -> None:
        hints = {
            401: "Check user and password (ONE_AUTH), and that this user may use the object.",
            403: "Check user and password (ONE_AUTH).",
            502: "OpenNebula is starting, or a proxy before it cannot reach it: try again in a moment.",
            503: "OpenNebula is starting, or a proxy before it cannot reach it: try again in a moment.",
            504: "OpenNebula is busy, or a proxy before it cannot reach it: try again in a moment.",
        }
        quota = "quota" in text.lower()
        hint = "Ask the operator for a larger quota, or deploy fewer SuperNodes." if quota else hints.get(status, "")
        super().__init__(f"{who} answered {status}: {text}", hint, ExitCode.CLOUD)
        self.status = status
        self.text = text


class UnreachableError(OneflowerError):
    """A server did not answer. `asked` tells whether it may have got the request all the same."""

    def __init__(self, message: str, hint: str, *, asked: bool) -> None:
        super().__init__(message, hint, ExitCode.CLOUD)
        self.asked = asked


class Cloud:
    """One OpenNebula, or the local cloud. `site` is what only one of the two has. Methods raise `OneflowerError`.

    `tell` is told what a person who waits should know, such as an outage that is waited through.
    """

    def __init__(self, endpoints: Endpoints, site: Site, tell: Callable[[str], None] = lambda _: None) -> None:
        self.site = site
        self.tell = tell
        self._outage = 0.0
        self._connect(endpoints)

    def _connect(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        if endpoints.direct:
            self._http = direct.client(endpoints.oneflow, endpoints.login, _SILENCE)
        else:
            self._http = httpx.Client(base_url=endpoints.oneflow, auth=endpoints.login, timeout=_SILENCE)

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    # -- outages -----------------------------------------------------------------------------------------------------

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Wait through outages of up to a minute in what is asked meanwhile, rather than give up at the first."""
        usual, self._outage = self._outage, _OUTAGE
        try:
            yield
        finally:
            self._outage = usual

    def _through_outages(self, ask: Callable[[], T], *, again: bool) -> T:
        """Return what `ask` returns. `again`: it may be asked twice, so it is even if the first got through."""
        since: float | None = None
        while True:
            try:
                answer = ask()
            except (UnreachableError, RefusedError) as error:
                if isinstance(error, RefusedError) and error.status not in _AWAY:
                    raise
                asked = error.asked if isinstance(error, UnreachableError) else True
                revived = isinstance(error, UnreachableError) and self._revive()
                now = time.monotonic()
                if (asked and not again) or not (revived or self._outage) or (since and now - since > self._outage):
                    raise
                if since is None:
                    since = now
                    self.tell(
                        "Note: the local cloud had ended, and was started again."
                        if revived
                        else f"Note: {error.message} Waiting up to {self._outage:.0f} s for it."
                    )
                time.sleep(0 if revived else _PAUSE)
            else:
                if since is not None and self._outage:
                    self.tell(f"Note: it answers again, after {time.monotonic() - since:.0f} s.")
                return answer

    def _revive(self) -> bool:
        """Have the site start again what did not answer, if that is in its power."""
        endpoints = self.site.revive()
        if endpoints is None:
            return False
        self._http.close()
        self.__dict__.pop("_one", None)
        self._connect(endpoints)
        return True

    # -- OneFlow -----------------------------------------------------------------------------------------------------

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        return self._through_outages(lambda: self._request(method, path, body), again=method == "GET")

    def _request(self, method: str, path: str, body: Any) -> Any:
        where = f"OneFlow at {self.endpoints.oneflow}"
        try:
            answer = Answer(lambda: self._http.request(method, path, json=body)).wait(_LONGEST)
        except (httpx.HTTPError, TimeoutError, StrangerError) as error:
            hint = self.site.when_unreachable("ONEFLOW_URL")
            asked = not isinstance(error, httpx.ConnectError | StrangerError)
            raise _unreachable(where, hint, error, asked=asked) from error
        if answer.is_error:
            raise RefusedError(answer.status_code, _reason(answer.text))
        try:
            return json.loads(answer.text) if answer.text.strip() else None
        except ValueError as error:
            raise _foreign(where) from error

    def _document(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = self._call(method, path, body)
        if not isinstance(answer, dict) or not isinstance(answer.get("DOCUMENT"), dict):
            raise _foreign(f"OneFlow at {self.endpoints.oneflow}")
        document: dict[str, Any] = answer["DOCUMENT"]
        return document

    def _pool(self, path: str) -> list[dict[str, Any]]:
        answer = self._call("GET", path)
        if not isinstance(answer, dict) or not isinstance(answer.get("DOCUMENT_POOL"), dict):
            raise _foreign(f"OneFlow at {self.endpoints.oneflow}")
        return list(answer["DOCUMENT_POOL"].get("DOCUMENT", []))

    def services(self) -> list[dict[str, Any]]:
        """Return all service documents."""
        return self._pool("/service")

    def service(self, number: int) -> dict[str, Any] | None:
        """Return a service document, None when it is gone."""
        try:
            return self._document("GET", f"/service/{number}")
        except RefusedError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def service_templates(self) -> list[dict[str, Any]]:
        """Return all service template documents."""
        return self._pool("/service_template")

    def create_service_template(self, body: dict[str, Any]) -> int:
        """Store a service template and return its id."""
        return int(self._document("POST", "/service_template", body)["ID"])

    def update_service_template(self, number: int, body: dict[str, Any]) -> None:
        """Replace a service template."""
        self._document("PUT", f"/service_template/{number}", body)

    def delete_service_template(self, number: int) -> None:
        """Remove a service template, and nothing else."""
        self._call("DELETE", f"/service_template/{number}")

    def instantiate(self, template: int, merge: dict[str, Any]) -> int:
        """Make a service and return its id."""
        action = {"action": {"perform": "instantiate", "params": {"merge_template": merge}}}
        return int(self._document("POST", f"/service_template/{template}/action", action)["ID"])

    def delete_service(self, number: int) -> None:
        """Undeploy a service, where OneFlow allows it. Never call it twice: see `Federation.delete`."""
        self._call("DELETE", f"/service/{number}")

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
        import requests  # noqa: PLC0415 - what pyone speaks through

        # Its own `timeout` changes the default of every socket of this process, and does not reach its own.
        one = pyone.OneServer(self.endpoints.xmlrpc, session=self.endpoints.session)
        transport = one("transport")
        post = direct.session(_SILENCE).post if self.endpoints.direct else requests.post
        transport.request = functools.partial(_post, transport, post)
        return one

    def _ask(self, call: Callable[[Any], Any], *, again: bool = True) -> Any:
        return self._through_outages(lambda: self._ask_once(call), again=again)

    def _ask_once(self, call: Callable[[Any], Any]) -> Any:
        import xml.parsers.expat  # noqa: PLC0415 - as pyone
        import xmlrpc.client  # noqa: PLC0415

        import pyone  # noqa: PLC0415
        import requests  # noqa: PLC0415 - what pyone speaks through

        where = f"OpenNebula at {self.endpoints.xmlrpc}"
        try:
            return Answer(lambda: call(self._one)).wait(_LONGEST)
        except pyone.OneException as error:
            raise _core_refusal(error) from error
        except xmlrpc.client.ProtocolError as error:
            raise RefusedError(error.errcode, _reason(error.errmsg), "OpenNebula") from error
        except (xml.parsers.expat.ExpatError, xmlrpc.client.Error) as error:
            raise _foreign(where) from error
        except (OSError, requests.RequestException) as error:
            hint, stranger = self.site.when_unreachable("ONE_XMLRPC"), direct.stranger_of(error)
            asked = stranger is None and not _was_refused(error)
            raise _unreachable(where, hint, stranger or error, asked=asked) from error

    def version(self) -> tuple[int, ...]:
        """Return the release of OpenNebula, such as (7, 4, 0)."""
        return tuple(
            int(part) for part in str(self._ask(lambda one: one.system.version())).split(".") if part.isdigit()
        )

    def vms(self, numbers: Iterable[int]) -> dict[int, Vm]:
        """Return those of the VMs that exist and are not done, by id."""
        wanted = ",".join(map(str, numbers))
        if not wanted:
            return {}
        pool = self._ask(lambda one: one.vmpool.infoset(wanted, True))
        return {vm.ID: Vm(vm) for vm in pool.VM if vm.STATE != DONE}

    def vm(self, number: int) -> Vm | None:
        """Return a VM, None when there is none of that id."""
        found: Vm | None = self._found(lambda one: Vm(one.vm.info(number)))
        return found

    def act_on_vm(self, number: int, action: str) -> None:
        """Do an action of OpenNebula's on a VM, such as terminate-hard, poweroff or resume."""
        self._ask(lambda one: one.vm.action(action, number), again=False)

    def recover_vm(self, number: int, operation: int) -> None:
        """Recover a VM: 0 declares a failure, 1 a success, 2 tries again."""
        self._ask(lambda one: one.vm.recover(number, operation), again=False)

    def _found(self, call: Callable[[Any], Any]) -> Any:
        """Return what the core answers, None where it knows no such object."""
        try:
            return self._ask(call)
        except RefusedError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def vm_template(self, number: int) -> dict[str, Any] | None:
        """Return the content of a VM template, None when it does not exist. Raises `RefusedError` if it is not ours."""
        found = self._found(lambda one: one.template.info(number))
        return None if found is None else plain(found.TEMPLATE)

    def vm_templates(self) -> dict[str, int]:
        """Return the ids of the VM templates that we may use, by name."""
        pool = self._ask(lambda one: one.templatepool.info(_ALL_MINE_AND_USABLE, -1, -1))
        return {template.NAME: template.ID for template in pool.VMTEMPLATE}

    def create_vm_template(self, text: str) -> int:
        """Store a VM template and return its id."""
        return int(self._ask(lambda one: one.template.allocate(text), again=False))

    def update_vm_template(self, number: int, text: str) -> None:
        """Replace the content of a VM template."""
        self._ask(lambda one: one.template.update(number, text, 0))

    def delete_vm_template(self, number: int) -> None:
        """Remove a VM template, and nothing else."""
        self._ask(lambda one: one.template.delete(number), again=False)

    def images(self) -> dict[str, int]:
        """Return the ids of the images that we may use, by name."""
        pool = self._ask(lambda one: one.imagepool.info(_ALL_MINE_AND_USABLE, -1, -1))
        return {image.NAME: image.ID for image in pool.IMAGE}

    def image(self, number: int) -> tuple[int, str]:
        """Return STATE of an image, and what went wrong with it."""
        image = self._ask(lambda one: one.image.info(number))
        return int(image.STATE), str((image.TEMPLATE or {}).get("ERROR", ""))

    def create_image(self, text: str, datastore: int) -> int:
        """Store an image, which takes a while, and return its id."""
        return int(self._ask(lambda one: one.image.allocate(text, datastore), again=False))

    def delete_image(self, number: int) -> None:
        """Remove an image."""
        self._ask(lambda one: one.image.delete(number), again=False)

    def datastores(self) -> dict[str, int]:
        """Return the ids of the datastores, by name."""
        pool = self._ask(lambda one: one.datastorepool.info())
        return {datastore.NAME: datastore.ID for datastore in pool.DATASTORE}

    def networks(self) -> dict[str, int]:
        """Return the ids of the virtual networks that we may use, by name."""
        pool = self._ask(lambda one: one.vnpool.info(_ALL_MINE_AND_USABLE, -1, -1))
        return {network.NAME: network.ID for network in pool.VNET}

    @functools.cached_property
    def token_password(self) -> tuple[str, str]:
        """The id of the user who is asking, and what tokens of the VMs that it created are made with; or nothing."""
        user = self._ask(lambda one: one.user.info(-1))
        return str(user.ID), plain(user.TEMPLATE).get("TOKEN_PASSWORD", "")

    def own_settings(self) -> dict[str, str]:
        """Return the template of the user who is asking, TOKEN_PASSWORD among it."""
        return plain(self._ask(lambda one: one.user.info(-1)).TEMPLATE)


class Vm:
    """A VM as the core tells it."""

    def __init__(self, vm: Any) -> None:
        self.id: int = vm.ID
        self.name: str = vm.NAME
        self.state: int = vm.STATE
        self.lcm_state: int = vm.LCM_STATE
        self.started: int = vm.STIME
        template, user = plain(vm.TEMPLATE), plain(vm.USER_TEMPLATE)
        self.attributes: dict[str, str] = {key: value for key, value in user.items() if isinstance(value, str)}
        nic = template.get("NIC") or []
        self.addresses: tuple[str, ...] = tuple(
            one[key]
            for one in (nic if isinstance(nic, list) else [nic])
            for key in ("IP", "IP6_GLOBAL", "IP6_SITE")
            if one.get(key)
        )
        self.ip: str = self.addresses[0] if self.addresses else ""
        self.creator: str = template.get("CREATED_BY", "")
        self.context: dict[str, str] = template.get("CONTEXT") or {}


def plain(content: Any) -> dict[str, Any]:
    """Return one of pyone's ordered dictionaries as an ordinary one, empty values as empty text."""
    if not content:
        return {}
    return {key: _plain_value(value) for key, value in content.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(item) for item in value]
    if hasattr(value, "items"):
        return plain(value)
    return "" if value is None else value


def _core_refusal(error: Exception) -> RefusedError:
    """Return a refusal of the core. pyone has a class for each of its error codes."""
    status = {"OneNoExistsException": 404, "OneAuthenticationException": 401, "OneAuthorizationException": 401}
    return RefusedError(status.get(type(error).__name__, 500), _reason(str(error)), "OpenNebula")


def _post(transport: Any, post: Any, host: str, handler: str, body: bytes, verbose: bool = False) -> Any:  # noqa: ARG001, FBT001, FBT002 - as xmlrpc calls it
    """Post a request as pyone's transport does, but with an end to the waiting."""
    import xmlrpc.client  # noqa: PLC0415 - as pyone

    url = f"{'https' if transport.use_https else 'http'}://{host}/{handler.lstrip('/')}"
    answer = post(url, data=body, headers=transport.headers, timeout=_SILENCE)
    if not answer.ok:
        raise xmlrpc.client.ProtocolError(url, answer.status_code, answer.text, dict(answer.headers))
    return transport.parse_response(answer)


def _was_refused(error: BaseException) -> bool:
    """Whether nobody can have got the request, because there was no connection."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionRefusedError):
            return True
        reason = getattr(seen, "reason", None) or next(iter(getattr(seen, "args", ())), None)
        seen = seen.__cause__ or seen.__context__ or (reason if isinstance(reason, BaseException) else None)
    return False


def _unreachable(where: str, hint: str, error: Exception, *, asked: bool) -> OneflowerError:
    text, cause = str(error), error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLError) or "CERTIFICATE_VERIFY_FAILED" in text:
        return OneflowerError(
            f"{where} shows a certificate that is not trusted here.",
            "If it is the right one, name its CA: SSL_CERT_FILE and REQUESTS_CA_BUNDLE, both.",
            ExitCode.CLOUD,
        )
    return UnreachableError(
        f"{where} cannot be reached: {' '.join(text.split())[:300] or type(error).__name__}.",
        hint,
        asked=asked,
    )


def _foreign(where: str) -> OneflowerError:
    return OneflowerError(
        f"{where} answered something that OpenNebula does not say.",
        "Check the address: it must be that of the server itself, not of Sunstone or of a proxy's error page.",
        ExitCode.CLOUD,
    )


def _reason(text: str) -> str:
    if text.lstrip()[:1] == "<":
        return "a page of HTML, from a proxy or another server"
    try:
        parsed = json.loads(text)
        text = parsed.get("reason") or parsed.get("message") or text
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:300] or "no reason given"
