"""JSON log lines on stdout, with the request they belong to. A leaf: imports nothing of the app.

Nothing that a user wrote is logged, at any level: records carry constant phrases and facts as fields, and an exception
is written as its class and the places it passed, because its text may hold input.
"""

import asyncio
import json
import logging
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from functools import lru_cache
from types import MappingProxyType, TracebackType
from typing import Any, TextIO

from opentelemetry.trace import format_trace_id, get_current_span
from pydantic_core import to_json

log = logging.getLogger(__name__)

# Tasks and timers copy both when they are made, so what a request has begun is logged as its own even after its end.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
request_facts: ContextVar[Mapping[str, object]] = ContextVar("request_facts", default=MappingProxyType({}))

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
# In `extra`, all fields in one, of types that JSON has: a quarter of the time, for the line that each turn has. The
# encoder for these would write the content of any object, so it gets no record of which it is not known what it holds.
FACTS = "facts"
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "color_message",
    "taskName",
}
OURS = ("app", "handler")
# Libraries of agents and models, whose records hold what users and models said, down to a tool's arguments.
# Of HTTP clients they hold addresses, of asyncio the texts of exceptions.
TALKATIVE = (
    *("aioboto", "aiodynamo", "aiohttp", "anthropic", "asyncio", "boto", "httpcore", "httpx", "langchain", "langgraph"),
    *("langsmith", "mcp", "openai", "opentelemetry", "pydantic_ai", "strands", "urllib3"),
)
WITHHELD = "a library reports; what it says is withheld"
_DEEPEST = 12  # frames of a traceback, innermost ones
_ENCODER = json.JSONEncoder(default=lambda value: type(value).__name__)  # `dumps` would make one for each line


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, logger, event, the request, then the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        line: dict[str, object] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": WITHHELD if record.name.startswith(TALKATIVE) else record.getMessage(),
        }
        if found := request_id.get():
            line["request_id"] = found
        line |= request_facts.get()
        if record.exc_info and record.exc_info[0]:
            line["exception"] = describe(record.exc_info[0], record.exc_info[2])
        facts: dict[str, object] | None = getattr(record, FACTS, None)
        if facts is not None:
            return to_json(line | facts).decode()
        if line["event"] is WITHHELD:
            line["at"] = f"{record.module}:{record.lineno}"
        else:
            line |= {name: value for name, value in record.__dict__.items() if name not in _PLAIN}
        return _ENCODER.encode(line)


@lru_cache(maxsize=1)
def _second(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


def describe(kind: type[BaseException], trace: TracebackType | None) -> dict[str, object]:
    """Return an exception as its class and the places it passed, without its text."""
    frames = traceback.extract_tb(trace)[-_DEEPEST:]
    return {
        "type": kind.__name__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def trace_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the trace id in the one well-formed `traceparent` header; None without one."""
    found = [value for name, value in headers if name == b"traceparent"]
    parts = _TRACEPARENT.fullmatch(found[0]) if len(found) == 1 else None
    return parts[1].decode() if parts else None


def current_trace_id() -> str | None:
    """Return the id of the trace that the current span belongs to; None where nothing is traced."""
    span = get_current_span().get_span_context()
    return format_trace_id(span.trace_id) if span.is_valid else None


def configure(level: str) -> None:
    """Send our records at or above `level`, and others' at INFO or above, to stdout as JSON. Safe to repeat.

    What libraries tell at DEBUG is not ours to vouch for: botocore prints the keys it has got. What Python itself would
    print to stderr, exceptions that nobody caught and warnings, is logged without its text.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JSONFormatter())
    handler.addFilter(_is_to_be_written)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.getLevelNamesMapping()[level], logging.INFO))
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):  # its command line gives them handlers of their own
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True
    # Access lines hold the path, and with it session ids that callers chose.
    for name in ("uvicorn.access", "mangum.http"):
        logging.getLogger(name).disabled = True
    logging.raiseExceptions = False  # or a record that cannot be formatted is printed, with its arguments
    sys.excepthook = on_uncaught
    sys.unraisablehook = lambda found: on_uncaught(found.exc_type, found.exc_value, found.exc_traceback)
    threading.excepthook = lambda found: on_uncaught(found.exc_type, found.exc_value, found.exc_traceback)
    warnings.showwarning = on_warning


def _is_to_be_written(record: logging.LogRecord) -> bool:
    """Return whether a record may be: a logger with a level of its own passes that of the root."""
    return record.levelno >= logging.INFO or record.name.partition(".")[0] in OURS


def on_uncaught(kind: type[BaseException], _: BaseException | None, trace: TracebackType | None) -> None:
    """Log what nobody caught: at the top of the program, in a thread or in a finalizer."""
    if not issubclass(kind, SystemExit):  # which ends a thread without a word
        log.critical("unhandled exception", extra={"exception": describe(kind, trace)})


def on_warning(
    message: Warning | str,  # noqa: ARG001 Python calls it with these names
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Log a warning of Python's as its class and its place."""
    log.warning("Python warns", extra={"warning": category.__name__, "at": f"{filename}:{lineno}"})


def on_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught on an event loop. asyncio's own handler would print the exception, text and all."""
    error = context.get("exception")
    extra = {"exception": describe(type(error), error.__traceback__)} if isinstance(error, BaseException) else {}
    log.error("error on the event loop", extra=extra)
