"""`python -m app.lambda_runtime`: a Lambda runtime that streams, around any ASGI app.

It speaks the documented Runtime API (Developer Guide, "Building a custom runtime" and "Response streaming for custom
runtimes"), because no runtime client for Python streams. A function behind it needs a front door that streams: a
Function URL with `InvokeMode: RESPONSE_STREAM` or a REST API with `ResponseTransferMode: STREAM`.
"""

import asyncio
import base64
import gc
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Self, TypeAlias

import aiohttp
from starlette.types import ASGIApp, Message

from app import telemetry
from app.errors import ConfigurationError, MalformedEvent
from app.lambda_events import PONG, Context, adapter, is_ping, parse, request_of
from app.middleware import problem_outside

log = logging.getLogger("app.lambda_runtime")  # `__main__` would be none of ours

Failure: TypeAlias = dict[str, object]
Prepare: TypeAlias = Callable[[], Awaitable[None]]
Finish: TypeAlias = Callable[[Context], Awaitable[None]]

RUNTIME = "/2018-06-01/runtime"
INVOCATION_ID = "Lambda-Runtime-Invocation-Id"  # another one for each attempt, which the answer must repeat
ERROR_TYPE, ERROR_BODY = "Lambda-Runtime-Function-Error-Type", "Lambda-Runtime-Function-Error-Body"
STREAMING = {
    "Lambda-Runtime-Function-Response-Mode": "streaming",
    "Transfer-Encoding": "chunked",
    "Content-Type": "application/vnd.awslambda.http-integration-response",
    "Trailer": f"{ERROR_TYPE}, {ERROR_BODY}",
    "Connection": "close",
}
PRELUDE_END = bytes(8)
MAX_BYTES = 200 * 1024 * 1024  # of a streamed response; Lambda quotas
EX_BEFORE_SNAPSHOT, EX_AFTER_RESTORE = 64, 65  # as AWS's own runtime client exits
FOREVER = aiohttp.ClientTimeout(total=None)  # the next invocation may be hours away, and the process frozen until then


class Upload:
    """The response of one invocation on its way to the Runtime API; an ASGI app's `send`.

    Where nobody takes it any more, the rest is dropped and the app runs to its end: Lambda goes on with a function
    whose client has left, and a turn that were left behind would be frozen half done.
    """

    def __init__(self, api: str, path: str, echoed: Mapping[str, str], max_bytes: int) -> None:
        self._api, self._path, self._left = api, path, max_bytes
        self._headers = {"Host": api, **STREAMING, **echoed}
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None  # from the first byte
        self._lost = False

    @property
    def begun(self) -> bool:
        """Whether a byte is out, after which an error can only be told at the end."""
        return self._writer is not None

    async def __call__(self, message: Message) -> None:
        """Send an ASGI message on."""
        if message["type"] == "http.response.start":
            await self._begin(_prelude(message) + PRELUDE_END)
        elif message["type"] == "http.response.body" and (body := message.get("body", b"")):
            self._left -= len(body)
            if self._left < 0:
                await self.end({"errorType": "Function.ResponseSizeTooLarge", "errorMessage": "It is too long."})
            await self._write(b"%x\r\n%b\r\n" % (len(body), body))

    async def end(self, failure: Failure | None = None) -> None:
        """End the response, where it has not been ended, with what went wrong after it began."""
        trailers = {}
        if failure is not None:
            told = base64.b64encode(json.dumps(failure).encode()).decode()
            trailers = {ERROR_TYPE: str(failure["errorType"]), ERROR_BODY: told}
        await self._write(b"0\r\n" + _lines(trailers))
        if not self._lost and self._writer is not None:
            with suppress(OSError):
                await self._reader.readline()  # accepted or not, there is nothing left to do about it
            self._close()

    async def _begin(self, prelude: bytes) -> None:
        host, _, port = self._api.partition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        head = f"POST {self._path} HTTP/1.1\r\n".encode() + _lines(self._headers)
        await self._write(head + b"%x\r\n%b\r\n" % (len(prelude), prelude))

    async def _write(self, data: bytes) -> None:
        try:
            if self._writer is not None and not self._lost:
                self._writer.write(data)
                await self._writer.drain()
        except OSError as exc:
            self._lose(exc)

    def _lose(self, error: OSError) -> None:
        log.warning("nobody takes the response any more", extra={"reason": type(error).__name__})
        self._close()

    def _close(self) -> None:
        self._lost = True
        if self._writer is not None:
            self._writer.close()


class RuntimeAPI:
    """The Runtime API at `address`: what is asked and told in one piece. Enter it before use."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._http: aiohttp.ClientSession  # from entering to leaving

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=FOREVER, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.close()

    async def get(self, path: str) -> tuple[Mapping[str, str], bytes]:
        """Return the headers and the body of what comes next, however long it takes."""
        async with self._http.get(f"http://{self.address}{RUNTIME}{path}") as answer:
            answer.raise_for_status()
            return answer.headers, await answer.read()

    async def post(self, path: str, document: Mapping[str, object], echoed: Mapping[str, str]) -> None:
        """Tell a result or, if it has an `errorType`, a failure."""
        headers = {**echoed, **({ERROR_TYPE: str(document["errorType"])} if "errorType" in document else {})}
        async with self._http.post(f"http://{self.address}{RUNTIME}{path}", json=document, headers=headers) as answer:
            await answer.read()


class Runtime:
    """Serves the invocations that `api` hands out with `app`, until the platform ends the process.

    prepare:   awaited before each invocation
    finish:    awaited after each, before its response ends
    max_bytes: of a response
    """

    def __init__(
        self, app: ASGIApp, api: RuntimeAPI, prepare: Prepare, finish: Finish, max_bytes: int = MAX_BYTES
    ) -> None:
        self._app = app
        self._api = api
        self._max_bytes = max_bytes
        self._prepare = prepare
        self._finish = finish
        self._adapter = adapter(app)  # of which only the reading of events is used

    async def serve(self, at_once: int = 1) -> None:
        """Ask for invocations, `at_once` of them at a time, and answer each. Ends only by raising."""
        async with asyncio.TaskGroup() as asking:
            for _ in range(at_once):
                asking.create_task(self._one_by_one(trace=at_once == 1))

    async def _one_by_one(self, *, trace: bool) -> None:
        while True:
            headers, payload = await self._api.get("/invocation/next")
            context = Context.of(headers)
            if trace:  # a variable of the process: of several invocations at once it would name any
                os.environ["_X_AMZN_TRACE_ID"] = context.trace_id
            echoed = {INVOCATION_ID: headers[INVOCATION_ID]} if INVOCATION_ID in headers else {}
            await self._invoke(payload, context, echoed)

    async def _invoke(self, payload: bytes, context: Context, echoed: Mapping[str, str]) -> None:
        """Answer one invocation, with the headers that tie the answer to it."""
        event = parse(payload)
        path = f"/invocation/{context.aws_request_id}"
        if is_ping(event):
            await self._api.post(f"{path}/response", PONG, echoed)
            return
        await self._prepare()
        upload = Upload(self._api.address, f"{RUNTIME}{path}/response", echoed, self._max_bytes)
        failure = await self._run(event, context, upload)
        await self._finish(context)
        if upload.begun:
            await upload.end(failure)
        else:
            silent: Failure = {"errorType": "Function.NoResponse", "errorMessage": "The app sent no response."}
            await self._api.post(f"{path}/error", failure or silent, echoed)

    async def _run(self, event: object, context: Context, upload: Upload) -> Failure | None:
        """Run the app on the event, and return what went wrong."""
        app = self._app
        try:
            scope, body = request_of(self._adapter, event, context)
        except Exception as exc:  # noqa: BLE001 an edge: events come from anywhere, and Mangum reads them unchecked
            log.warning("event cannot be read", extra={"reason": type(exc).__name__})
            app, scope, body = problem_outside(MalformedEvent()), {"type": "http"}, b""
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        left: asyncio.Future[Message] = asyncio.get_running_loop().create_future()  # no client is known to have left

        async def receive() -> Message:
            return messages.pop() if messages else await left

        try:
            # A task of its own, so that what it sets for its context is not there for the next one.
            await asyncio.ensure_future(app(scope, receive, upload))
        except Exception as exc:  # the other edge: the app is anybody's
            log.exception("the app raised")
            return {"errorType": f"Function.{type(exc).__name__}", "errorMessage": "The app raised."}
        return None


def main() -> None:
    """Open the environment as `handler.py` does, and serve it. Exits where that is impossible, and tells why."""
    address = os.environ.get("AWS_LAMBDA_RUNTIME_API")
    if not address:
        sys.exit("AWS_LAMBDA_RUNTIME_API is not set, so this is not Lambda; `python -m app` serves elsewhere")
    path, status = "/init/error", 1
    telemetry.configure("INFO")  # until the settings are read: no exception's text may reach the log
    gc.disable()  # as in handler.py
    try:
        from app.lambda_environment import Environment, run_hooks  # noqa: PLC0415 what goes wrong has to be told
        from app.main import build  # noqa: PLC0415 as above

        environment = Environment(build())
        environment.open()
        if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
            status = EX_BEFORE_SNAPSHOT
            run_hooks(before=True)
            environment.loop.run_until_complete(_be_restored(address))
            path, status = "/restore/error", EX_AFTER_RESTORE
            run_hooks(before=False)
    except (Exception, SystemExit) as exc:
        log.exception("the environment cannot be opened")
        asyncio.run(_tell(address, path, exc))
        sys.exit(status)
    gc.enable()
    gc.freeze()
    environment.loop.run_until_complete(_serve(address, environment.app, environment.prepare, environment.finish))


async def _be_restored(address: str) -> None:
    async with RuntimeAPI(address) as api:
        await api.get("/restore/next")


async def _serve(address: str, app: ASGIApp, prepare: Prepare, finish: Finish) -> None:
    at_once = int(os.environ.get("AWS_LAMBDA_MAX_CONCURRENCY") or 1)  # of Managed Instances, which do not freeze
    async with RuntimeAPI(address) as api:
        await Runtime(app, api, prepare, finish).serve(at_once)


async def _tell(address: str, path: str, error: BaseException) -> None:
    """Tell the platform why the process ends, without a word that could be somebody's secret."""
    text = "; ".join(error.problems) if isinstance(error, ConfigurationError) else "The environment cannot be opened."
    async with RuntimeAPI(address) as api:
        await api.post(path, {"errorType": type(error).__name__, "errorMessage": text}, {})


def _prelude(start: Message) -> bytes:
    """Return the status and the headers as a front door that streams wants them, cookies apart."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in start.get("headers", ()):
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "set-cookie":
            cookies.append(value)
        else:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return json.dumps({"statusCode": start["status"], "headers": headers, "cookies": cookies}).encode()


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + b"\r\n"


if __name__ == "__main__":
    main()
