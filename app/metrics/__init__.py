"""What is measured of turns: one table, of which CloudWatch, Prometheus and OTLP each make their own names.

Nothing in it tells sessions or principals apart: a series costs money and memory for as long as it is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

from app import telemetry
from app.problems import kind_of
from app.report import Report

PREFIX = "agent_service"  # of names in Prometheus and OTLP
SERVER_ERROR = 500
# Those that OpenTelemetry advises for calls of models (gen_ai.client.operation.duration, semantic conventions 1.44.0).
BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)


@dataclass(frozen=True, slots=True)
class Metric:
    """What a turn adds to one number.

    of: its share of a turn; None where there is nothing to observe. Seconds where `timed`
    timed: whether the spread counts, not the sum
    """

    name: str
    purpose: str
    of: Callable[[Report], float | None]
    timed: bool = False
    by_outcome: bool = False

    @property
    def emf(self) -> str:
        """Its name in CloudWatch, which is the field of the log line."""
        return f"{self.name}_ms" if self.timed else self.name

    @property
    def prometheus(self) -> str:
        """Its name at `/metrics`."""
        return f"{PREFIX}_{self.name}_{'seconds' if self.timed else 'total'}"

    @property
    def otlp(self) -> str:
        """Its name in OpenTelemetry."""
        return f"{PREFIX}.{self.name}"


def outcome(report: Report) -> str:
    """Return what a turn came to: why its agent stopped or, where nothing was stored, the slug of the problem."""
    return kind_of(report.failure).slug if report.failure else str(report.stop_reason)


def _failed(report: Report) -> int:
    return int(report.failure is not None and kind_of(report.failure).status >= SERVER_ERROR)


def _was_cold(_: Report) -> int:
    return int(telemetry.request_facts.get().get("cold_start") is True)


METRICS = (
    Metric("turns", "turns that have ended, by outcome", lambda _: 1, by_outcome=True),
    Metric("failures", "turns that ended in a problem of status 500 or above", _failed),
    Metric(
        "replays", "turns that an earlier request with the same idempotency key had made", lambda it: int(it.replayed)
    ),
    Metric("streams", "turns whose caller asked for events", lambda it: int(it.streamed)),
    Metric("cold_starts", "turns whose request was the first of its process", _was_cold),
    Metric("steps", "model calls", lambda it: it.usage.steps),
    Metric("input_tokens", "tokens read, those that a cache had included", lambda it: it.usage.input_tokens),
    Metric("cached_tokens", "tokens read that a cache had", lambda it: it.usage.cached_tokens),
    Metric("output_tokens", "tokens written", lambda it: it.usage.output_tokens),
    Metric("cost_usd", "list price in US dollars", lambda it: it.usage.usd),
    Metric("elapsed", "from the start of a turn to its end", lambda it: it.elapsed_s, timed=True),
    Metric("claim", "to read the session and claim the turn", lambda it: it.parts_s.get("claim"), timed=True),
    Metric("model", "in the agent, outside of tools", lambda it: it.model_s if it.work else None, timed=True),
    Metric("tools", "in which a tool call had no result yet", lambda it: it.tools_s or None, timed=True),
    Metric("commit", "to store the turn", lambda it: it.parts_s.get("commit"), timed=True),
)
# Of the process, not of a turn: CloudWatch has no use for them, because Lambda counts its environments itself.
GAUGES = {
    "running_turns": "turns that run now",
    "phase": "1 for the phase that the process is in, 0 for the others",
}
