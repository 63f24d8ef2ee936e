"""Who is told of what happens: the log always, and what METRICS and TRACES ask for, imported only where it is used."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from fastapi import APIRouter
from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import TracerProvider

from app import turn_log
from app.agents import Agent
from app.deadline import lambda_remaining_s
from app.hosts import PROBES
from app.lifecycle import Lifecycle
from app.report import Report, Reporter
from app.telemetry_settings import TelemetrySettings

Send: TypeAlias = Callable[[float], Awaitable[None]]

SEND_S = 1.0  # what a collector gets that does not answer, of one request or of the end of the process
ANSWER_S = 0.3  # of an invocation, for its answer to get out
# FastAPI's own telemetry where none is asked for. By default it would use providers that others have set for the whole
# process, and tell them paths, which hold session ids, and what validation found.
OFF: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
SCRAPED = "/metrics"


def _nothing(_: APIRouter) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Observability:
    """What observes the service.

    report:    is told of every turn
    add_to:    adds the paths at which it is asked
    http:      what FastAPI itself tells of requests
    tracer:    who makes the spans of agents; None for nobody
    flush:     sends what there is, within so many seconds; None where nothing is sent
    close:     does so for the last time
    """

    report: Reporter = turn_log.write
    add_to: Callable[[APIRouter], None] = _nothing
    http: TelemetryConfig = field(default_factory=OFF.copy)
    tracer: TracerProvider | None = None
    flush: Send | None = None
    close: Send | None = None

    def traced(self, agent: Agent, name: str, model: str | None) -> Agent:
        """Return the agent, its turns traced where that is asked for."""
        if self.tracer is None:
            return agent
        from app.tracing import Traced  # noqa: PLC0415

        return Traced(agent, self.tracer, name, model)

    async def end_invocation(self, context: object) -> None:
        """Send what there is before Lambda freezes the process, however little time it leaves."""
        remaining_s = lambda_remaining_s(context)
        if self.flush:
            await self.flush(SEND_S if remaining_s is None else min(SEND_S, remaining_s - ANSWER_S))

    async def end(self, left_s: float) -> None:
        """Send what there is before the process ends, which it does in so many seconds."""
        if self.close:
            await self.close(min(SEND_S, left_s))


def load(settings: TelemetrySettings, lifecycle: Lifecycle, service: str, *, frozen: bool) -> Observability:
    """Return what the settings ask for.

    frozen: whether the process stands still between two requests
    """
    if settings.metrics == "emf":
        from app.metrics.emf import EMF  # noqa: PLC0415

        observed = Observability(EMF(service))
    elif settings.metrics == "prometheus":
        from app.metrics.prometheus import Prometheus  # noqa: PLC0415 an extra

        scraped = Prometheus(lifecycle)
        observed = Observability(_both(turn_log.write, scraped), scraped.add_to)
    else:
        observed = Observability()
    if settings.traces == "otlp" or settings.metrics == "otlp":
        return _sending(observed, settings, lifecycle, service, frozen=frozen)
    return observed


def _sending(
    observed: Observability, settings: TelemetrySettings, lifecycle: Lifecycle, service: str, *, frozen: bool
) -> Observability:
    from app.metrics.otlp import OTLPMetrics  # noqa: PLC0415
    from app.otlp import OTLP  # noqa: PLC0415 an extra

    traces, metrics = settings.traces == "otlp", settings.metrics == "otlp"
    otlp = OTLP(service, traces=traces, metrics=metrics)
    http: TelemetryConfig = {
        **OFF,
        "tracing": traces,
        "metrics": metrics,
        "operation_spans": False,
        "exclude": lambda scope: scope["path"] in (*PROBES, SCRAPED),
        "tracer_provider": otlp.tracer_provider,
        "meter_provider": otlp.meter_provider,
    }
    counted = _both(observed.report, OTLPMetrics(otlp.meter_provider, lifecycle)) if otlp.meter_provider else None
    return replace(
        observed,
        report=counted or observed.report,
        http=http,
        tracer=otlp.tracer_provider,
        flush=otlp.flush if frozen else None,
        close=otlp.close,
    )


def _both(first: Reporter, then: Reporter) -> Reporter:
    def report(ended: Report) -> None:
        first(ended)
        then(ended)

    return report
