"""Draw what poisoned nodes and uneven data do to the strategies, on the handwritten digits.

It runs the pre-built app's own clients and Flower's own strategies in one process. `-o docs/strategies.png` makes the
figure of docs/strategies.md. usage: python -m scripts.plot_strategies [-o FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tests.unit import federation
from tests.unit.test_strategies import USE_CASE, poison

ROUNDS, NODES, BAD = 8, 11, 2


class Setter:
    """Does what pytest's monkeypatch does, and does not undo it: this process ends soon."""

    def setattr(self, target: Any, name: str, value: Any) -> None:
        """Set an attribute."""
        setattr(target, name, value)


def train(**settings: Any) -> Any:
    """Return the result of a run on the digits."""
    return federation.train(Setter(), USE_CASE, framework="sklearn", **settings)


def drifts(**settings: Any) -> tuple[Any, list[float]]:
    """Return, for each round, the mean distance of the nodes' models from the global one."""
    seen: list[Any] = []

    def watch(_node: int, message: Any, reply: Any) -> Any:
        if message.metadata.message_type == "train":
            before, after = message.content["arrays"], reply.content["arrays"]
            seen.append(np.linalg.norm(after["weights"].numpy() - before["weights"].numpy()))
        return reply

    trained = train(nodes=5, spoil=watch, dirichlet_alpha=0.1, num_server_rounds=ROUNDS, **settings)
    return np.reshape(seen, (ROUNDS, -1)).mean(axis=1), trained.accuracies


def main() -> None:
    """Draw both halves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("-o", "--output", type=Path, help="the PNG to write; by default one in a temporary folder")
    options = parser.parse_args()
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    rounds = range(1, ROUNDS + 1)
    for name in ("Krum", "Bulyan", "MultiKrum", "FedTrimmedAvg", "FedMedian", "FedAvg"):
        found = train(nodes=NODES, min_available_nodes=NODES, num_malicious=BAD, strategy=name, spoil=poison(BAD),
                      num_server_rounds=ROUNDS).accuracies  # fmt: skip
        left.plot(rounds, found, marker="o", label=name, linewidth=3 if name == "FedAvg" else 1.5)
        print(f"{name:14} {found[-1]:.3f}")
    left.set(title=f"{BAD} of {NODES} nodes are poisoned", xlabel="round", ylabel="accuracy", ylim=(0, 1))
    left.legend()
    for label, settings in {
        "FedAvg": {},
        "FedProx, mu = 0.01": {"strategy": "FedProx", "proximal_mu": 0.01},
        "FedProx, mu = 0.1": {"strategy": "FedProx", "proximal_mu": 0.1},
        "FedProx, mu = 1": {"strategy": "FedProx", "proximal_mu": 1.0},
    }.items():
        found, accuracies = drifts(**settings)
        right.plot(rounds, found, marker="o", label=f"{label} (accuracy {accuracies[-1]:.2f})")
        print(f"{label:20} {found[-1]:.3f} {accuracies[-1]:.3f}")
    right.set(title="Uneven data: how far nodes drift in a round", xlabel="round", ylabel="norm of the update", ylim=0)
    right.legend()
    target = options.output or Path(tempfile.mkdtemp(prefix="oneflower-")) / "strategies.png"
    figure.savefig(target)
    print(target)


if __name__ == "__main__":
    main()
