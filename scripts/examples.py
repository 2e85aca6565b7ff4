"""Runs Flower's own examples unchanged, on a federation and with stock Flower, and writes the table of docs/apps.md.

usage: scripts/examples.py CHECKOUT --results FILE [--only NAME ...]   run them; FILE keeps the results so far
       scripts/examples.py CHECKOUT --results FILE --write             write the table

CHECKOUT is a checkout of https://github.com/adap/flower. An example that needs data or a model which this machine
cannot get is not run, and the table says what it needs. Stock Flower is `flwr run` with its simulation, in an
environment with the example's own dependencies. Both have the same number of SuperNodes.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
from uv import find_uv_bin

from oneflower import Federation, local_cloud
from oneflower.cloud.app_output import AppOutput
from oneflower.process import QUIET_FLOWER
from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE = Path(__file__).parent.parent / "docs/apps.md"
BEGIN, END = "<!-- Written by scripts/examples.py. -->\n", "<!-- The end of what it writes. -->\n"
HUB = "https://huggingface.co"
_NAMED_ON_HUB = re.compile(r"""(?:dataset=|load_dataset\(\s*|from_pretrained\(\s*)["']([\w.-]+(?:/[\w.-]+)?)["']""")
_DOWNLOADS = re.compile(r"""["'](https://[^"'\s]+\.(?:tar\.gz|tgz|zip|json|csv|parquet))["']""")
COLOUR = re.compile(r"\x1b\[\d*m")
_FAILED = re.compile(r"^ERROR .*Exit Code: [1-9]", re.MULTILINE)
_RANDOM = re.compile(r"np\.random\.rand|random\.random|torch\.rand")
_RECORD = re.compile(r"Aggregated MetricRecord: (\{.*\})")
# As they are, these need other things than their code names: no data (a demonstration), and a server beside each node.
_WITHOUT_DATA = {"flower-secure-aggregation"}
_SERVERS = {"federated-analytics": "a PostgreSQL server for each node"}
_SUPERNODES = {"flower-secure-aggregation": 5}
_FRAMEWORKS = {"torch": "pytorch", "tensorflow": "tensorflow", "jax": "jax", "xgboost": "xgboost"}
_REFUSED = "asks for other releases"


@dataclass(frozen=True)
class Example:
    """An example of Flower's, and the folder of its app; None if there is no app that `flwr run` takes."""

    name: str
    app: Path | None

    @property
    def project(self) -> dict[str, Any]:
        """Its pyproject.toml."""
        return tomllib.loads((self.app / "pyproject.toml").read_text(encoding="utf-8")) if self.app else {}

    @property
    def framework(self) -> str:
        """The framework that its machines need."""
        names = [re.split(r"[^\w-]", line)[0] for line in self.project["project"]["dependencies"]]
        return next((_FRAMEWORKS[name] for name in names if name in _FRAMEWORKS), "sklearn")

    @property
    def supernodes(self) -> int:
        """How many SuperNodes it asks for."""
        return _SUPERNODES.get(self.name, 2)

    def code(self) -> str:
        """Return all of its Python code."""
        files = sorted(self.app.rglob("*.py")) if self.app else []
        return "\n".join(path.read_text(encoding="utf-8") for path in files)

    def lacks(self) -> str:
        """Return why it cannot run on this machine, or an empty text."""
        if self.app is None:
            return "it has no app that `flwr run` takes"
        if server := _SERVERS.get(self.name):
            return f"it needs {server}"
        found = [f"`{name}`" for name in self._on_hub() if not _reachable(HUB)]
        found += [f"`{url}`" for url in sorted(set(_DOWNLOADS.findall(self.code()))) if not _reachable(url)]
        return f"it needs {', '.join(found)}, which this machine cannot fetch" if found else ""

    def _on_hub(self) -> list[str]:
        if self.name in _WITHOUT_DATA:
            return []
        config = json.dumps(self.project["tool"]["flwr"]["app"].get("config", {}))
        named = re.findall(r'(?:name|path)": "([\w.-]+/[\w.-]+)"', config)
        return sorted({*_NAMED_ON_HUB.findall(self.code()), *named})


_answers: dict[str, bool] = {}


def _reachable(url: str) -> bool:
    host = httpx.URL(url).host
    if host not in _answers:
        try:
            _answers[host] = httpx.head(f"https://{host}", timeout=10).status_code < httpx.codes.INTERNAL_SERVER_ERROR
        except httpx.HTTPError:
            _answers[host] = False
    return _answers[host]


def find_examples(checkout: Path) -> list[Example]:
    """Return all examples of a checkout."""
    found = []
    for folder in sorted(path for path in (checkout / "examples").iterdir() if path.is_dir() and path.name != "docs"):
        projects = sorted([*folder.glob("pyproject.toml"), *folder.glob("*/pyproject.toml")])
        apps = [path.parent for path in projects if "[tool.flwr.app.components]" in path.read_text(encoding="utf-8")]
        found.append(Example(folder.name, apps[0] if apps else None))
    return found


@dataclass
class Outcome:
    """What became of an example. `printed` are the lines of its ServerApp, `metrics` those of each phase in order."""

    lacks: str = ""
    ours: str = ""
    stock: str = ""
    rounds: int = 0
    messages: str = ""
    same: str = ""
    ignored_versions: bool = False


def try_example(example: Example) -> Outcome:
    """Run an example on a federation and with stock Flower, and compare."""
    why = example.lacks()
    if why or example.app is None:
        return Outcome(why)
    with tempfile.TemporaryDirectory(prefix="oneflower-example-") as place:
        ours, theirs = (Path(place) / kind / example.app.name for kind in ("ours", "stock"))
        for folder in (ours, theirs):
            shutil.copytree(example.app, folder)
        outcome, printed, metrics = run_here(example, ours)
        if outcome.ours:
            return outcome
        log, outcome.stock = run_stock(example, theirs)
        if not outcome.stock:
            outcome.same = compare(printed, metrics, log, draws=bool(_RANDOM.search(example.code())))
        return outcome


def run_here(example: Example, folder: Path) -> tuple[Outcome, list[str], list[dict[str, Any]]]:
    """Run on a federation; return the outcome, the printed lines, and the aggregated metrics of each phase."""
    output, lines = AppOutput(), list[str]()
    outcome = Outcome()
    settings = {"ML_FRAMEWORK": example.framework}
    with Federation.deploy(local_cloud(), example.supernodes, settings) as federation:

        def run() -> Any:
            lines.clear()
            return federation.run(
                str(folder), save=folder.parent / "results", install=True, ignore_versions=outcome.ignored_versions,
                on_log=lambda text: lines.extend(output.add(text)), notify=print,
            )  # fmt: skip

        try:
            try:
                result = run()
            except OneflowerError as error:
                if _REFUSED not in error.message:
                    raise
                outcome.ignored_versions, outcome.ours = True, error.message
                result = run()
                outcome.ours = ""
        except OneflowerError as error:
            outcome.ours = (outcome.ours or error.message).replace(f" of {federation.name}", "")
            return outcome, [], []
    lines += output.end()
    outcome.rounds = len(result.rows)
    outcome.messages = result.messages.sentence if result.messages else ""
    metrics = [row.metrics[phase] for row in result.rows for phase in ("train", "evaluate") if row.metrics.get(phase)]
    return outcome, [line.strip() for line in lines if line.strip()], metrics


def run_stock(example: Example, folder: Path) -> tuple[str, str]:
    """Run with stock Flower's simulation; return its log, and what went wrong."""
    home = folder.parent / "flwr"
    home.mkdir()
    with simulation(home, example.supernodes):
        return simulate([find_uv_bin(), "--directory", str(folder), "run", "flwr"], Path(), home, Path.cwd())


@contextmanager
def simulation(home: Path, supernodes: int, address: str = ":local:") -> Iterator[None]:
    """Make the folder `home` one from which stock Flower simulates, and end what it leaves running.

    `address` is that of a SuperLink, if `flwr run` is not to start one.
    """
    config = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
    (home / "config.toml").write_text(f"{config}options.num-supernodes = {supernodes}\n")
    try:
        yield
    finally:
        _end_processes(home)


def surroundings(home: Path, programs: Path) -> dict[str, str]:
    """Return the environment of Flower's commands, which are in the folder `programs`."""
    path = f"{programs}:{os.environ['PATH']}"
    return {**QUIET_FLOWER, "FLWR_HOME": str(home), "PATH": path, "UV_COMPILE_BYTECODE": "1"}


def simulate(flwr: Sequence[str], app: Path, home: Path, place: Path) -> tuple[str, str]:
    """Run an app with stock Flower's simulation, in the folder `place`; return its log, and what went wrong.

    `flwr` is Flower's command.
    """
    own = surroundings(home, Path(flwr[0]).parent)
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | own
    for _ in range(3):  # Flower gives its SuperLink 15 seconds to start, which a busy machine may not keep
        done = subprocess.run(
            [*flwr, "run", str(app), "--stream"],
            capture_output=True, text=True, check=False, env=environment, cwd=place,
        )  # fmt: skip
        log = COLOUR.sub("", done.stdout + done.stderr)
        if "Failed to start local SuperLink" not in log:
            break
    print(log)
    failed = done.returncode or "finished:failed" in log or _FAILED.search(log)
    return log, log.strip().splitlines()[-1] if failed else ""


def _end_processes(home: Path) -> None:
    """End the SuperLink that stock Flower leaves running, and what it has started."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(home) in " ".join(process.cmdline()) or process.environ().get("FLWR_HOME") == str(home):
                process.kill()


def compare(printed: list[str], metrics: list[dict[str, Any]], log: str, *, draws: bool) -> str:
    """Return whether stock Flower printed the same lines and aggregated the same metrics."""
    records = [ast.literal_eval(text) for text in _RECORD.findall(log)]
    lines = {line.strip() for line in log.splitlines()}
    if not (printed or metrics):
        return "nothing that could be compared"
    if all(line in lines for line in printed) and len(records) == len(metrics):
        if all(map(_alike, records, metrics)):
            parts = {"printed lines": len(printed), "aggregated metrics": sum(map(len, metrics))}
            return "the same " + " and ".join(f"{what} ({count})" for what, count in parts.items() if count)
        if draws and all(record.keys() == found.keys() for record, found in zip(records, metrics, strict=True)):
            return "metrics of the same names; their values are random numbers that the app draws"
    return "DIFFERENT"


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    flat = [
        {name: value if isinstance(value, list) else [value] for name, value in each.items()} for each in (one, other)
    ]
    return flat[0].keys() == flat[1].keys() and all(
        math.isclose(left, right, rel_tol=1e-9)
        for name in flat[0]
        for left, right in zip(flat[0][name], flat[1][name], strict=True)
    )


def table(outcomes: dict[str, Outcome], checkout: Path) -> str:
    """Return the part of the page."""
    git = ["git", "-C", str(checkout), "log", "-1", "--format=%h of %as"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    ran = {name: outcome for name, outcome in outcomes.items() if not outcome.lacks}
    lines = [
        f"{len(ran)} of the {len(outcomes)} examples of Flower (commit {commit}) could get what they need where this",
        "table was written:",
        "",
        "| example | `oneflower run` | stock `flwr run` gives |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {_told(outcome)} | {outcome.same or outcome.stock or 'not run'} |"
            for name, outcome in ran.items()
        ),
        "",
        "The others were not run:",
        "",
        "| example | why |",
        "| --- | --- |",
        *(f"| {name} | {outcome.lacks} |" for name, outcome in outcomes.items() if outcome.lacks),
    ]
    return "\n".join(lines) + "\n"


def put_into_page(begin: str, text: str) -> None:
    """Replace the part of the page that begins with the line `begin`."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def _told(outcome: Outcome) -> str:
    if outcome.ours:
        return " ".join(outcome.ours.split())
    how = "; with `--ignore-versions`" if outcome.ignored_versions else ""
    return (f"{outcome.rounds} rounds" if outcome.rounds else outcome.messages) + how


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    examples = find_examples(options.checkout)
    known = json.loads(options.results.read_text()) if options.results.exists() else {}
    if options.write:
        outcomes = {example.name: Outcome(**known[example.name]) for example in examples}
        put_into_page(BEGIN, table(outcomes, options.checkout))
        return
    for example in examples:
        if options.only and example.name not in options.only:
            continue
        known[example.name] = asdict(try_example(example))
        sys.stderr.write(f"{example.name}: {known[example.name]}\n")
        options.results.write_text(json.dumps(known, indent=1))


if __name__ == "__main__":
    main()
