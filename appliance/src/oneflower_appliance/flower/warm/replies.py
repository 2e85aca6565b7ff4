"""Replies in a file of the ServerApp, not in its memory, until their arrays are used.

What a strategy gets is what it always gets: messages with Flower's arrays. The weighted average of Flower's FedAvg,
which most strategies begin with, is computed array by array and not reply by reply. Each value of it goes through the
same operations in the same order, so the result is the same to the last digit.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm.arrayfile import ArrayFile, filed
from oneflower_appliance.flower.warm.contents import Contents, inflate_in_place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flwr.app import RecordDict


def keep_replies_in_files(folder: Path) -> Callable[[], dict[str, bytes]]:
    """Keep the replies that this process fetches, and their averages, in files in `folder`.

    Returns what makes a place for the objects of a message.
    """
    inflate_in_place(internals.grid())
    for module in (internals.fedavg(), internals.multikrum()):
        module.aggregate_arrayrecords = _averaging(module.aggregate_arrayrecords, folder)
    return lambda: Contents(ArrayFile(folder))


def _averaging(stock: Callable[..., ArrayRecord], folder: Path) -> Callable[..., ArrayRecord]:
    @functools.wraps(stock)
    def aggregate_arrayrecords(records: Sequence[RecordDict], weighting_metric_name: str) -> ArrayRecord:
        models = [list(record.array_records.values()) for record in records]
        if any(len(model) != 1 or set(model[0]) != set(models[0][0]) for model in models):
            return stock(records, weighting_metric_name)
        weights = [next(iter(record.metric_records.values()))[weighting_metric_name] for record in records]
        total = sum(weights)  # type: ignore[arg-type]  # Flower has checked that they are numbers
        factors = [weight / total for weight in weights]  # type: ignore[operator]
        file, averages = ArrayFile(folder), ArrayRecord()
        for name in models[0][0]:
            average: Any = None
            for [model], factor in zip(models, factors, strict=True):
                share = model[name].numpy() * factor
                if average is None:
                    average = share
                else:
                    average += share
            averages[name] = filed(Array(np.asarray(average)), file)
        return averages

    return aggregate_arrayrecords
