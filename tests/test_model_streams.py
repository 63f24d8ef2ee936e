"""Streams through a real server: what arrives when, and what becomes of a turn whose caller hangs up or dawdles."""

from collections.abc import Iterator

import pytest

from tests.machine import wait_until
from tests.model_process import Service, deltas, service
from tests.model_script import Call, Gate, says
from tests.with_model import BOTH, SSE

WEATHER = Call("weather", {"city": "Bonn"})


@pytest.fixture(scope="module")
def finishing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("finish")) as found:
        yield found


@pytest.fixture(scope="module")
def stopping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("stop"), ON_DISCONNECT="stop") as found:
        yield found


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is open at the end, so that no answer hangs."""
    gate = Gate()
    yield gate
    gate.set()


def test_the_first_word_arrives_before_the_model_has_a_second(finishing: Service, gate: Gate) -> None:
    finishing.script(says("one", gate, "two"))
    with finishing.stream("first-word") as lines:
        assert 'data: {"text":"one"}' in lines
        assert deltas(finishing.model.requests[0]) == 1
        gate.set()
        assert 'data: {"text":"two"}' in lines
        assert "event: done" in lines


def test_a_tool_call_and_its_result_arrive_before_the_model_goes_on(finishing: Service, gate: Gate) -> None:
    finishing.script(says(WEATHER), says(gate, "Sun!"))
    with finishing.stream("tools") as lines:
        assert "event: tool_call" in lines
        assert "event: tool_result" in lines
        wait_until(lambda: len(finishing.model.requests) == 2)
        assert deltas(finishing.model.requests[1]) == 0
        gate.set()
        assert "event: done" in lines


@pytest.mark.parametrize("accept", BOTH)
def test_a_turn_is_finished_without_its_caller(finishing: Service, gate: Gate, accept: str) -> None:
    finishing.script(says("one ", gate, "two"))
    session = f"finish-{len(accept)}"
    connection = finishing.send(session, accept)
    request = finishing.said(1)
    connection.close()
    gate.set()
    wait_until(lambda: finishing.turns(session) != [])
    [turn] = finishing.turns(session)
    assert (turn["answer"], turn["stop_reason"], request.hung_up) == ("one two", "end_turn", False)


@pytest.mark.parametrize("accept", BOTH)
def test_where_it_is_to_stop_a_hang_up_stops_the_model_and_keeps_what_was_said(
    stopping: Service, gate: Gate, accept: str
) -> None:
    stopping.script(says("one ", gate, "two"))
    session = f"stop-{len(accept)}"
    connection = stopping.send(session, accept)
    request = stopping.said(1)
    connection.close()
    wait_until(lambda: request.hung_up, 2.0)
    wait_until(lambda: stopping.turns(session) != [])
    [turn] = stopping.turns(session)
    assert (turn["answer"], turn["stop_reason"], turn["usage"]["input_tokens"]) == ("one ", "cancelled", 10)
    again = stopping.running.http.post("/chat", json={"message": "and now?", "session_id": session})
    assert (again.status_code, again.json()["answer"], stopping.model.refused) == (200, "fine", [])


@pytest.mark.parametrize("accept", BOTH)
def test_where_it_is_to_stop_a_hang_up_before_the_first_word_leaves_nothing(
    stopping: Service, gate: Gate, accept: str
) -> None:
    stopping.script(says(gate, "one"))
    session = f"nothing-{len(accept)}"
    connection = stopping.send(session, accept)
    request = stopping.said(0)
    connection.close()
    wait_until(lambda: request.hung_up, 2.0)
    again = stopping.running.http.post(
        "/chat", json={"message": "hello", "session_id": session}, headers={"Prefer": "wait=5"}
    )
    assert (again.status_code, again.json()["turn"]) == (200, 1)


def test_a_reader_that_does_not_read_holds_up_neither_the_model_nor_the_turn(finishing: Service) -> None:
    finishing.script(says(*["x" * 400] * 2000))
    with finishing.send("dawdling", SSE):
        wait_until(lambda: finishing.turns("dawdling") != [])
        [turn] = finishing.turns("dawdling")
        assert len(turn["answer"]) == 800_000
        assert finishing.model.requests[0].answered
