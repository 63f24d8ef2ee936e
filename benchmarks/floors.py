"""What the servers are compared with: the least code that does the visible half of the same work."""

import asyncio

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.ours import TOKENS

FRAME = b'event: delta\ndata: {"text":" token"}\n\n'  # as our SSE sends a token


class Message(BaseModel):
    """The body of a request."""

    message: str


class Answer(BaseModel):
    """The body of a response."""

    answer: str


def starlette_echo() -> ASGIApp:
    """Return a bare Starlette echo: JSON in, JSON out."""

    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        return JSONResponse({"answer": f"You said: {body['message']}"})

    return Starlette(routes=[Route("/chat", chat, methods=["POST"])])


def fastapi_echo() -> ASGIApp:
    """Return a bare FastAPI echo: model in, model out."""
    app = FastAPI()

    @app.post("/chat")
    async def chat(body: Message) -> Answer:
        return Answer(answer=f"You said: {body.message}")

    return app


def sink() -> ASGIApp:
    """Return a collector that takes everything and keeps nothing."""

    async def answer(request: Request) -> Response:
        await request.body()
        return Response()

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


def chunks() -> ASGIApp:
    """Return raw ASGI that sends TOKENS ready-made frames, each in a chunk of its own."""
    return _chunks(waiting=False)


def waiting_chunks() -> ASGIApp:
    """Return the same, letting others run after every frame."""
    return _chunks(waiting=True)


def _chunks(*, waiting: bool) -> ASGIApp:
    async def app(scope: Scope, _: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _token in range(TOKENS):
            await send({"type": "http.response.body", "body": FRAME, "more_body": True})
            if waiting:
                await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    return app
