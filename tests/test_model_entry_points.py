"""The built-in agent behind uvicorn and the Lambda handler: what it answers, what it tells of faults, its logs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.entry_points import Answer, Client, handler, http_api_event
from tests.fake_model import FakeModel, in_thread
from tests.model_faults import FAULTS, STOP_REASONS
from tests.model_process import handler_with, service, uvicorn_with, variables_for
from tests.model_script import Call, Fault, Script, always_another_call, broken, error, says
from tests.with_model import BOTH, SSE, done, shown

WEATHER = Call("weather", {"city": "Bonn"})
ENTRY_POINTS = {"uvicorn": uvicorn_with, "handler": handler_with}


@pytest.fixture(scope="module")
def model() -> Iterator[FakeModel]:
    with in_thread() as found:
        yield found


@pytest.fixture(scope="module", params=ENTRY_POINTS)
def caller(
    request: pytest.FixtureRequest, model: FakeModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    with ENTRY_POINTS[request.param](tmp_path_factory.mktemp(request.param), variables_for(model)) as client:
        yield client


@pytest.fixture(scope="module", params=ENTRY_POINTS)
def hasty(
    request: pytest.FixtureRequest, model: FakeModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    variables = {"ANTHROPIC_BASE_URL": model.url, "AGENT": "tests.hasty:agent"}
    with ENTRY_POINTS[request.param](tmp_path_factory.mktemp(request.param), variables) as client:
        yield client


def chat(client: Client, message: str, session: str, accept: str = "application/json", **headers: str) -> Answer:
    body = json.dumps({"message": message, "session_id": session}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.request("POST", "/chat", body, {"content-type": "application/json", "accept": accept, **named})


def play(model: FakeModel, *script: Script) -> None:
    model.script[:] = script
    model.requests.clear()


@pytest.mark.parametrize("accept", BOTH)
def test_a_conversation_with_tools(caller: Client, model: FakeModel, accept: str) -> None:
    session = f"conversation-{len(accept)}"
    play(model, says("Let me see. ", WEATHER), says("Sun!"), says("You are welcome."))
    first = done(chat(caller, "How is the weather?", session, accept))
    second = done(chat(caller, "Thank you", session, accept))
    assert (first["answer"], first["stop_reason"], first["usage"]["steps"]) == ("Let me see. Sun!", "end_turn", 2)
    assert (second["answer"], second["turn"]) == ("You are welcome.", 2)
    assert model.refused == []
    kinds = [[block["type"] for block in message["content"]] for message in model.requests[-1].messages]
    assert kinds == [["text"], ["text", "tool_use"], ["tool_result"], ["text"], ["text"]]


@pytest.mark.parametrize("accept", BOTH)
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_and_leaves_nothing_behind(
    hasty: Client, model: FakeModel, fault: str, steps_before: int, accept: str
) -> None:
    script, told, attempts = FAULTS[fault]
    session = f"{fault.replace(' ', '-')}-{steps_before}-{len(accept)}"
    calls = [says("step ", Call("weather", {"city": str(n)})) for n in range(steps_before)]
    play(model, *calls, *[script] * attempts)
    answer = chat(hasty, "canary-message", session, accept)
    assert shown(answer) == told
    assert len(model.requests) == steps_before + attempts
    assert "canary" not in answer.body
    assert chat(hasty, "and now?", session).json["turn"] == 1


@pytest.mark.parametrize("accept", BOTH)
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize(("reason", "told"), STOP_REASONS.items())
def test_every_stop_reason_has_an_outcome(
    hasty: Client, model: FakeModel, reason: str, told: str, steps_before: int, accept: str
) -> None:
    calls = [says("step ", Call("weather", {"city": str(n)})) for n in range(steps_before)]
    play(model, *calls, says("That is it.", stop_reason=reason))
    body = done(chat(hasty, "hello", f"ended-{reason}-{steps_before}-{len(accept)}", accept))
    assert (body["answer"], body["stop_reason"]) == ("step " * steps_before + "That is it.", told)
    assert model.refused == []


@pytest.mark.parametrize("accept", BOTH)
@pytest.mark.parametrize("steps_before", [0, 2])
def test_what_tools_make_of_bad_calls_goes_back_to_the_model(
    hasty: Client, model: FakeModel, steps_before: int, accept: str
) -> None:
    calls = [says("step ", Call("weather", {"city": str(n)})) for n in range(steps_before)]
    good = [Call("stock", {"item": str(n)}) for n in range(17)]
    bad = [
        Call("nowhere"),
        Call("weather", {"town": 7}),
        Call("weather", '{"city'),
        Call("failing", {"text": "canary"}),
    ]
    play(model, *calls, says(*good, *bad), says("Sun!"))
    answer = chat(hasty, "hello", f"bad-calls-{steps_before}-{len(accept)}", accept)
    assert (done(answer)["answer"], done(answer)["stop_reason"]) == ("step " * steps_before + "Sun!", "end_turn")
    results = model.requests[-1].messages[-1]["content"]
    assert [result.get("is_error", False) for result in results] == [False] * len(good) + [True] * len(bad)
    assert "canary" not in str([result["content"] for result in results])
    assert model.refused == []


@pytest.mark.parametrize("accept", BOTH)
@pytest.mark.parametrize(
    ("always", "steps"), [(always_another_call(), 6), (says("hm", WEATHER), 3)], ids=["new", "same"]
)
def test_a_model_that_always_asks_for_a_tool_is_stopped(
    hasty: Client, model: FakeModel, always: Script, steps: int, accept: str
) -> None:
    play(model, *[always] * 9)
    body = done(chat(hasty, "hello", f"always-{steps}-{len(accept)}", accept))
    assert (body["answer"], body["stop_reason"]) == ("hm" * steps, "max_steps")
    assert len(model.requests) == steps


@pytest.mark.parametrize("accept", BOTH)
def test_at_the_deadline_what_was_said_is_kept(caller: Client, model: FakeModel, accept: str) -> None:
    session = f"deadline-{len(accept)}"
    play(model, broken("content_block_delta", Fault.DRIP))
    answer = done(chat(caller, "hello", session, accept, x_request_timeout="0.6"))
    assert (answer["answer"], answer["stop_reason"]) == ("half", "deadline")
    assert chat(caller, "and now?", session).json["turn"] == 2


def test_on_lambda_the_turn_ends_before_the_platform_ends_it(model: FakeModel, tmp_path: Path) -> None:
    play(model, broken("content_block_delta", Fault.STALL))
    with handler(tmp_path, **variables_for(model)) as client:
        event = http_api_event("POST", "/chat", b'{"message": "hello"}', {"content-type": "application/json"})
        result = client.invoke(event, remaining_ms=2_500)
    assert (result["statusCode"], json.loads(result["body"])["stop_reason"]) == (200, "deadline")


def test_nothing_that_was_said_is_ever_logged_or_told(tmp_path: Path) -> None:
    call = Call("failing", {"text": "canary-argument"})
    with service(tmp_path) as found:
        for accept in BOTH:
            found.script(
                says("canary-answer", call),
                says("so"),
                error(400, "x", "canary-error"),
                says(Call("failing", '{"canary')),
                broken("content_block_delta", b"data: {canary\n\n"),
            )
            assert chat(found.client, "canary-message", "canary-session", accept).status == 200
            refused, broken_off = (chat(found.client, "canary-message", "canary-session", accept) for _ in range(2))
            assert shown(refused) == (502, "upstream-rejected")
            assert shown(broken_off) == (502, "upstream-invalid")
            assert "canary" not in json.dumps(problem(refused)) + json.dumps(problem(broken_off))
        log = found.running.log.read_text()
    assert log.count("turn finished") == 6
    assert '"level": "debug"' in log
    assert "canary" not in log


def problem(answer: Answer) -> object:
    return answer.events[-1] if answer.headers["content-type"].startswith(SSE) else answer.json
