"""Draw how good runs are at each node, from the metrics.json that each run leaves.

python -m scripts.plot_personal -o docs/personal.png FedAvg=results/a/metrics.json FedBN=results/b/metrics.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scripts.shifted_digits import LOOKS


def accuracies(path: Path, metric: str = "accuracy") -> list[float]:
    """Return the accuracy at each node in the last round of a run, by the number of its partition."""
    said = json.loads(path.read_text(encoding="utf-8"))
    names = {said["machines"][node]: int(number) for node, number in said["partitions"].items()}
    found = {names[score["site"]]: score["metrics"][metric] for score in said["across"]["scores"]}
    return [found[number] for number in sorted(found)]


def main() -> None:
    """Draw a group of bars for each node."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("runs", nargs="+", metavar="NAME=metrics.json[:METRIC]")
    options = parser.parse_args()
    figure = Figure(figsize=(9, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(options.runs)
    for index, run in enumerate(options.runs):
        name, _, path = run.partition("=")
        file, _, metric = path.partition(":")
        found = accuracies(Path(file), metric or "accuracy")
        print(f"{name:28} {' '.join(f'{value:.3f}' for value in found)}  mean {np.mean(found):.3f}")
        axes.bar(np.arange(len(found)) + width * index, found, width, label=f"{name} (mean {np.mean(found):.2f})")
    axes.set_xticks(np.arange(len(LOOKS)) + 0.4 - width / 2, LOOKS)
    axes.set(ylabel="accuracy on the node's own images", ylim=(0, 1.05))
    figure.legend(loc="outside upper center", ncols=len(options.runs))
    figure.savefig(options.output)


if __name__ == "__main__":
    main()
