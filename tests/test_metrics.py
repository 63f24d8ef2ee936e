"""What is measured: the table, CloudWatch's lines and what Prometheus scrapes, each against the driver's own counts."""

import asyncio
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as families
from prometheus_client.samples import Sample

from app import problems
from app.config import Settings
from app.events import STOP_REASONS, StopReason, Usage
from app.lifecycle import Phase
from app.metrics import BUCKETS_S, GAUGES, METRICS, PREFIX
from app.metrics.emf import NAMESPACE
from app.metrics.prometheus import Prometheus
from app.report import Report
from app.sessions import SessionKey
from app.work import Work
from tests import agents
from tests.entry_points import ROOT, environment, handler, server
from tests.in_process import App, serving, warm
from tests.log_lines import CANARY, turns_in, written
from tests.metered import USD, load, metered
from tests.test_log_fields import documented

pytestmark = pytest.mark.anyio

COUNTERS = [metric for metric in METRICS if not metric.timed]
TIMED = [metric for metric in METRICS if metric.timed]
OUTCOMES = STOP_REASONS | {kind.slug for kind in problems.KINDS.values()} | {problems.INTERNAL.slug}


@pytest.fixture
def scraped(settings: Settings) -> Settings:
    return settings.model_copy(update={"metrics": "prometheus"})


async def scrape(app: App) -> dict[str, float]:
    """Return every sample at /metrics by its name and labels."""
    answer = await app.request("GET", "/metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {" ".join([each.name, *each.labels.values()]): each.value for each in samples_of(answer.body)}


def samples_of(body: str) -> list[Sample]:
    return [sample for family in families(body) for sample in family.samples]


def counts(samples: dict[str, float]) -> Counter[str]:
    """Return the counters of what was scraped as the driver counts."""
    found: Counter[str] = Counter()
    for metric in COUNTERS:
        for name, value in samples.items():
            if name.split()[0] == metric.prometheus:
                found[" ".join([metric.name, *name.split()[1:]])] = int(value)
    found["cost_usd in sixteenths"] = int(samples["agent_service_cost_usd_total"] / USD)
    del found["cost_usd"]
    return found


async def test_after_a_load_the_counters_are_the_drivers_own(scraped: Settings) -> None:
    async with warm(scraped, agent=metered) as app:
        counted = await load(app, 1000)
        samples = await scrape(app)
    assert counts(samples) == counted
    assert len({name for name in counted if name.startswith("turns ")}) == 7
    assert samples["agent_service_running_turns"] == 0
    turns = sum(value for name, value in counted.items() if name.startswith("turns "))
    assert samples["agent_service_elapsed_seconds_count"] == turns
    replayed_or_refused = counted["replays"] + counted["turns idempotency-key-reused"]
    assert samples["agent_service_model_seconds_count"] == turns - replayed_or_refused


async def test_after_a_load_the_lines_for_cloudwatch_sum_up_to_the_drivers_own_counts(settings: Settings) -> None:
    with written() as log:
        async with warm(settings.model_copy(update={"metrics": "emf"}), agent=metered) as app:
            counted = await load(app, 200)
    found: Counter[str] = Counter()
    for line in log.turns:
        assert checked(line) == NAMESPACE
        for metric in COUNTERS:
            found[f"turns {line['outcome']}" if metric.by_outcome else metric.name] += line[metric.emf]
    found["cost_usd in sixteenths"] = int(found.pop("cost_usd") / USD)
    assert found == counted
    timed = [line for line in log.turns if "tools_ms" in metrics_of(line)]
    assert 0 < len(timed) < len(log.turns)
    assert all(line["tools_ms"] >= 0 for line in timed)


def metrics_of(line: dict[str, Any]) -> dict[str, str]:
    """Return the units of the metrics in a line."""
    directives = line["_aws"]["CloudWatchMetrics"]
    return {metric["Name"]: metric["Unit"] for directive in directives for metric in directive["Metrics"]}


def checked(line: dict[str, Any]) -> str:
    """Return the namespace of a line, which must be as CloudWatch's specification says."""
    told = line["_aws"]
    assert set(told) == {"Timestamp", "CloudWatchMetrics"}
    assert isinstance(told["Timestamp"], int)
    assert told["Timestamp"] > 1_600_000_000_000
    for directive in told["CloudWatchMetrics"]:
        assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
        assert 1 <= len(directive["Namespace"]) <= 256
        assert directive["Dimensions"]
        for dimensions in directive["Dimensions"]:
            assert 1 <= len(dimensions) <= 30
            assert all(isinstance(line[each], str) and 1 <= len(line[each]) <= 1024 for each in dimensions)
        assert 1 <= len(directive["Metrics"]) <= 100
        for metric in directive["Metrics"]:
            assert set(metric) == {"Name", "Unit"}
            assert metric["Unit"] in {"Count", "Milliseconds", "None"}
            assert type(line[metric["Name"]]) in {int, float}
    [namespace] = {directive["Namespace"] for directive in told["CloudWatchMetrics"]}
    return str(namespace)


async def test_ten_thousand_sessions_make_no_more_than_two_hundred_series(scraped: Settings) -> None:
    ends: list[StopReason | type[Exception]] = [*sorted(STOP_REASONS), *problems.KINDS, LookupError]
    async with serving(scraped) as app:
        counter = Prometheus(app.lifecycle)
        for number in range(10_000):
            report, end = (
                Report(SessionKey(f"principal-{number}", f"s-{number}"), streamed=False),
                ends[number % len(ends)],
            )
            report.work = Work(usage=Usage(input_tokens=number))
            report.stop_reason = end if isinstance(end, str) else None
            report.end(None if isinstance(end, str) else end.__new__(end))
            counter(report)
    served = FastAPI()
    counter.add_to(served.router)
    answer = await httpx2.AsyncClient(transport=httpx2.ASGITransport(served)).get("http://test/metrics")
    told = {sample.labels["outcome"] for sample in samples_of(answer.text) if "outcome" in sample.labels}
    assert told == OUTCOMES
    assert len(samples_of(answer.text)) <= 150
    assert not re.search("principal-|s-[0-9]|_created", answer.text)


async def test_turns_that_run_are_told_and_those_of_the_phase(scraped: Settings) -> None:
    agent = agents.Gated()
    async with warm(scraped, agent=agent) as app:
        chat = asyncio.create_task(app.chat(CANARY))
        await agent.begun.wait()
        samples = await scrape(app)
        agent.gate.set()
        await chat
        after = await scrape(app)
    assert samples["agent_service_running_turns"] == 1
    assert after["agent_service_running_turns"] == 0
    phases = {each.value: samples[f"agent_service_phase {each.value}"] for each in Phase}
    assert phases == {each.value: float(each is Phase.READY) for each in Phase}


async def test_a_refusal_by_a_limit_and_a_busy_session_are_counted(scraped: Settings) -> None:
    agent = agents.Gated()
    limited = scraped.model_copy(update={"rate_limit_per_minute": 2})
    async with warm(limited, agent=agent, clock=lambda: 90.0) as app:
        chat = asyncio.create_task(app.chat("hello"))
        await agent.begun.wait()
        assert (await app.chat("hello")).slug == "session-busy"
        assert (await app.chat("hello")).slug == "rate-limited"
        agent.gate.set()
        await chat
        samples = await scrape(app)
    turns = {name.split()[1]: value for name, value in samples.items() if name.startswith("agent_service_turns_total ")}
    assert turns == {"session-busy": 1, "rate-limited": 1, "end_turn": 1}
    assert samples["agent_service_failures_total"] == 0


async def test_an_app_counts_its_own_turns_only(scraped: Settings) -> None:
    async with warm(scraped) as one, warm(scraped) as other:
        await one.chat("hello")
        assert counts(await scrape(one))["turns end_turn"] == 1
        assert counts(await scrape(other))["turns end_turn"] == 0


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.0.0", "application/openmetrics-text"])
async def test_openmetrics_is_told_where_it_is_accepted(scraped: Settings, accept: str) -> None:
    async with warm(scraped) as app:
        await app.chat("hello")
        answer = await app.request("GET", "/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    found = openmetrics(answer.body)  # type: ignore[no-untyped-call]  # the library's
    assert {family.name for family in found} >= {
        "agent_service_turns",
        "agent_service_elapsed_seconds",
    }


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain; version=x; escaping=" + CANARY, "\xff;;,=", "a" * 5000])
async def test_no_accept_header_is_told_back_or_fails(scraped: Settings, accept: str) -> None:
    async with warm(scraped) as app:
        answer = await app.request("GET", "/metrics", headers={"Accept": accept.encode("latin-1")})
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")


async def test_metrics_have_the_headers_of_every_answer_and_no_place_in_the_description(scraped: Settings) -> None:
    async with warm(scraped.model_copy(update={"allowed_hosts": ("test",)})) as app:
        answer = await app.request("GET", "/metrics")
        elsewhere = await app.request("GET", "/metrics", headers={"Host": "other.example"})
        description = (await app.request("GET", "/openapi.json")).json
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert elsewhere.status == 421
    assert "/metrics" not in description["paths"]


@pytest.mark.parametrize("way", ["none", "emf"])
async def test_without_prometheus_there_is_no_such_path(settings: Settings, way: str) -> None:
    async with warm(settings.model_copy(update={"metrics": way})) as app:
        assert (await app.request("GET", "/metrics")).slug == "not-found"


async def test_a_line_without_emf_is_as_before(settings: Settings) -> None:
    with written() as log:
        async with warm(settings) as app:
            await app.chat("hello")
    [line] = log.turns
    assert not {"_aws", "turns", "outcome", "service"} & set(line)


def test_every_number_is_documented_with_its_names() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `([\w.]+)` \| (.*) \|$", text, re.MULTILINE)
    assert rows == [(metric.emf, metric.prometheus, metric.otlp, metric.purpose) for metric in METRICS]
    gauges = re.findall(r"^\| none \| `(\w+)` \| `([\w.]+)` \| (.*) \|$", text, re.MULTILINE)
    assert gauges == [(f"{PREFIX}_{name}", f"{PREFIX}.{name}", purpose) for name, purpose in GAUGES.items()]


def test_the_times_in_a_line_are_those_of_the_log() -> None:
    assert {metric.emf for metric in TIMED} <= set(documented("`turn finished`"))


def test_buckets_reach_from_an_echo_to_a_long_turn() -> None:
    assert list(BUCKETS_S) == [round(0.01 * 2**power, 2) for power in range(14)]


def test_on_lambda_the_service_is_the_function(tmp_path: Path) -> None:
    with handler(tmp_path, METRICS="emf", AWS_LAMBDA_FUNCTION_NAME="", OTEL_SERVICE_NAME="staging") as client:
        client.request("POST", "/chat", b'{"message": "hello"}', {"Content-Type": "application/json"})
    [line] = turns_in("".join(client.log))
    assert (line["service"], line["cold_starts"], checked(line)) == ("staging", 1, NAMESPACE)
    named = {"service_name": None, "lambda_function": "agent-function", "http_endpoint": None}
    assert Settings(_env_file=None).model_copy(update=named).service == "agent-function"
    assert Settings(_env_file=None).service == "agent-service"


def test_a_server_is_scraped(tmp_path: Path) -> None:
    with server([sys.executable, "-m", "app"], tmp_path, METRICS="prometheus") as running:
        for _ in range(3):
            running.http.post("/chat", json={"message": "hello"})
        body = running.http.get("/metrics").text
    assert 'agent_service_turns_total{outcome="end_turn"} 3.0' in body.splitlines()


PROMETHEUS_ON_LAMBDA = "METRICS=prometheus has no effect on Lambda, where nobody can scrape a process; use emf"


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"METRICS": "statsd"}, "METRICS must be none, emf, prometheus or otlp"),
        ({"OTEL_SERVICE_NAME": "\n"}, "OTEL_SERVICE_NAME must be 1 to 255 characters of ASCII"),
        ({"OTEL_SERVICE_NAME": "  "}, "OTEL_SERVICE_NAME must be 1 to 255 characters of ASCII, not all of them spaces"),
        ({"METRICS": "emf", "LOG_LEVEL": "WARNING"}, "METRICS=emf needs LOG_LEVEL=INFO or DEBUG"),
    ],
    ids=str,
)
def test_what_would_measure_nothing_is_refused_at_the_start(
    variables: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app"],
        cwd=tmp_path,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 78
    assert complaint in done.stderr


@pytest.mark.parametrize("variable", ["lambda_function", "http_endpoint"])
def test_nobody_scrapes_lambda(variable: str) -> None:
    named: dict[str, Any] = {variable: "127.0.0.1:1"}
    there = Settings(_env_file=None, metrics="prometheus", **named)
    assert PROMETHEUS_ON_LAMBDA in there.validate()


@pytest.mark.parametrize(("way", "package"), [("prometheus", "prometheus-client")])
def test_an_extra_that_is_not_installed_is_named(way: str, package: str, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"  # as if it were not there
        "from app.config import Settings\n"
        f"print(*Settings(_env_file=None, metrics={way!r}).validate(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert f"METRICS={way} needs {package}: install it beside the service" in done.stdout.splitlines()
