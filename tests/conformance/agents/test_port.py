"""What every agent promises, whatever it is made of."""

import asyncio
import json
from collections.abc import Awaitable
from contextlib import aclosing
from dataclasses import asdict

import pytest

from app.budgets import Limit
from app.events import Stop, Text, ToolCall, ToolResult, Turn, Usage
from app.sessions.codec import pack, unpack
from tests.conformance.agents.rig import HEARTBEAT_S, MAX_STEPS, PATIENCE_S, Sessions, Subject, done, events_of, opened
from tests.conformance.agents.script import Script

pytestmark = pytest.mark.anyio


def script_of(subject: Subject) -> Script:
    assert subject.script
    return subject.script


async def test_an_answer_comes_in_pieces(subject: Subject) -> None:
    sessions = Sessions(subject.agent)
    await sessions.turn("one")
    events = await events_of(sessions.start("two"))
    texts = [event.text for event in events if isinstance(event, Text)]
    assert len(texts) > 1
    assert "".join(texts) == done(events).answer


async def test_a_session_remembers_what_was_said(subject: Subject) -> None:
    sessions = Sessions(subject.agent)
    await sessions.turn("canary")
    answer = (await sessions.turn("two")).answer
    assert ("canary" in answer) == subject.remembers
    assert "two" in answer


async def test_sessions_at_the_same_time_never_mix(subject: Subject) -> None:
    sessions = Sessions(subject.agent)
    names = [f"name-{number:02}" for number in range(20)]
    await asyncio.gather(*(sessions.turn(f"{name}-first", name) for name in names))
    turns = await asyncio.gather(*(sessions.turn(f"{name}-second", name) for name in names))
    for name, turn in zip(names, turns, strict=True):
        assert f"{name}-second" in turn.answer
        assert [other for other in names if other in turn.answer] == [name]


async def test_a_turn_is_json_and_survives_the_store(subject: Subject) -> None:
    turn = await Sessions(subject.agent).turn("time")
    assert unpack(turn.number, pack(turn)) == turn
    json.dumps(asdict(turn) | {"state": None}, allow_nan=False)


async def test_what_is_stored_of_a_turn_does_not_grow_with_the_session(subject: Subject) -> None:
    sessions = Sessions(subject.agent)
    turns = [await sessions.turn("time") for _ in range(6)]
    assert abs(len(turns[-1].state) - len(turns[1].state)) < 64  # usage figures and dates vary in length


@pytest.mark.parametrize("state", [b"", b"\xff", b"[]", b'{"format": "messages-api/1", "messages": [{}]}', b"null"])
async def test_a_turn_of_another_agent_is_tolerated(subject: Subject, state: bytes) -> None:
    tools = (ToolCall("1", "elsewhere", {}), ToolResult("1", None, ok=False))
    history = [Turn(1, "canary", "answered", tools, state), Turn(2, "silence", "", (), state, "deadline")]
    said = "".join([event async for event in subject.agent(opened("two", *history)) if isinstance(event, str)])
    assert ("canary" in said) == subject.remembers


async def test_a_generator_that_is_closed_early_leaves_nothing_behind(subject: Subject) -> None:
    async with aclosing(subject.agent(opened("one two"))) as events:  # type: ignore[type-var]  # it is a generator
        assert await anext(events)
    await no_task_is_left()


async def test_without_a_model_no_step_is_counted(plain: Subject) -> None:
    turn = await Sessions(plain.agent).turn("again")
    assert (turn.stop_reason, turn.usage) == ("end_turn", Usage())


async def test_tool_calls_and_results_are_told_in_order(modelled: Subject) -> None:
    turn = await Sessions(modelled.agent).turn("time")
    call, result = turn.tools
    assert isinstance(call, ToolCall)
    assert isinstance(result, ToolResult)
    assert (call.name, call.args, result.id, result.ok) == ("clock", {}, call.id, True)
    assert turn.answer == f"it is {result.result}"


async def test_a_model_sees_the_tools_of_earlier_turns(modelled: Subject) -> None:
    sessions = Sessions(modelled.agent)
    await sessions.turn("time")
    await sessions.turn("two")
    roles = [role for role, text in script_of(modelled).asked[-1] if text]
    assert roles == ["user", "call", "result", "model", "user"]


@pytest.mark.parametrize(("limit", "calls"), [(1, 1), (54, 2)])
async def test_a_turn_ends_with_its_budget_and_one_model_call_more_at_most(
    modelled: Subject, limit: int, calls: int
) -> None:
    sessions = Sessions(modelled.agent, max_steps=9, limit=Limit(limit))
    turn = await sessions.turn("again")
    asked = len(script_of(modelled).asked)
    assert turn.stop_reason == "budget"
    assert calls <= asked <= calls + 1
    assert turn.usage.input_tokens + turn.usage.output_tokens >= limit
    assert all(each.ok for each in turn.tools if isinstance(each, ToolResult)) or asked > calls
    assert (await sessions.turn("two")).number == 2
    assert paired(script_of(modelled))


async def test_usage_is_the_sum_of_the_model_calls(modelled: Subject) -> None:
    one = (await Sessions(modelled.agent).turn("one")).usage
    two = (await Sessions(modelled.agent).turn("time")).usage
    assert (one.steps, two.steps) == (1, 2)
    assert one.input_tokens == 50
    assert two.input_tokens >= 100
    assert one.output_tokens


async def test_a_turn_takes_its_steps_and_no_more(modelled: Subject) -> None:
    turn = await Sessions(modelled.agent).turn("again")
    assert (turn.stop_reason, turn.usage.steps, len(script_of(modelled).asked)) == ("max_steps", MAX_STEPS, MAX_STEPS)
    assert turn.answer == "look 0 look 1 look 2 "


async def test_an_answer_in_the_last_step_is_an_answer(modelled: Subject) -> None:
    turn = await Sessions(modelled.agent, max_steps=2).turn("time")
    assert turn.stop_reason == "end_turn"


async def test_a_session_goes_on_after_its_steps_were_used_up(modelled: Subject) -> None:
    sessions = Sessions(modelled.agent)
    await sessions.turn("again")
    assert (await sessions.turn("two")).answer == "again two "
    assert paired(script_of(modelled))


async def test_a_turn_cut_at_its_deadline_keeps_what_was_said_and_the_session_goes_on(modelled: Subject) -> None:
    sessions = Sessions(modelled.agent)
    cut = await sessions.turn("wait", timeout_s=0.6)
    assert (cut.answer, cut.stop_reason) == ("begun", "deadline")
    assert (await sessions.turn("two")).answer == "wait two "
    assert paired(script_of(modelled))


async def test_a_cancelled_turn_closes_the_models_stream(modelled: Subject) -> None:
    script = script_of(modelled)
    running = Sessions(modelled.agent).start("wait")
    async for batch in running.batches(HEARTBEAT_S):
        if Text("begun") in batch:
            break
    running.cancel()
    await within(script.closed.wait())
    assert done(await events_of(running)).stop_reason == "cancelled"


async def test_a_turn_whose_task_is_cancelled_closes_the_models_stream(modelled: Subject) -> None:
    script = script_of(modelled)

    async def follow() -> None:
        async for _ in modelled.agent(opened("wait")):
            pass

    task = asyncio.create_task(follow())
    await within(script.waiting.wait())
    task.cancel()
    await within(script.closed.wait())
    await no_task_is_left()
    assert task.cancelled()


async def test_a_generator_that_is_closed_closes_the_models_stream(modelled: Subject) -> None:
    events = modelled.agent(opened("wait"))
    async for event in events:
        if event == "begun":
            break
    await events.aclose()  # type: ignore[attr-defined]  # it is a generator
    await within(script_of(modelled).closed.wait())
    await no_task_is_left()
    assert [event async for event in events] == []


async def test_cut_turns_at_the_same_time_leave_the_others_alone(modelled: Subject) -> None:
    sessions = Sessions(modelled.agent)
    cut = [asyncio.create_task(sessions.turn("wait", f"cut-{number}", timeout_s=0.6)) for number in range(5)]
    whole = await asyncio.gather(*(sessions.turn(f"word-{number}", f"whole-{number}") for number in range(5)))
    assert [turn.answer for turn in whole] == [f"word-{number} " for number in range(5)]
    assert {turn.stop_reason for turn in await asyncio.gather(*cut)} == {"deadline"}


async def test_the_last_event_tells_why_the_turn_ended(modelled: Subject) -> None:
    events = [event async for event in modelled.agent(opened("one"))]
    assert isinstance(events[-1], Stop)


def paired(script: Script) -> bool:
    """Tell whether each call that the model was shown last is followed by its result, as the APIs demand."""
    roles = [role for role, _ in script.asked[-1]]
    return roles.count("call") == roles.count("result")


async def no_task_is_left() -> None:
    """Wait until the tasks that the test began have ended, as they must before its loop is closed."""
    runner = "TestRunner."  # anyio's own tasks, which wait for this one
    mine = {asyncio.current_task()}
    if others := {task for task in asyncio.all_tasks() - mine if runner not in str(task.get_coro())}:
        _, unfinished = await asyncio.wait(others, timeout=PATIENCE_S)
        assert not unfinished


async def within(waiting: Awaitable[object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await waiting
