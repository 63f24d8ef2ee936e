"""A Lambda environment in miniature: imports `handler` once, then answers lines of `[remaining_ms, event]`."""

import itertools
import json
import sys
from typing import Any

import handler


class Context:
    """The part of Lambda's context object that the service reads."""

    def __init__(self, remaining_ms: Any, number: int) -> None:
        self.aws_request_id = f"invocation-{number}"
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> Any:
        return self._remaining_ms


for number, line in zip(itertools.count(1), sys.stdin, strict=False):
    remaining_ms, event = json.loads(line)
    print("RESULT", json.dumps(handler.handler(event, Context(remaining_ms, number))))
