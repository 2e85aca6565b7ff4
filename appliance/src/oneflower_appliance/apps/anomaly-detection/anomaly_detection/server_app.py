"""What the SuperLink does: prepare all nodes alike, aggregate, and evaluate over all nodes together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp

from anomaly_detection.models import detector_of
from anomaly_detection.scores import metrics
from oneflower_appliance.training import personal, survey
from oneflower_appliance.training.results import save_result
from oneflower_appliance.training.strategies import make_strategy

if TYPE_CHECKING:
    from collections.abc import Mapping

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    config = context.run_config
    personal.refuse(config)
    detector = detector_of(config)
    strategy = make_strategy(config, evaluate_metrics_aggr_fn=_Judge(float(config["threshold-quantile"])))
    nodes = survey.ask(grid, int(config["min-available-nodes"]))
    columns = nodes.agreed("columns")
    preparation = detector.preparation(nodes)
    save_result(grid, "preparation.json", json.dumps({"columns": columns, **preparation}, indent=1) + "\n")
    settings = ConfigRecord({**preparation, **nodes.settings})
    start = detector.initial(len(columns))
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(array) for name, array in start.items()}),
        num_rounds=int(config["num-server-rounds"]),
        train_config=settings,
        evaluate_config=settings,
    )
    trained = {name: array.numpy() for name, array in result.arrays.items()}
    for name, content in detector.files(trained).items():
        save_result(grid, name, content)


class _Judge:
    """Adds up the nodes' counts and computes how well anomalies are distinguished from normal rows."""

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile

    def __call__(self, replies: list[RecordDict], weighted_by: str) -> MetricRecord:
        """Return the metrics over all nodes together."""
        said: list[Mapping[str, Any]] = [next(iter(reply.metric_records.values())) for reply in replies]
        weights = [float(node[weighted_by]) for node in said]
        loss = float(np.average([node["loss"] for node in said], weights=weights))
        counts = {name: np.sum([node[name] for node in said], axis=0) for name in ("normal", "anomalous", "trained")}
        return MetricRecord({"loss": loss, **metrics(**counts, quantile=self._quantile)})
