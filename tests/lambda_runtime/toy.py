"""An ASGI app that does what its path says, under the streaming runtime: `python -m tests.lambda_runtime.toy`."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive, Scope, Send

from app import telemetry
from app.lambda_runtime import Runtime, RuntimeAPI

PLAIN = [(b"content-type", b"text/plain")]
meeting: list[asyncio.Event] = []


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    name, _, argument = scope["path"].strip("/").partition("/")
    request = await receive()
    if name == "nothing":
        return
    if name == "raise":
        raise LookupError("canary")
    start: Message = {"type": "http.response.start", "status": 200, "headers": PLAIN}
    if name == "headers":
        start["headers"] = [(b"Set-Cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2"), (b"x-n", b"1"), (b"x-n", b"2")]
    await send(start)
    await ACTS.get(name, nothing)(send, argument)
    said = {
        "echo": request["body"],
        "cookies": dict(scope["headers"]).get(b"cookie", b""),
        "trace": os.environ.get("_X_AMZN_TRACE_ID", "").encode(),
        "context": json.dumps([scope["aws.context"].get_remaining_time_in_millis(), os.getpid()]).encode(),
    }
    await send({"type": "http.response.body", "body": said.get(name, b""), "more_body": False})


async def say(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def nothing(_send: Send, _: str) -> None:
    """Say nothing more."""


async def break_off(send: Send, _: str) -> None:
    await say(send, "begun")
    raise LookupError("canary")


async def stall(send: Send, _: str) -> None:
    await say(send, "begun")
    await asyncio.Event().wait()


async def much(send: Send, kilobytes: str) -> None:
    for _ in range(int(kilobytes)):
        await say(send, "x" * 1000)


async def meet(_: Send, count: str) -> None:
    """Wait until so many are here at once."""
    meeting.append(asyncio.Event())
    if len(meeting) == int(count):
        for each in meeting:
            each.set()
    await meeting[-1].wait()


ACTS: dict[str, Callable[[Send, str], Awaitable[None]]] = {
    "break": break_off,
    "stall": stall,
    "much": much,
    "meet": meet,
}


async def prepare() -> None:
    """Nothing is held open."""


async def finish(_: object) -> None:
    """Nothing is to be sent."""


async def main() -> None:
    telemetry.configure("INFO")
    async with RuntimeAPI(os.environ["AWS_LAMBDA_RUNTIME_API"]) as api:
        max_bytes, at_once = int(os.environ["MAX_BYTES"]), int(os.environ.get("AWS_LAMBDA_MAX_CONCURRENCY", "1"))
        await Runtime(app, api, prepare, finish, max_bytes).serve(at_once)


if __name__ == "__main__":
    asyncio.run(main())
