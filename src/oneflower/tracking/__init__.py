"""Sends runs to the tools in which people already compare their experiments: MLflow and TensorBoard.

Each has its own client library, which is an extra of this package: `oneflower[mlflow]`, `oneflower[tensorboard]`.

    from oneflower.tracking import Tracking

    with Tracking.to("mlflow:https://mlflow.example.org", federation=federation.name) as tracking:
        tracking.during(federation.run)("image-classification")
"""

from oneflower.tracking.tracking import Tracking

__all__ = ["Tracking"]
