"""Service templates and services as OneFlow's documents."""

from __future__ import annotations

import copy
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError
from oneflower.local.oned.models import ONEADMINS
from oneflower.local.oneflow.memory import DocumentMemory
from oneflower.local.oneflow.models import SERVICE_TYPE, TEMPLATE_TYPE, Document, Role
from oneflower.local.oneflow.schema import check_template
from oneflower.opennebula.inputs import variables_of
from oneflower.opennebula.states import Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oneflower.local.clock import Clock
    from oneflower.local.oned.catalogue import Catalogue
    from oneflower.local.oned.models import Access
    from oneflower.local.store import Store
    from oneflower.opennebula.states import ServiceState

log = logging.getLogger(__name__)

_KEPT_LINES = 50


class StuckError(Exception):
    """An error with which the real OneFlow loses a service: a step raises, and nothing resumes the service."""


class Documents:
    """All documents by id."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._memory = DocumentMemory(store)
        self._clock = clock
        self._all = {document.id: document for document in self._memory.all()}

    def pool(self, kind: int) -> list[Document]:
        """Return the documents of a type, newest first."""
        return [document for document in self._all.values() if document.type == kind][::-1]

    def wire(self, kind: int, seen: Callable[[Document], bool]) -> dict[str, Any]:
        """Return the documents of a type that are `seen` as OneFlow sends them."""
        found = [document.wire()["DOCUMENT"] for document in self.pool(kind) if seen(document)]
        return {"DOCUMENT_POOL": {"DOCUMENT": found} if found else {}}

    def every(self) -> Iterable[Document]:
        """Return all documents."""
        return self._all.values()

    def find(self, number: int, call: str) -> Document:
        """Return a document of any type. Raises `CloudError` 404."""
        if number not in self._all:
            raise CloudError(404, f"[{call}] Error getting document [{number}].")
        return self._all[number]

    def get(self, number: int, kind: int) -> Document:
        """Return a document. Raises `CloudError` 404, or 500 if it has the other type."""
        document = self.find(number, "one.document.info")
        if document.type != kind:
            raise CloudError(500, f"[DocumentInfo] Error getting document [{number}].")
        return document

    def service(self, number: int) -> Document | None:
        """Return a service, or None if there is none with that id."""
        document = self._all.get(number)
        return document if document is not None and document.type == SERVICE_TYPE else None

    def input_of(self, service: int, name: str) -> str | None:
        """Return the value that a service was given for a variable, on any level, or None."""
        document = self.service(service)
        return variables_of(document.body).get(name) if document else None

    def new(self, kind: int, body: dict[str, Any], access: Access = ONEADMINS, name: str = "") -> Document:
        """Return a new document, which is not stored yet. Without a name it gets that of its body."""
        return Document(self._memory.next_id(), kind, body, name, access)

    def add(self, document: Document) -> Document:
        """Store a new document. Raises `CloudError` if the disk is full; then there is no such document."""
        self._memory.add(document)
        self._all[document.id] = document
        return document

    def insert(self, kind: int, body: dict[str, Any], access: Access = ONEADMINS, name: str = "") -> Document:
        """Store a new document as it is. Raises `CloudError`."""
        return self.add(self.new(kind, body, access, name))

    def save(self, document: Document) -> None:
        """Write a document to the store, unless it is gone."""
        if document.id in self._all:
            self._memory.save(document)

    def forget(self, number: int) -> None:
        """Remove a document."""
        self._all.pop(number, None)
        self._memory.delete(number)

    def note(self, service: Document, message: str, severity: Severity = Severity.INFO) -> None:
        """Add a line to a service's log. OneFlow keeps the last 50."""
        log = service.body.setdefault("log", [])
        log.append({"timestamp": int(self._clock.now()), "severity": severity.value, "message": message})
        del log[:-_KEPT_LINES]

    @contextmanager
    def changing(self, service: Document) -> Iterator[None]:
        """Save a service after a change. If OneFlow would be stuck, restore the service and log a warning."""
        before = copy.deepcopy(service.body)
        try:
            yield
        except StuckError as error:
            service.body.clear()
            service.body.update(before)
            log.warning(
                "service %d stays %s forever: %s. The real OneFlow loses it too; `recover` with delete removes it.",
                service.id, service.state.name, error,
            )  # fmt: skip
        except Exception:
            service.body.clear()
            service.body.update(before)
            raise
        self.save(service)

    def enter(self, service: Document, state: ServiceState) -> None:
        """Change the state of a service and log it."""
        service.body["state"] = int(state)
        self.note(service, f"New state: {state.name}")
        log.info("service %d: %s", service.id, state.name)

    def set_cardinality(self, service: Document, role: Role, number: int) -> None:
        """Change how many VMs a role should have and log it."""
        way = "up" if number > role["cardinality"] else "down"
        message = f"Role {role['name']} scaling {way} from {role['cardinality']} to {number} nodes"
        self.note(service, message)
        role["cardinality"] = number

    # -- service templates -------------------------------------------------------------------------------------------

    def create_template(self, body: Any, access: Access = ONEADMINS) -> Document:
        """Store a service template. Raises `CloudError`."""
        checked = check_template(body)
        return self.insert(TEMPLATE_TYPE, checked | {"registration_time": int(self._clock.now())}, access)

    def update_template(self, number: int, body: Any, *, append: bool = False) -> Document:
        """Replace a service template, or only the given top-level keys with `append`. Raises `CloudError`."""
        template = self.get(number, TEMPLATE_TYPE)
        registered = template.body["registration_time"]
        if isinstance(body, dict) and body.get("registration_time") not in (None, *(() if append else (registered,))):
            text = "Immutable value: `service_template/registration_time` can not be changed"
            raise CloudError(500, text)
        merged = {**template.body, **body} if append else body
        template.body = check_template(merged) | {"registration_time": registered}
        self.save(template)
        return template

    def clone_template(self, number: int, name: str, recursive: str, access: Access, catalogue: Catalogue) -> Document:
        """Copy a service template, and with `recursive` also its VM templates. Raises `CloudError`."""
        original = self.get(number, TEMPLATE_TYPE)
        body = copy.deepcopy(original.body) | {"registration_time": int(self._clock.now())}
        copies: dict[int, int] = {}
        for role in body["roles"] if recursive != "none" else ():
            old = role["template_id"]
            if old not in copies:
                content = catalogue.template(old, "one.template.info").content
                copies[old] = catalogue.save_template({**content, "NAME": f"{content['NAME']}-{name}"[:119]}, access)
            role["template_id"] = copies[old]
        return self.insert(TEMPLATE_TYPE, body, access, name)

    def delete_template(self, number: int, what: str, catalogue: Catalogue) -> None:
        """Remove a service template, and its VM templates if `what` is templates or all. Raises `CloudError`."""
        template = self.get(number, TEMPLATE_TYPE)
        if what in ("templates", "all"):
            for vm_template in {role["template_id"] for role in template.roles}:
                catalogue.delete_template(vm_template)
        self.forget(number)
