"""The pre-built app's data and model, without Flower."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneflower_appliance.apps import USE_CASES


@pytest.fixture(scope="module")
def task():
    folder = str(USE_CASES["image-classification"].folder)
    sys.path.insert(0, folder)
    try:
        from image_classification import task

        yield task
    finally:
        sys.path.remove(folder)


def average(models, weights):
    return [sum(w * model[k] for w, model in zip(weights, models, strict=True)) / sum(weights) for k in range(2)]


def test_federated_training_comes_within_three_points_of_central_training(task):
    train, test = task.load(7)
    central = task.initial()
    task.train(central, train, 60, 7)
    model = task.initial()
    for _ in range(3):
        shares = [task.partition(train, number, 2, 0.0, 7) for number in range(2)]
        locals_ = []
        for number, share in enumerate(shares):
            local = [array.copy() for array in model]
            task.train(local, share, 20, 7 + number)
            locals_.append(local)
        model = average(locals_, [len(share.digits) for share in shares])
    assert task.evaluate(model, test)[1] >= task.evaluate(central, test)[1] - 0.03
    assert task.evaluate(model, test)[1] > 0.93


def test_the_test_set_is_held_out(task):
    train, test = task.load(7)
    rows = {image.tobytes() for image in train.images}
    assert len(train.digits) + len(test.digits) == 1797
    assert sum(image.tobytes() in rows for image in test.images) == 0


def test_partitions_are_disjoint_complete_and_never_empty(task):
    train, _ = task.load(7)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 40), st.sampled_from([0.0, 0.05, 1.0]), st.integers(0, 5))
    def check(count, alpha, seed):
        shares = [task.partition(train, number, count, alpha, seed) for number in range(count)]
        assert sum(len(share.digits) for share in shares) == len(train.digits)
        assert all(len(share.digits) for share in shares)
        together = np.concatenate([share.images for share in shares])
        assert sorted(map(bytes, together)) == sorted(map(bytes, train.images))

    check()


def test_the_mix_of_digits_is_even_or_uneven_as_asked(task):
    train, _ = task.load(7)
    even = np.bincount(task.partition(train, 0, 4, 0.0, 7).digits, minlength=10)
    assert even.max() - even.min() <= 3
    uneven = np.bincount(task.partition(train, 0, 4, 0.1, 7).digits, minlength=10)
    assert uneven.max() > 5 * max(1, uneven.min())


@pytest.mark.parametrize(("number", "count"), [(2, 2), (-1, 2), (0, 0), (0, 5000)])
def test_a_share_that_does_not_exist_is_refused(task, number, count):
    train, _ = task.load(7)
    with pytest.raises(ValueError, match="is not a share"):
        task.partition(train, number, count, 0.0, 7)


def test_a_node_with_one_digit_only_can_train(task):
    train, test = task.load(7)
    only = task.Split(train.images[train.digits == 3], train.digits[train.digits == 3])
    model = task.initial()
    assert np.isfinite(task.train(model, only, 5, 1))
    assert np.isfinite(task.evaluate(model, test)[0])
