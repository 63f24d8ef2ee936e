"""Turns that do not go well: agents that misbehave, sessions in use, a store that fails."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from app.agents import OpenTurn
from app.auth import ANONYMOUS
from app.config import Settings
from app.deadline import COMMIT_MARGIN_S, LEASE_MARGIN_S
from app.events import AgentEvent, Stop, ToolCall, ToolResult
from app.main import DAY_S, create_app
from app.sessions import SessionKey
from app.sessions.claims import Claim, Claims
from app.sessions.codec import unpack
from tests import agents
from tests.in_process import Outage, warm
from tests.memory_store import MemoryStore

pytestmark = pytest.mark.anyio

SSE = "text/event-stream"


@pytest.fixture
def hasty(settings: Settings) -> Settings:
    """Settings with the shortest deadline there is."""
    return settings.model_copy(update={"timeout_s": 1.0})


async def test_at_the_deadline_what_was_said_is_stored_and_no_tool_call_stays_open(hasty: Settings) -> None:
    store = MemoryStore()
    async with warm(hasty, agent=agents.stalled_tool, store=store) as app:
        answer = await app.chat("hello")
        [item] = await store.newest(SessionKey("anonymous", "s"), 2)
    assert (answer.status, answer.json["answer"], answer.json["stop_reason"]) == (200, "let me look", "deadline")
    assert unpack(1, item.body or b"").tools == (
        ToolCall("1", "clock", {}),
        ToolResult("1", "noon"),
        ToolCall("2", "weather", {"city": "Bonn"}),
        ToolResult("2", None, ok=False),
    )


async def test_a_turn_whose_process_slept_beyond_its_time_is_stored_all_the_same(hasty: Settings) -> None:
    """Nobody took it over, and its store has not been asked yet."""

    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield "half"
        time.sleep(hasty.timeout_s + COMMIT_MARGIN_S + 0.1)  # noqa: ASYNC251 the process, and not the agent, sleeps
        await asyncio.sleep(60)

    async with warm(hasty, agent=agent) as app:
        answer = await app.chat("hello")
        assert (answer.status, answer.json["answer"], answer.json["stop_reason"]) == (200, "half", "deadline")
        assert await app.messages() == ["hello"]


@pytest.mark.parametrize(
    ("said", "status", "reason"), [(["half"], 200, "deadline"), ([], 504, None)], ids=["something said", "nothing said"]
)
async def test_an_agent_that_knows_its_deadline_ends_as_if_it_was_ended_there(
    settings: Settings, said: list[str], status: int, reason: str | None
) -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        for each in said:
            yield each
        yield Stop("deadline")

    async with warm(settings, agent=agent) as app:
        answer = await app.chat("hello")
    assert (answer.status, answer.json.get("stop_reason")) == (status, reason)


async def test_silence_until_the_deadline_is_a_timeout_and_frees_the_session(hasty: Settings) -> None:
    async with warm(hasty, agent=agents.silent) as app:
        answer = await app.chat("hello")
        assert (answer.status, answer.slug, answer.headers["retry-after"]) == (504, "deadline-exceeded", "1")
        assert await app.messages() == []


@pytest.mark.parametrize("agent", [agents.raising, agents.foreign, agents.impatient])
async def test_an_agent_that_fails_stores_nothing_and_frees_the_session(settings: Settings, agent: object) -> None:
    async with warm(settings, agent=agent) as app:
        for _ in range(2):  # were the session still held, the second would be a 409
            answer = await app.chat("canary-7f3a")
            assert (answer.status, answer.slug) == (502, "agent-failed")
            assert "canary" not in answer.body
        assert await app.messages() == []


@pytest.mark.parametrize("what", ["object", "nan", "surrogate", "bytes", "key"])
async def test_a_tool_call_that_is_no_json_is_a_failure_of_the_agent(settings: Settings, what: str) -> None:
    async with warm(settings, agent=agents.unserialisable) as app:
        answer = await app.chat(what)
        assert (answer.status, answer.slug) == (502, "agent-failed")
        assert await app.messages() == []


async def test_a_failure_after_the_first_word_is_an_error_event(settings: Settings) -> None:
    async with warm(settings, agent=agents.raising) as app:
        answer = await app.chat("canary-7f3a", accept=SSE)
    assert answer.status == 200
    assert [name for name, _ in answer.events] == ["turn", "delta", "error"]
    assert answer.events[-1][1]["type"] == "urn:agent-service:problem:agent-failed"
    assert "canary" not in answer.body


async def test_tools_are_shown_as_they_happen(hasty: Settings) -> None:
    async with warm(hasty, agent=agents.stalled_tool) as app:
        answer = await app.chat("hello", accept=SSE)
    assert answer.events[2:5] == [
        ("tool_call", {"id": "1", "name": "clock", "args": {}}),
        ("tool_result", {"id": "1", "ok": True}),
        ("tool_call", {"id": "2", "name": "weather", "args": {"city": "Bonn"}}),
    ]
    assert answer.events[-1][1]["stop_reason"] == "deadline"


async def test_a_silent_stream_is_kept_alive(hasty: Settings) -> None:
    async with warm(hasty, agent=agents.stalled_tool, heartbeat_s=0.05) as app:
        answer = await app.chat("hello", accept=SSE)
    assert ": keep-alive\n\n" in answer.body
    assert [name for name, _ in answer.events][-1] == "done"


async def test_a_stream_that_waits_for_its_session_in_vain_still_gets_a_status(settings: Settings) -> None:
    agent = agents.Gated()
    async with warm(settings, agent=agent, heartbeat_s=0.05) as app:  # no heartbeat may begin the stream too early
        first = asyncio.create_task(app.chat("first"))
        await agent.begun.wait()
        other = await app.chat("other", prefer="wait=1", accept=SSE)
        assert (other.status, other.slug) == (409, "session-busy")
        agent.gate.set()
        assert (await first).status == 200


async def test_a_replay_shows_the_tools_too(hasty: Settings) -> None:
    async with warm(hasty, agent=agents.stalled_tool) as app:
        first = await app.chat("hello", idempotency_key="k", accept=SSE)
        again = await app.chat("hello", idempotency_key="k", accept=SSE)
    assert again.headers["idempotency-replayed"] == "true"
    shown = [name for name, _ in again.events]
    assert shown == ["turn", "tool_call", "tool_result", "tool_call", "tool_result", "delta", "done"]
    assert again.events[-1] == first.events[-1]


async def test_a_replay_is_told_as_the_turn_was(settings: Settings) -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        for event in (ToolCall("1", "clock", {}), ToolResult("1", "noon"), "It is noon."):
            yield event

    async with warm(settings, agent=agent) as app:
        told = [(await app.chat("hello", idempotency_key="k", accept=SSE)).events for _ in range(2)]
    assert told[0] == told[1]
    assert told[1][0] == ("turn", {"session_id": "s", "turn": 1})
    assert (told[1][-1][1]["session_id"], told[1][-1][1]["turn"]) == ("s", 1)
    assert told[1][-2] == ("delta", {"text": "It is noon."})


async def test_an_agent_is_handed_its_turn_whole_while_the_session_is_held_for_it(settings: Settings) -> None:
    store, loop, seen, held_s = MemoryStore(), asyncio.get_running_loop(), list[OpenTurn](), list[float]()

    async def agent(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        seen.append(turn)
        [item] = await store.newest(SessionKey(ANONYMOUS, "s"), 1)
        held_s.append((item.lease or 0.0) - time.time())
        yield "so"

    began = loop.time()
    async with warm(settings, agent=agent, store=store) as app:
        await app.chat("hello", idempotency_key="k")
    [turn] = seen
    assert (turn.number, turn.message, turn.request) == (1, "hello", "k")
    assert (turn.session_id, turn.principal, turn.max_steps) == ("s", ANONYMOUS, settings.max_steps)
    assert (turn.history, turn.state) == ([], b"")
    assert turn.deadline == pytest.approx(began + settings.timeout_s, abs=1.0)
    assert held_s == [pytest.approx(settings.timeout_s + LEASE_MARGIN_S, abs=1.0)]


async def test_an_agent_is_handed_the_history_and_its_own_state(settings: Settings) -> None:
    async with warm(settings, agent=agents.counting) as app:
        answers = [(await app.chat(message)).json for message in ("a", "b", "c")]
    assert [answer["answer"] for answer in answers] == [
        "turn 1 after []",
        "turn 2 after ['a']",
        "turn 3 after ['a', 'b']",
    ]
    assert answers[-1]["stop_reason"] == "max_steps"
    assert answers[-1]["usage"] == {"input_tokens": 7, "output_tokens": 3, "cached_tokens": 0, "steps": 6, "usd": 0.0}


async def test_an_answer_over_the_limit_is_refused_and_not_stored(settings: Settings) -> None:
    async with warm(settings, agent=agents.wordy) as app:
        answer = await app.chat("200001")
        assert (answer.status, answer.slug) == (500, "response-too-large")
        assert await app.messages() == []


async def test_half_a_character_of_a_model_is_replaced(settings: Settings) -> None:
    async with warm(settings, agent=agents.half_a_character) as app:
        assert (await app.chat("hello")).json["answer"] == "so?"


async def test_an_agent_that_never_waits_lets_others_run(settings: Settings) -> None:
    async with warm(settings, agent=agents.wordy) as app:
        talking = asyncio.create_task(app.chat("20000"))
        rounds = 0  # of the event loop, in each of which others had their turn
        while not talking.done():
            await asyncio.sleep(0)
            rounds += 1
    assert rounds > 20_000 / 100


async def test_a_session_takes_one_turn_at_a_time(settings: Settings) -> None:
    agent = agents.Gated()
    async with warm(settings, agent=agent) as app:
        first = asyncio.create_task(app.chat("first", idempotency_key="k"))
        await agent.begun.wait()
        other, same = await app.chat("other"), await app.chat("first", idempotency_key="k")
        assert (other.status, other.slug, other.headers["retry-after"]) == (409, "session-busy", "2")
        assert (same.status, same.slug, same.headers["retry-after"]) == (409, "turn-in-progress", "2")
        elsewhere = asyncio.create_task(app.chat("elsewhere", "another"))
        waiting = asyncio.create_task(app.chat("next", prefer="wait=30"))
        await asyncio.sleep(0.1)
        agent.gate.set()
        done = [await each for each in (first, waiting, elsewhere)]
    assert [(each.status, each.json["turn"]) for each in done] == [(200, 1), (200, 2), (200, 1)]
    assert done[1].headers["preference-applied"] == "wait=30"


async def test_waiting_has_an_end(settings: Settings) -> None:
    agent = agents.Gated()
    async with warm(settings, agent=agent) as app:
        first = asyncio.create_task(app.chat("first"))
        await agent.begun.wait()
        assert (await app.chat("other", prefer="wait=1")).slug == "session-busy"
        agent.gate.set()
        assert (await first).status == 200


async def test_more_turns_than_allowed_are_refused(settings: Settings) -> None:
    agent = agents.Gated()
    async with warm(settings.model_copy(update={"max_concurrent_turns": 1}), agent=agent) as app:
        first = asyncio.create_task(app.chat("first"))
        await agent.begun.wait()
        refused = await app.chat("other", "another")
        assert (refused.status, refused.slug, refused.headers["retry-after"]) == (503, "overloaded", "1")
        agent.gate.set()
        await first
        assert (await app.chat("other", "another")).status == 200


async def test_uploads_that_end_together_do_not_pass_the_limit_together(settings: Settings) -> None:
    agent, arrived = agents.Gated(), asyncio.Event()

    async def body(session: str) -> AsyncIterator[bytes]:
        await arrived.wait()
        yield json.dumps({"message": "hello", "session_id": session}).encode()

    async with warm(settings.model_copy(update={"max_concurrent_turns": 1}), agent=agent) as app:
        kind = {"Content-Type": "application/json"}
        uploads = [
            asyncio.create_task(app.request("POST", "/chat", content=body(each), headers=kind)) for each in "abc"
        ]
        await asyncio.sleep(0.05)
        arrived.set()
        await agent.begun.wait()
        await asyncio.sleep(0.05)
        assert app.lifecycle.running_turns == 1
        agent.gate.set()
        assert sorted([(await each).status for each in uploads]) == [200, 503, 503]


async def test_a_client_that_leaves_before_its_body_is_complete_is_no_error_of_ours(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings, store=MemoryStore(), agent=agents.never)
    messages: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        assert message.get("status", 400) == 400

    async with app.router.lifespan_context(app):
        await app.state.lifecycle.warm_up()
        headers = [(b"content-type", b"application/json")]
        await app(
            {"type": "http", "method": "POST", "path": "/chat", "query_string": b"", "headers": headers}, receive, send
        )
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_what_expired_is_not_found(settings: Settings) -> None:
    now = 1_000_000.0
    async with warm(settings, clock=lambda: now) as app:
        await app.chat("hello")
        assert await app.messages() == ["hello"]
        now += settings.sessions_keep_days * DAY_S + 1
        answers = [await app.request("GET", f"/sessions/s{query}") for query in ("", "?before=9")]
        assert [(answer.status, answer.slug) for answer in answers] == [(404, "not-found")] * 2


async def test_the_lease_ends_when_it_was_to_end_however_long_the_session_was_busy() -> None:
    claims, key = Claims(MemoryStore(), 5, 60), SessionKey("anonymous", "s")
    began = time.time()
    await claims.claim(key, None, "dies", lease_s=0.4)
    claim = await claims.claim_or_wait(key, None, "hello", lease_s=1.0, wait_s=1.0)
    assert isinstance(claim, Claim)
    assert claim.item.lease == pytest.approx(began + 1.0, abs=0.2)


@pytest.mark.parametrize("method", ["newest", "claim"])
async def test_without_the_store_no_agent_runs(settings: Settings, method: str) -> None:
    store = Outage()
    async with warm(settings, store=store, agent=agents.never) as app:
        store.down = {method}
        answer = await app.chat("hello")
    assert (answer.status, answer.slug, answer.headers["retry-after"]) == (503, "store-unavailable", "2")


async def test_a_commit_is_repeated_while_the_turn_may_still_answer(settings: Settings) -> None:
    store = Outage("commit")
    async with warm(settings, store=store) as app:
        chat = asyncio.create_task(app.chat("hello"))
        while store.asked.count("commit") < 8:  # beyond the second past the deadline that it has at least
            await asyncio.sleep(0.01)
        store.down.clear()
        assert (await chat).json["answer"] == "You said: hello"
        assert await app.messages() == ["hello"]


async def test_a_commit_that_never_lands_is_not_acknowledged(hasty: Settings) -> None:
    store = Outage("commit")
    async with warm(hasty, store=store) as app:
        answer = await app.chat("hello")
        assert (answer.status, answer.slug) == (503, "store-unavailable")
        assert store.asked[-1] == "release"
        store.down.clear()
        assert (await app.chat("again")).json["turn"] == 1


async def test_a_turn_whose_session_was_deleted_is_not_acknowledged(settings: Settings) -> None:
    agent = agents.Gated()
    async with warm(settings, agent=agent) as app:
        chat = asyncio.create_task(app.chat("hello"))
        await agent.begun.wait()
        assert (await app.request("DELETE", "/sessions/s")).status == 204
        agent.gate.set()
        answer = await chat
        assert (answer.status, answer.slug, answer.headers["retry-after"]) == (409, "lease-lost", "1")
        assert await app.messages() == []


@pytest.mark.parametrize("accept", ["application/json", SSE])
async def test_a_bug_is_an_internal_error_without_its_text(settings: Settings, accept: str) -> None:
    store = Outage("commit")
    store.error = RuntimeError("canary-7f3a")
    async with warm(settings, store=store) as app:
        answer = await app.chat("hello", accept=accept)
        assert await app.messages() == []
    if accept == SSE:
        assert (answer.status, answer.events[-1][0]) == (200, "error")
    else:
        assert (answer.status, answer.slug) == (500, "internal")
    assert "urn:agent-service:problem:internal" in answer.body
    assert "canary" not in answer.body
