"""Secrets in all that a service is given come out of none of its failures: no line, problem, header, span or metric.

What a caller sent comes back only where the contract says so: in the body of a turn that succeeds.
"""

import hashlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import httpx2
import pytest
from anyio.from_thread import start_blocking_portal

from tests.canaries import SENT, TOLD, found_in, secret
from tests.canary_paths import AGENTS, Caller, chat_of, events, models, raw, requests
from tests.collector import Collector, collector
from tests.entry_points import Answer, http_api_event, server
from tests.fake_model import FakeModel, in_thread
from tests.faults import STORE_ATTEMPTS, Fault, Faults, Proxy
from tests.issuer import Issuer, issuer, token
from tests.lambda_runtime import front_door
from tests.lambda_runtime.emulator import BUFFERED, STREAMING
from tests.lambda_runtime.service import Function
from tests.log_lines import Line, lines_of
from tests.machine import START_S, wait_until
from tests.model_script import Fault as Break
from tests.model_script import before_the_status
from tests.raw_http import read, said
from tests.servers import Table, sessions_table
from tests.with_model import BOTH, shown

CONTAINER = [sys.executable, "-m", "app"]
RUNTIMES = {"buffered": BUFFERED, "streaming": STREAMING}
AT_LEAST = 40
UNREADABLE = 3  # of the odd events; the others are requests for nothing
Started: TypeAlias = Callable[[Path, Mapping[str, str]], AbstractContextManager[tuple[httpx2.Client, Path]]]


@dataclass(frozen=True)
class Given:
    """What a service depends on, and the settings that lead to it."""

    model: FakeModel
    faults: Faults
    table: Table
    issuer: Issuer
    store: str
    collector: Collector

    def exported(self, turns: int) -> str:
        """Return all that the collector has got, once the agents of so many turns are among it, and their metrics."""
        at = self.collector
        wait_until(lambda: len(at.named("invoke_agent")) >= turns and "agent_service.turns" in at.metrics)
        return at.raw.decode("latin-1")

    @property
    def settings(self) -> dict[str, str]:
        """The variables of a service, with a secret in each that may hold one."""
        return {
            **self.table.settings,
            "AWS_ACCESS_KEY_ID": secret("AWS_ACCESS_KEY_ID"),
            "AWS_SECRET_ACCESS_KEY": secret("AWS_SECRET_ACCESS_KEY"),
            "AWS_SESSION_TOKEN": secret("AWS_SESSION_TOKEN"),
            "AWS_ENDPOINT_URL_DYNAMODB": self.store,
            "ALLOWED_HOSTS": "127.0.0.1,*.on.aws",
            "CORS_ORIGINS": "https://page.example",
            "LOG_LEVEL": "DEBUG",
            "TRACES": "otlp",
            "METRICS": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={secret('OTEL_EXPORTER_OTLP_HEADERS')}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        }

    @property
    def of_a_model(self) -> dict[str, str]:
        """The variables of one with the built-in agent, whose callers have keys."""
        digests = [hashlib.sha256(secret(name).encode()).hexdigest() for name in ("API key", "other API key")]
        return self.settings | {
            "ANTHROPIC_API_KEY": secret("ANTHROPIC_API_KEY"),
            "ANTHROPIC_BASE_URL": self.model.url,
            "AGENT_INSTRUCTIONS": secret("AGENT_INSTRUCTIONS"),
            "AGENT_TOOLS": "tests.canaries:tools",
            "AUTH": "api-key",
            "AUTH_API_KEYS": f"{secret('principal')}:{digests[0]},{secret('other principal')}:{digests[1]}",
            "MAX_TURNS_PER_PRINCIPAL": "2",
        }

    @property
    def of_an_agent(self) -> dict[str, str]:
        """The variables of one with an agent that fails, whose callers have tokens."""
        return {**self.settings, **self.issuer.settings, "AGENT": "tests.canaries:agent"}

    @property
    def behind_a_platform(self) -> dict[str, str]:
        """The variables of one with an agent that fails, whose callers somebody else knows."""
        return {**self.settings, "AUTH": "platform", "AGENT": "tests.canaries:agent"}


@pytest.fixture
def given() -> Iterator[Given]:
    faults = Faults()
    with (
        sessions_table() as table,
        in_thread() as model,
        issuer() as at,
        collector() as collects,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(portal.call(Proxy, table.endpoint, faults)) as store,
    ):
        yield Given(model, faults, table, at, store, collects)


@contextmanager
def on_server(folder: Path, settings: Mapping[str, str]) -> Iterator[tuple[httpx2.Client, Path]]:
    folder.mkdir()
    with server(CONTAINER, folder, **settings) as running:
        yield running.http, running.log


def on_lambda(command: tuple[str, ...]) -> Started:
    """Return what starts a function of this runtime."""

    @contextmanager
    def start(folder: Path, settings: Mapping[str, str]) -> Iterator[tuple[httpx2.Client, Path]]:
        folder.mkdir()
        with (
            front_door.in_thread(Function(command, folder, settings)) as running,
            httpx2.Client(base_url=running.url, timeout=START_S) as http,
        ):
            yield http, running.log

    return start


ENTRIES: dict[str, Started] = {"server": on_server} | {name: on_lambda(command) for name, command in RUNTIMES.items()}


def of_turns(log: Path) -> list[Line]:
    return [line for line in lines_of(log.read_text()) if line["event"] == "turn finished"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_failure_of_a_caller_a_model_or_the_store_tells_a_secret(given: Given, tmp_path: Path, entry: str) -> None:
    with ENTRIES[entry](tmp_path / "service", given.of_a_model) as (http, log):
        caller = Caller(str(http.base_url), secret("API key"))
        for name, (told, method, target, body, headers) in requests().items():
            assert (shown(caller.ask(method, target, body, **headers)), name) == (told, name)
        for name, (told, script, headers) in models().items():
            for accept in BOTH:
                given.model.script[:] = script
                session = secret(f"session of {name}")
                assert (shown(caller.chat("hello", session, accept=accept, **headers)), name) == (told, name)
        for fault in (Fault.THROTTLED, Fault.BROKEN, Fault.RESET):
            given.faults.plan("newest", *[fault] * STORE_ATTEMPTS)
            assert shown(caller.chat("hello", secret("session"))) == (503, "store-unavailable")
        given.faults.plan("newest", *[Fault.STALLED] * 99)
        stalled = caller.chat("hello", secret("session"), x_request_timeout="1")
        assert shown(stalled) == (503, "store-unavailable")
        given.faults.end()
        given.model.script.clear()
        given.faults.plan("commit", *[Fault.BROKEN] * 99)
        lost = caller.chat("hello", secret("session of a lost turn"), x_request_timeout="1")
        assert shown(lost) == (503, "store-unavailable")
        given.faults.end()
        assert caller.chat("hello", secret("session")).status == 200
        assert shown(caller.chat("other", secret("session"))) == (422, "idempotency-key-reused")
        given.table.client.delete_table(TableName=given.table.name)
        assert shown(caller.chat("hello", secret("session"))) == (503, "store-unavailable")
        out = log.read_text() + "".join(caller.kept) + given.exported(2 * len(models()))
    assert found_in(out) == set()
    assert len(SENT - set(TOLD)) >= AT_LEAST
    lines = of_turns(log)
    assert len(lines) == 2 * len(models()) + 8
    assert all({"principal_hash", "session_hash"} <= set(line) for line in lines)


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_failure_of_an_agent_tells_a_secret(given: Given, tmp_path: Path, entry: str) -> None:
    keys, given.issuer.status, given.issuer.body = given.issuer.body, 503, secret("issuer's error").encode()
    with ENTRIES[entry](tmp_path / "before", given.of_an_agent) as (http, log):
        caller = Caller(str(http.base_url), token(sub=secret("subject")))
        assert shown(caller.chat("early", "s")) == (503, "auth-unavailable")
        before = log.read_text() + "".join(caller.kept)
    given.issuer.status, given.issuer.body = 200, keys
    with ENTRIES[entry](tmp_path / "service", given.of_an_agent) as (http, log):
        caller = Caller(str(http.base_url), token(sub=secret("subject"), exp=1))
        assert shown(caller.chat("early", "s")) == (401, "unauthenticated")
        caller.credential = token(sub=secret("subject"))
        for way, (told, headers) in AGENTS.items():
            for accept in BOTH:
                session = secret(f"session of {way}")
                assert (shown(caller.chat(way, session, accept=accept, **headers)), way) == (told, way)
        out = log.read_text() + "".join(caller.kept) + given.exported(2 * len(AGENTS))
    assert found_in(before + out) == set()
    assert len(of_turns(log)) == 2 * len(AGENTS)
    raised = {line["exception"]["type"] for line in lines_of(log.read_text()) if "exception" in line}
    assert raised >= {"LookupError", "ValueError", "ExceptionGroup", "SystemExit"}


def test_no_end_of_a_running_turn_tells_a_secret(given: Given, tmp_path: Path) -> None:
    settings = given.of_a_model | {"MAX_CONCURRENT_TURNS": "3"}
    given.model.otherwise = before_the_status(Break.STALL)
    with (
        server(CONTAINER, tmp_path, **settings, DRAIN_DELAY_S="1", SHUTDOWN_GRACE_S="4") as running,
        ThreadPoolExecutor(3) as others,
    ):

        def held(by: Caller, name: str) -> Future[Answer]:
            asked = len(given.model.requests)
            turn = others.submit(by.chat, "hello", secret(name))
            wait_until(lambda: len(given.model.requests) > asked)
            return turn

        one, other = (
            Caller(str(running.http.base_url), secret("API key")),
            Caller(str(running.http.base_url), secret("other API key")),
        )
        turn = held(one, "held session")
        assert shown(one.chat("hello", secret("held session"))) == (409, "turn-in-progress")
        assert shown(one.chat("hello", secret("held session"), idempotency_key="k")) == (409, "session-busy")
        assert one.ask("POST", f"/sessions/{secret('held session')}/cancel").status == 200
        assert shown(turn.result()) == (409, "cancelled")
        turns = [held(one, "drained session"), held(one, "second drained session")]
        assert shown(one.chat("hello", secret("session"))) == (429, "rate-limited")
        turns.append(held(other, "other drained session"))
        assert shown(other.chat("hello", secret("session"))) == (503, "overloaded")
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not running.ready())
        assert shown(one.ask("GET", "/readyz")) == (503, "shutting-down")
        assert [shown(turn.result()) for turn in turns] == [(503, "shutting-down")] * 3
        assert running.process.wait(START_S) == 0
        out = running.log.read_text() + "".join(one.kept + other.kept) + given.exported(len(turns) + 1)
    assert '"phase": "stopped"' in out
    assert found_in(out) == set()


def test_no_refusal_of_what_is_no_request_tells_a_secret(given: Given, tmp_path: Path) -> None:
    kept = ""
    with server(CONTAINER, tmp_path, **given.of_an_agent) as running:
        for name, (told, sent) in raw().items():
            came = said(running.port, sent)
            kept += came.decode("latin-1")
            assert (shown(read(came)), name) == (told, name)
        preflight = {"Origin": f"https://{secret('origin')}.example", "Access-Control-Request-Method": "POST"}
        asked = preflight | {"Access-Control-Request-Headers": secret("asked header")}
        allowed = running.http.options("/chat", headers=asked)
        out = running.log.read_text() + kept + str(allowed.headers)
    assert (allowed.status_code, allowed.headers.get("access-control-allow-origin")) == (405, None)
    assert found_in(out) == set()


def test_no_body_that_never_ends_tells_a_secret(given: Given, tmp_path: Path) -> None:
    head = [
        "POST /chat HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {token(sub=secret('subject'))}",
        "Content-Type: application/json",
        "Content-Length: 1000",
    ]
    with server(CONTAINER, tmp_path, **given.of_an_agent) as running:
        came = said(running.port, "\r\n".join([*head, "", ""]).encode() + chat_of(secret("message"))[:-1])
        out = running.log.read_text() + came.decode("latin-1")
    assert shown(read(came)) == (408, "request-timeout")
    assert found_in(out) == set()


def test_no_failure_behind_a_proxy_tells_a_secret(given: Given, tmp_path: Path) -> None:
    settings = given.behind_a_platform | {
        "AUTH_PLATFORM_HEADER": "X-User",
        "AUTH_PLATFORM_SECRET": secret("AUTH_PLATFORM_SECRET"),
    }
    proxy = {"x_user": secret("user"), "x_proxy_secret": secret("AUTH_PLATFORM_SECRET")}
    with server(CONTAINER, tmp_path, **settings) as running:
        caller = Caller(str(running.http.base_url), secret("credential"))
        assert shown(caller.chat("early", "s")) == (401, "unauthenticated")
        several = proxy | {"x_user": f"{secret('user')}, x"}
        assert shown(caller.chat("early", "s", **several)) == (401, "unauthenticated")
        for way, (told, headers) in AGENTS.items():
            assert (shown(caller.chat(way, secret(f"session of {way}"), **headers, **proxy)), way) == (told, way)
        out = running.log.read_text() + "".join(caller.kept)
    assert found_in(out) == set()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_failure_behind_an_authorizer_tells_a_secret(given: Given, tmp_path: Path, runtime: str) -> None:
    kept: list[str] = []
    with ENTRIES[runtime](tmp_path / "service", given.behind_a_platform) as (http, log):

        def told(way: str, authorizer: object) -> str:
            body = json.dumps({"message": f"{way} {secret('message')}", "session_id": secret("session")}).encode()
            named = {"Host": "x.on.aws", "Content-Type": "application/json"}
            event = http_api_event("POST", "/chat", body, named)
            event["requestContext"]["authorizer"] = authorizer
            kept.append(http.post(front_door.INVOKE, content=json.dumps(event).encode()).text)
            return kept[-1]

        assert "problem:unauthenticated" in told("early", {"jwt": {"claims": {"iss": secret("issuer's name")}}})
        assert "problem:unauthenticated" in told("early", {"jwt": {"claims": {"sub": f"{secret('subject')}\n"}}})
        assert "problem:agent-failed" in told("early", {"jwt": {"claims": {"sub": secret("subject")}}})
        assert "problem:agent-failed" in told("group", {"iam": {"userArn": secret("user's ARN")}})
        out = log.read_text()
    assert found_in(out + "".join(kept)) == set()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_odd_event_tells_a_secret(given: Given, tmp_path: Path, runtime: str) -> None:
    kept = ""
    with ENTRIES[runtime](tmp_path / "service", given.of_an_agent) as (http, log):
        for event in events():
            kept += http.post(front_door.INVOKE, content=json.dumps(event).encode()).text
        out = log.read_text()
    unread = kept.count("urn:agent-service:problem:malformed-event")
    assert out.count("event cannot be read") == unread >= UNREADABLE
    assert kept.count("urn:agent-service:problem:") == len(events())
    assert found_in(out + kept) == set()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_start_without_a_store_tells_a_secret(given: Given, tmp_path: Path, runtime: str) -> None:
    away = f"http://user:{secret('password')}@127.0.0.1:9/{secret('path of the store')}"
    settings = {"SESSIONS_TABLE": secret("SESSIONS_TABLE"), "AWS_ENDPOINT_URL_DYNAMODB": away}
    with ENTRIES[runtime](tmp_path / "service", given.of_an_agent | settings) as (http, log):
        caller = Caller(str(http.base_url), token(sub=secret("subject")))
        assert shown(caller.ask("GET", "/readyz")) == (503, "warming-up")
        assert shown(caller.chat("early", "s")) == (503, "warming-up")
        out = log.read_text() + "".join(caller.kept)
    assert found_in(out) == set()
