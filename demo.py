"""The guided tour: configuration, probes, the readiness gate, statelessness. `python demo.py` needs no server or key.

Every answer printed here comes out of the real app, called as the ASGI application that it is.
"""

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

from fastapi import FastAPI

from app import config
from app.main import create_app


def tour_config() -> None:
    """Show what the environment decides."""
    print("==== CONFIG comes from the environment ====")
    with environment():
        print("defaults:", config.load().redacted())
    with environment(ENVIRONMENT="production", AUTH="none", SESSIONS_TABLE="sessions", AWS_REGION="eu-central-1"):
        print("prod without key, validate():", config.load().validate())
    with environment(AGENT_MAX_STEPS="10", LOG_LEVEL="debug", ANTHROPIC_API_KEY="a key that nobody sees"):
        shown = config.load().redacted()
        steps, level, key = shown["max_steps"], shown["log_level"], shown["api_key_set"]
        print(f"custom env -> max_steps: {steps} | log_level: {level} | key set: {key} (value never logged)")


async def tour_probes() -> None:
    """Show that liveness and readiness are two questions."""
    print("\n==== PROBES: alive is not ready ====")
    async with serving() as app:
        print("GET /healthz:", *await call(app, "GET", "/healthz"))
        status, _ = await call(app, "GET", "/readyz")
        print("GET /readyz (warmed):", status)

    cold = create_app(config.load())  # its lifespan has not begun: a process before its warm-up
    status, _ = await call(cold, "GET", "/healthz")
    print("GET /healthz while not ready:", status, "(still alive)")
    status, _ = await call(cold, "GET", "/readyz")
    print("GET /readyz while not ready:", status, "(keep traffic away)")
    status, _ = await call(cold, "POST", "/chat", {"message": "too early", "session_id": "a"})
    print("POST /chat while not ready:", status)


async def tour_sessions() -> None:
    """Show that sessions are apart, and that no replica owns one."""
    print("\n==== SESSIONS: apart from each other, at home on every replica ====")
    async with serving() as first:
        print("r1:", await chat(first, "first", "a"))
        print("r2:", await chat(first, "second", "b"))
        apart = await messages(first, "a") == ["first"] and await messages(first, "b") == ["second"]
        print("independent (no memory bleed):", apart)
    async with serving() as second:
        print("r3:", await chat(second, "third", "a"), "by a second app instance on the same store")
        print("session a, as the second instance sees it:", await messages(second, "a"))


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[FastAPI]:
    """Yield a new app instance that has warmed up, with its lifespan around the block as under a server."""
    app = create_app(config.load())
    async with app.router.lifespan_context(app):
        await app.state.lifecycle.warm_up()
        yield app


async def chat(app: FastAPI, message: str, session_id: str) -> dict[str, Any]:
    """Take one turn and return what it answered, in short."""
    _, body = await call(app, "POST", "/chat", {"message": message, "session_id": session_id})
    return {"answer": body["answer"], "session_id": body["session_id"]}


async def messages(app: FastAPI, session_id: str) -> list[str]:
    """Return what was said to the session, oldest first."""
    _, body = await call(app, "GET", f"/sessions/{session_id}")
    return [turn["message"] for turn in body["turns"]]


async def call(app: FastAPI, method: str, path: str, document: object = None) -> tuple[int, dict[str, Any]]:
    """Make one request to the app, without a server in between, and return the status and the JSON of the answer."""
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": json.dumps(document).encode()}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message["body"] for message in sent[1:]))


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Replace the environment by `variables` inside the block."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


async def tour() -> None:
    """Walk through everything that answers requests."""
    await tour_probes()
    await tour_sessions()


if __name__ == "__main__":
    # An empty folder: no .env of yours is read, and the SQLite file of the sessions goes with it.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), environment():
        tour_config()
        asyncio.run(tour())
