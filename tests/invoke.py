"""A Lambda environment in miniature: imports `handler` once, then one event a line in, one `RESULT` line out."""

import json
import sys

import handler

REMAINING_MS = 10_000


class Context:
    """The part of Lambda's context object that the service reads."""

    def get_remaining_time_in_millis(self) -> int:
        return REMAINING_MS


for line in sys.stdin:
    print("RESULT", json.dumps(handler.handler(json.loads(line), Context())))
