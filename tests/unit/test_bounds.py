"""What the operator's side and the local cloud keep does not grow without limit."""

from __future__ import annotations

from types import SimpleNamespace

from oneflower.cli import connections
from oneflower.local.oned.memory import VmMemory
from oneflower.local.oned.models import Vm
from oneflower.local.store import Store
from oneflower.opennebula.states import VmState


def test_vms_that_are_done_leave_the_store_after_a_while(tmp_path):
    store = Store(tmp_path / "cloud.db")
    memory = VmMemory(store, done_kept=20)
    memory.save(Vm(0, "old and alive", {}, {}, 0))
    for number in range(1, 200):
        vm = Vm(number, f"vm{number}", {}, {}, 0)
        memory.save(vm)
        vm.state = VmState.DONE
        memory.save(vm)
    kept = [number for number in range(200) if memory.find(number)]
    assert kept == [0, *range(180, 200)]
    assert [vm.id for vm in memory.living()] == [0]
    store.close()


def cloud(address="http://127.9.0.1:2474"):
    return SimpleNamespace(endpoints=SimpleNamespace(oneflow=address))


def status(number, name="lab", ca="a certificate"):
    return SimpleNamespace(id=number, name=name, ca=ca)


def test_the_certificate_of_a_federation_that_is_gone_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("ONEFLOWER_HOME", str(tmp_path))
    elsewhere = connections.keep_ca(cloud("https://one.example.org/oneflow"), status(1))
    files = [connections.keep_ca(cloud(), status(number, "lab-7")) for number in range(30)]
    assert len({*files, elsewhere}) == 31
    assert files[0].read_text() == "a certificate"
    assert files[0].stat().st_mode & 0o777 == 0o600
    connections.forget_gone(cloud(), {3, 17})
    assert sorted((tmp_path / "connections").iterdir()) == sorted([files[3], files[17], elsewhere])


def test_without_tls_there_is_no_certificate(tmp_path, monkeypatch):
    monkeypatch.setenv("ONEFLOWER_HOME", str(tmp_path))
    assert connections.keep_ca(cloud(), status(1, ca="")) is None
    connections.forget_gone(cloud(), ())
    assert not (tmp_path / "connections").exists()
