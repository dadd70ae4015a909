"""The figures that the server reports to Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from charrnn_runtime import Engine
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one server, in a registry of its own, since a process may run several servers."""

    def __init__(self, engines: dict[str, Engine]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("charrnn_requests", "Requests answered.", ["path", "status"], registry=self._registry)
        self.first = Histogram(
            "charrnn_time_to_first_character_seconds",
            "From a request's arrival to its first character.",
            ["model"],
            buckets=_FIRST,
            registry=self._registry,
        )
        self.left = Counter(
            "charrnn_clients_left", "Clients that left or stalled before the end.", registry=self._registry
        )
        self._registry.register(_Engines(engines))

    def text(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self._registry)


class _Engines(Collector):
    """Reads the engines' own counters at the moment of the request."""

    def __init__(self, engines: dict[str, Engine]) -> None:
        self._engines = engines

    def collect(self) -> Iterable[Metric]:
        gauges: list[tuple[str, str, Callable[[Engine], int]]] = [
            ("charrnn_active_streams", "Texts that are being generated.", lambda e: e.active),
            ("charrnn_queue_length", "Texts that wait for a place or for their client.", lambda e: e.waiting),
        ]
        counters: list[tuple[str, str, Callable[[Engine], int]]] = [
            ("charrnn_characters_drawn", "Tokens drawn.", lambda e: e.tokens_generated),
            ("charrnn_characters_read", "Prompt tokens read.", lambda e: e.tokens_prefilled),
        ]
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(name, text, labels=["model"])
            for model, engine in self._engines.items():
                gauge.add_metric([model], value(engine))
            yield gauge
        for name, text, value in counters:
            counter = CounterMetricFamily(name, text, labels=["model"])
            for model, engine in self._engines.items():
                counter.add_metric([model], value(engine))
            yield counter
