"""What passes through the server: counted for Prometheus, and on request one line each.

The outermost layer, so that it sees what clients see, ordered faults included. The metrics
live in a registry of their own: two servers in one process must not share their numbers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from aiinfra_lab.serving.bodies import App, Message, Receive, Scope, Send
    from aiinfra_lab.serving.engine import Engine

PATHS = frozenset({"/predict", "/healthz", "/readyz", "/metrics", "/model", "/faults"})
# Seconds: a prediction takes about 1 ms, and a caller rarely waits longer than 10 s.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST
access = logging.getLogger("aiinfra_lab.serving.access")


class Traffic:
    """The server's metrics.

    Attributes
    ----------
    cut : int
        Requests that were ended by the server's own end.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.cut = 0
        self._requests = Counter(
            "model_server_requests",
            "Requests by path and status; none: the connection ended without an answer",
            ["path", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "model_server_request_seconds",
            "Seconds from a request's head to the end of its answer",
            ["path"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        for name, words, read in (
            ("queue_depth", "Predictions that wait for a thread", lambda: engine.waiting),
            ("in_flight", "Predictions at work", lambda: engine.in_flight),
        ):
            gauge = Gauge(f"model_server_{name}", words, registry=self.registry)
            gauge.set_function(read)
        self.registry.register(_ModelInfo(engine))

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def around(self, app: App) -> App:
        """``app``, watched."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            began, status = time.perf_counter(), "none"

            async def noted(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = str(message["status"])
                await send(message)

            try:
                await app(scope, receive, noted)
            except BaseException as error:
                self.cut += not isinstance(error, Exception)
                raise
            finally:
                self._note(scope, status, time.perf_counter() - began)

        return watched

    def _note(self, scope: Scope, status: str, seconds: float) -> None:
        # A label for each path that somebody tries would fill the memory of the scraper.
        path = scope["path"] if scope["path"] in PATHS else "other"
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)
        if access.isEnabledFor(logging.INFO):
            fields = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(1000 * seconds, 3),
                "client": (scope.get("client") or [""])[0],
            }
            access.info("request", extra=fields)


class _ModelInfo(Collector):
    """Which model serves, read at each scrape: a change leaves no stale series."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        manifest = self._engine.session.manifest
        labels = {"name": manifest.name, "version": manifest.version}
        yield InfoMetricFamily("model_server_model", "The model that serves", value=labels)
