"""Bytes on a connection, for what no HTTP client would send."""

import socket
import time

from app.connections import HEAD_S
from tests.entry_points import Answer


def said(port: int, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Send the pieces on one connection, with pauses, and return what comes until the server closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=HEAD_S * 3) as caller:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        came = b""
        try:
            for piece in pieces:
                caller.sendall(piece)
                time.sleep(pause_s)
            while more := caller.recv(65_536):
                came += more
        except ConnectionError:
            pass  # closed with something of ours unread, which is a close too
        return came


def read(answer: bytes) -> Answer:
    """Return the one answer in what came; of a header that is there twice both values."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for name, _, value in (field.partition(":") for field in fields):
        known = headers.get(name.lower())
        headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
    return Answer(int(line.split(" ")[1]), headers, body.decode())
