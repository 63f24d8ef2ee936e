"""What runs inside a fresh process that plays Lambda. Imports next to nothing, because imports are measured."""

import importlib
import json
import os
import sys
from typing import Any

OK = 200
CHAT = json.dumps({"message": "hello there"})


class Context:
    """What Lambda hands a handler beside the event."""

    def get_remaining_time_in_millis(self) -> int:
        """Return more than a turn takes."""
        return 30_000


def event(method: str, path: str, body: str | None = None) -> dict[str, Any]:
    """Return an HTTP API event (payload format 2.0)."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "api.example.com", "content-type": "application/json", "accept": "*/*"},
        "requestContext": {
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
            "stage": "$default",
        },
        "body": body,
        "isBase64Encoded": False,
    }


def once(module: str) -> None:
    """Import MODULE.handler, invoke it once and end there: nothing of the interpreter's own end is counted."""
    asked = event("GET", "/") if module == "benchmarks.hello" else event("POST", "/chat", CHAT)
    answer = importlib.import_module(module).handler(asked, Context())
    sys.stdout.flush()
    os._exit(0 if answer["statusCode"] == OK else 1)
