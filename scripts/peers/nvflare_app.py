"""The app of scripts/bench_models.py for NVFLARE: each client adds a constant to each array of the model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.executor import Executor
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.fedavg import FedAvg


class Rounds(FedAvg):
    """NVFLARE's FedAvg, on a model with these shapes. It has the new model evaluated, and notes when a round begins."""

    def __init__(self, shapes: str, stamps: str, **settings: Any) -> None:
        super().__init__(persistor_id="", **settings)
        self.shapes, self.stamps = shapes, stamps  # NVFLARE writes what a component has into its configuration

    def _stamp(self, **values: Any) -> None:
        with Path(self.stamps).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values | {"at": time.time()}) + "\n")

    def load_model(self) -> FLModel:
        """Return the model of the first round."""
        generator = np.random.default_rng(7)
        shapes = json.loads(Path(self.shapes).read_text(encoding="utf-8"))
        arrays = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]
        self._stamp(what="round")
        return FLModel(params={str(number): array for number, array in enumerate(arrays)})

    def save_model(self, model: FLModel) -> None:
        """Have the clients evaluate the model of a round, instead of saving it."""
        replies = self.send_model_and_wait(task_name="validate", data=model)
        self._stamp(what="value", value=sum(reply.metrics["value"] for reply in replies) / len(replies))
        self._stamp(what="round")


class AddAConstant(Executor):
    """A client."""

    def execute(self, task_name: str, shareable: Any, fl_ctx: Any, abort_signal: Any) -> Any:  # noqa: ARG002 - NVFLARE's
        """Do a task."""
        arrays = from_shareable(shareable).data
        if task_name == "train":
            new = {name: np.asarray(array + np.float32(0.5)) for name, array in arrays.items()}
            return DXO(DataKind.WEIGHTS, data=new, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 1}).to_shareable()
        value = float(sum(array.flat[0] for array in arrays.values()))
        return DXO(DataKind.METRICS, data={"value": value}).to_shareable()
