"""Who is told of what happens: the log always, and what METRICS asks for. Each is imported only where it is used."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter

from app import turn_log
from app.lifecycle import Lifecycle
from app.report import Report, Reporter
from app.telemetry_settings import TelemetrySettings


def _nothing(_: APIRouter) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Observability:
    """What observes the service.

    report: is told of every turn
    add_to: adds the paths at which it is asked
    """

    report: Reporter = turn_log.write
    add_to: Callable[[APIRouter], None] = _nothing


def load(settings: TelemetrySettings, lifecycle: Lifecycle, service: str) -> Observability:
    """Return what the settings ask for."""
    if settings.metrics == "emf":
        from app.metrics.emf import EMF  # noqa: PLC0415

        return Observability(EMF(service))
    if settings.metrics == "prometheus":
        from app.metrics.prometheus import Prometheus  # noqa: PLC0415 an extra

        scraped = Prometheus(lifecycle)
        return Observability(_both(turn_log.write, scraped), scraped.add_to)
    return Observability()


def _both(first: Reporter, then: Reporter) -> Reporter:
    def report(ended: Report) -> None:
        first(ended)
        then(ended)

    return report
