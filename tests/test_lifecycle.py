"""The warm gate, the drain and what every response carries."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.config import Settings
from app.lifecycle import Lifecycle, Phase
from app.middleware import Shell
from tests import agents
from tests.in_process import App, Outage, serving, warm
from tests.memory_store import MemoryStore

pytestmark = pytest.mark.anyio

WARMING = (503, "warming-up", "1")
LEAVING = (503, "shutting-down", "1")


async def refusals(app: App) -> list[tuple[int, str, str]]:
    """Return how the two gated paths refuse."""
    answers = [await app.request("GET", "/readyz"), await app.chat("hello")]
    return [(answer.status, answer.slug, answer.headers["retry-after"]) for answer in answers]


async def test_until_warm_only_liveness_answers(settings: Settings) -> None:
    store = Outage("ping")
    async with serving(settings, store=store) as app:
        assert await refusals(app) == [WARMING, WARMING]
        assert (await app.request("GET", "/healthz")).status == 200
        assert "newest" not in store.asked


async def test_a_store_that_comes_back_makes_the_process_ready(settings: Settings) -> None:
    store = Outage("ping")
    async with serving(settings, store=store) as app:
        while store.asked.count("ping") < 2:
            await asyncio.sleep(0.01)
        assert await refusals(app) == [WARMING, WARMING]
        store.down.clear()
        async with asyncio.timeout(2):
            while (await app.request("GET", "/readyz")).status != 200:
                await asyncio.sleep(0.01)
        assert (await app.chat("hello")).status == 200


async def test_liveness_touches_nothing(settings: Settings) -> None:
    store = Outage("ping")
    async with serving(settings.model_copy(update={"lambda_function": "f"}), store=store) as app:
        assert (await app.request("GET", "/healthz")).status == 200
        assert store.asked == []


async def test_where_the_process_freezes_between_calls_a_call_warms_up(settings: Settings) -> None:
    store = Outage("ping")
    async with serving(settings.model_copy(update={"lambda_function": "f"}), store=store) as app:
        await asyncio.sleep(0.05)
        assert store.asked == []  # nothing runs in the background
        chat = asyncio.create_task(app.chat("hello"))
        while not store.asked:
            await asyncio.sleep(0.01)
        store.down.clear()
        assert (await chat).status == 200


async def test_a_draining_process_refuses_once_its_delay_is_over(settings: Settings) -> None:
    agent = agents.Gated()
    async with warm(settings, agent=agent) as app:
        running = asyncio.create_task(app.chat("hello"))
        await agent.begun.wait()
        listening = asyncio.Event()
        draining = asyncio.create_task(app.lifecycle.drain(listening.set))
        await listening.wait()
        assert await refusals(app) == [LEAVING, LEAVING]
        alive = await app.request("GET", "/healthz")
        assert (alive.status, alive.headers["connection"]) == (200, "close")
        agent.gate.set()
        assert (await running).json["answer"] == "done"
        await draining


async def test_a_draining_process_serves_during_its_delay(settings: Settings) -> None:
    slow = settings.model_copy(update={"drain_delay_s": 60.0, "shutdown_grace_s": 70.0})
    async with warm(slow) as app:
        draining = asyncio.create_task(app.lifecycle.drain(lambda: None))
        await asyncio.sleep(0)
        readiness, turn = await app.request("GET", "/readyz"), await app.chat("hello")
        assert (readiness.status, readiness.slug) == (503, "shutting-down")
        assert (turn.status, turn.headers["connection"]) == (200, "close")
        draining.cancel()


async def test_what_changed_while_a_body_arrived_counts(settings: Settings) -> None:
    store, arrived = MemoryStore(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"message": "hello", '
        await arrived.wait()
        yield b'"session_id": "s"}'

    async with warm(settings, store=store) as app:
        upload = app.request("POST", "/chat", content=body(), headers={"Content-Type": "application/json"})
        uploading = asyncio.create_task(upload)
        await asyncio.sleep(0.05)
        await app.lifecycle.drain(lambda: None)
        arrived.set()
        answer = await uploading
        assert (answer.status, answer.slug) == (503, "shutting-down")
        assert await app.messages() == []


async def test_phases_come_in_their_order(settings: Settings) -> None:
    seen = []
    async with serving(settings) as app:
        lifecycle: Lifecycle = app.lifecycle
        seen.append(lifecycle.phase)
        await lifecycle.warm_up()
        seen.append(lifecycle.phase)
        await lifecycle.drain(lambda: None)
        seen.append(lifecycle.phase)
        await lifecycle.warm_up()  # comes too late
        seen.append(lifecycle.phase)
    assert seen == [Phase.WARMING, Phase.READY, Phase.DRAINING, Phase.DRAINING]
    assert lifecycle.phase is Phase.STOPPED


async def test_a_warm_up_that_succeeds_too_late_makes_nothing_ready() -> None:
    lifecycle = Lifecycle(max_turns=1, drain_delay_s=0, grace_s=3)
    lifecycle.begin(lambda: lifecycle.drain(lambda: None))  # the drain comes while the probe is asked
    await lifecycle.warm_up()
    assert lifecycle.phase is Phase.DRAINING


async def test_every_response_carries_the_shells_headers(settings: Settings) -> None:
    async with warm(settings) as app:
        answers = [await app.request("GET", path) for path in ("/healthz", "/nowhere", "/sessions/none")]
        answers += [await app.chat("hello"), await app.chat("hello", accept="text/event-stream")]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    assert [answer.headers.get("x-cold-start") for answer in answers] == ["true", None, None, None, None]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("trace-1.2_3", True), ("a" * 128, True), ("a" * 129, False), ("", False), ("a b", False), ("é", False)],
)
async def test_a_well_formed_request_id_is_kept(settings: Settings, sent: str, *, kept: bool) -> None:
    async with warm(settings) as app:
        answer = await app.request("GET", "/nowhere", headers={"X-Request-ID": sent.encode()})
    assert (answer.headers["x-request-id"] == sent) is kept
    assert answer.json["instance"] == answer.headers["x-request-id"]


async def test_an_error_after_the_response_has_begun_cuts_the_connection() -> None:
    sent = []

    async def breaks(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError

    async def send(message: Message) -> None:
        sent.append(message["type"])

    shell = Shell(breaks, Lifecycle(max_turns=1, drain_delay_s=0, grace_s=3))
    with pytest.raises(LookupError):  # which the server takes as: close
        await shell({"type": "http", "path": "/", "headers": []}, asyncio.Event().wait, send)  # type: ignore[arg-type]  # never asked
    assert sent == ["http.response.start"]


async def test_a_request_that_its_server_gives_up_is_told_why() -> None:
    sent: list[Message] = []

    async def hangs(_: Scope, __: Receive, ___: Send) -> None:
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        sent.append(message)

    shell = Shell(hangs, Lifecycle(max_turns=1, drain_delay_s=0, grace_s=3))
    request = asyncio.create_task(shell({"type": "http", "path": "/", "headers": []}, asyncio.Event().wait, send))  # type: ignore[arg-type]  # never asked
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert sent[0]["status"] == 503
    assert b"urn:agent-service:problem:shutting-down" in sent[1]["body"]


async def test_a_process_that_was_never_ready_serves_nobody_while_it_drains(settings: Settings) -> None:
    slow = settings.model_copy(update={"drain_delay_s": 60.0, "shutdown_grace_s": 70.0})
    async with serving(slow, store=Outage("ping")) as app:
        draining = asyncio.create_task(app.lifecycle.drain(lambda: None))
        await asyncio.sleep(0)
        assert await refusals(app) == [LEAVING, LEAVING]
        draining.cancel()


async def test_a_body_must_arrive_in_its_time(settings: Settings) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with warm(settings, body_s=0.05) as app:
        answer = await app.request("POST", "/chat", content=body(), headers={"Content-Type": "application/json"})
    assert (answer.status, answer.slug, answer.headers["retry-after"]) == (408, "request-timeout", "1")
