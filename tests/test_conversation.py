"""A history as messages: what the API takes, whatever the history went through, and a beginning that stays the same."""

import copy
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents import conversation
from app.agents.conversation import assistant, text, tool_result, user
from app.events import JSON, StopReason, ToolCall, ToolResult, Turn
from tests.messages_rules import Issued, check

TOOLS = frozenset({"weather", "stock"})
ROOM = 600_000


def call(call_id: str, name: str = "weather") -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {"city": "Bonn"}}


def worked(number: int, size: int = 10) -> Turn:
    """A turn of two steps, one of them with two tool calls."""
    messages = [
        user(text(f"question {number}")),
        assistant(text("let me see"), call(f"a{number}"), call(f"b{number}", "stock")),
        user(tool_result(f"a{number}", "x" * size, ok=True), tool_result(f"b{number}", "none", ok=False)),
        assistant(text(f"answer {number}")),
    ]
    tools = (
        ToolCall(f"a{number}", "weather", {"city": "Bonn"}),
        ToolCall(f"b{number}", "stock", {}),
        ToolResult(f"a{number}", "x" * size),
        ToolResult(f"b{number}", "none", ok=False),
    )
    return Turn(number, f"question {number}", f"let me seeanswer {number}", tools, conversation.pack(messages))


def spoken(number: int, stop_reason: StopReason = "end_turn") -> Turn:
    return Turn(number, f"question {number}", f"answer {number}", stop_reason=stop_reason)


def request(history: Sequence[Turn], room: int = ROOM) -> list[dict[str, Any]]:
    """Return what would be sent for a next turn, after checking that the API takes it."""
    messages = [*conversation.of_history(history, TOOLS, room), user(text("and now?"))]
    tools = [{"name": name, "description": name, "input_schema": {"type": "object"}} for name in sorted(TOOLS)]
    check({"model": "m", "max_tokens": 1, "messages": messages, "tools": tools}, Issued())
    return messages


def said(history: Sequence[Turn], room: int = ROOM) -> str:
    return json.dumps(request(history, room))


def test_a_turn_comes_back_with_its_tool_calls_and_results() -> None:
    messages = request([worked(1)])
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert [block["type"] for block in messages[2]["content"]] == ["tool_result", "tool_result"]


def test_a_turn_without_tools_is_its_question_and_its_answer() -> None:
    assert request([spoken(1)]) == [
        user(text("question 1")),
        assistant(text("answer 1")),
        user(text("and now?")),
    ]


def test_a_turn_of_another_agent_is_readable() -> None:
    other = Turn(1, "question", "answer", (ToolCall("1", "search", {}), ToolResult("1", "found")), b"\x80pickle")
    assert "answer\\n\\n(Tools called for this answer: search)" in said([other])


def test_a_turn_of_an_agent_whose_tools_are_gone_keeps_its_answer() -> None:
    turn = worked(1)
    [_, answer, _] = [*conversation.of_history([turn], frozenset(), ROOM), user(text("and now?"))]
    assert "answer 1" in answer["content"][0]["text"]


def test_a_turn_that_was_cut_before_its_first_word_says_so() -> None:
    assert conversation.CUT_SHORT in said([Turn(1, "question", "", (), b"", "cancelled")])


def test_a_blank_question_does_not_stand_in_the_way_of_later_ones() -> None:
    found = said([Turn(1, " \n", "answer"), spoken(2)])
    assert conversation.BLANK in found
    assert "question 2" in found


def test_a_refused_turn_is_left_out_and_its_neighbours_are_not() -> None:
    found = said([spoken(1), spoken(2, "refusal"), spoken(3)])
    assert "question 2" not in found
    assert "question 1" in found
    assert "question 3" in found


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s"}


def rewritten(turn: Turn, change: Any) -> Turn:
    """Return the turn with its state changed by somebody who keeps no rule."""
    messages = copy.deepcopy(conversation.of_history([turn], TOOLS, ROOM))
    change(messages)
    seal = turn.state.partition(b"\n")[0] + b"\n"
    return Turn(turn.number, turn.message, turn.answer, turn.tools, seal + json.dumps(messages).encode())


DAMAGES: dict[str, Any] = {
    "no result at all": lambda m: m.pop(2),
    "one result missing": lambda m: m[2]["content"].pop(0),
    "a result twice": lambda m: m[2]["content"].append(m[2]["content"][0]),
    "a result of nothing": lambda m: m[0]["content"].append(tool_result("zz", "x", ok=True)),
    "a result too late": lambda m: m.append(m.pop(2)),
    "the words before the results": lambda m: m[2]["content"].insert(0, text("first")),
    "the call lost": lambda m: m[1]["content"].pop(1),
    "the call twice": lambda m: m[1]["content"].append(m[1]["content"][1]),
    "the step twice": lambda m: m.extend(copy.deepcopy(m[1:3])),
    "the call said by the user": lambda m: m[0]["content"].append(call("zz")),
    "the result said by the model": lambda m: m[3]["content"].append(tool_result("a1", "x", ok=True)),
    "the question lost": lambda m: m.pop(0),
    "only the answer": lambda m: m.__delitem__(slice(0, 3)),
    "the end lost": lambda m: m.__delitem__(slice(2, 4)),
    "nothing": list.clear,
    "an empty message": lambda m: m[3]["content"].clear(),
    "an empty text": lambda m: m[3]["content"].append(text(" ")),
    "roles swapped": lambda m: m[0].update(role="assistant"),
    "a call with a strange id": lambda m: m[1]["content"][1].update(id="ä b"),
    "a call without an input": lambda m: m[1]["content"][1].pop("input"),
    "a call with a list as input": lambda m: m[1]["content"][1].update(input=[1]),
    "a result without content": lambda m: m[2]["content"][0].pop("content"),
    "a text without text": lambda m: m[0]["content"][0].pop("text"),
    "a block that is none": lambda m: m[0]["content"].append(7),
    "a content that is a text": lambda m: m[0].update(content="hello"),
    "an extra field": lambda m: m[0].update(at="noon"),
    "an extra field of a block": lambda m: m[0]["content"][0].update(at="noon"),
    "a role of nobody": lambda m: m[0].update(role="system"),
    "a message that is none": lambda m: m.append(None),
    "a kind that only a user's document has": lambda m: m[0]["content"].append({"type": "document"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_turn_is_repaired(damage: str) -> None:
    messages = request([rewritten(worked(1), DAMAGES[damage]), worked(2)])
    assert messages[-5:] == request([worked(2)])  # the turn after it is whole


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_turn_after_a_whole_one_is_repaired(damage: str) -> None:
    messages = request([worked(1), rewritten(worked(2), DAMAGES[damage])])
    assert messages[:4] == request([worked(1)])[:4]  # the turn before it is whole


def test_a_turn_stored_twice_is_repaired() -> None:
    once = worked(1)
    messages = request([once, Turn(2, once.message, once.answer, once.tools, once.state)])
    assert messages[:4] == request([once])[:4]


@given(st.data())
def test_a_state_with_any_bytes_changed_is_repaired(data: st.DataObject) -> None:
    state = bytearray(worked(1).state)
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(state) - 1))
        state[where : where + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    turn = worked(1)
    messages = request([Turn(1, turn.message, turn.answer, turn.tools, bytes(state)), worked(2)])
    assert messages[-5:] == request([worked(2)])


@given(st.binary(max_size=200))
def test_a_state_of_any_bytes_is_read(state: bytes) -> None:
    request([Turn(1, "question", "answer", (), state)])


BLOCKS = st.sampled_from([text("words"), THOUGHT, *(call(each) for each in "abcd")])
STEPS = st.lists(st.lists(BLOCKS, max_size=5, unique_by=str), max_size=5)


@given(STEPS, st.data())
def test_a_turn_interrupted_anywhere_is_repaired(steps: list[list[dict[str, Any]]], data: st.DataObject) -> None:
    messages = [user(text("q"))]
    for number, blocks in enumerate(steps):
        own = [each | {"id": f"{each['id']}{number}"} if "id" in each else each for each in blocks]
        messages.append(assistant(*own))
        ids = [each["id"] for each in own if "id" in each]
        done = data.draw(st.lists(st.sampled_from(ids), unique=True)) if ids else []
        messages.append(user(*(tool_result(each, "found", ok=True) for each in done)))
    repaired = conversation.repaired(messages[: data.draw(st.integers(1, len(messages)))])
    turn = Turn(1, "q", "a", (), conversation.pack(repaired))
    assert request([turn])[:-1] == repaired
    assert "thinking" not in said([turn])
    assert conversation.repaired(repaired) == repaired


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
ARGS: st.SearchStrategy[JSON] = st.recursive(
    st.none() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=2)
)
EVENTS = st.builds(ToolCall, TEXTS, TEXTS, ARGS) | st.builds(ToolResult, TEXTS, ARGS, st.booleans())


@given(TEXTS, TEXTS, st.lists(EVENTS, max_size=4))
def test_any_tools_of_another_agent_are_readable(message: str, answer: str, tools: list[ToolCall | ToolResult]) -> None:
    request([Turn(1, message, answer, tuple(tools))])


def beginnings(size: int, turns: int, room: int) -> list[str]:
    """Return the first message of each request while a session grows."""
    window = 20
    done: list[Turn] = []
    firsts = []
    for number in range(1, turns + 1):
        firsts.append(request(done[-window:], room)[0]["content"][0]["text"])
        done.append(worked(number, size))
    return firsts


@pytest.mark.parametrize("fitting", [4, 6, 9, 13, 19, 30])
def test_the_beginning_moves_in_steps_of_half_of_what_fits(fitting: int) -> None:
    size = 10_000
    firsts = beginnings(size, 60, fitting * (size + 600))
    moves = sum(a != b for a, b in pairwise(firsts)) - 1  # from nothing to the first turn
    assert moves <= 60 / (min(fitting, 20) / 4) + 1


@pytest.mark.parametrize("fitting", [4, 6, 9, 13, 19, 30])
def test_half_of_what_fits_is_never_forgotten(fitting: int) -> None:
    size = 10_000
    done = [worked(number, size) for number in range(1, 61)]
    for number in range(31, 60):
        kept = request(done[number - 20 : number], fitting * (size + 600))
        assert sum("question" in str(message) for message in kept) >= min(fitting, 20) / 2


def test_what_does_not_fit_is_not_sent() -> None:
    history = [worked(number, 10_000) for number in range(1, 21)]
    assert len(said(history, 50_000)) < 60_000


def test_a_refused_turn_does_not_take_its_successors_with_it() -> None:
    history = [spoken(number, "refusal" if number in (9, 11, 17) else "end_turn") for number in range(2, 22)]
    assert len(request(history)) > 2 * 20 / 2


def test_letters_outside_ascii_count_by_what_they_take() -> None:
    history = [Turn(number, "語" * 1000, "語" * 1000) for number in range(1, 21)]
    assert len(json.dumps(request(history, 30_000), ensure_ascii=False).encode()) < 32_000


def test_the_state_of_another_agent_takes_no_room() -> None:
    history = [Turn(number, f"question {number}", "answer", (), b"x" * 100_000) for number in range(1, 11)]
    assert "question 1" in said(history, 50_000)
