"""The line of a turn: exactly one, whatever ends it, and true."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from app import telemetry, turn_log
from app.agents import Agent, OpenTurn
from app.agents.echo import echo
from app.auth import ANONYMOUS
from app.config import Settings
from app.errors import ShuttingDown, StoreRefused
from app.events import AgentEvent, Stop, ToolCall, ToolResult, Usage
from app.report import Report
from app.sessions import SessionKey
from app.sessions.claims import COMMIT_RETRY_S, Claims
from app.turns import TurnRequest, TurnService
from tests import agents
from tests.in_process import App, Outage, warm
from tests.log_lines import CANARY, Log, written
from tests.memory_store import MemoryStore
from tests.model_script import Call, Fault, broken, says
from tests.test_cancel import Talking
from tests.with_model import talking

pytestmark = pytest.mark.anyio

MS = {"elapsed_ms", "claim_ms", "model_ms", "tools_ms", "commit_ms"}


@pytest.fixture
def log() -> Iterator[Log]:
    with written() as log:
        yield log


@pytest.fixture
def hasty(settings: Settings) -> Settings:
    """Settings with the shortest deadline there is."""
    return settings.model_copy(update={"timeout_s": 1.0})


def ended(log: Log) -> tuple[str, str]:
    """Return level and end of the one turn that is in the log."""
    [line] = log.turns
    assert ("problem" in line) != ("stop_reason" in line)
    assert set(line) >= MS
    return line["level"], line.get("problem") or line["stop_reason"]


async def test_who_is_refused_by_a_limit_again_and_again_does_not_fill_the_log(log: Log, settings: Settings) -> None:
    async with warm(settings.model_copy(update={"rate_limit_per_minute": 1}), clock=lambda: 90.0) as app:
        assert [(await app.chat("hello")).status for _ in range(2)] == [200, 429]
    [admitted] = log.turns
    assert admitted["stop_reason"] == "end_turn"


async def test_a_line_tells_everything_of_a_turn(log: Log) -> None:
    async with talking(says("so", Call("weather", {"city": "Bonn"})), says("Sun!")) as talk:
        answer = await talk.ask(
            CANARY,
            "canary-session",
            x_request_id="request-1",
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
    [line] = log.turns
    usage = answer.json["usage"]
    assert usage["usd"] > 0
    assert line.pop("time").endswith("Z")
    assert all(line.pop(name) >= 0 for name in MS)
    assert line == {
        "level": "info",
        "logger": "app.turn_log",
        "event": "turn finished",
        "request_id": "request-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "cold_start": True,
        "principal_hash": turn_log.hash_of("anonymous"),
        "session_hash": turn_log.hash_of("anonymous/canary-session"),
        "turn": 1,
        "replayed": False,
        "streamed": False,
        "stop_reason": "end_turn",
        "steps": 2,
        "input_tokens": usage["input_tokens"],
        "cached_tokens": usage["cached_tokens"],
        "output_tokens": usage["output_tokens"],
        "cost_usd": usage["usd"],
    }
    assert "canary" not in log.text


async def test_a_replay_has_a_line_and_consumed_nothing(log: Log) -> None:
    async with talking(says("so")) as talk:
        for accept in ("application/json", "text/event-stream"):
            await talk.ask(accept=accept, idempotency_key="k")
    made, replayed = log.turns
    assert (made["replayed"], made["streamed"], made["steps"]) == (False, False, 1)
    assert (replayed["replayed"], replayed["streamed"], replayed["turn"], replayed["stop_reason"]) == (
        *(True, True, 1),
        "end_turn",
    )
    assert [replayed[name] for name in ("steps", "input_tokens", "output_tokens", "model_ms", "commit_ms")] == [0] * 5
    assert "cost_usd" not in replayed


async def test_times_are_where_they_were_spent(settings: Settings, log: Log) -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        await asyncio.sleep(0.1)  # as a model takes its time
        yield ToolCall("1", "clock", {})
        yield ToolCall("2", "clock", {})
        await asyncio.sleep(0.05)
        yield ToolResult("1", None)
        await asyncio.sleep(0.05)
        yield ToolResult("2", None)
        await asyncio.sleep(0.1)

    async with warm(settings, agent=agent) as app:
        await app.chat("hello")
    [line] = log.turns
    assert line["tools_ms"] >= 99  # of two calls at once the time counts once: twice would leave the model less
    assert line["model_ms"] >= 198
    assert sum(line[name] for name in MS - {"elapsed_ms"}) <= line["elapsed_ms"] + 1


@pytest.mark.parametrize(
    ("agent", "down", "parts"),
    [
        (echo, (), ["claim", "agent", "commit", "release"]),
        (echo, ("commit",), ["claim", "agent", "commit", "release"]),
        (agents.raising, (), ["claim", "agent", "release"]),
        (echo, ("newest",), ["claim"]),
    ],
    ids=["a whole turn", "not stored", "an agent that raises", "not claimed"],
)
async def test_a_report_tells_every_part_that_a_turn_reached(
    agent: Agent, down: Sequence[str], parts: list[str]
) -> None:
    reports, store = list[Report](), Outage(*down)
    store.error = StoreRefused("no space")
    turns = TurnService(Claims(store, 5, 60), agent, 1, reports.append)
    deadline = asyncio.get_running_loop().time() + 5
    await turns.start(TurnRequest(SessionKey(ANONYMOUS, "s"), "hello", None, 0.0, deadline)).settled()
    [report] = reports
    assert (list(report.parts_s), report.streamed) == (parts, False)
    assert sum(report.parts_s.values()) == pytest.approx(report.elapsed_s)
    assert agent is echo or str(report.failure) == "the agent raised LookupError"


async def test_every_attempt_to_store_the_turn_is_part_of_the_commit(settings: Settings, log: Log) -> None:
    store = Outage("commit")
    async with warm(settings, store=store) as app:
        chat = asyncio.create_task(app.chat("hello"))
        while store.asked.count("commit") < 3:
            await asyncio.sleep(0.01)
        store.down.clear()
        await chat
    [line] = log.turns
    assert line["commit_ms"] >= 2 * COMMIT_RETRY_S * 990 > line["model_ms"]


async def test_a_tool_that_is_cut_short_took_its_time_until_then(hasty: Settings, log: Log) -> None:
    async with warm(hasty, agent=agents.stalled_tool) as app:
        await app.chat("hello")
    [line] = log.turns
    assert line["stop_reason"] == "deadline"
    assert line["tools_ms"] >= 900
    assert line["model_ms"] < 900


async def test_the_wait_for_a_busy_session_is_part_of_the_claim(settings: Settings, log: Log) -> None:
    agent = agents.Gated()
    async with warm(settings, agent=agent) as app:
        first = asyncio.create_task(app.chat("first", x_request_id="first"))
        await agent.begun.wait()
        waiting = asyncio.create_task(app.chat("next", prefer="wait=30", x_request_id="next"))
        await asyncio.sleep(0.1)  # which it waits at least
        agent.gate.set()
        await asyncio.gather(first, waiting)
    lines = {line["request_id"]: line for line in log.turns}
    assert lines["first"]["claim_ms"] < 100 <= lines["first"]["model_ms"]
    assert lines["next"]["claim_ms"] >= 50 > lines["next"]["model_ms"]


async def test_what_a_failed_turn_consumed_is_told(log: Log) -> None:
    async with talking(says("so", Call("weather", {"city": "Bonn"})), broken("content_block_delta", Fault.CUT)) as talk:
        assert (await talk.ask()).slug == "upstream-invalid"
    [line] = log.turns
    assert (line["problem"], line["level"], line["steps"]) == ("upstream-invalid", "warning", 2)
    assert line["input_tokens"] > 0
    assert line["cost_usd"] > 0


async def test_where_a_users_agent_raised_is_told_and_not_what(settings: Settings, log: Log) -> None:
    async with warm(settings, agent=agents.raising) as app:
        await app.chat(CANARY)
    [line] = log.turns
    assert ended(log) == ("error", "agent-failed")
    assert line["exception"]["type"] == "LookupError"
    assert line["exception"]["at"][-1].endswith(" raising")
    assert CANARY not in log.text


async def _cancelled(app: App, agent: Talking) -> None:
    turn = asyncio.create_task(app.chat("hello"))
    await agent.begun.wait()
    await app.request("POST", "/sessions/s/cancel")
    await turn


async def _drained(app: App, agent: Talking) -> None:
    turn = asyncio.create_task(app.chat("hello"))
    await agent.begun.wait()
    await app.lifecycle.finish()
    await turn


async def _deleted(app: App, agent: Talking) -> None:
    turn = asyncio.create_task(app.chat("hello"))
    await agent.begun.wait()
    await app.request("DELETE", "/sessions/s")
    await turn


@pytest.mark.parametrize(
    ("said", "ending", "level", "end"),
    [
        (["half"], _cancelled, "info", "cancelled"),
        ([], _cancelled, "warning", "cancelled"),
        (["half"], _deleted, "warning", "cancelled"),
        (["half"], _drained, "warning", "shutting-down"),
    ],
    ids=["cancelled", "cancelled in silence", "deleted", "drained"],
)
async def test_a_turn_that_is_ended_from_outside_has_one_line(
    settings: Settings,
    log: Log,
    said: list[AgentEvent],
    ending: Callable[[App, Talking], Awaitable[None]],
    level: str,
    end: str,
) -> None:
    agent = Talking(*said)
    async with warm(settings.model_copy(update={"shutdown_grace_s": 3.0}), agent=agent) as app:
        await ending(app, agent)
    assert ended(log) == (level, end)


async def test_a_turn_that_is_taken_over_has_one_line(settings: Settings, log: Log) -> None:
    store, agent, key = MemoryStore(), Talking("half"), SessionKey(ANONYMOUS, "s")
    async with warm(settings, store=store, agent=agent) as app:
        turn = asyncio.create_task(app.chat("hello"))
        await agent.begun.wait()
        [held] = await store.newest(key, 1)
        await store.claim(key, replace(held, run="another"), held.run)
        await turn
    assert ended(log) == ("warning", "lease-lost")
    assert log.turns[0]["turn"] == 1


@pytest.mark.parametrize(
    ("agent", "level", "end"),
    [(agents.silent, "warning", "deadline-exceeded"), (agents.stalled_tool, "info", "deadline")],
    ids=["silent", "said something"],
)
async def test_a_turn_that_meets_its_deadline_has_one_line(
    hasty: Settings, log: Log, agent: object, level: str, end: str
) -> None:
    async with warm(hasty, agent=agent) as app:
        await app.chat("hello")
    assert ended(log) == (level, end)


@pytest.mark.parametrize(
    ("down", "error", "level", "end"),
    [
        ("newest", None, "warning", "store-unavailable"),
        ("claim", None, "warning", "store-unavailable"),
        ("commit", None, "warning", "store-unavailable"),
        ("commit", StoreRefused("no space"), "error", "store-unavailable"),
        ("commit", RuntimeError(CANARY), "error", "internal"),
    ],
    ids=["read", "claim", "commit", "refused", "bug"],
)
async def test_a_turn_whose_store_fails_has_one_line(
    hasty: Settings, log: Log, down: str, error: Exception | None, level: str, end: str
) -> None:
    store = Outage()
    async with warm(hasty, store=store) as app:
        store.down = {down}
        store.error = error or store.error
        await app.chat("hello")
    assert ended(log) == (level, end)
    assert ("exception" in log.turns[0]) == (level == "error")
    assert CANARY not in log.text


async def test_a_turn_that_is_refused_by_its_session_has_a_line_without_a_number(settings: Settings, log: Log) -> None:
    agent = agents.Gated()
    async with warm(settings, agent=agent) as app:
        first = asyncio.create_task(app.chat("first"))
        await agent.begun.wait()
        await app.chat("other")
        assert ended(log) == ("warning", "session-busy")
        assert "turn" not in log.turns[0]
        agent.gate.set()
        await first


async def test_a_turn_that_is_ended_before_its_first_step_has_a_line(log: Log) -> None:
    turns = TurnService(Claims(MemoryStore(), 5, 60), echo, 1, turn_log.write)
    deadline = asyncio.get_running_loop().time() + 5
    turn = turns.start(TurnRequest(SessionKey(ANONYMOUS, "s"), "hello", None, 0.0, deadline))
    turn.stop(ShuttingDown())
    await turn.settled()
    assert ended(log) == ("warning", "shutting-down")


async def test_a_turn_that_outlives_its_request_is_logged_with_its_ids(settings: Settings, log: Log) -> None:
    agent = agents.Gated()
    async with warm(settings, agent=agent) as app:
        request = asyncio.create_task(app.chat("hello", x_request_id="request-1"))
        await agent.begun.wait()
        request.cancel()
        await asyncio.wait([request])
        assert (await app.chat("hello", "other-session", x_request_id="request-2", x_request_timeout="0.1")).status
        agent.gate.set()
        while len(log.turns) < 2:
            await asyncio.sleep(0.01)
    found = {line["request_id"]: line["session_hash"] for line in log.turns}
    assert found == {
        "request-1": turn_log.hash_of("anonymous/s"),
        "request-2": turn_log.hash_of("anonymous/other-session"),
    }
    assert telemetry.request_id.get() is None


async def test_the_line_is_written_before_the_caller_hears(settings: Settings, log: Log) -> None:
    """On Lambda the process is frozen right after the answer."""

    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield Stop("end_turn", Usage(steps=1))

    async with warm(settings, agent=agent) as app:
        for number in range(1, 20):
            await app.chat("hello", accept="text/event-stream" if number % 2 else "application/json")
            assert len(log.turns) == number
