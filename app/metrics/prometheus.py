"""Metrics for Prometheus, at `/metrics`: what this process has counted since it began."""

from functools import partial

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import exposition as text
from prometheus_client.openmetrics import exposition as openmetrics

from app.lifecycle import Lifecycle, Phase
from app.metrics import BUCKETS_S, GAUGES, METRICS, PREFIX, Metric, outcome
from app.report import Report

PATH = "/metrics"
PARTS = {False: ("",), True: ("_bucket", "_sum", "_count")}
OPENMETRICS = "application/openmetrics-text"


class Prometheus:
    """Counts turns, and answers who scrapes. Each has a registry of its own."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._registry = CollectorRegistry()
        self._counters = [(each, self._counter(each)) for each in METRICS if not each.timed]
        self._histograms = [(each, self._histogram(each)) for each in METRICS if each.timed]
        self._gauge("running_turns").set_function(lambda: lifecycle.running_turns)
        phase = self._gauge("phase", "phase")
        # Not when each counter began, which the library would make as many series of again.
        told = [f"{each.prometheus}{part}" for each in METRICS for part in PARTS[each.timed]]
        self._told = self._registry.restricted_registry([*told, *(f"{PREFIX}_{name}" for name in GAUGES)])
        for each in Phase:
            phase.labels(each.value).set_function(partial(_is_in, lifecycle, each))

    def _counter(self, metric: Metric) -> Counter:
        name = metric.prometheus.removesuffix("_total")  # which the library adds
        return Counter(name, metric.purpose, ["outcome"] if metric.by_outcome else [], registry=self._registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.prometheus, metric.purpose, registry=self._registry, buckets=BUCKETS_S)

    def _gauge(self, name: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", GAUGES[name], labels, registry=self._registry)

    def __call__(self, report: Report) -> None:
        """Count a turn that has ended."""
        for metric, counter in self._counters:
            counted = counter.labels(outcome(report)) if metric.by_outcome else counter
            counted.inc(metric.of(report) or 0)
        for metric, histogram in self._histograms:
            if (value := metric.of(report)) is not None:
                histogram.observe(value)

    def add_to(self, router: APIRouter) -> None:
        """Add the path. It is no part of the API, so the API's description does not tell of it."""
        router.add_api_route(PATH, self.scrape, methods=["GET"], include_in_schema=False)

    async def scrape(self, request: Request) -> Response:
        """Answer as OpenMetrics where that is accepted, else in the text format that everybody reads."""
        if OPENMETRICS in request.headers.get("accept", ""):
            body = openmetrics.generate_latest(self._told)  # type: ignore[no-untyped-call]  # the library's
            return _answer(body, openmetrics.CONTENT_TYPE_LATEST)
        return _answer(text.generate_latest(self._told), text.CONTENT_TYPE_PLAIN_0_0_4)


def _is_in(lifecycle: Lifecycle, phase: Phase) -> float:
    return float(lifecycle.phase is phase)


def _answer(body: bytes, media_type: str) -> Response:
    return Response(body, headers={"Content-Type": media_type})
