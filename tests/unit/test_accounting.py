"""What a run spends of its privacy budget, and how the budget ends it, with a grid that answers at once."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg

from oneflower.cloud.card import Judged, model_card
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.gaussian_privacy import cost_of, epsilon_of
from oneflower_appliance.orders import FORM_VARIABLE
from oneflower_appliance.run_privacy import RECORD, NodeSpent, RunPrivacy
from oneflower_appliance.runs import RunRow
from oneflower_appliance.settings import resolve
from oneflower_appliance.training.accounting import take_spent
from oneflower_appliance.training.strategies import make_strategy

from .test_supervisor import Grid, record, rows, start  # noqa: F401 - a fixture


@pytest.fixture
def form(monkeypatch):
    """Set the variables of the form."""
    return lambda **given: monkeypatch.setenv(FORM_VARIABLE, json.dumps(given))


def run(grid, strategy, rounds=10):
    return strategy.start(grid, ArrayRecord({"weights": Array(np.zeros((2, 3)))}), num_rounds=rounds)


CENTRAL = {"FL_PRIVACY": "dp-central", "FL_DP_NOISE": "4"}


def test_a_budget_ends_the_run_before_the_round_that_would_spend_more(record, form, caplog):  # noqa: F811
    form(**CENTRAL, FL_DP_MAX_EPSILON="5")
    result = run(Grid(), make_strategy({}))
    found = [RunPrivacy.in_row(row) for row in rows(record)]
    assert [one.epsilon for one in found] == [epsilon_of(n * cost_of(4), 1e-5) for n in range(1, len(found) + 1)]
    assert found[-1].epsilon <= 5 < epsilon_of((len(found) + 1) * cost_of(4), 1e-5)
    assert "(FL_DP_MAX_EPSILON) ends the run 5 rounds before its time" in caplog.text
    assert found[-1].sentence.startswith(f"epsilon {found[-1].epsilon:.3g} of 5 at delta 1e-05 (dp-central, clip 1")
    [name] = result.arrays
    assert np.array_equal(np.load(record / "model.npz")[name], result.arrays[name].numpy()), "that of the last round"


def test_a_round_with_fewer_replies_costs_more(record, form):  # noqa: F811
    form(**CENTRAL)
    for _ in range(2):  # an app may start several strategies, one after the other
        run(Grid(unwell=True), make_strategy({}), 1)
    assert [RunPrivacy.in_row(row).cost for row in rows(record)] == [cost_of(2), 2 * cost_of(2)]


def test_a_round_with_fewer_replies_that_is_over_the_budget_changes_nothing(record, form):  # noqa: F811
    form(**CENTRAL, FL_DP_MAX_EPSILON="3")
    result = run(Grid(unwell=True), make_strategy({}), 1)
    assert result.arrays["weights"].numpy().max() == 0
    [row] = rows(record)
    assert RunPrivacy.in_row(row).cost == 0
    assert "a model of 1 results is over FL_DP_MAX_EPSILON" in str(row["faults"])


def test_what_nodes_send_with_noise_of_their_own_is_spent_even_if_no_model_is_made_of_it(record, form):  # noqa: F811
    form(FL_PRIVACY="dp-local", FL_DP_NOISE="4", FL_DP_MAX_EPSILON="4", FL_ROUND_QUORUM="1.0")
    run(Grid(unwell=True), make_strategy({}))
    found = [RunPrivacy.in_row(row) for row in rows(record)]
    assert [one.cost for one in found] == [cost_of(4), 2 * cost_of(4), 3 * cost_of(4)]
    assert found[-1].epsilon <= 4 < epsilon_of(4 * cost_of(4), 1e-5)
    assert "if the app uses privacy_mod" in found[-1].sentence


def test_every_node_counts_the_same_however_many_examples_it_claims(record, form):  # noqa: F811
    form(**CENTRAL | {"FL_DP_NOISE": "0.0000001", "FL_DP_CLIP": "100"})
    grid = Grid()
    healthy = grid.answer

    def answer(message):
        reply = healthy(message)
        if message.metadata.dst_node_id == 2 and "arrays" in reply.content:
            reply.content["metrics"]["num-examples"] = 10**6
            reply.content["arrays"] = ArrayRecord([array + 2 for array in reply.content["arrays"].to_numpy_ndarrays()])
        return reply

    grid.answer = answer
    assert run(grid, make_strategy({}), 1).arrays.to_numpy_ndarrays()[0] == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "make", "why"),
    [
        ({"FL_STRATEGY": "FedAvg"}, FedAvg, "nobody adds the noise"),
        ({}, lambda: DifferentialPrivacyClientSideFixedClipping(FedAvg(), 1, 1, 2), "Epsilon is not known"),
    ],
)
def test_where_epsilon_is_not_known_a_sentence_says_so_and_a_budget_is_refused(record, form, given, make, why):  # noqa: F811
    form(**CENTRAL, **given)
    run(Grid(), make(), 1)
    privacy = RunPrivacy.in_row(rows(record)[-1])
    assert privacy.epsilon is None
    assert why in privacy.sentence
    form(**CENTRAL, **given, FL_DP_MAX_EPSILON="5")
    with pytest.raises(OneflowerError, match="FL_DP_MAX_EPSILON. cannot be kept"):
        run(Grid(), make(), 1)


@pytest.mark.parametrize("given", [{"FL_DP_CLIPPING": "adaptive"}, {"FL_STRATEGY": "FedAdam"}])
def test_a_form_that_asks_for_a_budget_that_cannot_be_kept_is_refused_at_once(given):
    resolve({**CENTRAL, **given})
    with pytest.raises(OneflowerError, match="FL_DP_MAX_EPSILON: cannot be kept. Epsilon is not known"):
        resolve({**CENTRAL, **given, "FL_DP_MAX_EPSILON": "8"})


def test_a_budget_that_is_not_enough_for_one_round_is_refused(record, form):  # noqa: F811
    form(**CENTRAL, FL_DP_MAX_EPSILON="1")
    with pytest.raises(OneflowerError, match="not enough for one more round, after which epsilon is 1.99"):
        run(Grid(), make_strategy({}))


def test_what_a_site_spent_is_in_the_record_and_on_the_card_and_never_in_the_metrics(record):  # noqa: F811
    """And a site that lets out fewer metrics does not keep the others from being aggregated."""
    grid = Grid()
    healthy = grid.answer
    spent = NodeSpent(1.0, 4.0, 1e-5, 2.0, 9.0, 20.0)

    def answer(message):
        reply = healthy(message)
        if message.metadata.dst_node_id == 2:
            reply.metadata.__dict__["_src_node_id"] = 2
            content = reply.content
            del content["metrics"]
            content["metrics"] = MetricRecord({"num-examples": 1})
            content[RECORD] = MetricRecord(dict(spent.numbers))
        else:
            own = reply.content["metrics"]
            del reply.content["metrics"]
            reply.content["its-own-name"] = own
        return take_spent(reply)

    grid.answer = answer
    start(grid, num_rounds=2)
    last = rows(record)[-1]
    assert (last["nodes"], last["train"], last["failures"]) == (2, {}, 0)
    assert RunPrivacy.in_row(last).nodes == {"2": spent}
    card = model_card("app", "17", [RunRow.parse(json.dumps(last))], {}, {}, None, Judged(names={"2": "north/0"}))
    assert "| north/0 | 1 | 4 | 2 | 9 of 20 | 1e-05 |" in card


def test_what_a_node_invents_of_its_budget_is_not_recorded(record, caplog):  # noqa: F811
    from flwr.app import Message, RecordDict

    message = Message(
        RecordDict({RECORD: MetricRecord({"epsilon": float("nan")})}), dst_node_id=1, message_type="train"
    )
    assert not take_spent(message).content
    assert "tells something else" in caplog.text
