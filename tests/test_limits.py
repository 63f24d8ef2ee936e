"""What one principal may begin in a minute and run at once: over HTTP, over replicas, and whatever ends a turn."""

import asyncio
import contextlib
import logging
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app import turn_log
from app.agents import OpenTurn
from app.agents.echo import echo
from app.auth import ANONYMOUS
from app.config import Settings
from app.deadline import LEASE_MARGIN_S
from app.errors import ShuttingDown
from app.events import TurnDone
from app.limits import BUSY_RETRY_S, KEEP_S, RATE, SLOTS, PrincipalLimits
from app.sessions import SessionKey, TurnItem
from app.sessions.claims import Claims
from app.sessions.sqlite import SQLiteStore
from app.telemetry import FACTS
from app.turns import TurnRequest, TurnService
from tests import agents
from tests.chaos.agents import GATE, runs
from tests.chaos.callers import chat
from tests.chaos.replicas import OURS, Replica
from tests.conformance.stores.rig import Clock
from tests.entry_points import Answer, handler, server
from tests.in_process import App, Outage, warm
from tests.memory_store import MemoryStore
from tests.servers import Table, sessions_table

pytestmark = pytest.mark.anyio

SSE = "text/event-stream"
HELD = SessionKey(ANONYMOUS, SLOTS)
LIMIT_S = 30.0
MINUTE = 28_000_000 * 60.0  # a minute of the clock begins here
SERVERS = {"uvicorn": [sys.executable, "-m", "uvicorn", "app:app"], "ours": [sys.executable, "-m", "app"]}


def limited(settings: Settings, per_minute: int | None = None, at_once: int | None = None) -> Settings:
    return settings.model_copy(update={"rate_limit_per_minute": per_minute, "max_turns_per_principal": at_once})


class Time(Clock):
    """Epoch seconds from the 27th last of a minute on."""

    def __init__(self) -> None:
        super().__init__()
        self._now = MINUTE + 33


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_one_turn_too_many_in_a_minute_is_told_when_the_next_one_begins(settings: Settings) -> None:
    async with warm(limited(settings, per_minute=3), clock=Time()) as app:
        admitted = [await app.chat("hello", f"s{n}") for n in range(3)]
        refused = await app.chat("hello")
        assert await app.messages() == []
    assert [each.status for each in admitted] == [200] * 3
    assert [each.headers["ratelimit"] for each in admitted] == [f'"turns";r={left};t=27' for left in (2, 1, 0)]
    assert (refused.status, refused.slug, refused.headers["retry-after"]) == (429, "rate-limited", "27")
    assert (refused.headers["ratelimit"], refused.json["retryable"]) == ('"turns";r=0;t=27', True)
    assert {each.headers["ratelimit-policy"] for each in (*admitted, refused)} == {'"turns";q=3;w=60'}


async def test_a_new_minute_begins_anew(settings: Settings) -> None:
    clock = Time()
    async with warm(limited(settings, per_minute=1), clock=clock) as app:
        assert [(await app.chat("hello")).status for _ in range(2)] == [200, 429]
        clock.advance(26.999)
        assert (await app.chat("hello")).headers["retry-after"] == "1"
        clock.advance(0.001)
        assert [(await app.chat("hello")).headers["ratelimit"] for _ in range(2)] == ['"turns";r=0;t=60'] * 2


async def test_a_counter_is_of_its_principal_and_minute_and_kept_an_hour_longer(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "sessions.db") as store:
        await PrincipalLimits(Claims(store, 5, 60, Time()), 9, None).count("alice")
        with closing(sqlite3.connect(tmp_path / "sessions.db")) as file:
            counters = file.execute("SELECT pk, turn, expires FROM numbers").fetchall()
    assert counters == [("alice/~rate", MINUTE // 60, MINUTE + 60 + KEEP_S)]


async def test_a_stream_is_told_what_is_left_and_a_refused_one_gets_a_status(settings: Settings) -> None:
    async with warm(limited(settings, per_minute=1, at_once=2), clock=Time()) as app:
        admitted, refused = [await app.chat("hello", accept=SSE) for _ in range(2)]
    assert admitted.events[-1][0] == "done"
    assert admitted.headers["ratelimit"] == '"turns";r=0;t=27'
    assert admitted.headers["ratelimit-policy"] == '"turns";q=1;w=60, "running";q=2;qu="concurrent-requests"'
    assert (refused.status, refused.slug) == (429, "rate-limited")


async def test_one_turn_too_many_at_once_is_told_which_limit_it_met(settings: Settings) -> None:
    agent = agents.Gated()
    async with warm(limited(settings, at_once=1), agent=agent) as app:
        first = asyncio.create_task(app.chat("hello"))
        await agent.begun.wait()
        for accept in ("application/json", SSE):
            refused = await app.chat("hello", "other", accept=accept)
            assert (refused.status, refused.slug) == (429, "rate-limited")
            assert refused.headers["retry-after"] == str(BUSY_RETRY_S)
            assert refused.headers["ratelimit"] == '"running";r=0'
            assert refused.headers["ratelimit-policy"] == '"running";q=1;qu="concurrent-requests"'
        agent.gate.set()
        assert "ratelimit" not in (await first).headers
        assert (await app.chat("hello", "other")).status == 200


async def test_without_limits_the_store_is_asked_what_it_always_was(settings: Settings) -> None:
    store = Outage()
    async with warm(settings, store=store) as app:
        answer = await app.chat("hello")
    assert store.asked == ["ping", "newest", "claim", "commit"]
    assert {"ratelimit", "ratelimit-policy"}.isdisjoint(answer.headers)


@pytest.mark.parametrize(
    ("per_minute", "at_once", "asked"),
    [(9, None, ["add", "newest", "claim", "commit"]), (None, 9, ["newest", "claim"] * 2 + ["commit", "release"])],
    ids=["rate", "at once"],
)
async def test_a_limit_that_is_not_set_costs_nothing(
    settings: Settings, per_minute: int | None, at_once: int | None, asked: list[str]
) -> None:
    store = Outage()
    async with warm(limited(settings, per_minute, at_once), store=store) as app:
        assert (await app.chat("hello")).status == 200
    assert store.asked[1:] == asked


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (400, {"content": b"{"}),
        (415, {"content": b"{}", "headers": {"content-type": "text/plain"}}),
        (422, {"json": {"message": ""}}),
        (422, {"json": {"message": "hello", "session_id": SLOTS}}),
        (406, {"json": {"message": "hello"}, "headers": {"accept": "text/html"}}),
        (413, {"json": {"message": "x" * 40_000}}),
        (400, {"json": {"message": "hello"}, "headers": {"idempotency-key": "a b"}}),
        (504, {"json": {"message": "hello"}, "headers": {"x-request-timeout": "0.000001"}}),
    ],
    ids=["json", "media", "empty", "session", "accept", "size", "key", "late"],
)
async def test_what_cannot_become_a_turn_is_not_counted(settings: Settings, status: int, request_: Any) -> None:
    store = Outage()
    options = {"headers": {}} | request_
    options["headers"] = {"content-type": "application/json"} | options["headers"]
    async with warm(limited(settings, per_minute=9, at_once=9), store=store) as app:
        assert (await app.request("POST", "/chat", **options)).status == status
    assert store.asked == ["ping"]


@pytest.mark.parametrize("call", ["add", "newest", "claim"])
async def test_a_store_that_does_not_answer_admits_nobody(settings: Settings, call: str) -> None:
    async with warm(limited(settings, per_minute=9, at_once=9), store=Outage(call)) as app:
        answer = await app.chat("hello")
    assert (answer.status, answer.slug) == (503, "store-unavailable")


@pytest.mark.parametrize("name", [RATE, SLOTS])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel")])
async def test_no_caller_reaches_what_is_counted(settings: Settings, name: str, method: str, path: str) -> None:
    store = MemoryStore()
    slot = TurnItem(turn=1, run="run", req="run", expires=int(time.time()) + 60, lease=time.time() + 60)
    await store.claim(SessionKey(ANONYMOUS, name), slot)
    async with warm(settings, store=store) as app:
        for written in (name, name.replace("~", "%7E"), name.replace("~", "%257E")):
            assert (await app.request(method, f"/sessions/{written}{path}")).status == 422
        assert (await app.request("GET", "/sessions")).json["sessions"] == []
    assert list(await store.newest(SessionKey(ANONYMOUS, name), 2)) == [slot]


class Ways:
    """What ends a turn, one way each, in an app of at most one turn at once. Each returns when its caller was told."""

    def __init__(self, app: App, agent: agents.Gated) -> None:
        self.app, self._agent = app, agent

    async def _begun(self) -> asyncio.Task[Answer]:
        turn = asyncio.create_task(self.app.chat("hello"))
        await self._agent.begun.wait()
        return turn

    async def answer(self) -> None:
        self._agent.gate.set()
        assert (await self.app.chat("hello")).status == 200

    async def replay(self) -> None:
        self._agent.gate.set()
        answers = [await self.app.chat("hello", idempotency_key="k") for _ in range(2)]
        assert answers[1].headers["idempotency-replayed"] == "true"

    async def reused_key(self) -> None:
        self._agent.gate.set()
        await self.app.chat("hello", idempotency_key="k")
        assert (await self.app.chat("other", idempotency_key="k")).slug == "idempotency-key-reused"

    async def cancel(self) -> None:
        turn = await self._begun()
        assert (await self.app.request("POST", "/sessions/s/cancel")).status == 200
        assert (await turn).slug == "cancelled"

    async def delete(self) -> None:
        turn = await self._begun()
        assert (await self.app.request("DELETE", "/sessions/s")).status == 204
        assert (await turn).slug == "cancelled"

    async def drain(self) -> None:
        turn = await self._begun()
        await self.app.lifecycle.drain(lambda: None)
        assert (await turn).slug == "shutting-down"

    async def deadline(self) -> None:
        assert (await self.app.chat("hello", x_request_timeout="0.2")).slug == "deadline-exceeded"

    async def disconnect(self) -> None:
        turn = await self._begun()
        [running] = self.app.lifecycle._turns  # noqa: SLF001 nothing else is at hand in the middle of a turn
        running.cancel()  # as a caller does that hangs up, with ON_DISCONNECT=stop
        await running.settled()
        await turn


@pytest.mark.parametrize("way", [name for name in vars(Ways) if not name.startswith("_")])
async def test_no_slot_is_left_whatever_ended_the_turn(settings: Settings, way: str) -> None:
    store, agent = MemoryStore(), agents.Gated()
    hasty = limited(settings, at_once=1).model_copy(update={"shutdown_grace_s": 3.0})
    async with warm(hasty, store=store, agent=agent) as app, asyncio.timeout(LIMIT_S):
        await getattr(Ways(app, agent), way)()
        assert list(await store.newest(HELD, 2)) == []


@pytest.mark.parametrize("agent", [agents.raising, agents.foreign, agents.impatient])
async def test_no_slot_is_left_by_an_agent_that_fails(settings: Settings, agent: object) -> None:
    store = MemoryStore()
    async with warm(limited(settings, at_once=1), store=store, agent=agent) as app:
        for _ in range(2):
            assert (await app.chat("hello")).slug == "agent-failed"
    assert list(await store.newest(HELD, 2)) == []


async def test_a_turn_that_finds_its_session_busy_gives_its_slot_back_and_one_that_waits_holds_it(
    settings: Settings,
) -> None:
    store, agent = MemoryStore(), agents.Gated()
    async with warm(limited(settings, at_once=2), store=store, agent=agent) as app:
        first = asyncio.create_task(app.chat("hello"))
        await agent.begun.wait()
        assert (await app.chat("hello")).slug == "session-busy"
        assert len(await store.newest(HELD, 3)) == 1
        waiting = asyncio.create_task(app.chat("hello", prefer="wait=20"))
        await until(lambda: len(store._sessions[HELD]) == 2)  # noqa: SLF001 the store's own call would be one more
        assert (await app.chat("hello", "other")).slug == "rate-limited"
        agent.gate.set()
        assert [(await each).status for each in (first, waiting)] == [200, 200]
    assert list(await store.newest(HELD, 3)) == []


async def test_a_turn_whose_slot_was_taken_over_does_not_free_the_takers(settings: Settings) -> None:
    store, agent = MemoryStore(), agents.Gated()
    async with warm(limited(settings, at_once=1), store=store, agent=agent) as app:
        turn = asyncio.create_task(app.chat("hello"))
        await agent.begun.wait()
        [held] = await store.newest(HELD, 1)
        assert await store.claim(HELD, replace(held, run="another"), held.run)
        agent.gate.set()
        assert (await turn).status == 200
    assert [item.run for item in await store.newest(HELD, 1)] == ["another"]


class SlowRelease(MemoryStore):
    """Gives back only once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.gate = asyncio.Event(), asyncio.Event()

    async def release(self, key: SessionKey, turn: int, run: str) -> None:
        self.begun.set()
        await self.gate.wait()
        await super().release(key, turn, run)


async def test_a_turn_is_acknowledged_when_its_slot_is_free_so_that_the_next_one_may_begin() -> None:
    store, seen = SlowRelease(), list[object]()
    limits = PrincipalLimits(Claims(store, 20, 3600), None, 1)
    request = TurnRequest(SessionKey(ANONYMOUS, "s"), "hello", None, 0.0, asyncio.get_running_loop().time() + LIMIT_S)
    turn = TurnService(limits.claims, echo, 1, turn_log.write, limits).start(request)

    async def read() -> None:
        async for batch in turn.batches(LIMIT_S):
            seen.extend(batch)

    reading = asyncio.create_task(read())
    await store.begun.wait()
    await until(lambda: bool(seen))
    assert not any(isinstance(each, TurnDone) for each in seen)
    store.gate.set()
    await reading
    assert isinstance(seen[-1], TurnDone)


async def test_a_slot_that_is_being_given_back_is_not_stopped_in_it() -> None:
    store = SlowRelease()
    limits = PrincipalLimits(Claims(store, 20, 3600), None, 1)
    request = TurnRequest(SessionKey(ANONYMOUS, "s"), "hello", None, 0.0, asyncio.get_running_loop().time() + LIMIT_S)
    busy = TurnItem(turn=1, run="run", req="req", expires=int(time.time()) + 60, lease=time.time() + 60)
    await store.claim(request.key, busy)
    turn = TurnService(limits.claims, echo, 1, turn_log.write, limits).start(request)
    await store.begun.wait()
    turn.stop(ShuttingDown())
    await asyncio.sleep(0)  # in which what is stopped would end
    store.gate.set()
    await turn.settled()
    assert list(await store.newest(HELD, 2)) == []


async def test_a_stored_turn_is_acknowledged_though_it_is_stopped_while_its_slot_is_given_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As at the end of the grace, or of the turn's time: its caller must not be told that nothing is stored."""
    store, seen = SlowRelease(), list[object]()
    limits = PrincipalLimits(Claims(store, 20, 3600), None, 1)
    request = TurnRequest(SessionKey(ANONYMOUS, "s"), "hello", None, 0.0, asyncio.get_running_loop().time() + LIMIT_S)
    with caplog.at_level(logging.INFO, "app.turn_log"):
        turn = TurnService(limits.claims, echo, 1, turn_log.write, limits).start(request)
        await store.begun.wait()
        turn.stop(ShuttingDown(), even_storing=True)
        async for batch in turn.batches(LIMIT_S):
            seen.extend(batch)
    assert isinstance(seen[-1], TurnDone)
    assert [vars(record)[FACTS]["stop_reason"] for record in caplog.records] == ["end_turn"]


async def test_a_turn_that_ends_at_its_deadline_is_acknowledged_though_its_slot_is_not_taken_back(
    settings: Settings,
) -> None:
    async def talkative(_: OpenTurn) -> AsyncIterator[str]:
        yield "so far"
        await asyncio.Event().wait()

    async with warm(limited(settings, at_once=1), store=SlowRelease(), agent=talkative) as app:
        answer = await app.chat("hello", x_request_timeout="0.2")
    assert (answer.status, answer.json["stop_reason"]) == (200, "deadline")


async def test_a_slot_that_cannot_be_given_back_delays_no_answer_beyond_a_second(settings: Settings) -> None:
    store = Outage("release")
    async with warm(limited(settings, at_once=1), store=store) as app:
        began = time.monotonic()
        assert (await app.chat("hello")).status == 200
        assert time.monotonic() - began < 2
        [held] = await store.newest(HELD, 1)
    assert held.lease is not None
    assert held.lease - time.time() <= settings.timeout_s + LEASE_MARGIN_S


def counted(folder: Path) -> list[tuple[str, int]]:
    """Return the counters of the session file in this folder: whose and how far."""
    with closing(sqlite3.connect(folder / "sessions.db")) as file:
        return list(file.execute("SELECT pk, value FROM numbers"))


def ask(running: Any, n: int, **headers: str) -> Answer:
    response = running.http.post("/chat", json={"message": "hello", "session_id": f"s{n}"}, headers=headers)
    return Answer(response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.text)


@pytest.mark.parametrize("name", SERVERS)
def test_x_forwarded_for_buys_no_new_bucket(tmp_path: Path, name: str) -> None:
    """Though uvicorn itself believes the header of a caller on the same machine."""
    with server(SERVERS[name], tmp_path, RATE_LIMIT_PER_MINUTE="5", LOG_LEVEL="ERROR") as running:
        addresses = [f"203.0.{n // 250}.{n % 250}" for n in range(1000)]
        forged = [{"X-Forwarded-For": each, "X-Real-IP": each, "Forwarded": f"for={each}"} for each in addresses]
        met = Counter(ask(running, n, **each).status for n, each in enumerate(forged))
    found = counted(tmp_path)
    assert {pk for pk, _ in found} == {f"{ANONYMOUS}/{RATE}"}
    assert sum(used for _, used in found) == 1000
    assert met[200] == sum(min(used, 5) for _, used in found)
    assert met[429] == 1000 - met[200]


@pytest.mark.parametrize("accept", ["application/json", SSE])
def test_a_server_and_the_handler_tell_the_limits_alike(tmp_path: Path, accept: str) -> None:
    """Five turns are one too many in one of the two minutes in which they may fall."""
    limits = {"RATE_LIMIT_PER_MINUTE": "2", "MAX_TURNS_PER_PRINCIPAL": "1"}
    (tmp_path / "server").mkdir()
    (tmp_path / "handler").mkdir()
    with server(SERVERS["ours"], tmp_path / "server", **limits) as running:
        served = [ask(running, n, Accept=accept) for n in range(5)]
    with handler(tmp_path / "handler", **limits) as client:
        head, body = {"content-type": "application/json", "accept": accept}, b'{"message":"hello"}'
        handled = [client.request("POST", "/chat", body, head) for _ in range(5)]
    for answers in (served, handled):
        first, refused = answers[0], next(each for each in answers if each.status == 429)
        assert first.status == 200
        assert first.headers["ratelimit"].startswith('"turns";r=1;t=')
        assert first.headers["ratelimit-policy"] == '"turns";q=2;w=60, "running";q=1;qu="concurrent-requests"'
        assert (refused.slug, refused.headers["content-type"]) == ("rate-limited", "application/problem+json")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["ratelimit"] == f'"turns";r=0;t={refused.headers["retry-after"]}'


@contextlib.asynccontextmanager
async def replicas(folder: Path, **settings: str) -> AsyncIterator[tuple[Table, list[Replica], aiohttp.ClientSession]]:
    """Yield two processes over one table, and a client."""
    with sessions_table() as table:
        variables = {**settings, **table.settings}
        async with (
            Replica(folder, OURS, **variables) as one,
            Replica(folder, OURS, **variables) as other,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            yield table, [one, other], http


def items(table: Table, name: str) -> list[dict[str, Any]]:
    return table.turns(name)


async def test_two_processes_on_one_table_count_together(tmp_path: Path) -> None:
    async with replicas(tmp_path, RATE_LIMIT_PER_MINUTE="7") as (table, both, http):
        asked: list[Awaitable[Any]] = [chat(http, both[n % 2].url, f"s{n}", "hello") for n in range(60)]
        met = Counter(outcome.status for outcome in await asyncio.gather(*asked))
        used = [int(item["turns"]["N"]) for item in items(table, RATE)]
    assert sum(used) == 60
    assert met == {200: sum(min(each, 7) for each in used), 429: sum(max(each - 7, 0) for each in used)}


def test_two_environments_of_lambda_on_one_table_count_together(tmp_path: Path) -> None:
    head, body = {"content-type": "application/json"}, b'{"message":"hello"}'
    with sessions_table() as table:
        variables = table.settings | {"RATE_LIMIT_PER_MINUTE": "2", "AWS_LAMBDA_FUNCTION_NAME": "f"}
        with handler(tmp_path, **variables) as one, handler(tmp_path, **variables) as other:
            met = Counter(each.request("POST", "/chat", body, head).status for _ in range(4) for each in (one, other))
        used = [int(item["turns"]["N"]) for item in items(table, RATE)]
    assert sum(used) == 8
    assert met == {200: sum(min(each, 2) for each in used), 429: sum(max(each - 2, 0) for each in used)}


async def test_two_processes_on_one_table_run_no_more_than_one_may(tmp_path: Path) -> None:
    settings = {"MAX_TURNS_PER_PRINCIPAL": "5", "AGENT": "tests.chaos.agents:gated"}
    async with replicas(tmp_path, **settings) as (table, both, http):
        turns = [asyncio.create_task(chat(http, both[n % 2].url, f"s{n}", "hello")) for n in range(50)]
        await until(lambda: len(runs(tmp_path)) + sum(each.done() for each in turns) == 50)
        assert len(runs(tmp_path)) == len(items(table, SLOTS)) == 5
        (tmp_path / GATE).touch()
        assert Counter(outcome.status for outcome in await asyncio.gather(*turns)) == {200: 5, 429: 45}
        assert items(table, SLOTS) == []
        assert [(await chat(http, each.url, "after", "hello")).status for each in both] == [200, 200]


async def test_a_killed_process_frees_its_slot_when_its_lease_is_over(settings: Settings) -> None:
    folder = settings.sessions_file.parent
    variables = {"MAX_TURNS_PER_PRINCIPAL": "1", "AGENT": "tests.chaos.agents:gated"}
    async with Replica(folder, OURS, **variables) as replica, aiohttp.ClientSession() as http:
        turn = asyncio.create_task(chat(http, replica.url, "s", "hello"))
        await until(lambda: bool(runs(folder)))
        replica.kill()
        assert (await turn).status == 0
    clock = Clock()
    async with warm(limited(settings, at_once=1), store=None, clock=clock) as app:
        assert (await app.chat("hello", "other")).slug == "rate-limited"
        clock.advance(settings.timeout_s + LEASE_MARGIN_S + 1)
        assert (await app.chat("hello", "other")).status == 200
