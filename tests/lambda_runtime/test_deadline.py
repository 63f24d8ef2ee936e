"""A model or a tool that does not come back, under a platform that then ends the invocation."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.fake_model import FakeModel
from tests.fake_model import in_thread as model_in_thread
from tests.lambda_runtime.emulator import BUFFERED, STREAMING, Emulator, emulator, http_event
from tests.lambda_runtime.front_door import Running, in_thread
from tests.lambda_runtime.service import Function
from tests.lambda_runtime.stuck_model import FAULTS, script
from tests.machine import START_S, tool
from tests.model_process import variables_for
from tests.model_script import Call, Fault, Script, before_the_status, broken, error, says
from tests.servers import sessions_table

RIE = tool("rie")
TIMEOUT_S = 5
HUNG: dict[str, tuple[Script, int, str]] = {
    "no status": (before_the_status(Fault.STALL), 504, "urn:agent-service:problem:deadline-exceeded"),
    "silence in the middle": (broken("content_block_delta", Fault.STALL), 200, "deadline"),
    "drip": (broken("content_block_delta", Fault.DRIP), 200, "deadline"),
    "a wait that does not fit": (
        error(429, "rate_limit_error", retry_after="120"),
        503,
        "urn:agent-service:problem:model-rate-limited",
    ),
    "a tool that does not return": (says("let me see", Call("stuck", {})), 200, "deadline"),
}


@pytest.fixture(scope="module")
def model() -> Iterator[FakeModel]:
    with model_in_thread() as found:
        yield found


@pytest.fixture(scope="module")
def environment(model: FakeModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with sessions_table() as table:
        settings = {**table.settings, **variables_for(model), "AGENT_TOOLS": "tests.model_tools:with_stuck"}
        log = tmp_path_factory.mktemp("deadline") / "log"
        with emulator(RIE, settings, log, TIMEOUT_S) as environment:
            yield environment


@pytest.mark.parametrize("name", HUNG)
def test_the_turn_is_answered_before_the_platform_ends_it(environment: Emulator, model: FakeModel, name: str) -> None:
    script, status, told = HUNG[name]
    model.script[:] = [script]
    began = time.monotonic()
    reply = environment.invoke(http_event("POST", "/chat", {"message": "hello", "session_id": name.replace(" ", "-")}))
    assert time.monotonic() - began < TIMEOUT_S
    assert reply.document["statusCode"] == status, reply.body
    body = json.loads(reply.document["body"])
    assert told in (body.get("type"), body.get("stop_reason"))
    assert environment.log is not None
    assert "timed out" not in environment.log.read_text()


@pytest.mark.parametrize("command", [BUFFERED, STREAMING], ids=["buffered", "streaming"])
def test_every_turn_is_answered_in_every_environment_at_once(
    model: FakeModel, tmp_path: Path, command: tuple[str, ...]
) -> None:
    model.script.clear()
    model.otherwise = script
    with sessions_table() as table, ThreadPoolExecutor(len(FAULTS)) as callers:
        settings = {**table.settings, **variables_for(model), "AGENT_TOOLS": "tests.model_tools:with_stuck"}
        function = Function(command, tmp_path, settings, timeout_s=TIMEOUT_S, environments=len(FAULTS))
        with in_thread(function) as running:

            def meet(fault: str) -> tuple[str, int]:
                """Return what is told of a fault, and the status of the session's next turn."""
                session = fault.replace(" ", "-")
                told = chat(running, session, fault).json()
                return told.get("stop_reason") or told["type"].rpartition(":")[2], chat(
                    running, session, "and now?"
                ).status_code

            list(callers.map(lambda _: httpx2.get(f"{running.url}/healthz", timeout=START_S), FAULTS))
            found = dict(zip(FAULTS, callers.map(meet, FAULTS), strict=True))
            assert running.report == []
    assert found == {fault: (told, 200) for fault, (_, told) in FAULTS.items()}


def chat(running: Running, session: str, message: str) -> httpx2.Response:
    body = {"message": message, "session_id": session}
    return httpx2.post(f"{running.url}/chat", json=body, timeout=START_S)
