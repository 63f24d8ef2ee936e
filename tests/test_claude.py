"""The built-in agent's loop: what it tells the model, when it ends, what it stores, what it costs."""

import itertools
import json

import pytest

from app.events import ToolCall, ToolResult
from tests.entry_points import Answer
from tests.model_faults import STOP_REASONS
from tests.model_script import Call, Other, Thought, always_another_call, broken, says
from tests.with_model import BOTH, KEY, MODEL, SSE, done, goes_on, talking

pytestmark = pytest.mark.anyio

WEATHER = Call("weather", {"city": "Bonn"})


def outcome(answer: Answer) -> tuple[str, str]:
    body = done(answer)
    return body["answer"], body["stop_reason"]


async def test_a_request_says_what_the_settings_say() -> None:
    async with talking(instructions="Be brief.", functions=[]) as talk:
        await talk.ask("hello")
        [request] = talk.model.requests
    assert request.body == {
        "model": MODEL,
        "max_tokens": 1000,
        "stream": True,
        "cache_control": {"type": "ephemeral"},
        "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    }
    assert request.headers["x-api-key"] == KEY
    assert request.headers["anthropic-version"] == "2023-06-01"


async def test_the_model_is_told_of_the_tools() -> None:
    async with talking() as talk:
        await talk.ask()
        [request] = talk.model.requests
    assert [tool["name"] for tool in request.body["tools"]] == ["weather", "stock", "order", "failing"]
    assert request.body["tools"][0]["description"] == "Return the weather forecast of a city."


async def test_no_two_calls_of_a_conversation_have_one_id() -> None:
    """There are gateways that number the calls of each message anew; the API refuses what has a number twice."""
    call = Call("stock", {"item": "tea"}, id="call_0")
    step = [says(call), says("there", call), says("is tea")]
    async with talking(*step, *step) as talk:
        for number in (1, 2):
            assert outcome(await talk.ask()) == ("thereis tea", "end_turn")
            assert talk.model.refused == [], number
        first, second = await talk.turns()
    ids = [event.id for turn in (first, second) for event in turn.tools if isinstance(event, ToolCall)]
    assert len(set(ids)) == 4


@pytest.mark.parametrize("accept", BOTH)
async def test_tools_are_called_until_the_model_has_its_answer(accept: str) -> None:
    async with talking(says("Let me see. ", WEATHER), says("Sun!")) as talk:
        assert outcome(await talk.ask(accept=accept)) == ("Let me see. Sun!", "end_turn")
        assert talk.model.requests[1].messages[1:] == [
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me see. "},
                    {"type": "tool_use", "id": "toolu_0000", "name": "weather", "input": {"city": "Bonn"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "toolu_0000", "content": "Bonn: sun for 1 days"}],
            },
        ]
        [turn] = await talk.turns()
        assert turn.tools == (
            ToolCall("toolu_0000", "weather", {"city": "Bonn"}),
            ToolResult("toolu_0000", "Bonn: sun for 1 days"),
        )
        await goes_on(talk)


async def test_what_happens_is_streamed_in_order() -> None:
    async with talking(says("Let me", " see. ", WEATHER), says("Sun!")) as talk:
        answer = await talk.ask(accept=SSE)
    assert answer.events[1:-1] == [
        ("delta", {"text": "Let me"}),
        ("delta", {"text": " see. "}),
        ("tool_call", {"id": "toolu_0000", "name": "weather", "args": {"city": "Bonn"}}),
        ("tool_result", {"id": "toolu_0000", "ok": True}),
        ("delta", {"text": "Sun!"}),
    ]


async def test_thoughts_and_blocks_of_unknown_kinds_go_back_as_they_came() -> None:
    new = Other({"type": "hologram", "data": {"x": [1]}})
    parts = (Thought("let me think"), Thought(redacted=True), new, "So: ", WEATHER)
    async with talking(says(*parts), says(Thought(), WEATHER), says("Sun!")) as talk:
        assert outcome(await talk.ask()) == ("So: Sun!", "end_turn")
        kinds = [block["type"] for block in talk.model.requests[2].messages[1]["content"]]
        assert kinds == ["thinking", "redacted_thinking", "hologram", "text", "tool_use"]
        assert talk.model.refused == []


async def test_thoughts_stay_within_their_turn() -> None:
    async with talking(says(Thought("canary"), WEATHER), says(Thought("canary"), "Sun!")) as talk:
        answer = await talk.ask()
        await goes_on(talk)
        assert b"canary" not in talk.model.requests[-1].raw
        [turn, _] = await talk.turns()
    assert b"canary" not in turn.state
    assert "canary" not in answer.body


@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize("accept", BOTH)
async def test_a_turn_takes_exactly_as_many_steps_as_it_may(steps: int, accept: str) -> None:
    async with talking(max_steps=steps) as talk:
        talk.model.otherwise = always_another_call()
        answer = await talk.ask(accept=accept)
        assert outcome(answer) == ("hm" * steps, "max_steps")
        assert done(answer)["usage"]["steps"] == len(talk.model.requests) == steps
        [turn] = await talk.turns()
        assert len(turn.tools) == 2 * (steps - 1)  # nobody would read what the last step's call found
        await goes_on(talk)


async def test_with_one_step_more_the_answer_is_whole() -> None:
    calls = [says(Call("weather", {"city": str(n)})) for n in range(5)]
    async with talking(*calls, says("Sun!"), max_steps=6) as talk:
        assert outcome(await talk.ask()) == ("Sun!", "end_turn")


async def test_the_same_call_three_times_in_a_row_ends_the_turn() -> None:
    async with talking(max_steps=50) as talk:
        talk.model.otherwise = says(WEATHER)
        assert done(await talk.ask())["stop_reason"] == "max_steps"
        assert len(talk.model.requests) == 3
        [turn] = await talk.turns()
        assert len(turn.tools) == 4  # nobody would read what the third one found
        await goes_on(talk)


async def test_another_call_in_between_starts_the_count_anew() -> None:
    again = [says(WEATHER), says(WEATHER), says(Call("weather", {"city": "Köln"})), says(WEATHER), says(WEATHER)]
    async with talking(*again, says("Sun!"), max_steps=50) as talk:
        assert outcome(await talk.ask()) == ("Sun!", "end_turn")


@pytest.mark.parametrize(("reason", "told"), STOP_REASONS.items())
@pytest.mark.parametrize("accept", BOTH)
@pytest.mark.parametrize("steps_before", [0, 2])
async def test_every_stop_reason_has_an_outcome(reason: str, told: str, accept: str, steps_before: int) -> None:
    calls = [says("step ", Call("weather", {"city": str(n)})) for n in range(steps_before)]
    async with talking(*calls, says(Thought(), "That is", " it.", stop_reason=reason)) as talk:
        assert outcome(await talk.ask(accept=accept)) == ("step " * steps_before + "That is it.", told)
        await goes_on(talk)


@pytest.mark.parametrize("reason", ["end_turn", "max_tokens", "refusal", "unheard_of", "model_context_window_exceeded"])
async def test_a_call_that_was_not_meant_to_be_made_is_not_made(reason: str) -> None:
    async with talking(says("hm", WEATHER, stop_reason=reason)) as talk:
        assert (await talk.ask()).json["answer"] == "hm"
        await goes_on(talk)
        assert (await talk.turns())[0].tools == ()


async def test_half_a_tool_call_at_the_token_limit_is_left_out() -> None:
    half = {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 9}}
    stop = {"type": "content_block_stop", "index": 1}
    cut = broken("content_block_start", *half_a_call(), stop, half, {"type": "message_stop"}, of=says("hm"))
    async with talking(cut) as talk:
        assert outcome(await talk.ask()) == ("hm", "max_tokens")
        await goes_on(talk)
        assert b"toolu_half" not in talk.model.requests[-1].raw


def half_a_call() -> list[dict[str, object]]:
    delta: dict[str, object] = {"type": "text_delta", "text": "hm"}
    call: dict[str, object] = {"type": "tool_use", "id": "toolu_half", "name": "weather", "input": {}}
    piece: dict[str, object] = {"type": "input_json_delta", "partial_json": '{"ci'}
    return [
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": call},
        {"type": "content_block_delta", "index": 1, "delta": piece},
    ]


async def test_a_paused_turn_is_continued() -> None:
    search = Other({"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {}})
    async with talking(says("One ", search, stop_reason="pause_turn"), says("two.")) as talk:
        assert outcome(await talk.ask()) == ("One two.", "end_turn")
        assert talk.model.requests[1].messages[-1]["role"] == "assistant"
        await goes_on(talk)


async def test_a_turn_that_pauses_for_ever_ends() -> None:
    async with talking(max_steps=4) as talk:
        talk.model.otherwise = says("so ", stop_reason="pause_turn")
        assert outcome(await talk.ask()) == ("so so so so ", "max_steps")
        assert len(talk.model.requests) == 4


@pytest.mark.parametrize("blank", ["", " ", "\n\n"])
async def test_a_blank_text_of_the_model_is_not_sent_back(blank: str) -> None:
    async with talking(says(blank, WEATHER), says("Sun!")) as talk:
        assert outcome(await talk.ask()) == (f"{blank}Sun!", "end_turn")
        await goes_on(talk)


async def test_a_pause_before_the_first_word_is_continued() -> None:
    async with talking(says(stop_reason="pause_turn"), says("so")) as talk:
        assert outcome(await talk.ask()) == ("so", "end_turn")


async def test_an_answer_of_nothing_is_an_answer() -> None:
    async with talking(says()) as talk:
        assert outcome(await talk.ask()) == ("", "end_turn")
        await goes_on(talk)


async def test_a_refused_turn_is_not_shown_to_the_model_again() -> None:
    async with talking(says("no", stop_reason="refusal")) as talk:
        await talk.ask("canary")
        await goes_on(talk)
        assert b"canary" not in talk.model.requests[-1].raw


@pytest.mark.parametrize("args", ['{"city": ', "[1]", '"Bonn"', "NaN", '{"city": "\\ud800"}', "null", "[" * 5000])
async def test_arguments_that_cannot_be_read_are_told_to_the_model(args: str) -> None:
    async with talking(says(Call("weather", args)), says("I see.")) as talk:
        assert outcome(await talk.ask()) == ("I see.", "end_turn")
        assert talk.model.requests[1].messages[-1]["content"][0]["is_error"] is True
        await goes_on(talk)


async def test_halves_of_a_character_are_replaced_wherever_they_come() -> None:
    half = Other({"type": "hologram", "data": "\ud83d"})
    async with talking(says("so\ud83d", WEATHER), says(half, "oh\ud83d")) as talk:
        assert outcome(await talk.ask()) == ("so?oh?", "end_turn")
        assert len(await talk.turns()) == 1


async def test_the_beginning_of_the_requests_stays_the_same_over_many_turns() -> None:
    async with talking(sessions_window=8) as talk:
        for number in range(24):
            await talk.ask(f"question {number}")
        assert talk.model.refused == []
        bodies = [request.body for request in talk.model.requests]
    moved = sum(not is_beginning(a["messages"], b["messages"]) for a, b in itertools.pairwise(bodies))
    assert moved <= 24 / 2 / 2
    assert len({json.dumps(body | {"messages": []}) for body in bodies}) == 1


def is_beginning(a: list[object], b: list[object]) -> bool:
    """Return whether `b` goes on where `a` ended."""
    return b[: len(a)] == a
