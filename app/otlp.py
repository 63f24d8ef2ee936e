"""What is sent to a collector by OTLP over HTTP, and when: in batches or, where the process is frozen, before that.

Where to, with which headers, how often and how many of the traces is for the standard OTEL_ variables to say, which
the SDK reads itself. https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TracerProvider, TraceState
from opentelemetry.util.types import AttributeValue

# Of what FastAPI tells of a request. Paths hold session ids, queries and the host anything that a caller likes.
OF_A_REQUEST = frozenset({"http.request.method", "http.route", "network.protocol.version"})
OF_REQUESTS = {"http.request.method", "http.route", "http.response.status_code", "error.type"}


class Discreet(Sampler):
    """Samples as another one does, and lets a request's span begin with nothing that its caller wrote."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(  # noqa: D102, PLR0913, PLR0917 as the SDK has it
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        found = self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if kind is not SpanKind.SERVER:
            return found
        kept = {name: value for name, value in found.attributes.items() if name in OF_A_REQUEST}
        return SamplingResult(found.decision, kept)  # without the caller's `tracestate`, which is any text

    def get_description(self) -> str:  # noqa: D102 as the SDK has it
        return self._sampler.get_description()


class OTLP:
    """The providers of what is asked for, and the way out of the process. None of them is anybody else's.

    service: the name, where no variable gives one
    """

    def __init__(self, service: str, *, traces: bool, metrics: bool) -> None:
        named = Resource({"service.name": service})
        resource = Resource.create()
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(named)
        self._traces = _tracer_provider(resource) if traces else None
        self._metrics = _meter_provider(resource) if metrics else None
        self._late: threading.Event | None = None

    @property
    def tracer_provider(self) -> TracerProvider | None:
        """Who makes spans that are sent; None where none are."""
        return self._traces

    @property
    def meter_provider(self) -> MeterProvider | None:
        """Who counts what is sent; None where nothing is."""
        return self._metrics

    async def flush(self, limit_s: float) -> None:
        """Send what there is, and wait for that up to `limit_s` seconds; not at all while an earlier one still tries.

        So a collector that does not answer costs one request this time, and not every one.
        """
        if self._late is None or self._late.is_set():
            await self._in_thread([each.force_flush for each in self._providers], limit_s)

    async def close(self, limit_s: float) -> None:
        """Send what there is, up to `limit_s` seconds, and stop."""
        await self._in_thread([each.shutdown for each in self._providers], limit_s)

    @property
    def _providers(self) -> list[sdk_trace.TracerProvider | sdk_metrics.MeterProvider]:
        return [each for each in (self._traces, self._metrics) if each]

    async def _in_thread(self, calls: Sequence[Callable[[], object]], limit_s: float) -> None:
        """Make the calls in a thread for which nobody waits longer, not even the end of the process."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        late = self._late = threading.Event()

        def run() -> None:
            try:
                for call in calls:
                    call()
            finally:
                late.set()
                with suppress(RuntimeError):  # the loop may be closed by then
                    loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=run, daemon=True, name="otlp").start()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(limit_s, 0)):
                await ended.wait()


def _tracer_provider(resource: Resource) -> sdk_trace.TracerProvider:
    provider = sdk_trace.TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.sampler = Discreet(provider.sampler)  # around the one that the environment names
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _meter_provider(resource: Resource) -> sdk_metrics.MeterProvider:
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    requests = View(instrument_name="http.server.*", attribute_keys=OF_REQUESTS)
    return sdk_metrics.MeterProvider([reader], resource, shutdown_on_exit=False, views=[requests])
