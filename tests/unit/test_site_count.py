"""A round whose results are of too few sites (FL_MIN_SITES): it changes nothing, and says which sites are missing."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from oneflower_appliance.orders import FORM_VARIABLE
from oneflower_appliance.run_folder import CHOICE
from oneflower_appliance.runs import RunRow, shortcoming
from oneflower_appliance.site_choice import SiteChoice, read_sites

from .test_supervisor import Grid, record, rows, start  # noqa: F401 - a fixture


class Sites(Grid):
    """Node 1 is of north, node 2 of south."""

    def get_nodes(self):
        return [SimpleNamespace(node_id=node, name=name) for node, name in ((1, "north/0"), (2, "south/0"))]

    def answer(self, message):
        reply = super().answer(message)
        reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
        return reply


@pytest.mark.parametrize("by", ["form", "run"])
def test_a_round_with_results_of_too_few_sites_changes_nothing(record, monkeypatch, by):  # noqa: F811
    if by == "form":
        monkeypatch.setenv(FORM_VARIABLE, json.dumps({"FL_MIN_SITES": "2"}))
    else:
        record.mkdir(parents=True)
        (record / CHOICE).write_text(json.dumps(SiteChoice(("north", "south"), 2).entry))
    result = start(Sites(unwell=True), num_rounds=1)
    assert not result.arrays.to_numpy_ndarrays()[0].any(), "the model is as it was"
    [row] = rows(record)
    assert (row["nodes"], row["evaluated"]) == (0, 0)
    told = {fault["node"]: fault["reason"] for fault in row["faults"] if fault["phase"] == "train"}
    assert told["1"] == (
        "its round changes nothing: results came from 1 of the 2 sites that it needs (FL_MIN_SITES): north. "
        "Not from: south"
    )
    assert "unwell" in told["2"]
    assert "trained nothing" in shortcoming([RunRow.parse(json.dumps(row))])


def test_a_round_with_enough_sites_is_as_any_other(record, monkeypatch):  # noqa: F811
    monkeypatch.setenv(FORM_VARIABLE, json.dumps({"FL_MIN_SITES": "2"}))
    result = start(Sites(), num_rounds=1)
    assert np.all(result.arrays.to_numpy_ndarrays()[0] == 1)
    assert [(row["nodes"], row["faults"]) for row in rows(record)] == [(2, [])]


def test_names_of_sites_are_read_strictly():
    assert read_sites(" north, - ,south ") == ("north", "-", "south")
    assert read_sites("") == ()
    for text in ("north,north", "North", "north/0", ",", "a b", "../x"):
        with pytest.raises(ValueError, match=r".*"):
            read_sites(text)
