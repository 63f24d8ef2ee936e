"""What a test reads of the service's log."""

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.telemetry import JSONFormatter

Line = dict[str, Any]
CANARY = "canary-7f3a"


def lines_of(text: str) -> list[Line]:
    """Return the lines of a log, each of which must be one JSON object."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line for line in lines if not isinstance(line, dict)] == []
    return lines


def turns_in(log: str | Path) -> list[Line]:
    """Return the lines of turns, in a log of which every line must be JSON."""
    text = log.read_text() if isinstance(log, Path) else log
    return [line for line in lines_of(text) if line["event"] == "turn finished"]


class Log:
    """What the app in this process writes."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def turns(self) -> list[Line]:
        """The lines of turns."""
        return turns_in(self.text)


@contextlib.contextmanager
def written() -> Iterator[Log]:
    """Yield what the app writes in the block, at INFO."""
    stream, logger = io.StringIO(), logging.getLogger("app")
    handler, level = logging.StreamHandler(stream), logger.level
    handler.setFormatter(JSONFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield Log(stream)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
