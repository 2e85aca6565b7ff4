"""How long a round of a real model takes, against NVFLARE on the same machine. docs/performance.md explains the table.

usage: python scripts/bench_peers.py [--models A B ...] [--nodes N] [--rounds N] [-o FILE]

Both run an app that adds a constant to each array, and evaluate each new model. NVFLARE is its proof of concept (POC),
in an environment of its own: real processes, mutual TLS, its own FedAvg. It is measured as it comes, and with every
poll that has a setting at 0.05 s. They run in turns, never at the same time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import Bench
from bench_models import MODELS, Models, middle, plain, rounds_of, size_of
from uv import find_uv_bin

from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.runtimes.uv import wheels_only

HERE = Path(__file__).parent / "peers"
_APART = ("unshare", "--user", "--map-root-user", "--net", "--mount-proc", "--pid", "--fork", "--kill-child", "--")
_TUNED = 0.05  # seconds between two polls


class Nvflare:
    """NVFLARE in its own environment in the cache folder, where it is installed once."""

    def __init__(self, cache: Path, folder: Path) -> None:
        pinned = (HERE / "nvflare.txt").read_text(encoding="utf-8")
        self._folder = folder
        self._environment = cache / "peers" / f"nvflare-{hashlib.sha256(pinned.encode()).hexdigest()[:12]}"
        if not (self._environment / ".complete").exists():
            self._install()

    def _install(self) -> None:
        print("Installing NVFLARE into its own environment, once ...", file=sys.stderr)
        shutil.rmtree(self._environment, ignore_errors=True)
        uv = [find_uv_bin(), "--quiet"]
        environment = {"UV_SYSTEM_CERTS": "1", **os.environ}
        subprocess.run([*uv, "venv", "--python", sys.executable, self._environment], check=True, env=environment)
        subprocess.run(
            [*uv, "pip", "install", "--python", self._environment / "bin" / "python", "--compile-bytecode",
             "--require-hashes", *wheels_only(), "-r", HERE / "nvflare.txt"],
            check=True, env=environment,
        )  # fmt: skip
        (self._environment / ".complete").touch()

    def rounds(self, model: str, nodes: int, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
        """Train a model as NVFLARE comes, and tuned: the seconds of each round, and what the models gave."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name)
            (folder / "shapes").write_text(json.dumps(MODELS[model][1]), encoding="utf-8")
            jobs = {"as it comes": _job(folder / "plain", nodes, rounds), "tuned": _job(folder / "tuned", nodes,
                    rounds, poll=_TUNED)}  # fmt: skip
            path = f"{self._environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
            command = [*_APART, str(self._environment / "bin" / "python"), str(HERE / "nvflare_poc.py"), str(folder),
                       str(nodes), *map(str, jobs.values())]  # fmt: skip
            done = subprocess.run(
                command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
            )
            if done.returncode:
                log = folder / "log"
                tail = "".join(log.read_text().splitlines(keepends=True)[-20:]) if log.exists() else ""
                raise SystemExit(f"NVFLARE failed ({done.returncode}):\n{done.stdout}{done.stderr}{tail}")
            return {how: rounds_of(job / "stamps") for how, job in jobs.items()}


def _job(folder: Path, nodes: int, rounds: int, poll: float | None = None) -> Path:
    """Write a job into a folder, and return it. `poll` is in seconds; without it NVFLARE's defaults count."""
    (folder / "app" / "config").mkdir(parents=True)
    (folder / "app" / "custom").mkdir()
    shutil.copy(HERE / "nvflare_app.py", folder / "app" / "custom")
    workflow = {"num_clients": nodes, "num_rounds": rounds, "shapes": str(folder.parent / "shapes"),
                "stamps": str(folder / "stamps"), **({"task_check_period": poll} if poll else {})}  # fmt: skip
    server = {"format_version": 2, "components": [], "task_data_filters": [], "task_result_filters": [],
              **({"server": {"task_request_interval": poll}} if poll else {}),
              "workflows": [{"id": "rounds", "path": "nvflare_app.Rounds", "args": workflow}]}  # fmt: skip
    executor = {"path": "nvflare_app.AddAConstant", "args": {}}
    client = {"format_version": 2, "components": [], "task_data_filters": [], "task_result_filters": [],
              **({"default_task_fetch_interval": poll} if poll else {}),
              "executors": [{"tasks": ["train", "validate"], "executor": executor}]}  # fmt: skip
    meta = {"name": folder.name, "resource_spec": {}, "min_clients": nodes, "deploy_map": {"app": ["@ALL"]}}
    for file, content in (("meta", meta), ("app/config/config_fed_server", server),
                          ("app/config/config_fed_client", client)):  # fmt: skip
        (folder / f"{file}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=["A", "B", "C", "D"])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nvflare = Nvflare(LocalHome.of_user().cache, folder)
        bench = Bench(folder)
        models = Models(bench, folder, options.nodes, options.rounds)
        print(f"| a round, 1+{options.nodes} | oneflower | NVFLARE as it comes | ratio | NVFLARE tuned | ratio | the "
              "bytes alone |\n|" + " --- |" * 7, flush=True)  # fmt: skip
        try:
            for model in options.models:
                alone = min(plain(size_of(model), options.nodes, folder) for _ in range(3))
                theirs = nvflare.rounds(model, options.nodes, options.rounds)
                ours = models.run(model)
                for how, (_, values) in theirs.items():
                    if not all(math.isclose(*pair, rel_tol=1e-4) for pair in zip(values, ours.values, strict=True)):
                        raise SystemExit(f"{MODELS[model][0]}: the results differ: {ours.values}, {how} {values}")
                plainly, tuned = (middle(theirs[how][0]) for how in ("as it comes", "tuned"))
                cells = (f"{model}: {MODELS[model][0]}", f"{ours.seconds:.2f} s", f"{plainly:.2f} s",
                         f"{ours.seconds / plainly:.2f}", f"{tuned:.2f} s", f"{ours.seconds / tuned:.2f}",
                         f"{alone:.2f} s")  # fmt: skip
                print("| " + " | ".join(cells) + " |", flush=True)
                figures[model] = {"seconds": ours.seconds, "as it comes": plainly, "tuned": tuned, "plain": alone}
        finally:
            bench.oneflower("down", "--all")
            daemon.stop(bench.home)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
