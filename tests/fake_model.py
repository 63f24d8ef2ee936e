"""A server that speaks the Messages API over HTTP, does what its script says, and is as strict as the real one.

    async with FakeModel(says("Let me see.", Call("clock")), says("It is noon.")) as model:
        ...  # model.url, model.requests

Each request takes the next answer of the script, and `otherwise` when there is none left. Requests that the API would
refuse are refused and take none.
"""

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from tests.messages_rules import Issued, Refused, check, read
from tests.model_script import Answer, Fault, Gate, Script, Step, error, says

SSE = "text/event-stream; charset=utf-8"
RST = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, not with an end
CLOSE_S = 5.0


@dataclass
class Request:
    """A request as it arrived.

    at:       when, on the event loop's clock
    sent:     the steps of the answer taken so far
    answered: the whole answer was sent
    hung_up:  the client left before that
    rubbish:  what came after the request
    """

    headers: dict[str, str]
    raw: bytes
    at: float
    sent: list[Step] = field(default_factory=list)
    status: int = 0
    answered: bool = False
    hung_up: bool = False
    rubbish: bytes = b""

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def messages(self) -> list[Any]:
        """The messages of the body, without how they are nested in lines."""
        found: list[Any] = self.body["messages"]
        return found


class FakeModel:
    """The server. Enter it on the event loop that shall serve it."""

    def __init__(self, *script: Script) -> None:
        self.script = list(script)
        self.otherwise: Script = says("fine")
        self.requests: list[Request] = []
        self.issued = Issued()
        self.url = ""
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = "http://{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    @property
    def refused(self) -> list[int]:
        """The statuses of all answers but 200, in order."""
        return [request.status for request in self.requests if request.status != 200]

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _receive(reader):
                self.requests.append(request)
                if not await Exchange(request, reader, writer).run(self._answer(request)):
                    return
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _answer(self, request: Request) -> Answer:
        if not request.headers.keys() & {"x-api-key", "authorization"}:
            return error(401, "authentication_error", "a key is required")(self.issued, {})
        try:
            body = read(request.raw, request.headers)
            check(body, self.issued)
        except Refused as exc:
            return error(400, "invalid_request_error", str(exc))(self.issued, {})
        make = self.script.pop(0) if self.script else self.otherwise
        return make(self.issued, body)


@dataclass
class Exchange:
    """One request on a connection, and the sending of its answer."""

    request: Request
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def run(self, answer: Answer) -> bool:
        """Send the answer; return whether the connection may carry another request."""
        watching = asyncio.create_task(self._watch())
        try:
            reusable = await self._send(answer)
            self.request.answered = reusable
        except ConnectionError:
            self.request.hung_up = True
            return False
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        return reusable and not self.request.hung_up

    async def _watch(self) -> None:
        """Notice that the client hangs up, or sends more than it announced."""
        self.request.rubbish = await self.reader.read(100)
        self.request.hung_up = not self.request.rubbish and not self.request.answered

    async def _send(self, answer: Answer) -> bool:
        self.request.status = answer.status
        if answer.head:
            names = {"content-type": SSE, "transfer-encoding": "chunked", "request-id": "req_1", **answer.headers}
            lines = [f"HTTP/1.1 {answer.status} Whatever", *(f"{name}: {value}" for name, value in names.items())]
            self.writer.write("\r\n".join([*lines, "", ""]).encode())
        for step in answer.steps:
            if not await self._take(step):
                return False
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return True

    async def _take(self, step: Step) -> bool:
        """Take one step; return whether the connection is still of use."""
        match step:
            case Fault():
                await self._break(step)
                return False
            case Gate():
                await until(lambda: step.is_set() or self.request.hung_up)
            case float():
                await asyncio.sleep(step)
            case dict():
                await self._chunk(f"event: {step['type']}\ndata: {json.dumps(step)}\n\n".encode())
            case bytes():
                await self._chunk(step)
        self.request.sent.append(step)
        return True

    async def _break(self, fault: Fault) -> None:
        if fault is Fault.RESET:
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            self.writer.transport.abort()
        while fault in (Fault.STALL, Fault.DRIP) and not self.request.hung_up:
            if fault is Fault.DRIP:
                await self._chunk(b'event: ping\ndata: {"type": "ping"}\n\n')
            await asyncio.sleep(0.01)

    async def _chunk(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()


async def until(condition: Callable[[], bool]) -> None:
    """Return soon after `condition` holds."""
    while not condition():
        await asyncio.sleep(0.005)


async def _receive(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert first.split() == ["POST", "/v1/messages", "HTTP/1.1"], first
        body = await reader.readexactly(int(headers["content-length"]))
        return Request(headers, body, asyncio.get_running_loop().time())
    except asyncio.IncompleteReadError:
        return None


@contextlib.contextmanager
def in_thread(*script: Script) -> Iterator[FakeModel]:
    """Serve on an event loop in a thread of its own, for services that are processes of their own."""
    model, ready, leave = FakeModel(*script), threading.Event(), Gate()

    async def serve() -> None:
        async with model:
            ready.set()
            await until(leave.is_set)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(CLOSE_S)
        yield model
    finally:
        leave.set()
        thread.join(CLOSE_S)
