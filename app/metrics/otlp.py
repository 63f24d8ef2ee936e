"""Metrics for OpenTelemetry: the same numbers, of one meter."""

from collections.abc import Iterator

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from app.lifecycle import Lifecycle, Phase
from app.metrics import BUCKETS_S, GAUGES, METRICS, PREFIX, outcome
from app.report import Report


class OTLPMetrics:
    """Counts turns with the meter of a provider, which sends them."""

    def __init__(self, provider: MeterProvider, lifecycle: Lifecycle) -> None:
        meter = provider.get_meter(PREFIX)
        self._counters = [
            (each, meter.create_counter(each.otlp, description=each.purpose)) for each in METRICS if not each.timed
        ]
        self._histograms = [
            (
                each,
                meter.create_histogram(each.otlp, "s", each.purpose, explicit_bucket_boundaries_advisory=BUCKETS_S),
            )
            for each in METRICS
            if each.timed
        ]

        def running(_: CallbackOptions) -> Iterator[Observation]:
            yield Observation(lifecycle.running_turns)

        def phase(_: CallbackOptions) -> Iterator[Observation]:
            for each in Phase:
                yield Observation(int(lifecycle.phase is each), {"phase": each.value})

        for name, callback in (("running_turns", running), ("phase", phase)):
            meter.create_observable_gauge(f"{PREFIX}.{name}", [callback], description=GAUGES[name])

    def __call__(self, report: Report) -> None:
        """Count a turn that has ended."""
        for metric, counter in self._counters:
            counter.add(metric.of(report) or 0, {"outcome": outcome(report)} if metric.by_outcome else None)
        for metric, histogram in self._histograms:
            if (value := metric.of(report)) is not None:
                histogram.record(value)
