"""How the local cloud's control plane scales: one service with 10, 100 and 1,000 machines that run no guest.

This process acts as the guests over HTTP. Each does what the agent does at boot: read its own VM, read the SuperLink's,
report ready. usage: python scripts/bench_cloud.py [--sizes 10,100,1000] [--repeats N] [-o FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from oneflower.local.oned.tokens import make_token

from oneflower.cloud import Cloud, Endpoints
from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.opennebula import (
    COORDINATOR,
    NODES,
    ServiceOptions,
    merge_template,
    render,
    service_template,
    vm_template,
)
from oneflower_appliance.settings import Bounds, resolve


class Bench:
    """A fresh local cloud, and the guests of its machines."""

    def __init__(self, folder: Path) -> None:
        self.home = LocalHome(folder / "home", folder / "cache")
        self.found = daemon.connect(self.home)
        self.cloud = Cloud(Endpoints(self.found.oneflow, self.found.xmlrpc, self.found.auth, direct=True), None)  # type: ignore[arg-type]
        self.process = psutil.Process(self.found.pid)
        self.gate = httpx.Client(base_url=self.found.onegate, trust_env=False)
        self.password = self.cloud.core.own_settings()["TOKEN_PASSWORD"]

    def close(self) -> None:
        """End the daemon."""
        self.cloud.close()
        self.gate.close()
        daemon.stop(self.home)

    def deploy(self, number: int) -> dict[str, float]:
        """Deploy `number` SuperNodes; return seconds, CPU seconds and requests."""
        ids = {role: self._template(role, number) for role in (COORDINATOR, NODES)}
        bounds = Bounds(2, number, number)
        body = service_template(ServiceOptions(name=f"bench-{number}", bounds=bounds, template_ids=ids))
        for role in body["roles"]:
            role["template_contents"]["CONTEXT"].pop("ONEFLOWER_ROLE")
        template = self.cloud.oneflow.create_service_template(body)
        started, cpu = time.monotonic(), self._cpu()
        merge = merge_template(body, "bench", resolve({}, bounds=bounds), bounds)
        service = self.cloud.oneflow.instantiate(template, merge)
        [link] = self._nodes(service, COORDINATOR, 1)
        self._boot(link, link)
        nodes = self._nodes(service, NODES, number)
        created, booting = time.monotonic(), self._cpu()
        for vm in nodes:
            self._boot(vm, link)
        played = time.monotonic()
        while self._body(service)["state"] != 2:
            time.sleep(0.01)
        result = {
            "seconds": time.monotonic() - started,
            "create_cpu": (booting - cpu) / number,
            "boot_cpu": (self._cpu() - booting) / number,
            "requests_per_second": 3 * number / (played - created),
            "memory": self.process.memory_info().rss / 1e6,
        }
        self.cloud.oneflow.delete_service(service)
        while self.cloud.oneflow.service(service) is not None:
            time.sleep(0.05)
        return result

    def _template(self, role: str, number: int) -> int:
        template = vm_template(role)
        del template["CONTEXT"]["ONEFLOWER_ROLE"]
        return self.cloud.core.create_vm_template(
            render({"NAME": f"{role}-{number}-{time.monotonic_ns()}", **template})
        )

    def _body(self, service: int) -> dict[str, object]:
        document = self.cloud.oneflow.service(service)
        assert document is not None  # noqa: S101 - no other process is there
        body: dict[str, object] = document["TEMPLATE"]["BODY"]
        return body

    def _nodes(self, service: int, role: str, number: int) -> list[int]:
        while True:
            roles: list[dict[str, object]] = self._body(service)["roles"]  # type: ignore[assignment]
            nodes: list[dict[str, int]] = next(r for r in roles if r["name"] == role).get("nodes") or []  # type: ignore[assignment]
            if len(nodes) == number:
                return [node["deploy_id"] for node in nodes]
            time.sleep(0.02)

    def _boot(self, vm: int, link: int) -> None:
        """Do what an agent asks of OneGate at boot: three requests."""
        headers = {"X-ONEGATE-TOKEN": self._token(vm), "X-ONEGATE-VMID": str(vm)}
        for path in ("/vm", f"/vms/{link}"):
            self.gate.get(path, headers=headers).raise_for_status()
        self.gate.put("/vm", headers=headers, content="FL_ROLE=x\nREADY=YES").raise_for_status()

    def _token(self, vm: int) -> str:
        token = self.home.machine(vm) / "context" / "token.txt"
        if token.exists():
            return token.read_text()
        found = self.cloud.core.vm(vm)
        return make_token(self.password, vm, found.started if found else 0)

    def _cpu(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--sizes", default="10,100,1000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    figures: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for number in range(options.repeats):
        for size in sizes:
            # Small services several times, so that the time measured is longer than the clock's resolution.
            times = max(1, 200 // size)
            print(f"  round {number + 1} of {options.repeats}: {times} x {size} machines ...", file=sys.stderr)
            with tempfile.TemporaryDirectory() as name:
                bench = Bench(Path(name))
                try:
                    runs = [bench.deploy(size) for _ in range(times)]
                finally:
                    bench.close()
            figures[size].append({key: statistics.mean(run[key] for run in runs) for key in runs[0]})
    print(
        "| machines | deploy to RUNNING | daemon CPU per machine: created + booted | OneGate requests | daemon memory |"
    )
    print("| --- | --- | --- | --- | --- |")
    for size, runs in figures.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        cpu = f"{middle['create_cpu'] * 1000:.2f} + {middle['boot_cpu'] * 1000:.2f} ms"
        rate, memory = f"{middle['requests_per_second']:.0f} /s", f"{middle['memory']:.0f} MB"
        print(f"| {size} | {middle['seconds']:.2f} s | {cpu} | {rate} | {memory} |")
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
