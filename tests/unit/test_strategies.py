"""Each strategy does what it is chosen for: Flower's own classes, the pre-built app's own clients, no processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp import strategy as flower

from oneflower_appliance import features_off
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.orders import FORM_VARIABLE
from oneflower_appliance.parameters import STRATEGIES
from oneflower_appliance.settings import ignored, resolve
from oneflower_appliance.training.strategies import make_strategy
from oneflower_appliance.use_cases import TREE_STRATEGIES

from . import federation

USE_CASE = "image-classification"


def train(monkeypatch, nodes=3, **settings):
    settings = {"framework": "sklearn", "min_available_nodes": nodes, "num_server_rounds": 3, **settings}
    return federation.train(monkeypatch, USE_CASE, nodes, **settings)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in TREE_STRATEGIES])
def test_every_strategy_is_flowers_own_and_learns(monkeypatch, name):
    assert type(make_strategy({"strategy": name, "min-available-nodes": 3})) is getattr(flower, name)
    trained = train(monkeypatch, strategy=name, proximal_mu=0.01)
    # What to expect after three rounds is in docs/strategies.md.
    assert trained.accuracy > (0.6 if name in ("FedAdam", "FedYogi", "FedAdagrad") else 0.85)


@pytest.mark.parametrize("name", TREE_STRATEGIES)
def test_a_strategy_of_trees_is_flowers_own_and_takes_no_noise_and_no_other_framework(monkeypatch, name):
    made = make_strategy({"strategy": name, "min-available-nodes": 3, "min-train-nodes": 2})
    assert (type(made), made.min_available_nodes) == (getattr(flower, name), 3)
    with pytest.raises(OneflowerError, match=f"FL_PRIVACY: is 'dp-central'; {name} combines trees"):
        make_strategy({"strategy": name, "privacy": "dp-central"})
    with pytest.raises(OneflowerError, match=f"is '{name}'; sklearn needs one of FedAvg"):
        train(monkeypatch, strategy=name)


def test_a_clipping_norm_that_cannot_be_corrected_is_flowers_own_and_a_line_says_so(monkeypatch, caplog, tmp_path):
    form = {"privacy": "dp-central", "dp-clipping": "adaptive"}
    stock = flower.DifferentialPrivacyServerSideAdaptiveClipping
    assert type(make_strategy(form)) is not stock
    [owner] = [kind for kind in stock.__mro__ if "_geometric_update" in vars(kind)]
    monkeypatch.delattr(owner, "_geometric_update")
    monkeypatch.setenv(features_off.FOLDER_VARIABLE, str(tmp_path))
    for _ in range(2):
        assert type(make_strategy(form)) is stock
    [line] = features_off.reported(tmp_path)
    assert caplog.messages == [line]
    assert line.endswith("no DifferentialPrivacyServerSideAdaptiveClipping._geometric_update.")


def test_a_form_becomes_a_strategy(monkeypatch):
    monkeypatch.setenv(FORM_VARIABLE, json.dumps({"FL_STRATEGY": "FedAdam", "FL_SERVER_LR": "0.3"}))
    made = make_strategy({})
    assert (type(made), made.eta, made.eta_l, made.min_train_nodes) == (flower.FedAdam, 0.3, 0.1, 2)
    assert make_strategy({"server-lr": 0.5}).eta == 0.5, "the run config counts first"
    made = make_strategy(
        {"strategy": "FedTrimmedAvg", "trim-beta": 0.4, "min-train-nodes": 3, "min-available-nodes": 4}
    )
    assert (made.beta, made.min_train_nodes, made.min_available_nodes) == (0.4, 3, 4)
    made = make_strategy({"strategy": "MultiKrum", "num-malicious": 1, "min-available-nodes": 7})
    assert (made.num_malicious_nodes, made.num_nodes_to_select) == (1, 6)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"strategy": "FedSGD"}, "FL_STRATEGY: is 'FedSGD'; expected one of FedAvg"),
        ({"strategy": "Krum", "num-malicious": 1, "min-available-nodes": 4}, "needs FL_MIN_AVAILABLE_CLIENTS of at least 5"),
        ({"strategy": "Bulyan", "num-malicious": 2, "min-available-nodes": 10}, "at least 11, and it is 10"),
        ({"trim-beta": 0.5}, "FL_TRIM_BETA: is '0.5'"),
        ({"privacy": "dp-local", "dp-clipping": "adaptive"}, "with FL_PRIVACY=dp-local no node reports the norm"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_starts(config, sentence):
    with pytest.raises(OneflowerError, match=sentence):
        make_strategy(config)


def test_a_variable_that_does_not_apply_is_ignored_with_one_line(caplog):
    given = {"FL_PROXIMAL_MU": "0.5", "FL_DP_NOISE": "2"}
    [mu, noise] = ignored(resolve(given))
    assert mu == "FL_PROXIMAL_MU=0.5 is ignored with FL_STRATEGY=FedAvg: it is for FedProx."
    assert noise == "FL_DP_NOISE=2 is ignored with FL_PRIVACY=none: it is for dp-central, dp-local."
    assert ignored(resolve(given | {"FL_STRATEGY": "FedProx", "FL_PRIVACY": "dp-local"})) == []


def poison(bad):
    """The first `bad` nodes send five times the opposite of what they learned."""

    def spoil(node, message, reply):
        if message.metadata.message_type == "train" and node < 100 + bad:
            before, after = message.content["arrays"], reply.content["arrays"]
            reply.content["arrays"] = ArrayRecord(
                {k: Array(before[k].numpy() - 5 * (after[k].numpy() - before[k].numpy())) for k in after}
            )
        return reply

    return spoil


def test_robust_strategies_keep_the_accuracy_that_fedavg_loses_to_a_poisoned_node(monkeypatch):
    def accuracy(name):
        return train(monkeypatch, 7, spoil=poison(1), strategy=name, num_malicious=1, num_server_rounds=2).accuracy

    assert accuracy("FedAvg") < 0.7
    for name in ("FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan"):
        assert accuracy(name) > 0.9, name


def test_fedprox_keeps_nodes_closer_to_the_global_model_on_uneven_data(monkeypatch):
    def drift(**settings):
        seen = []

        def watch(node, message, reply):
            if message.metadata.message_type == "train":
                before, after = message.content["arrays"], reply.content["arrays"]
                seen.append(np.linalg.norm(after["weights"].numpy() - before["weights"].numpy()))
            return reply

        train(monkeypatch, spoil=watch, dirichlet_alpha=0.1, num_server_rounds=1, **settings)
        return np.mean(seen)

    drifts = [drift(), *(drift(strategy="FedProx", proximal_mu=mu) for mu in (0.01, 0.1, 1.0))]
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[-1] < drifts[0] / 2


@pytest.mark.parametrize("name", ["FedAdam", "FedYogi", "FedAdagrad", "QFedAvg"])
def test_learning_rates_change_what_is_learned(monkeypatch, name):
    def norm(**rates):
        trained = train(monkeypatch, strategy=name, num_server_rounds=1, **rates)
        return float(np.linalg.norm(trained.result.arrays["weights"].numpy()))

    assert len({norm(), norm(client_lr=0.02)}) == 2
    if name != "QFedAvg":
        assert norm(server_lr=0.02) < norm() / 2


def learned(monkeypatch, **settings):
    trained = train(monkeypatch, 5, num_server_rounds=1, dirichlet_alpha=0.3, **settings)
    return trained.result.arrays["weights"].numpy()


def test_how_many_are_cut_off_and_how_many_may_be_bad_changes_what_is_learned(monkeypatch):
    cut = [learned(monkeypatch, strategy="FedTrimmedAvg", trim_beta=beta) for beta in (0.2, 0.4)]
    assert not np.allclose(*cut)
    chosen = [learned(monkeypatch, strategy="MultiKrum", num_malicious=bad) for bad in (0, 1)]
    assert not np.allclose(*chosen)


@pytest.mark.parametrize("privacy", ["dp-central", "dp-local"])
def test_no_update_is_longer_than_it_may_be(monkeypatch, privacy):
    norms = [np.linalg.norm(learned(monkeypatch, privacy=privacy, dp_noise=1e-4, dp_clip=clip)) for clip in (0.1, 1.0)]
    assert norms[0] <= 0.101
    assert norms[0] < norms[1] <= 1.01


def test_an_adaptive_clipping_norm_follows_the_updates(monkeypatch):
    def norm(clipping):
        settings = {"privacy": "dp-central", "dp_noise": 0.01, "dp_clip": 0.1, "num_server_rounds": 6}
        trained = train(monkeypatch, 2, dp_clipping=clipping, **settings)
        return np.linalg.norm(trained.result.arrays["weights"].numpy())

    assert norm("adaptive") > 1.2 * norm("fixed")


def test_fairness_counts_the_loss_of_a_node(monkeypatch):
    norms = {
        float(np.linalg.norm(train(monkeypatch, strategy="QFedAvg", fairness_q=q, num_server_rounds=1)
                             .result.arrays["weights"].numpy()))
        for q in (0.0, 0.1, 1.0)
    }  # fmt: skip
    assert len(norms) == 3


@pytest.mark.parametrize("settings", [{"privacy": "dp-central"}, {"privacy": "dp-central", "dp_clipping": "adaptive"},
                                      {"privacy": "dp-local"}])  # fmt: skip
def test_privacy_costs_accuracy_as_the_noise_says(monkeypatch, settings):
    little = train(monkeypatch, 2, dp_noise=0.01, dp_clip=5.0, **settings).accuracy
    much = train(monkeypatch, 2, dp_noise=3.0, dp_clip=5.0, **settings).accuracy
    assert little > 0.9
    assert much < 0.6


def test_with_central_privacy_exactly_as_many_nodes_train_as_the_noise_is_made_for(monkeypatch):
    trained = []

    def watch(node, message, reply):
        trained.extend([node] if message.metadata.message_type == "train" else [])
        return reply

    train(monkeypatch, 5, spoil=watch, privacy="dp-central", min_train_nodes=3, num_server_rounds=1)
    assert len(trained) == 3
