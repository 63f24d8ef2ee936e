"""JSON log lines on stdout, with the request they belong to. A leaf: imports nothing of the app.

Nothing that a user wrote is logged, at any level: records carry constant phrases and facts as fields, and an exception
is written as its class and the places it passed, because its text may hold input.
"""

import asyncio
import json
import logging
import sys
import time
import traceback
from contextvars import ContextVar
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "color_message",
    "taskName",
}
OURS = ("app", "handler")
# Libraries of agents and models, whose records hold what users and models said, down to a tool's arguments.
TALKATIVE = ("anthropic", "botocore", "httpx", "langchain", "langgraph", "openai", "pydantic_ai", "strands")
WITHHELD = "a library reports; what it says is withheld"
_DEEPEST = 12  # frames of a traceback, innermost ones
_ENCODER = json.JSONEncoder(default=lambda value: type(value).__name__)  # `dumps` would make one for each line


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, logger, event, request_id, then the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        line: dict[str, object] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": WITHHELD if record.name.startswith(TALKATIVE) else record.getMessage(),
        }
        if found := request_id.get():
            line["request_id"] = found
        if line["event"] is WITHHELD:
            line["at"] = f"{record.module}:{record.lineno}"
        else:
            line |= {name: value for name, value in record.__dict__.items() if name not in _PLAIN}
        if record.exc_info and record.exc_info[0]:
            line["exception"] = describe(record.exc_info[0], record.exc_info[2])
        return _ENCODER.encode(line)


def describe(kind: type[BaseException], trace: TracebackType | None) -> dict[str, object]:
    """Return an exception as its class and the places it passed, without its text."""
    frames = traceback.extract_tb(trace)[-_DEEPEST:]
    return {
        "type": kind.__name__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def configure(level: str) -> None:
    """Send our records at or above `level`, and others' at INFO or above, to stdout as JSON. Safe to repeat.

    What libraries tell at DEBUG is not ours to vouch for: botocore prints the keys it has got.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JSONFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.getLevelNamesMapping()[level], logging.INFO))
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    # Access lines hold the path, and with it session ids that callers chose.
    for name in ("uvicorn.access", "mangum.http"):
        logging.getLogger(name).disabled = True


def on_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught on an event loop. asyncio's own handler would print the exception, text and all."""
    error = context.get("exception")
    extra = {"exception": describe(type(error), error.__traceback__)} if isinstance(error, BaseException) else {}
    log.error("error on the event loop", extra=extra)
