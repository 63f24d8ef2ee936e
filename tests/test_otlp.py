"""Sending: metrics as OTLP, the end of a process and of an invocation, and collectors that do not answer."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.metrics import BUCKETS_S, METRICS
from app.observability import SEND_S, Observability
from app.otlp import OTLP
from app.telemetry import WITHHELD
from tests.collector import Collector, collector, plain
from tests.entry_points import ROOT, environment, server
from tests.lambda_runtime.emulator import BUFFERED, STREAMING, emulator, http_event
from tests.lambda_runtime.front_door import in_thread
from tests.lambda_runtime.service import Function
from tests.log_lines import CANARY, lines_of, turns_in
from tests.machine import START_S, free_port, tool, wait_until
from tests.servers import Table, sessions_table

CONTAINER = [sys.executable, "-m", "app"]
EXIT_S = 15


def both(url: str) -> dict[str, str]:
    return {"TRACES": "otlp", "METRICS": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": url}


def points(found: Collector, name: str) -> list[Any]:
    metric = found.metrics[name]
    return list(getattr(metric, metric.WhichOneof("data")).data_points)


def sums(found: Collector, name: str) -> Counter[str]:
    """Return the sum of each point by its attributes."""
    return Counter(
        {" ".join(map(str, plain(point.attributes).values())): point.as_int for point in points(found, name)}
    )


def test_a_process_that_ends_has_sent_what_it_counted(tmp_path: Path) -> None:
    variables = {"AGENT": "tests.metered:metered"}
    with collector() as found, server(CONTAINER, tmp_path, **both(found.url), **variables) as running:
        for number, end in enumerate(["end_turn", "end_turn", "budget", "agent-failed"]):
            message = json.dumps({"steps": 2, "end": end})
            running.http.post("/chat", json={"message": message, "session_id": f"s-{number}"})
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(EXIT_S) == 0
    assert sums(found, "agent_service.turns") == {"end_turn": 2, "budget": 1, "agent-failed": 1}
    assert sums(found, "agent_service.steps") == {"": 8}
    assert sums(found, "agent_service.input_tokens") == {"": 4 * 14}
    assert sums(found, "agent_service.failures") == {"": 1}
    assert [point.as_int for point in points(found, "agent_service.running_turns")] == [0]
    [elapsed] = points(found, "agent_service.elapsed")
    assert (elapsed.count, tuple(elapsed.explicit_bounds)) == (4, BUCKETS_S)
    assert {metric.otlp for metric in METRICS} <= set(found.metrics)
    assert found.metrics["agent_service.elapsed"].unit == "s"
    durations = [plain(point.attributes) for point in points(found, "http.server.request.duration")]
    assert [set(each) for each in durations if each["http.response.status_code"] == 200] == [
        {"http.request.method", "http.route", "http.response.status_code"}
    ]
    assert len(found.named("invoke_agent")) == 4


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    with sessions_table() as table:
        yield table


COMMANDS = pytest.mark.parametrize("command", [BUFFERED, STREAMING], ids=["buffered", "streaming"])


@COMMANDS
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_all_of_an_invocation_is_sent_before_the_process_is_frozen(
    command: Sequence[str], accept: str, table: Table, tmp_path: Path
) -> None:
    with collector() as found:
        function = Function(command, tmp_path, {**table.settings, **both(found.url)}, freeze=True)
        with in_thread(function) as running:
            for number in (1, 2, 3):
                answer = httpx2.post(
                    f"{running.url}/chat", json={"message": CANARY}, headers={"Accept": accept}, timeout=START_S
                )
                assert answer.status_code == 200
                wait_until(lambda: running.frozen, what="it is frozen")
                assert len(found.named("invoke_agent")) == len(found.named("POST /chat")) == number
                assert sums(found, "agent_service.turns") == {"end_turn": number}
            assert {span.parent for span in found.named("invoke_agent")} == {span.id for span in found.named("POST")}
            assert {span.resource["service.name"] for span in found.spans} == {"function"}
    assert b"canary" not in found.raw


@COMMANDS
def test_under_aws_own_emulator_too(command: Sequence[str], table: Table, tmp_path: Path) -> None:
    rie = tool("rie", for_module=False)
    with (
        collector() as found,
        emulator(
            rie, {**table.settings, **both(found.url)}, tmp_path / "log", command=command, folder=ROOT
        ) as environment,
    ):
        for number in (1, 2):
            assert environment.invoke(http_event("POST", "/chat", {"message": "hello"})).status == 200
            assert len(found.named("POST /chat")) == len(found.named("invoke_agent")) == number


@COMMANDS
@pytest.mark.parametrize("kind", ["hangs", "refuses", "fails"])
def test_a_collector_that_does_not_answer_costs_no_turn_its_answer(
    kind: str, command: Sequence[str], table: Table, tmp_path: Path
) -> None:
    with collector(hangs=kind == "hangs", status=503) as found:
        url = f"http://127.0.0.1:{free_port()}" if kind == "refuses" else found.url
        function = Function(command, tmp_path, {**table.settings, **both(url)})
        took = []
        with in_thread(function) as running:
            for _ in range(4):
                began = time.monotonic()
                answer = httpx2.post(f"{running.url}/chat", json={"message": "hello"}, timeout=START_S)
                took.append(time.monotonic() - began)
                assert answer.json()["answer"] == "You said: hello"
    first, *others = took
    assert first > SEND_S * 0.9  # it was waited for, once
    assert max(others) < SEND_S / 2


@pytest.mark.anyio
async def test_an_invocation_that_has_no_time_left_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 200

    with collector(hangs=True) as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        otlp = OTLP("service", traces=True, metrics=False)
        assert otlp.tracer_provider
        otlp.tracer_provider.get_tracer("test").start_span("span").end()
        began = time.monotonic()
        await Observability(flush=otlp.flush).end_invocation(Context())
        assert time.monotonic() - began < SEND_S / 2
        assert found.asked <= 1


@pytest.mark.parametrize("kind", ["hangs", "refuses"])
def test_a_process_ends_in_time_whatever_its_collector_does(kind: str, tmp_path: Path) -> None:
    with collector(hangs=True) as found:
        url = found.url if kind == "hangs" else f"http://127.0.0.1:{free_port()}"
        with server(CONTAINER, tmp_path, **both(url), SHUTDOWN_GRACE_S="3") as running:
            running.http.post("/chat", json={"message": CANARY})
            began = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(EXIT_S) == 0
            assert time.monotonic() - began < 3
        log = running.log.read_text()
    assert [line["turn"] for line in turns_in(log)] == [1]
    assert "canary" not in log
    assert lines_of(log)


def test_what_the_sdk_says_is_withheld(tmp_path: Path) -> None:
    """It repeats what a collector answers, and addresses."""
    with collector(status=400) as found, server(CONTAINER, tmp_path, **both(found.url)) as running:
        running.http.post("/chat", json={"message": "hello"})
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(EXIT_S)
        lines = [line for line in lines_of(running.log.read_text()) if line["logger"].startswith("opentelemetry")]
    assert lines
    assert {line["event"] for line in lines} == {WITHHELD}


@pytest.mark.parametrize("name", ["TRACES", "METRICS"])
def test_an_sdk_that_is_not_installed_is_named(name: str, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['opentelemetry.exporter.otlp'] = None\n"  # as if it were not there
        "from app.config import Settings\n"
        f"print(*Settings(_env_file=None, {name.lower()}='otlp').validate(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    wanted = f"{name}=otlp needs opentelemetry-exporter-otlp-proto-http: install it beside the service"
    assert wanted in done.stdout.splitlines()
