"""A fake Lambda service, for what AWS's own emulator cannot do: many environments, streams, freezes, snapshots.

`front_door.py` serves it over HTTP. The emulator stays the judge of what both can do.
"""

import asyncio
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from tests.lambda_runtime import wire
from tests.machine import coverage

Kind: TypeAlias = Literal["on-demand", "provisioned-concurrency", "snap-start", "lambda-managed-instances"]

SIGTERM_S = 0.5  # what an environment with an internal extension gets before SIGKILL
ASKS_AGAIN_S = 5.0
EXTENSION = "/2020-01-01/extension"
RUNTIME = "/2018-06-01/runtime"
INVOCATION_ID = "Lambda-Runtime-Invocation-Id"


@dataclass(frozen=True)
class Function:
    """What to run, and how Lambda is configured for it.

    environments: how many there may be at once
    concurrency:  invocations at once in one environment; more than one is only found on Managed Instances
    freeze:       stop the process between two invocations
    deaf:         take no more than so many bytes of a response: then its connection breaks
    repeats:      take no answer that does not repeat its invocation's id; runtimes did not before July 2026
    """

    command: Sequence[str]
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 10.0
    environments: int = 1
    concurrency: int = 1
    kind: Kind = "on-demand"
    freeze: bool = False
    deaf: int | None = None
    repeats: bool = False


@dataclass(frozen=True)
class Begun:
    """The runtime begins to answer."""

    streaming: bool


@dataclass(frozen=True)
class Ended:
    """The runtime, or the platform in its place, has ended an invocation; `failure` is the type of an error."""

    failure: str = ""
    document: bytes = b""


Piece: TypeAlias = Begun | bytes | Ended


class Invocation:
    """An event on its way through an environment, and what comes back."""

    def __init__(self, payload: bytes, timeout_s: float) -> None:
        self.id = str(uuid.uuid4())
        self.attempt = uuid.uuid4().hex
        self.payload = payload
        self.ends_at = time.time() + timeout_s
        self.timeout: asyncio.TimerHandle | None = None
        self.pieces: asyncio.Queue[Piece] = asyncio.Queue()

    def end(self, failure: str = "", message: str = "", document: bytes = b"") -> None:
        if self.timeout:
            self.timeout.cancel()
        told = json.dumps({"errorType": failure, "errorMessage": f"RequestId: {self.id} Error: {message}"}).encode()
        self.pieces.put_nowait(Ended(failure, document or (told if failure else b"")))


class Environment:
    """One execution environment: a process of the runtime, and the Runtime API that is its own."""

    def __init__(self, function: Function, report: list[str]) -> None:
        self.function = function
        self.process: asyncio.subprocess.Process | None = None
        self.reserved = True  # for the invocation that it was made for
        self.opened = asyncio.Event()
        self.init_failure: Ended | None = None
        self.extensions: list[str] = []
        self.running: dict[str, Invocation] = {}
        self.waiting = 0  # requests for the next invocation
        self.frozen = False
        self._events: asyncio.Queue[Invocation] = asyncio.Queue()
        self._report = report
        self._api: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def idle(self) -> bool:
        """Whether it could take another invocation."""
        return self.alive and self.waiting > self._events.qsize() and not self.init_failure and not self.reserved

    async def start(self) -> None:
        """Start the process and wait until its init is over, one way or the other."""
        self._api = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        with (self.function.folder / "function.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.function.command,
                cwd=self.function.folder,
                env=self._variables(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._spawn(self._watch(self.process))
        await self.opened.wait()

    def _variables(self) -> dict[str, str]:
        host, port = self._api.sockets[0].getsockname()
        several = {"AWS_LAMBDA_MAX_CONCURRENCY": str(self.function.concurrency)}
        return coverage() | {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "AWS_LAMBDA_RUNTIME_API": f"{host}:{port}",
            "AWS_LAMBDA_FUNCTION_NAME": "function",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
            "AWS_LAMBDA_INITIALIZATION_TYPE": self.function.kind,
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
            **(several if self.function.concurrency > 1 else {}),
            **self.function.settings,
        }

    async def asks_again(self) -> None:
        """Wait for a runtime that has answered everything to ask for more, as it should do at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ASKS_AGAIN_S):
                while self.alive and not (self.reserved or self.running or self.waiting):
                    await asyncio.sleep(0.001)

    def take(self, invocation: Invocation) -> None:
        """Run an invocation here. The caller has seen that this is idle, or had it made."""
        self.reserved = False
        self._thaw()
        self.running[invocation.id] = invocation
        left_s = invocation.ends_at - time.time()
        invocation.timeout = asyncio.get_running_loop().call_later(left_s, self._time_out, invocation)
        self._events.put_nowait(invocation)

    async def stop(self) -> None:
        """End the process as Lambda does: it hears of it only if an extension is registered."""
        assert self.process
        if self.alive and self.extensions:
            self._thaw()
            self._signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(SIGTERM_S):
                    await self.process.wait()
        self._signal(signal.SIGKILL)
        await self.process.wait()
        self._api.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _time_out(self, invocation: Invocation) -> None:
        self._report.append(f"Task timed out after {self.function.timeout_s:.2f} seconds")
        self.running.pop(invocation.id, None)
        invocation.end("Sandbox.Timedout", self._report[-1])
        self._signal(signal.SIGKILL)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        for invocation in self.running.values():
            invocation.end("Runtime.ExitError", f"Runtime exited with error: exit status {status}")
        self.running.clear()
        if not self.opened.is_set():
            self._fail_init(b'{"errorType": "Runtime.ExitError"}')

    def _fail_init(self, document: bytes) -> None:
        self.init_failure = self.init_failure or Ended(json.loads(document)["errorType"], document)
        self.opened.set()

    def _signal(self, number: signal.Signals) -> None:
        if self.process and self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def _freeze(self) -> None:
        if self.function.freeze and not self.running and self._events.empty():
            self._signal(signal.SIGSTOP)
            self.frozen = True

    def _thaw(self) -> None:
        if self.frozen:
            self._signal(signal.SIGCONT)
            self.frozen = False

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._spawn(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await wire.read(reader):
                writer.write(await self._answer(request))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: wire.Request) -> bytes:
        """Answer a request to the Runtime API or to the Extensions API."""
        match request.target.removeprefix(RUNTIME).removeprefix(EXTENSION).split("/")[1:]:
            case ["invocation", "next"]:
                return await self._next()
            case ["invocation", name, "response"]:
                return await self._take_response(request, self._answered(name, request))
            case ["invocation", name, "error"]:
                self._take_failure(await request.body(), self._answered(name, request))
            case ["init" | "restore", "error"]:
                self._fail_init(await request.body())
            case ["restore", "next"]:
                self._report.append("snapshot")
                return wire.answer(200)
            case ["register"]:
                await request.body()
                self.extensions.append(request.header("lambda-extension-name"))
                return wire.answer(200, {}, [("Lambda-Extension-Identifier", uuid.uuid4())])
            case ["event", "next"]:
                await asyncio.Event().wait()
            case _:
                return wire.answer(404)
        return wire.answer(202, {"status": "OK"})

    async def _next(self) -> bytes:
        self.opened.set()
        self.waiting += 1
        self._freeze()
        try:
            invocation = await self._events.get()
        finally:
            self.waiting -= 1
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": invocation.id,
            INVOCATION_ID: invocation.attempt,
            "Lambda-Runtime-Deadline-Ms": int(invocation.ends_at * 1000),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:000000000000:function:function",
            "Lambda-Runtime-Trace-Id": f"Root=1-{invocation.id}",
        }
        return wire.answer(200, invocation.payload, headers.items())

    async def _take_response(self, request: wire.Request, invocation: Invocation | None) -> bytes:
        if invocation is None:
            return wire.answer(400, {"errorType": "InvalidRequestID"})
        invocation.pieces.put_nowait(Begun(request.header("lambda-runtime-function-response-mode") == "streaming"))
        taken = 0
        try:
            async for piece in request.chunks():
                invocation.pieces.put_nowait(piece)
                taken += len(piece)
                self._hear(taken)
        except (asyncio.IncompleteReadError, ConnectionError):
            if self.running.pop(invocation.id, None):
                invocation.end("Runtime.TruncatedResponse", "the response was cut off")
            raise
        failure = request.trailers.get("lambda-runtime-function-error-type", "")
        if self.running.pop(invocation.id, None):
            invocation.end(failure, "after the response began")
        return wire.answer(202, {"status": "OK"})

    def _hear(self, taken: int) -> None:
        if self.function.deaf is not None and taken > self.function.deaf:
            raise ConnectionAbortedError

    def _answered(self, name: str, request: wire.Request) -> Invocation | None:
        """Return the invocation that runs under this id, if the answer belongs to this attempt of it."""
        invocation, repeated = self.running.get(name), request.header(INVOCATION_ID.lower())
        silent = not (repeated or self.function.repeats)
        return invocation if invocation and (silent or repeated == invocation.attempt) else None

    def _take_failure(self, document: bytes, invocation: Invocation | None) -> None:
        if invocation is not None:
            del self.running[invocation.id]
            invocation.end(str(json.loads(document)["errorType"]), document=document)


class Service:
    """The service: invokes `function`, and makes environments as it needs them."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.report: list[str] = []  # what Lambda itself would log
        self.environments: list[Environment] = []

    async def invoke(self, payload: bytes) -> AsyncIterator[Piece]:
        """Yield what an invocation gives; nothing at all where there is no environment for it."""
        environment = await self._environment()
        if environment is None:
            return
        if environment.init_failure:
            yield environment.init_failure
            return
        invocation = Invocation(payload, self.function.timeout_s)
        environment.take(invocation)
        while not isinstance(piece := await invocation.pieces.get(), Ended):
            yield piece
        yield piece

    async def _environment(self) -> Environment | None:
        for each in self.environments:
            await each.asks_again()
            if each.idle:
                return each
        ended = [each for each in self.environments if not (each.alive or each.reserved) or each.init_failure]
        self.environments = [each for each in self.environments if each not in ended]
        for each in ended:
            await each.stop()
        if len(self.environments) >= self.function.environments:
            return None
        made = Environment(self.function, self.report)
        self.environments.append(made)
        await made.start()
        return made

    async def stop(self) -> None:
        """End every environment."""
        await asyncio.gather(*(each.stop() for each in self.environments))
