"""Metrics for CloudWatch, in the log lines of turns: its embedded metric format.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import time
from collections.abc import Callable

from app import turn_log
from app.metrics import METRICS, Metric, outcome
from app.report import Report

NAMESPACE = "agent-service"
SERVICE, OUTCOME = "service", "outcome"  # the dimensions: each value of one makes further metrics, which are paid for


class EMF:
    """Writes the line of each turn with what CloudWatch makes metrics of.

    service: sets the metrics of one deployment apart from those of others
    clock:   epoch seconds
    """

    def __init__(self, service: str, clock: Callable[[], float] = time.time) -> None:
        self._service = service
        self._clock = clock

    def __call__(self, report: Report) -> None:
        """Write the line of a turn that has ended."""
        found = [(metric, value) for metric in METRICS if (value := metric.of(report)) is not None]
        directives = [
            {
                "Namespace": NAMESPACE,
                "Dimensions": dimensions,
                "Metrics": [
                    {"Name": metric.emf, "Unit": _unit(metric)}
                    for metric, _ in found
                    if metric.by_outcome is by_outcome
                ],
            }
            for by_outcome, dimensions in ((False, [[SERVICE]]), (True, [[SERVICE], [SERVICE, OUTCOME]]))
        ]
        turn_log.write(
            report,
            {metric.emf: round(value * 1000, 1) if metric.timed else value for metric, value in found}
            | {
                SERVICE: self._service,
                OUTCOME: outcome(report),
                "_aws": {"Timestamp": int(self._clock() * 1000), "CloudWatchMetrics": directives},
            },
        )


def _unit(metric: Metric) -> str:
    if metric.timed:
        return "Milliseconds"
    return "None" if metric.name == "cost_usd" else "Count"  # CloudWatch has no unit of money
