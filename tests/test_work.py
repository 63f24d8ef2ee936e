"""What an agent has done in a turn: what is taken, what is refused, and what is left when it is cut short."""

import time
from typing import Any

import pytest

from app.errors import AgentFailed, DeadlineExceeded, ResponseTooLarge, TurnCancelled
from app.events import AgentEvent, State, Stop, Text, ToolCall, ToolResult, Usage
from app.sessions.codec import pack, unpack
from app.work import MAX_CHARS, Cut, Work
from tests.test_misbehaving_agents import nested

CALL, RESULT = ToolCall("1", "clock", {}), ToolResult("1", "noon")


def work_of(*events: AgentEvent) -> Work:
    work = Work()
    for event in events:
        work.take(event)
    return work


def test_what_is_said_and_done_is_shown_and_the_rest_is_not() -> None:
    work = Work()
    events: list[AgentEvent] = ["so", "", "\ud83d", CALL, RESULT, State(b"s"), Usage(steps=1), Stop("refusal")]
    shown = [work.take(event) for event in events]
    assert shown == [Text("so"), None, Text("?"), CALL, RESULT, None, None, None]
    turn = work.finish(3, "hello")
    assert (turn.number, turn.message, turn.answer, turn.tools) == (3, "hello", "so?", (CALL, RESULT))
    assert (turn.state, turn.stop_reason, turn.usage) == (b"s", "refusal", Usage(steps=1))
    assert not work.finished  # `end` says so, whatever became of the turn
    work.end()
    assert work.finished


def test_the_usage_of_the_end_is_the_whole() -> None:
    assert work_of(Usage(steps=1), Stop("max_steps", Usage(steps=2))).usage == Usage(steps=2)
    assert work_of(Usage(steps=1), Usage(steps=2), Stop("max_steps")).usage == Usage(steps=2)


@pytest.mark.parametrize(
    "events",
    [["x" * MAX_CHARS], ["x" * (MAX_CHARS - 1), "x"], [ToolCall("1", "t", "x" * (MAX_CHARS - len('["1","t",""]')))]],
    ids=["a text", "texts", "a tool"],
)
def test_what_is_said_and_done_may_be_so_long_and_no_longer(events: list[AgentEvent]) -> None:
    work = work_of(*events)
    with pytest.raises(ResponseTooLarge, match=r"^what the agent said and did passed its limit$"):
        work.take("x")


def test_a_state_may_be_so_long_and_no_longer() -> None:
    assert work_of(State(b"x" * MAX_CHARS)).state == b"x" * MAX_CHARS
    with pytest.raises(ResponseTooLarge, match=r"^the agent's state passed its limit$"):
        work_of(State(b"x" * (MAX_CHARS + 1)))


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([7], "the agent yielded a int"),
        ([ToolCall("1", "t", float("nan"))], "the agent yielded a ToolCall that is not JSON, or nested too deeply"),
        ([RESULT], "the agent yielded a ToolResult with an id that does not fit"),
        ([CALL, CALL], "the agent yielded a ToolCall with an id that does not fit"),
        ([CALL, RESULT, RESULT], "the agent yielded a ToolResult with an id that does not fit"),
    ],
    ids=["no event", "no JSON", "a result without a call", "a call again", "a result again"],
)
def test_what_is_wrong_with_an_event_is_said_by_its_kind(events: list[Any], text: str) -> None:
    with pytest.raises(AgentFailed) as caught:
        work_of(*events)
    assert str(caught.value) == text


def test_what_is_taken_however_deep_can_be_read_again() -> None:
    deepest = 0
    for depth in range(150, 210):
        try:
            turn = work_of(ToolCall("1", "t", nested(depth)), ToolResult("1", nested(depth))).finish(1, "hello")
        except AgentFailed:
            break
        assert unpack(1, pack(turn)) == turn
        deepest = depth
    assert 150 <= deepest < 209


@pytest.mark.parametrize(("reason", "error"), [("deadline", DeadlineExceeded), ("cancelled", TurnCancelled)])
def test_what_was_said_or_done_stands_when_a_turn_is_cut_short(reason: Cut, error: type[Exception]) -> None:
    for events in (["so"], [CALL], ["so", CALL, RESULT]):
        work = work_of(*events)
        work.cut(reason)
        assert work.finish(1, "hello").stop_reason == reason
    with pytest.raises(error):
        work_of(State(b"s")).cut(reason)


def test_only_a_call_without_its_result_gets_a_failed_one() -> None:
    other = ToolCall("2", "clock", {})
    turn = work_of(CALL, other, RESULT).finish(1, "hello")
    assert turn.tools == (CALL, other, RESULT, ToolResult("2", None, ok=False))


def test_the_time_of_tools_runs_from_the_first_open_call_to_the_last_result() -> None:
    began = time.monotonic()
    work = work_of(CALL, ToolCall("2", "clock", {}), RESULT)
    assert work.tools_s == 0.0  # one of them is open still
    work.take(ToolResult("2", None))
    first_s = work.tools_s
    assert 0 < first_s <= time.monotonic() - began
    work.end()
    assert work.tools_s == first_s  # nothing is open
    began = time.monotonic()
    work.take(ToolCall("3", "clock", {}))
    work.take(ToolCall("4", "clock", {}))
    work.end()
    assert first_s < work.tools_s <= first_s + time.monotonic() - began
    stopped_s = work.tools_s
    work.end()
    assert work.tools_s == stopped_s
