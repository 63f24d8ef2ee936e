"""uvicorn's HTTP/1.1 with what it lacks: limits on the head of a request and on not reading, and one way to read it.

Without them, a caller can hold a connection for ever by never ending a line or never reading, send headers without
end, or send two requests where a proxy sees one. The body has its limits in `routes`.
"""

import asyncio

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app import request_head
from app.errors import HeadersTooLarge, MalformedRequest, ServiceError
from app.middleware import problem_outside
from app.problems import kind_of

UNSENT_BYTES = 16_384  # of answers, over which none is written; with asyncio's 64 KiB, slow readers cost twice as much
UNREAD_S = 60.0  # a caller that takes nothing of an answer for so long reads it no more
MAX_AHEAD = 16  # requests before earlier answers; hardly anybody sends any, and each costs 20 times its bytes
HEAD_S = 10.0  # from the connection, or from a further request's first byte, to the end of the head


class Parser(httptools.HttpRequestParser):
    """A parser that knows of no protocol but its own.

    The parser below it takes what follows a head with `Upgrade` for another protocol's, and so its body for the next
    request. A server may go on as if nobody had asked (RFC 9110, section 7.8); Java's client asks every time.
    """

    def __init__(self, protocol: "LimitedProtocol") -> None:
        super().__init__(protocol)
        self._protocol = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # uvicorn feeds nothing else
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._protocol.read_again(data[exc.args[0] :])


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    _refusal: ServiceError | None = None
    _in_head = False
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.parser = Parser(self)
        transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._unread:
            self._unread.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        counted = self._timer is not None  # else a body may come first in this piece
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._timer and counted and not getattr(self.cycle, "more_body", False):  # the head has not ended
            self._head_bytes += len(data)
            if self._head_bytes > request_head.MAX_HEAD_BYTES:
                self._refuse(HeadersTooLarge())
        elif not self._timer and self.cycle.response_complete:  # there is one: the head of the first request has ended
            self._expect_head()  # what came belongs to no request that is being answered

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        if not self._timer:
            self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread:
            self._unread.cancel()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is none: it could say what a proxy has taken out of the head (RFC 9110, 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head = False
        try:
            if len(self.pipeline) >= MAX_AHEAD:
                raise MalformedRequest
            request_head.check(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        except ServiceError as exc:
            self._refusal = exc
            raise  # to the parser, which reads no further
        if not self.parser.should_upgrade():  # else the head comes again
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def read_again(self, rest: bytes) -> None:
        """Read the head once more without its wish for another protocol, and what follows it, by a new parser.

        The old one may take the connection for closed.
        """
        lines = b"".join(b"%b: %b\r\n" % each for each in self.headers if each[0] != b"upgrade")
        version = self.parser.get_http_version().encode()
        head = b"%b %b HTTP/%b\r\n%b\r\n" % (self.parser.get_method(), self.url, version, lines)
        self.parser = Parser(self)
        self.parser.feed_data(head + rest)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 its text is no part of our contract
        self._refuse(self._refusal or MalformedRequest())

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: ServiceError) -> None:
        """Answer with the problem and close, without asking the app; after earlier answers, close only."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        if not getattr(self.cycle, "response_complete", True) and not self.cycle.more_body:  # there may be none yet
            self.cycle.keep_alive = False  # an earlier request is being answered; its answer ends the connection
            return
        response = problem_outside(error)
        headers = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
        status = b"HTTP/1.1 %d %s\r\n" % (response.status_code, kind_of(error).title.encode())
        self.transport.write(status + headers + b"connection: close\r\n\r\n" + bytes(response.body))
        self.transport.close()
