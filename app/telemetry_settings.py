"""The settings of metrics. Unset there are none, and what makes them is not imported."""

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import BeforeValidator

from app.setting import SettingsPart, lower, setting

LOGGED = ("DEBUG", "INFO")


class TelemetrySettings(SettingsPart):
    """The part of the settings that says what is measured."""

    metrics: Annotated[Literal["none", "emf", "prometheus"], BeforeValidator(lower)] = setting(
        "METRICS",
        "none",
        "none, emf or prometheus",
        "how turns are measured: in their log lines for CloudWatch, or at /metrics",
    )
    service_name: str | None = setting(
        "OTEL_SERVICE_NAME",
        None,
        "1 to 255 characters of ASCII",
        "what metrics call the service; by default agent-service, on Lambda the function's name",
        pattern=r"^[ -~]{1,255}$",
    )

    def validate_telemetry(self, *, on_lambda: bool, log_level: str) -> list[str]:
        """Return what is wrong with them, one text each."""
        problems = []
        if self.metrics == "prometheus" and find_spec("prometheus_client") is None:
            problems.append("METRICS=prometheus needs prometheus-client: install it beside the service")
        if self.metrics == "prometheus" and on_lambda:
            problems.append("METRICS=prometheus has no effect on Lambda, where nobody can scrape a process; use emf")
        if self.metrics == "emf" and log_level not in LOGGED:
            problems.append("METRICS=emf needs LOG_LEVEL=INFO or DEBUG: the metrics are in the lines of turns")
        return problems
