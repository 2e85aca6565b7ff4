"""The local cloud's store when it cannot be written."""

from __future__ import annotations

import secrets
from contextlib import suppress

import pytest

from oneflower.local.errors import CloudError
from oneflower.local.store import Store
from oneflower.opennebula.states import ServiceState
from tests.conformance.cloud import LocalServers


def test_a_full_disk_is_refused_as_such_and_what_was_kept_can_be_read(tmp_path, monkeypatch):
    store = Store(tmp_path / "cloud.db")
    try:
        store.save_record("image", 1, {"NAME": "small"})
        store.execute("PRAGMA max_page_count=1")  # which SQLite rounds up to what there is
        with pytest.raises(
            CloudError, match=r"cannot keep its state\. .*cloud\.db cannot be written: .* full\."
        ) as caught:
            store.save_record("image", 2, {"NAME": "x" * 100_000})
        assert caught.value.status == 500
        monkeypatch.setattr("oneflower.local.store.no_room", lambda folder: f"The disk is full: {folder}.")
        with pytest.raises(CloudError, match="The disk is full"):
            store.save_record("image", 2, {"NAME": "x" * 100_000})
        monkeypatch.setattr("oneflower.local.store.no_room", lambda folder: "")
        with pytest.raises(CloudError, match="cannot keep its state"):
            [store.next_id(f"{number}" + "x" * 1000) for number in range(1000)]
        assert store.records("image") == {1: {"NAME": "small"}}
        store.execute("PRAGMA max_page_count=100000")
        store.save_record("image", 2, {"NAME": "x" * 100_000})
    finally:
        store.close()


def fill(servers):
    """Let no row be added, as on a full disk, and say how many pages there may be."""
    servers.store.execute("PRAGMA max_page_count=1")
    with suppress(CloudError):
        while True:
            servers.store.set_setting(secrets.token_hex(8), "x" * 500)


def test_on_a_full_disk_nothing_is_made_by_halves_and_what_there_is_can_be_removed(tmp_path):
    servers = LocalServers(tmp_path / "cloud.db")
    try:
        template = servers.compute.catalogue.save_template({"NAME": "machine"})
        role = {"name": "superlink", "type": "vm", "cardinality": 1, "template_id": template}
        number = servers.documents.create_template({"name": "lab", "deployment": "straight", "roles": [role]}).id
        service = int(servers.lifecycle.instantiate(number, {})["DOCUMENT"]["ID"])
        servers.clock.advance(60)
        [vm] = servers.compute.vms
        assert servers.documents.service(service).state is ServiceState.RUNNING
        fill(servers)

        for make in (
            lambda: servers.lifecycle.instantiate(number, {"extra": "x" * 100_000}),
            lambda: servers.compute.instantiate(template, "x" * 100_000, "", hold=False),
            lambda: servers.compute.catalogue.save_template({"NAME": "x" * 100_000}),
            lambda: servers.compute.catalogue.accounts.add_user("x" * 100_000, "secret", [0]),
        ):
            with pytest.raises(CloudError, match="cannot keep its state"):
                make()
        assert [document.id for document in servers.documents.every()] == [number, service]
        assert list(servers.compute.vms) == [vm]
        servers.compute.update(servers.compute.find(vm), f'NOTE="{"x" * 100_000}"', append=True)
        servers.lifecycle.delete(servers.documents.service(service))
        servers.clock.advance(60)
        assert servers.documents.service(service) is None
        assert not servers.compute.vms

        servers.store.execute("PRAGMA max_page_count=100000")
    finally:
        servers.close()
    again = LocalServers(tmp_path / "cloud.db")
    assert [document.id for document in again.documents.every()] == [number]
    assert not again.compute.vms
    again.close()
