"""Flower's databases are kept out of a process that has none, until one is made after all."""

from __future__ import annotations

import importlib
import sys

import pytest

from oneflower_appliance.flower import internals, spare

MODULE = "made_for_this_test"


@pytest.fixture
def put_off(monkeypatch, tmp_path):
    """Put a module off that says when it is imported, and return the list of what it says."""
    said = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "said", said, raising=False)
    monkeypatch.setattr(internals, "DATABASES", {MODULE: "Database"})
    source = (
        "import sys\nsys.said.append('imported')\nOTHER = 2\nclass Database:\n def __init__(self, at): self.at = at\n"
    )
    (tmp_path / f"{MODULE}.py").write_text(source)
    spare.put_off_databases()
    yield said
    sys.modules.pop(MODULE, None)


@pytest.mark.parametrize(("module", "kind"), internals.DATABASES.items())
def test_flower_has_these_classes(module, kind):
    assert isinstance(getattr(importlib.import_module(module), kind), type)


def test_a_class_is_imported_where_an_object_of_it_is_made(put_off):
    database = importlib.import_module(MODULE).Database
    assert not hasattr(importlib.import_module(MODULE), "__file__")
    assert put_off == []
    made = database(at="here")
    assert made.at == "here"
    assert type(made) is importlib.import_module(MODULE).Database
    assert type(database(at="there")) is type(made)
    assert put_off == ["imported"]


def test_another_name_in_its_module_is_there_too(put_off):
    standing_in = importlib.import_module(MODULE)
    assert standing_in.OTHER == 2
    assert put_off == ["imported"]
    with pytest.raises(AttributeError, match="missing"):
        _ = standing_in.missing


def test_a_process_that_will_make_one_imports_it_beforehand(put_off):
    database = importlib.import_module(MODULE).Database
    for _ in range(2):
        spare.import_databases()
        assert put_off == ["imported"]
    assert type(database(at="here")) is importlib.import_module(MODULE).Database


def test_what_was_imported_before_stays(put_off):
    standing_in = importlib.import_module(MODULE)
    _ = standing_in.OTHER
    real = sys.modules[MODULE]
    spare.put_off_databases()
    assert sys.modules[MODULE] is real is not standing_in
    assert put_off == ["imported"]
