"""A Lambda environment in miniature: imports `handler` once, then answers lines of `[remaining_ms, event]`."""

import json
import sys
from typing import Any

import handler


class Context:
    """The part of Lambda's context object that the service reads."""

    def __init__(self, remaining_ms: Any) -> None:
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> Any:
        return self._remaining_ms


for line in sys.stdin:
    remaining_ms, event = json.loads(line)
    print("RESULT", json.dumps(handler.handler(event, Context(remaining_ms))))
