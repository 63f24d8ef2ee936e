"""What runs inside a warm process that plays Lambda: many invocations, timed or counted."""

import asyncio
import importlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from starlette.types import Message

from benchmarks.invoke import CHAT, OK, Context, event
from benchmarks.measure import counts, ratios
from benchmarks.ours import build, in_memory


def warm(stack: str, rounds: int, calls: int) -> None:
    """Print, per round, CPU of `calls` invocations / CPU of as many direct ASGI calls of the same app."""
    module = _load(stack, in_memory, [])
    module.client = None  # the usual stack's: no call leaves this process
    loop = asyncio.get_event_loop()

    def direct() -> float:
        started = time.process_time()
        loop.run_until_complete(_call_directly(module.app, calls))
        return time.process_time() - started

    def invoked() -> float:
        started = time.process_time()
        for _ in range(calls):
            _invoke(module)
        return time.process_time() - started

    print(json.dumps(ratios(direct, invoked, rounds)))


def count(stack: str, calls: int, port: int) -> None:
    """Print the connections to DynamoDB that `calls` invocations after the first opened, and all lifespan starts."""
    starts: list[str] = []
    module = _load(stack, build, starts)
    _invoke(module)
    before = counts(port)["connections"]
    for _ in range(calls):
        _invoke(module)
    print(json.dumps([counts(port)["connections"] - before, len(starts)]))


def _load(stack: str, make: Callable[[], FastAPI], starts: list[str]) -> Any:  # noqa: ANN401 one of two modules
    """Return the module with the `handler` and the `app` of the stack, which notes the starts of its lifespan."""
    if stack == "usual":
        module = importlib.import_module("benchmarks.usual")
        _watch(module.app, starts)
        return module
    main: Any = importlib.import_module("app.main")
    main.build = lambda: _watch(make(), starts)  # `handler` takes it from there when it is imported
    return importlib.import_module("handler")


def _watch(app: FastAPI, starts: list[str]) -> FastAPI:
    context = app.router.lifespan_context

    def watched(each: FastAPI) -> AbstractAsyncContextManager[Any]:
        starts.append("start")
        return context(each)

    app.router.lifespan_context = watched
    return app


def _invoke(module: Any) -> None:  # noqa: ANN401 from _load
    answer = module.handler(event("POST", "/chat", CHAT), Context())
    assert answer["statusCode"] == OK, answer


async def _call_directly(app: FastAPI, calls: int) -> None:
    headers = [(b"host", b"api.example.com"), (b"content-type", b"application/json"), (b"accept", b"*/*")]
    for _ in range(calls):
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": CHAT.encode(), "more_body": False}

        async def send(message: Message, sent: list[Message] = sent) -> None:
            sent.append(message)

        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "https",
            "path": "/chat",
            "raw_path": b"/chat",
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": ("192.0.2.1", 0),
            "server": ("api.example.com", 443),
        }
        await app(scope, receive, send)
        assert sent[0]["status"] == OK, sent
