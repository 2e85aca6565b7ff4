"""The exporter: a small web server in the agent's process that gives the metrics to Prometheus, and nothing else.

It listens on the machine's loopback. If FL_METRICS_ALLOWED names networks, it listens on the machine's own address
instead, for these and the machine itself, and closes every other connection before it reads a byte. Requests are
bounded in number and time. All that come within a second get the same values, so that nobody can slow training down by
asking.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import CollectorRegistry

from oneflower_appliance.agent.metrics.dcgm import Dcgm
from oneflower_appliance.agent.metrics.machine import MachineMetrics
from oneflower_appliance.formats import join_address, split_networks
from oneflower_appliance.metrics import DCGM_PATH, PATH, Kind
from oneflower_appliance.peers import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.metrics import Measure, Metric
    from oneflower_appliance.process import Child

    class Role(Protocol):
        """What a role is to the exporter."""

        name: str
        child: Child | None

        def measures(self) -> tuple[Measure, ...]:
            """Return what measures it."""


log = logging.getLogger(__name__)

_AT_A_TIME = 4  # requests
_PATIENCE = 5.0  # seconds for a whole request
_LOOPBACK = split_networks("127.0.0.0/8,::1")
_FRESH = 1.0  # seconds for which values are given again


class Exporter:
    """Serves what `role` measures, and `machine`, on which it runs. It is not running before `look`."""

    def __init__(self, machine: Machine, role: Role) -> None:
        self._machine = machine
        own = MachineMetrics(machine, role.name, lambda: role.child)
        self._page = Page([own.measure, *role.measures()])
        self._dcgm = Dcgm(machine) if _wants_dcgm(machine) else None
        self._server: _Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        settings = self._machine.settings
        host = self._machine.address if settings.text("FL_METRICS_ALLOWED") else self._machine.loopback
        return host, settings.integer("FL_METRICS_PORT")

    def look(self) -> None:
        """Start it, if it is not running. If that fails, the machine counts as degraded, and the next call retries."""
        if self._dcgm:
            self._dcgm.look()
        if self._server is not None:
            return
        settings, address = self._machine.settings, self.address
        allowed = split_networks(settings.text("FL_METRICS_ALLOWED"))
        allowed = [*allowed, ipaddress.ip_network(address[0])] if allowed else _LOOPBACK
        try:
            self._server = _Server(address, allowed)
        except OSError as error:
            line = (
                f"The metrics cannot be read: nothing can listen on {join_address(address)} "
                f"({error.strerror or error}). Set FL_METRICS_PORT to another port, or end the program that has it."
            )
            self._machine.journal.remark([line], "metrics")
            return
        self._server.pages[PATH] = self._page.render
        if dcgm := self._dcgm:
            self._server.pages[DCGM_PATH] = lambda _: (dcgm.page(), CONTENT_TYPE_PLAIN_0_0_4)
        self._server.start()
        self._machine.journal.remark([], "metrics")
        log.info("Metrics for Prometheus: http://%s%s", join_address(address), PATH)

    def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.close()
        if self._dcgm:
            self._dcgm.close()


def _wants_dcgm(machine: Machine) -> bool:
    settings = machine.settings
    return all(name in settings and settings.flag(name) for name in ("FL_GPU_ENABLED", "FL_DCGM_ENABLED"))


class Page:
    """What a request gets: the values of all metrics, as they were within the last second."""

    def __init__(self, measures: Iterable[Measure]) -> None:
        self._measures = tuple(measures)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, bytes, str]] = {}

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page, and its content type, in the newest format that `accept` (a header) allows."""
        encode, kind = choose_encoder(accept)
        with self._lock:
            made, content, _ = self._kept.get(kind, (-_FRESH, b"", kind))
            if time.monotonic() - made >= _FRESH or not content:
                content = encode(self._registry)
                self._kept = {kind: (time.monotonic(), content, kind)}
            return content, kind

    def collect(self) -> Iterator[Family]:
        """Return the values, for prometheus_client. What cannot be measured is left out."""
        families: dict[str, Any] = {}
        for measure in self._measures:
            try:
                for reading in measure():
                    family = families.get(reading.metric.name) or families.setdefault(
                        reading.metric.name, _family(reading.metric)
                    )
                    family.add_metric(reading.labels, reading.value)
            except Exception as error:  # noqa: BLE001 - any error: Prometheus sees that these values are missing
                log.debug("Some metrics are missing: %r", error)
        yield from families.values()


def _family(metric: Metric) -> Any:
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], allowed: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.pages: dict[str, Callable[[str], tuple[bytes, str]]] = {}
        self._allowed = allowed
        self._places = threading.BoundedSemaphore(_AT_A_TIME)
        self.is_own = allowed is _LOOPBACK
        self._open = True
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        super().__init__(address, _Request)

    def start(self) -> None:
        """Answer from now on, in a thread that waits without looking around, unlike `serve_forever`."""
        self._thread.start()

    def _serve(self) -> None:
        while self._open:
            self.handle_request()

    def close(self) -> None:
        """Stop listening."""
        self._open = False
        _hang_up(self.socket)
        self._thread.join(_PATIENCE)
        self.server_close()

    def server_bind(self) -> None:
        """Bind the socket, without asking a name server for a name as the standard library does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def verify_request(self, _request: Any, client_address: Any) -> bool:
        """Whether somebody who may ask has connected, and there is a place."""
        peer = ipaddress.ip_address(client_address[0])
        return any(peer in network for network in self._allowed) and self._places.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and hang up on those who take too long: one who sends a byte from time to time, too."""
        limit = threading.Timer(_PATIENCE, _hang_up, [request])
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the other end is gone, or never wanted an answer."""


def _hang_up(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _host(header: str) -> str:
    name, _, port = header.rpartition(":")
    return (name if port.isdigit() else header).strip("[]")


class _Request(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "oneflower", ""

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if self.server.is_own and not is_loopback(_host(self.headers.get("Host", ""))):
            self.send_error(403, "Call this by a loopback address")  # a web page, by a name that resolves to this one
            return
        if page is None:
            self.send_error(404, f"The metrics are at {PATH}")
            return
        try:
            content, kind = page(self.headers.get("Accept", ""))
        except OSError:
            self.send_error(503, "The exporter of DCGM does not answer")
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Log nothing: anybody who may ask does so every few seconds."""
