"""Log lines: JSON, with the request they belong to, without the text of any exception."""

import asyncio
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import pytest

from app import telemetry

log = logging.getLogger("tests.telemetry")
CANARY = "canary-7f3a"


@dataclass
class Unraisable:
    """What Python hands to `sys.unraisablehook`."""

    exc_type: type[BaseException]
    exc_value: BaseException
    exc_traceback: TracebackType | None = None
    err_msg: str | None = None
    object: object = None


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning
    yield
    root.handlers, root.level = handlers, level
    sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning = hooks
    logging.raiseExceptions = True
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


@pytest.mark.parametrize("name", ["uvicorn.error", "botocore.endpoint"])
def test_a_library_that_sets_its_own_level_writes_no_debug_lines(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("DEBUG")
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.debug("GET /sessions/%s", CANARY)
    logger.setLevel(logging.NOTSET)
    assert capsys.readouterr().out == ""


def test_a_record_that_does_not_fit_its_arguments_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("INFO")
    log.warning("%d is no number", CANARY)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "raised",
    [
        lambda error: sys.excepthook(type(error), error, None),
        lambda error: threading.excepthook(threading.ExceptHookArgs((type(error), error, None, None))),
        lambda error: sys.unraisablehook(Unraisable(type(error), error)),  # type: ignore[arg-type]  # as Python makes one
    ],
    ids=["program", "thread", "finalizer"],
)
def test_what_nobody_caught_anywhere_is_told_without_its_text(
    raised: Callable[[Exception], None], capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure("INFO")
    raised(ValueError(CANARY))
    line = json.loads(capsys.readouterr().out)
    assert (line["level"], line["event"], line["exception"]["type"]) == (
        "critical",
        "unhandled exception",
        "ValueError",
    )
    assert CANARY not in str(line)


def test_a_thread_that_exits_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("INFO")
    threading.excepthook(threading.ExceptHookArgs((SystemExit, SystemExit(CANARY), None, None)))
    assert capsys.readouterr().out == ""


def test_a_warning_is_its_class_and_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("INFO")
    warnings.showwarning(CANARY, DeprecationWarning, "a.py", 7)
    line = json.loads(capsys.readouterr().out)
    assert (line["warning"], line["at"], CANARY in str(line)) == ("DeprecationWarning", "a.py:7", False)


TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("version", ["00", "01", "fe"])
def test_the_trace_id_is_that_of_a_well_formed_header(version: str) -> None:
    headers = [(b"accept", b"*/*"), (b"traceparent", f"{version}-{TRACE}-{PARENT}-01".encode())]
    assert telemetry.trace_id(headers) == TRACE


@pytest.mark.parametrize(
    "value",
    [
        "",
        TRACE,
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
        f" 00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
    ],
)
def test_of_a_malformed_trace_nothing_is_taken(value: str) -> None:
    assert telemetry.trace_id([(b"traceparent", value.encode())]) is None


def test_two_traces_are_none() -> None:
    header = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())
    assert telemetry.trace_id([header, header]) is None


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
