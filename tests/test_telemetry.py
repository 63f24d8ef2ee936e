"""Log lines: JSON, with the request they belong to, without the text of any exception."""

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest

from app import telemetry

log = logging.getLogger("tests.telemetry")
CANARY = "canary-7f3a"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    for name in ("uvicorn.access", "mangum.http"):
        logging.getLogger(name).disabled = False
    for name in telemetry.OURS:
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_line_tells_when_what_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("INFO")
    token = telemetry.request_id.set("request-1")
    log.warning("turn finished", extra={"turn": 3, "where": object()})
    telemetry.request_id.reset(token)
    line = json.loads(capsys.readouterr().out)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "tests.telemetry",
        "event": "turn finished",
        "request_id": "request-1",
        "turn": 3,
        "where": "object",
    }


def test_an_exception_is_its_class_and_its_places(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("INFO")
    try:
        int(CANARY)
    except ValueError:
        log.exception("request failed")
    out = capsys.readouterr().out
    found = json.loads(out)["exception"]
    assert found["type"] == "ValueError"
    assert found["at"][-1].endswith("test_an_exception_is_its_class_and_its_places")
    assert CANARY not in out


@pytest.mark.parametrize("name", ["strands.event_loop", "pydantic_ai", "anthropic._base_client"])
def test_what_a_library_of_models_says_is_withheld(capsys: pytest.CaptureFixture[str], name: str) -> None:
    telemetry.configure("INFO")
    logging.getLogger(name).warning("the tool got %s", CANARY, extra={"arguments": CANARY})
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["logger"], line["at"].partition(":")[0]) == (telemetry.WITHHELD, name, "test_telemetry")
    assert CANARY not in str(line)


def test_below_the_level_nothing_is_written_and_a_second_call_doubles_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    telemetry.configure("INFO")
    telemetry.configure("WARNING")
    log.info("hidden")
    log.warning("shown")
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == ["shown"]


@pytest.mark.parametrize("name", ["uvicorn.access", "mangum.http"])
def test_loggers_that_hold_paths_are_silent(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("DEBUG")
    logging.getLogger(name).critical("GET /sessions/%s", CANARY)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["botocore.parsers", "aiodynamo.request", "asyncio"])
def test_what_libraries_tell_at_debug_is_not_written(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("DEBUG")
    logging.getLogger(name).debug("Response body: %s", CANARY)
    logging.getLogger("app.turns").debug("ours")
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == ["ours"]


@pytest.mark.anyio
async def test_what_nobody_caught_is_told_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("INFO")
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(telemetry.on_loop_error)
    loop.call_exception_handler(
        {"message": f"Task exception was never retrieved: {CANARY}", "exception": ValueError(CANARY)}
    )
    out = capsys.readouterr().out
    assert json.loads(out)["exception"]["type"] == "ValueError"
    assert CANARY not in out
