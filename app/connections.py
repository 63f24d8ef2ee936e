"""uvicorn's HTTP/1.1 with what it lacks: limits on the head of a request, its size and its time, and on not reading.

Without them, a caller can hold a connection for ever by never ending a line or never reading, or send headers without
end. The body has its limits in `routes`.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import HeadersTooLarge, MalformedRequest, ServiceError
from app.problems import kind_of, response_of

MAX_HEAD_BYTES = 65_536  # as h11, uvicorn's other parser, has it; usual servers take 8 to 32 KB
UNSENT_BYTES = (
    16_384  # of answers, over which no more is written; with asyncio's 64 KiB, slow readers cost twice as much
)
UNREAD_S = 60.0  # a caller that takes nothing of an answer for so long reads it no more
HEAD_S = 10.0  # from the connection, or from a further request's first byte, to the end of the head


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
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
        if self._timer and counted:  # the head has not ended
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadersTooLarge())
        elif not self._timer and self.cycle.response_complete:  # there is one: the head of the first request has ended
            self._expect_head()  # what came belongs to no request that is being answered

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._timer:
            self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread:
            self._unread.cancel()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > MAX_HEAD_BYTES:
            self._refuse(HeadersTooLarge())
        else:
            super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 its text is no part of our contract
        self._refuse(MalformedRequest())

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: ServiceError) -> None:
        """Answer with the problem and close, without asking the app."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        response = response_of(error)
        headers = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
        status = b"HTTP/1.1 %d %s\r\n" % (response.status_code, kind_of(error).title.encode())
        self.transport.write(status + headers + b"connection: close\r\n\r\n" + bytes(response.body))
        self.transport.close()
