"""A node's table: its own CSV or Parquet files, or its share of the breast cancer data that scikit-learn ships."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from oneflower_appliance.training.data import DataError, data_folder, hold_out, partition_of, share

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from flwr.app import Context, Message

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ENDINGS = (".csv", ".parquet")
_HELD_OUT = 0.3


@dataclass(frozen=True)
class Table:
    """Features, shape (rows, columns), and for each row 1 if it is an anomaly, 0 if it is normal."""

    columns: tuple[str, ...]
    features: Floats
    labels: Integers
    source: str

    def split(self, seed: int) -> tuple[Table, Table]:
        """Return the rows to train on and the rows to test on. Raises `DataError` when none to train on are normal."""
        trained, held = (self._rows(indices) for indices in hold_out(len(self.labels), _HELD_OUT, seed))
        if not len(trained.normal):
            raise DataError(
                f"None of the {len(trained.labels)} rows to train on is normal: all are labelled 1 (anomaly).",
                "Give this node rows labelled 0; the model learns from those.",
            )
        return trained, held

    @property
    def normal(self) -> Floats:
        """The features of the rows that are normal."""
        return np.asarray(self.features[self.labels == 0])

    def scaled(self, mean: Floats, scale: Floats) -> Table:
        """Return the table on a scale that all nodes share."""
        return replace(self, features=(self.features - mean) / scale)

    def _rows(self, indices: Integers) -> Table:
        return replace(self, features=self.features[indices], labels=self.labels[indices])


def load(context: Context, message: Message | None = None) -> Table:
    """Return this node's table. Raises `DataError` naming the file, the column and the row that cannot be used."""
    config = context.run_config
    folder = data_folder(context)
    if folder is None:
        return _breast_cancer(*partition_of(context, message), float(config["dirichlet-alpha"]), int(config["seed"]))
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS)
    if not paths:
        raise DataError(f"The data folder {folder} has no table ({', '.join(_ENDINGS)}).", "Put one there.")
    parts = [_read(path, str(config["label-column"])) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if part.columns != parts[0].columns:
            odd = ", ".join(sorted(set(part.columns) ^ set(parts[0].columns)))
            raise DataError(f"{paths[0].name} and {path.name} have different columns: {odd}.", "Make them alike.")
    table = Table(
        parts[0].columns,
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        "own tables",
    )
    if len(table.labels) < 2:
        raise DataError(f"The tables in {folder} have {len(table.labels)} rows.", "Give this node at least two.")
    return table


def _breast_cancer(number: int, count: int, alpha: float, seed: int) -> Table:
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 - not needed by a node with tables of its own

    data = load_breast_cancer()
    labels = (data.target == list(data.target_names).index("malignant")).astype(np.int64)
    mine = share(labels, number, count, alpha, seed)
    return Table(tuple(map(str, data.feature_names)), data.data[mine], labels[mine], "breast cancer")


def _read(path: Path, label: str) -> Table:
    import pyarrow as pa  # noqa: PLC0415 - not needed for the breast cancer data
    from pyarrow import compute, csv, parquet  # noqa: PLC0415

    try:
        table = csv.read_csv(path) if path.suffix.lower() == ".csv" else parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}", "Fix or remove that file.") from error
    if label not in table.column_names:
        raise DataError(
            f"{path} has no column {label!r}; it has {', '.join(table.column_names)}.",
            "Add it, 1 for anomalies and 0 for normal rows, or say which it is: `--config label-column=NAME`.",
        )
    columns = tuple(sorted(name for name in table.column_names if name != label))
    for name in (*columns, label):
        missing = compute.sum(compute.is_null(table[name], nan_is_null=True)).as_py() or 0
        if missing:
            raise DataError(f"{path}: {missing} of {len(table)} values in column {name!r} are missing.",
                            "Fill them in, or remove those rows.")  # fmt: skip
    labels = _numbers(path, table, label).astype(np.int64)
    if not np.isin(labels, (0, 1)).all():
        raise DataError(f"{path}: column {label!r} has values other than 0 and 1.", "1 is an anomaly, 0 is normal.")
    features = [_numbers(path, table, name) for name in columns]
    if not features:
        raise DataError(f"{path} has no column but {label!r}.", "Add the features.")
    return Table(columns, np.column_stack(features), labels, path.name)


def _numbers(path: Path, table: pa.Table, name: str) -> Floats:
    import pyarrow as pa  # noqa: PLC0415

    try:
        values = table[name].cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise DataError(
            f"{path}: column {name!r} is not numeric ({table.schema.field(name).type}).",
            "Turn it into numbers, or remove it.",
        ) from error
    if not np.isfinite(values).all():
        raise DataError(f"{path}: column {name!r} has infinite values.", "Fix or remove those rows.")
    return np.asarray(values, dtype=np.float64)
