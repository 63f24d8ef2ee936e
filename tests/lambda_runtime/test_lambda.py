"""The handler under AWS's own runtime emulator and runtime client, its sessions in a real server."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.lambda_runtime.emulator import BUFFERED, ROOT, STREAMING, Emulator, emulator, http_event, load_event
from tests.log_lines import CANARY, turns_in
from tests.machine import tool
from tests.servers import Table, sessions_table

RIE = tool("rie")
FRONT_DOORS = ["alb", "function_url", "http_api", "rest"]
ANSWERS: dict[str, dict[str, Any]] = {
    "healthz": {"status": "alive"},
    "readyz": {"status": "ready"},
    "chat": {"answer": "You said: hi", "turn": 1, "stop_reason": "end_turn"},
}
# What the emulator itself writes to the same log.
PLATFORM = re.compile(r"(START|END|REPORT) RequestId: |[0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:,]+ \[[A-Z]+\] \(rapid\) ")
# Each value is found in no other place, so that one in a reply or a log can only have leaked.
BAD_SETTINGS = {
    "LOG_LEVEL": "canary-level",
    "AGENT_MAX_STEPS": "canary-steps",
    "AGENT_MAX_STEP": "canary-typing-error",
    "SESSIONS_WINDOW": "canary-window",
    "SESSIONS_TABLE": "",
}


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    with sessions_table() as table:
        yield table


@pytest.fixture(scope="module")
def warm(table: Table, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An environment that has answered its first call."""
    with emulator(RIE, table.settings, tmp_path_factory.mktemp("warm") / "log") as environment:
        environment.invoke(load_event("http_api_healthz"))
        yield environment


def chat(environment: Emulator, session_id: str, message: str) -> dict[str, Any]:
    document = {"message": message, "session_id": session_id}
    return environment.invoke(http_event("POST", "/chat", document)).answer


def transcript(environment: Emulator, session_id: str) -> str:
    reply = environment.invoke(http_event("GET", f"/sessions/{session_id}")).document
    assert reply["statusCode"] == 200
    return str(reply["body"])


def test_there_is_an_event_for_each_front_door_and_call_and_a_ping() -> None:
    names = {f"{door}_{call}" for door in FRONT_DOORS for call in ANSWERS} | {"scheduled_ping"}
    assert {file.stem for file in (ROOT / "events").iterdir()} == names


@pytest.mark.parametrize("call", ANSWERS)
@pytest.mark.parametrize("door", FRONT_DOORS)
def test_every_front_door_gets_its_answer(warm: Emulator, door: str, call: str) -> None:
    reply = warm.invoke(load_event(f"{door}_{call}"))
    assert (reply.status, reply.document["statusCode"]) == (200, 200)
    assert reply.document["isBase64Encoded"] is False
    assert reply.headers["content-type"].startswith("application/json")
    assert ANSWERS[call].items() <= reply.answer.items()


def test_a_first_call_can_be_a_chat(table: Table, tmp_path: Path) -> None:
    with emulator(RIE, table.settings, tmp_path / "log") as cold:
        answer = chat(cold, "first-call", "hello")
    assert (answer["answer"], answer["turn"]) == ("You said: hello", 1)
    assert len(table.turns("first-call")) == 1


def test_only_the_first_answer_of_an_environment_is_marked_cold(table: Table, tmp_path: Path) -> None:
    with emulator(RIE, table.settings, tmp_path / "log") as environment:
        event = load_event("http_api_healthz")
        marks = [environment.invoke(event).headers.get("x-cold-start") for _ in range(5)]
    assert marks == ["true", None, None, None, None]


def test_two_sessions_never_see_each_other(warm: Emulator) -> None:
    turns = [
        chat(warm, "apart-a", "apples")["turn"],
        chat(warm, "apart-b", "bananas")["turn"],
        chat(warm, "apart-a", "cherries")["turn"],
    ]
    assert turns == [1, 1, 2]
    words = ["apples", "bananas", "cherries"]
    assert [word in transcript(warm, "apart-a") for word in words] == [True, False, True]
    assert [word in transcript(warm, "apart-b") for word in words] == [False, True, False]


def test_another_environment_continues_a_session(warm: Emulator, table: Table, tmp_path: Path) -> None:
    chat(warm, "moves", "here")
    with emulator(RIE, table.settings, tmp_path / "log") as other:
        assert chat(other, "moves", "there")["turn"] == 2
        assert "here" in transcript(other, "moves")
    assert [int(item["turn"]["N"]) for item in table.turns("moves")] == [1, 2]


def test_a_scheduled_ping_is_answered_quietly(warm: Emulator) -> None:
    reply = warm.invoke(load_event("scheduled_ping"))
    assert (reply.status, reply.document["statusCode"]) == (200, 200)


@pytest.mark.parametrize("event", [{}, {"Records": []}, "text", None], ids=repr)
def test_an_unknown_event_is_a_problem_and_no_function_error(warm: Emulator, event: object) -> None:
    reply = warm.invoke(event)
    assert (reply.status, reply.document["statusCode"]) == (200, 400)
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("command", [BUFFERED, STREAMING], ids=["buffered", "streaming"])
def test_every_line_that_is_not_the_platforms_is_json_and_names_its_invocation(
    table: Table, tmp_path: Path, command: Sequence[str]
) -> None:
    log, settings = tmp_path / "log", {"AGENT": "tests.noisy:agent", "LOG_LEVEL": "DEBUG"}
    with emulator(RIE, table.settings | settings, log, command=command) as environment:
        for number in range(3):
            assert environment.invoke(http_event("POST", "/chat", {"message": f"{CANARY} {number}"})).status == 200
        text = log.read_text()
    ours = "".join(line for line in text.splitlines(keepends=True) if line.strip() and not PLATFORM.match(line))
    turns = turns_in(ours)
    assert [turn["cold_start"] for turn in turns] == [True, False, False]
    assert [turn["aws_request_id"] for turn in turns] == re.findall("START RequestId: ([0-9a-f-]+)", text)
    assert len({turn["request_id"] for turn in turns}) == len(turns)
    assert CANARY not in text


def test_bad_settings_reach_the_platform_by_name_and_never_by_value(table: Table, tmp_path: Path) -> None:
    with emulator(RIE, table.settings | BAD_SETTINGS, tmp_path / "log") as environment:
        reply = environment.invoke(load_event("http_api_chat"))
    assert reply.status == 502
    assert reply.document["errorType"] == "ConfigurationError"
    missing = [name for name in BAD_SETTINGS if name not in reply.document["errorMessage"]]
    assert missing == []
    assert b"canary" not in reply.body + (tmp_path / "log").read_bytes()


def test_production_without_its_key_does_not_start(table: Table, tmp_path: Path) -> None:
    with emulator(RIE, table.settings | {"ENVIRONMENT": "production", "AUTH": "none"}, tmp_path / "log") as environment:
        reply = environment.invoke(load_event("http_api_healthz"))
    assert reply.status == 502
    assert reply.document["errorMessage"] == "ANTHROPIC_API_KEY is required in production"
