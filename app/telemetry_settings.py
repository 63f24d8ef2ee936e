"""The settings of traces and metrics. Unset there are none, and what makes them is not imported."""

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import BeforeValidator

from app.setting import SettingsPart, lower, setting

# What each way needs beside the service, and the module that shows that it is there.
EXTRAS = {
    "prometheus": ("prometheus_client", "prometheus-client"),
    "otlp": ("opentelemetry.exporter.otlp.proto.http", "opentelemetry-exporter-otlp-proto-http"),
}
LOGGED = ("DEBUG", "INFO")


class TelemetrySettings(SettingsPart):
    """The part of the settings that says what is traced and measured."""

    traces: Annotated[Literal["none", "otlp"], BeforeValidator(lower)] = setting(
        "TRACES", "none", "none or otlp", "whether turns are traced, and the spans sent where the OTEL_ variables say"
    )
    metrics: Annotated[Literal["none", "emf", "prometheus", "otlp"], BeforeValidator(lower)] = setting(
        "METRICS",
        "none",
        "none, emf, prometheus or otlp",
        "how turns are measured: in their log lines for CloudWatch, at /metrics, or sent where the OTEL_ variables say",
    )
    service_name: str | None = setting(
        "OTEL_SERVICE_NAME",
        None,
        "1 to 255 characters of ASCII, not all of them spaces",
        "what traces and metrics call the service; by default agent-service, on Lambda the function's name",
        pattern=r"^ *[!-~][ -~]*$",  # CloudWatch drops what has a dimension of spaces (PutMetricData, "Dimension")
        max_length=255,
    )

    def validate_telemetry(self, *, on_lambda: bool, log_level: str) -> list[str]:
        """Return what is wrong with them, one text each."""
        problems = []
        for field, way in (("traces", self.traces), ("metrics", self.metrics)):
            module, package = EXTRAS.get(way, ("app", ""))
            if not _is_installed(module):
                problems.append(f"{self.name_of(field)}={way} needs {package}: install it beside the service")
        if self.metrics == "prometheus" and on_lambda:
            problems.append("METRICS=prometheus has no effect on Lambda, where nobody can scrape a process; use emf")
        if self.metrics == "emf" and log_level not in LOGGED:
            problems.append("METRICS=emf needs LOG_LEVEL=INFO or DEBUG: the metrics are in the lines of turns")
        return problems


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False
