"""Writes the files into a folder. What is about one federation is in files of its own, so several may share a folder.

Prometheus reads the files of targets again when they change: after a federation was scaled, its file is written again,
and Prometheus needs nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.monitoring.dashboards import federation_dashboard, node_dashboard
from oneflower.monitoring.rules import JOB, Limits, alert_rules
from oneflower.yaml_text import to_yaml
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.metrics import DCGM_PATH, PATH

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Limits", "Target", "Written", "write_files"]

_TARGETS, _DCGM = "targets", "dcgm"
_RULES = "oneflower.rules.yml"


@dataclass(frozen=True)
class Target:
    """A machine: its name, its role, and where its exporter is, as host:port. `dcgm` if it has that exporter, too."""

    name: str
    role: str
    address: str
    dcgm: bool = False


@dataclass(frozen=True)
class Written:
    """The folder, and the files that were written into it: paths relative to the folder."""

    folder: Path
    files: tuple[str, ...]


def write_files(
    folder: Path, federation: str, targets: Sequence[Target], limits: Limits, interval: str = "15s"
) -> Written:
    """Write the files for a federation. Prometheus scrapes every `interval`. Raises `OneflowerError`."""
    content = {
        "prometheus.yml": to_yaml(_configuration(interval)),
        _RULES: to_yaml(alert_rules(limits)),
        f"{_TARGETS}/{federation}.json": _json(_groups(federation, targets)),
        f"{_DCGM}/{federation}.json": _json(_groups(federation, [target for target in targets if target.dcgm])),
        "grafana/federation.json": _json(federation_dashboard()),
        "grafana/node.json": _json(node_dashboard()),
    }
    for name, text in content.items():
        write_atomic(folder / name, text, SHARED)
    return Written(folder, tuple(content))


def _configuration(interval: str) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [_RULES],
        "scrape_configs": [_job(JOB, PATH, _TARGETS), _job(f"{JOB}-dcgm", DCGM_PATH, _DCGM)],
    }


def _job(name: str, path: str, folder: str) -> dict[str, Any]:
    # Labels of a machine are those of its target: it cannot pass itself off as another.
    return {
        "job_name": name,
        "metrics_path": path,
        "honor_labels": False,
        "honor_timestamps": False,
        "sample_limit": 10_000 if folder == _DCGM else 500,
        "file_sd_configs": [{"files": [f"{folder}/*.json"]}],
    }


def _groups(federation: str, targets: Sequence[Target]) -> list[dict[str, Any]]:
    return [
        {
            "targets": [target.address],
            "labels": {"federation": federation, "role": target.role, "node": target.name},
        }
        for target in targets
    ]


def _json(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"
