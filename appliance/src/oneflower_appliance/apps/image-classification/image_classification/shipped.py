"""The handwritten digits that scikit-learn ships, read and split without importing it.

Nothing else here needs scikit-learn. To import it takes a second of CPU time and 60 MB, in the ServerApp and on every
node. A test compares both functions with scikit-learn's own.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

_FILE = Path("datasets", "data", "digits.csv.gz")


def digits() -> tuple[NDArray[np.float64], Integers]:
    """Return what `sklearn.datasets.load_digits(return_X_y=True)` does: 1,797 rows of 64 pixels (0 to 16), labels."""
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    file = next((Path(folder) / _FILE for folder in folders or () if (Path(folder) / _FILE).exists()), None)
    if file is None:  # not installed, or a release that has moved the file
        from sklearn.datasets import load_digits  # noqa: PLC0415

        pixels, labels = load_digits(return_X_y=True)
        return pixels, labels
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)


def split(labels: Integers, held_out: float, seed: int) -> tuple[Integers, Integers]:
    """Return the indices of the training set and of the test set, which is the fraction `held_out` of each class.

    They are those of scikit-learn's `train_test_split(..., stratify=labels, random_state=seed)`.
    """
    random = np.random.RandomState(seed)  # as scikit-learn
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(classes, kind="stable"), np.cumsum(sizes)[:-1])
    tested = int(np.ceil(held_out * len(labels)))
    for_training = _shares(sizes, len(labels) - tested, random)
    for_test = _shares(sizes - for_training, tested, random)
    train, test = [], []
    for of_class, trained, held in zip(members, for_training, for_test, strict=True):
        mixed = of_class[random.permutation(len(of_class))]
        train.append(mixed[:trained])
        test.append(mixed[trained : trained + held])
    return random.permutation(np.concatenate(train)), random.permutation(np.concatenate(test))


def _shares(sizes: Integers, number: int, random: np.random.RandomState) -> Integers:
    """Return how many of `number` each class gets, by its size. Chance decides between equal remainders."""
    exact = sizes / sizes.sum() * number
    shares = np.floor(exact)
    missing = int(number - shares.sum())
    remainders = exact - shares
    for remainder in np.sort(np.unique(remainders))[::-1]:
        if not missing:
            break
        (equal,) = np.where(remainders == remainder)
        taken = random.choice(equal, size=min(len(equal), missing), replace=False)
        shares[taken] += 1
        missing -= len(taken)
    return np.asarray(shares, dtype=np.int64)
