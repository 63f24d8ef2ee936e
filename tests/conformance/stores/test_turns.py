"""One turn after another: numbers, history, idempotency keys, and what is stored of a turn."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from app.agents import OpenTurn
from app.errors import AgentFailed, IdempotencyKeyReused, ResponseTooLarge, SessionBusy, TurnInProgress
from app.events import AgentEvent, State, Stop, ToolCall, ToolResult, Turn, Usage
from app.sessions import SessionKey
from app.sessions.codec import COMPRESS_OVER_BYTES, is_text
from tests.conformance.stores.rig import (
    KEEP_S,
    KEY,
    LEASE_S,
    Clock,
    Gate,
    Recorder,
    Rig,
    claimed,
    end,
    numbers,
    start,
    take_turn,
)
from tests.faults import seeded

pytestmark = pytest.mark.anyio

TEXTS = {
    "emoji": "👩🏽‍🚀 and 🏳️‍🌈",
    "right to left": "שלום \u202eعالم\u202c",  # noqa: RUF001 the point of it
    "combining": "e\u0301 is not é",
    "beyond the basic plane": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff \uffff",  # noqa: RUF001 the point of it
    "quotes and escapes": '"\'\\ \\u0041 {"a": 1} ${x} %s <b>',
    "white space": " \t\r\n\u2028\u00a0 ",
    "control": "\x01\x1b[31m\x7f",
    "one": "x",
}
NOISE = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"


def noise(length: int) -> str:
    """Return text that compresses to three quarters of itself and not further."""
    return "".join(seeded(length).choices(NOISE, k=length))


async def failing(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    yield turn.message
    raise LookupError


async def answering_at_length(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    yield noise(int(turn.message))


async def test_turns_are_numbered_from_one_without_holes(rig: Rig) -> None:
    turns = [await take_turn(rig.claims()) for _ in range(5)]
    assert numbers(turns) == numbers(await rig.items()) == [1, 2, 3, 4, 5]


async def test_an_acknowledged_turn_is_stored_as_it_was_acknowledged(rig: Rig) -> None:
    turns = [await take_turn(rig.claims(), message) for message in ("first", "second")]
    assert await rig.transcript() == turns


async def test_a_failed_turn_leaves_nothing_behind(rig: Rig) -> None:
    with pytest.raises(AgentFailed):
        await take_turn(rig.claims(), agent=failing)
    assert await rig.items() == []


async def test_the_number_of_a_failed_turn_is_used_again(rig: Rig) -> None:
    await take_turn(rig.claims())
    with pytest.raises(AgentFailed):
        await take_turn(rig.claims(), agent=failing)
    assert (await take_turn(rig.claims())).number == 2


async def test_an_agent_sees_the_newest_done_turns_oldest_first(rig: Rig) -> None:
    agent = Recorder()
    turns = [await take_turn(rig.claims(window=3), f"message {n}", agent=agent) for n in range(6)]
    assert [list(seen.history) for seen in agent.seen] == [turns[max(0, n - 3) : n] for n in range(6)]


async def test_a_run_that_takes_a_turn_over_sees_a_whole_window(rig: Rig) -> None:
    """The dead run's open item stands in the page that was read, and is no part of the history."""
    clock = Clock()
    claims = rig.claims(window=3, clock=clock)
    turns = [await take_turn(claims) for _ in range(5)]
    await claimed(claims)
    clock.advance(60)
    assert list((await claimed(claims)).history) == turns[-3:]


async def test_replicas_take_turns_on_one_session(rig: Rig) -> None:
    agent = Recorder()
    first = await take_turn(rig.claims(), "one", agent=agent)
    second = await take_turn(rig.claims(await rig.replica()), "two", agent=agent)
    assert list(agent.seen[1].history) == [first]
    assert await rig.transcript() == [first, second]


async def test_the_same_key_and_message_replay_the_stored_answer(rig: Rig) -> None:
    agent = Recorder()
    turn = await take_turn(rig.claims(), "once", agent=agent, req="key")
    await take_turn(rig.claims(), "in between", agent=agent)
    assert await take_turn(rig.claims(), "once", agent=agent, req="key") == turn
    assert [seen.message for seen in agent.seen] == ["once", "in between"]
    assert numbers(await rig.items()) == [1, 2]


async def test_the_same_key_with_another_message_is_refused(rig: Rig) -> None:
    turn = await take_turn(rig.claims(), "once", req="key")
    with pytest.raises(IdempotencyKeyReused):
        await take_turn(rig.claims(), "other", req="key")
    assert await rig.transcript() == [turn]


async def test_requests_without_a_key_are_turns_of_their_own(rig: Rig) -> None:
    turns = [await take_turn(rig.claims(), "same") for _ in range(2)]
    assert numbers(turns) == [1, 2]


async def test_the_same_key_is_told_that_its_turn_is_running(rig: Rig) -> None:
    await claimed(rig.claims(), req="key")
    with pytest.raises(TurnInProgress):
        await take_turn(rig.claims(), req="key")


async def test_another_key_is_told_that_the_session_is_busy(rig: Rig) -> None:
    await claimed(rig.claims(), req="key")
    with pytest.raises(SessionBusy):
        await take_turn(rig.claims(), req="other")


async def test_a_key_is_good_for_as_many_turns_as_are_read(rig: Rig) -> None:
    claims = rig.claims(window=2)
    first = await take_turn(claims, req="key")
    await take_turn(claims)
    assert await take_turn(claims, req="key") == first


@pytest.mark.parametrize("other", [SessionKey("principal", "other"), SessionKey("other", "session")], ids=str)
async def test_a_key_means_nothing_in_another_session(rig: Rig, other: SessionKey) -> None:
    await take_turn(rig.claims(), "mine", req="key")
    turn = await take_turn(rig.claims(), "theirs", req="key", key=other)
    assert (turn.number, turn.message) == (1, "theirs")


async def test_another_principal_sees_nothing_of_a_session(rig: Rig) -> None:
    agent = Recorder()
    stranger = SessionKey("stranger", KEY.session_id)
    mine = await take_turn(rig.claims(), "mine")
    theirs = await take_turn(rig.claims(), "theirs", agent=agent, key=stranger)
    assert list(agent.seen[0].history) == []
    assert (await rig.transcript(), await rig.transcript(stranger)) == ([mine], [theirs])


async def test_a_running_turn_does_not_hold_another_principals_session(rig: Rig) -> None:
    gate = Gate()
    running = start(rig.claims(), agent=gate)
    await gate.started()
    theirs = await take_turn(rig.claims(), key=SessionKey("stranger", KEY.session_id))
    assert await rig.transcript() == []
    gate.open()
    assert (theirs.number, (await end(running)).number) == (1, 1)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_text_reads_back_equal(rig: Rig, text: str) -> None:
    turn = await take_turn(rig.claims(), text)
    assert turn.answer == f"You said: {text}"
    assert await rig.transcript() == [turn]


async def test_names_of_every_allowed_character_are_kept_apart(rig: Rig) -> None:
    names = ("A.b_c-d:0", "A.b_c-d:1", "a.b_c-d:0", "-", ".", "x" * 128)
    for name in names:
        await take_turn(rig.claims(), name, key=SessionKey(name, name), req=f"!~{name}")
    stored = [await rig.transcript(SessionKey(name, name)) for name in names]
    assert [[turn.message for turn in turns] for turns in stored] == [[name] for name in names]


async def test_tools_and_usage_read_back_equal(rig: Rig) -> None:
    call = ToolCall("1", "wörld", {"a": [1, 2.5, None, True, {"🙂": ""}], "ok": 1 << 60})
    results = (ToolResult("1", {"name": "not a call", "rows": [["x"]]}), ToolResult("2", None, ok=False))
    stop = Stop("max_steps", Usage(input_tokens=7, output_tokens=3, cached_tokens=2, steps=4, usd=0.125))

    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        for event in ("text", call, results[0], ToolCall("2", "t", None), results[1], stop):
            yield event

    turn = await take_turn(rig.claims(), agent=agent)
    assert turn.tools == (call, results[0], ToolCall("2", "t", None), results[1])
    assert (turn.stop_reason, turn.usage) == (stop.reason, stop.usage)
    assert await rig.transcript() == [turn]


async def test_the_agents_state_is_handed_to_its_next_turn(rig: Rig) -> None:
    handed: list[bytes] = []

    async def agent(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        handed.append(turn.state)
        yield State(turn.state + bytes(range(256)))

    for _ in range(3):
        await take_turn(rig.claims(), agent=agent)
    assert handed == [b"", bytes(range(256)), bytes(range(256)) * 2]


async def test_a_short_turn_is_stored_as_text(rig: Rig) -> None:
    turn = await take_turn(rig.claims(), str(COMPRESS_OVER_BYTES - 1000), agent=answering_at_length)
    [item] = await rig.items()
    assert is_text(item.body or b"")
    assert await rig.transcript() == [turn]


async def test_a_long_turn_is_stored_compressed(rig: Rig) -> None:
    turn = await take_turn(rig.claims(), str(4 * COMPRESS_OVER_BYTES), agent=answering_at_length)
    [item] = await rig.items()
    assert len(item.body or b"") < len(turn.answer)
    assert await rig.transcript() == [turn]


async def test_a_long_turn_is_history_like_any_other(rig: Rig) -> None:
    turn: Turn = await take_turn(rig.claims(), str(4 * COMPRESS_OVER_BYTES), agent=answering_at_length)
    agent = Recorder()
    await take_turn(rig.claims(), agent=agent)
    assert list(agent.seen[0].history) == [turn]


async def test_an_open_turn_is_kept_as_long_as_a_done_one_and_held_as_long_as_asked(rig: Rig) -> None:
    clock = Clock()
    open_one = (await claimed(rig.claims(clock=clock))).item
    assert (open_one.expires, open_one.lease) == (clock() + KEEP_S, clock() + LEASE_S)
    assert await rig.items() == [open_one]


async def test_a_session_began_at_a_millisecond(rig: Rig) -> None:
    """The index of DynamoDB keeps no more, and a page begins where another one ended."""
    now = Clock()() + 0.123456
    await take_turn(rig.claims(clock=lambda: now))
    [item] = await rig.items()
    assert item.created == round(now, 3)
    assert item.expires == int(now) + KEEP_S


async def test_a_stored_turn_that_cannot_be_read_is_left_out_and_logged(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = [await take_turn(rig.claims()) for _ in range(2)]
    [item, _] = await rig.items()
    assert await rig.store.commit(KEY, replace(item, body=b'{"message": 7'))
    assert list((await claimed(rig.claims())).history) == [second]
    [record] = [each for each in caplog.records if each.name == "app.sessions.claims"]
    assert (record.levelname, record.getMessage()) == ("ERROR", "a stored turn cannot be read")
    assert vars(record)["turn"] == first.number


async def test_a_turn_that_fits_no_item_is_refused_and_leaves_nothing_open(rig: Rig) -> None:
    with pytest.raises(ResponseTooLarge, match=r"^the turn does not fit into one item of the session store$"):
        await take_turn(rig.claims(), "700000", agent=answering_at_length)
    assert await rig.items() == []
    assert (await take_turn(rig.claims())).number == 1
