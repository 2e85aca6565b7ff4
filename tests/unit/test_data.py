from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneflower_appliance.training.data import DataError, divide, hold_out, partition_of, share
from tests.examples import examples

LABELS = np.repeat(np.arange(10), 144)


@settings(max_examples=examples(30))
@given(st.integers(1, 40), st.sampled_from([0.0, 0.05, 1.0]), st.integers(0, 5))
def test_shares_are_disjoint_complete_and_never_empty(count, alpha, seed):
    shares = [share(LABELS, number, count, alpha, seed) for number in range(count)]
    assert all(len(given) for given in shares)
    assert sorted(np.concatenate(shares)) == list(range(len(LABELS)))


def test_the_mix_of_labels_is_even_or_uneven_as_asked():
    even = np.bincount(LABELS[share(LABELS, 0, 4, 0.0, 7)], minlength=10)
    assert even.max() - even.min() <= 3
    uneven = np.bincount(LABELS[share(LABELS, 0, 4, 0.1, 7)], minlength=10)
    assert uneven.max() > 5 * max(1, uneven.min())


@pytest.mark.parametrize(("number", "count"), [(2, 2), (-1, 2), (0, 0), (0, 5000)])
def test_a_share_that_does_not_exist_is_refused(number, count):
    with pytest.raises(DataError, match="is not a share"):
        share(LABELS, number, count, 0.0, 7)


@given(st.integers(2, 200), st.floats(0.01, 0.9), st.integers(0, 3))
def test_what_is_held_out_is_never_trained_on(count, part, seed):
    trained, held = hold_out(count, part, seed)
    assert sorted([*trained, *held]) == list(range(count))
    assert len(trained)
    assert len(held)


def _asked(shares):
    return SimpleNamespace(content=SimpleNamespace(config_records={"config": shares}))


def test_nodes_of_any_number_of_sites_with_any_number_of_nodes_have_shares_of_their_own():
    names = {1000 + 10 * site + number: f"s{site}/{number}" for site in range(12) for number in range(1 + site % 4)}
    own = [5, 6]
    message = _asked(divide([*names, *own], names))

    def part(node, **config):
        return partition_of(SimpleNamespace(node_id=node, node_config=config), message)

    shares = [share(LABELS, *part(node), 0.0, 7) for node in (*own, *names)]
    assert sorted(np.concatenate(shares)) == list(range(len(LABELS))), "all of the data, each example once"
    assert max(map(len, shares)) - min(map(len, shares)) <= 10
    late = {"partition-id": 1, "num-partitions": 2, "site-index": 3}
    assert part(9, **late) == (5, 16), "it came after the survey"


def test_without_other_sites_each_node_has_its_partition():
    assert divide([1, 2], {}) == {}
    context = SimpleNamespace(node_id=1, node_config={"partition-id": 1, "num-partitions": 2})
    assert partition_of(context, _asked({})) == partition_of(context) == (1, 2)
