"""A turn in progress: what its reader gets, and what ends it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence

import pytest

from app.errors import AgentFailed, LeaseLost, ServiceError, ShuttingDown, StoreUnavailable, TurnCancelled
from app.events import Text, ToolCall, ToolResult, TurnEvent
from app.running import BACKLOG, JOINED_CHARS, LATE_S, OBEY_S, WATCH_S, RunningTurn
from app.work import Cut

pytestmark = pytest.mark.anyio

LIMIT_S = 20.0
NEVER_S = 600.0
CALL, RESULT = ToolCall("1", "clock", {}), ToolResult("1", "noon")


class Told(list[BaseException | None]):
    """What ended turns, as they told it."""


def begun(work: Callable[[RunningTurn], Coroutine[None, None, None]], told: Told | None = None) -> RunningTurn:
    return RunningTurn(work, (told if told is not None else Told()).append)


async def read(running: RunningTurn, heartbeat_s: float = NEVER_S) -> list[Sequence[TurnEvent]]:
    """Return all batches; raise what ended the turn."""
    async with asyncio.timeout(LIMIT_S):
        return [batch async for batch in running.batches(heartbeat_s)]


async def for_ever() -> None:
    await asyncio.Event().wait()


def saying(*events: TurnEvent) -> Callable[[RunningTurn], Coroutine[None, None, None]]:
    async def work(running: RunningTurn) -> None:
        for event in events:
            running.emit(event)

    return work


async def test_a_backlog_is_read_at_once_and_in_order() -> None:
    events: list[TurnEvent] = [Text("a"), CALL, RESULT, Text("b"), Text("c")]
    running = begun(saying(*events))
    await running.settled()
    assert await read(running) == [events]
    assert await read(running) == []


async def test_texts_that_wait_for_their_reader_are_joined_and_nothing_else_is() -> None:
    first = [Text(str(number)) for number in range(BACKLOG)]
    long = Text("x" * JOINED_CHARS)
    running = begun(saying(*first, Text("a"), Text("b"), CALL, Text("c"), Text("d"), RESULT, CALL, long, Text("e")))
    await running.settled()
    [batch] = await read(running)
    joined = [*first[:-1], Text(f"{BACKLOG - 1}ab"), CALL, Text("cd"), RESULT, CALL, long, Text("e")]
    assert list(batch) == joined


async def test_a_text_is_joined_to_one_that_is_a_character_short() -> None:
    first: list[TurnEvent] = [CALL] * BACKLOG
    running = begun(saying(*first, Text("x" * (JOINED_CHARS - 1)), Text("ab"), Text("c")))
    await running.settled()
    [batch] = await read(running)
    assert list(batch[BACKLOG:]) == [Text("x" * (JOINED_CHARS - 1) + "ab"), Text("c")]


async def test_who_reads_while_nothing_is_said_gets_empty_batches() -> None:
    go = asyncio.Event()

    async def work(running: RunningTurn) -> None:
        await go.wait()
        running.emit(CALL)

    running, empty = begun(work), 0
    async with asyncio.timeout(LIMIT_S):
        async for batch in running.batches(0.01):
            if batch:
                assert batch == [CALL]
            elif (empty := empty + 1) == 5:
                go.set()
    assert empty >= 5


async def test_what_ended_a_turn_is_told_once_and_before_its_reader_hears() -> None:
    told, error = Told(), AgentFailed("so")

    async def work(running: RunningTurn) -> None:
        running.emit(CALL)
        raise error

    running = begun(work, told)
    batches = running.batches(NEVER_S)
    assert await anext(batches) == [CALL]
    with pytest.raises(AgentFailed) as caught:
        await anext(batches)
    assert (caught.value, told) == (error, [error])


async def test_a_turn_that_came_to_its_end_tells_of_no_failure() -> None:
    told, settled = Told(), list[RunningTurn]()
    running = begun(saying(), told)
    running.add_done_callback(settled.append)
    await read(running)
    assert (told, settled) == ([None], [running])


@pytest.mark.parametrize("steps", [0, 1], ids=["before its first step", "after it"])
async def test_a_turn_that_is_stopped_ends_with_that_error(steps: int) -> None:
    told, error = Told(), LeaseLost()
    running = begun(lambda _: for_ever(), told)
    for _ in range(steps):
        await asyncio.sleep(0)
    running.stop(error)
    with pytest.raises((LeaseLost, ShuttingDown)) as caught:
        await read(running)
    assert [type(each) for each in told] == [type(caught.value)]
    assert isinstance(caught.value, LeaseLost) is bool(steps)


async def test_what_is_being_stored_is_stopped_by_force_only() -> None:
    stored = asyncio.Event()

    async def work(running: RunningTurn) -> None:
        running.settle()
        await stored.wait()

    let_through, forced = begun(work), begun(work)
    await asyncio.sleep(0)
    for running in (let_through, forced):
        running.stop(ShuttingDown())
        running.cancel()
    forced.stop(StoreUnavailable(), even_storing=True)
    with pytest.raises(StoreUnavailable):
        await read(forced)
    stored.set()
    assert await read(let_through) == []


async def test_a_turn_whose_task_is_cancelled_says_that_the_process_ends() -> None:
    told = Told()

    async def work(_: RunningTurn) -> None:
        raise asyncio.CancelledError

    running = begun(work, told)
    with pytest.raises(ShuttingDown):
        await read(running)
    assert [type(each) for each in told] == [ShuttingDown]


def with_agent(
    agent: Callable[[], Coroutine[None, None, None]], cuts: list[Cut | None], timeout_s: float = NEVER_S
) -> Callable[[RunningTurn], Coroutine[None, None, None]]:
    """Return the work of a turn that runs an agent and keeps what cut it short."""

    async def work(running: RunningTurn) -> None:
        cuts.append(await running.run_agent(agent(), asyncio.get_running_loop().time() + timeout_s))

    return work


async def test_an_agent_that_ends_by_itself_is_not_cut_short() -> None:
    cuts: list[Cut | None] = []
    await read(begun(with_agent(lambda: asyncio.sleep(0), cuts)))
    assert cuts == [None]


async def test_an_agent_is_cut_short_at_its_deadline() -> None:
    cuts: list[Cut | None] = []
    await read(begun(with_agent(for_ever, cuts, timeout_s=0.01)))
    assert cuts == ["deadline"]


async def test_a_cancelled_turn_ends_its_agent_and_goes_on() -> None:
    cuts: list[Cut | None] = []
    running = begun(with_agent(for_ever, cuts))
    await asyncio.sleep(0)
    running.cancel()
    running.cancel()
    await read(running)
    assert cuts == ["cancelled"]


async def test_a_turn_that_is_cancelled_before_its_agent_runs_has_no_answer() -> None:
    running = begun(lambda _: for_ever())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(TurnCancelled):
        await read(running)


@pytest.mark.parametrize("error", [AgentFailed("mine"), ServiceError("mine"), LookupError("mine")], ids=repr)
async def test_what_an_agent_raises_is_raised(error: Exception) -> None:
    async def agent() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await read(begun(with_agent(agent, [])))
    assert caught.value is error


async def test_an_agent_that_cancels_itself_has_failed() -> None:
    async def agent() -> None:
        raise asyncio.CancelledError

    with pytest.raises(AgentFailed, match=r"^the agent raised CancelledError$"):
        await read(begun(with_agent(agent, [])))


async def test_an_agent_may_clean_up_for_a_moment(caplog: pytest.LogCaptureFixture) -> None:
    cuts, cleaned, loop = list[Cut | None](), asyncio.Event(), asyncio.get_running_loop()

    async def agent() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(OBEY_S / 3)
            cleaned.set()

    async def stubborn() -> None:
        while not cleaned.is_set():
            try:
                await cleaned.wait()
            except asyncio.CancelledError:
                continue

    await read(begun(with_agent(agent, cuts, timeout_s=0.01)))
    assert (cleaned.is_set(), caplog.records) == (True, [])
    cleaned.clear()
    began = loop.time()
    await read(begun(with_agent(stubborn, cuts, timeout_s=0.01)))
    assert OBEY_S <= loop.time() - began < OBEY_S + 1
    assert cuts == ["deadline", "deadline"]
    cleaned.set()
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "an agent does not end and is left behind")


@pytest.mark.parametrize("settling", [False, True], ids=["claiming", "storing"])
async def test_a_turn_does_not_wait_for_its_store_beyond_its_time(*, settling: bool) -> None:
    async def work(running: RunningTurn) -> None:
        running.end_at(asyncio.get_running_loop().time() + 0.01)
        if settling:
            running.settle()
        await for_ever()

    with pytest.raises(StoreUnavailable, match=r"^the session store did not answer in time$"):
        await read(begun(work))


async def test_a_turn_that_is_late_with_its_agent_asks_its_store_once() -> None:
    """As when the process slept."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def work(running: RunningTurn) -> None:
        running.end_at(began)
        await running.run_agent(for_ever(), began + 0.1)
        running.settle()
        await for_ever()

    with pytest.raises(StoreUnavailable):
        await read(begun(work))
    assert LATE_S <= loop.time() - began < LATE_S + 1


async def test_a_turn_is_looked_at_until_it_settles() -> None:
    looks, loop, looked = dict[str, float](), asyncio.get_running_loop(), asyncio.Event()
    began, others = loop.time(), asyncio.all_tasks()

    async def look(name: str) -> None:
        looks[name] = loop.time() - began
        looked.set()

    async def work(running: RunningTurn, name: str, *, settled: bool) -> None:
        running.watch(lambda: look(name))
        if settled:
            running.settle()
        await looked.wait()
        running.settle()
        await asyncio.sleep(0)

    async def both() -> None:
        settled = begun(lambda running: work(running, "settled", settled=True))
        await read(begun(lambda running: work(running, "running", settled=False)))
        await read(settled)

    await both()
    assert looks == {"running": pytest.approx(WATCH_S, abs=0.3)}
    assert asyncio.all_tasks() == others


async def test_nothing_of_a_turn_is_left_when_it_has_ended() -> None:
    before = len(asyncio.all_tasks())

    async def look() -> None:
        await for_ever()

    async def work(running: RunningTurn) -> None:
        running.end_at(asyncio.get_running_loop().time() + NEVER_S)
        running.watch(look)

    running = begun(work)
    await read(running)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
