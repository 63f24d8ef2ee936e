"""`python -m benchmarks.dynamodb FD MODE`: a DynamoDB that counts what it is sent.

MODE is `canned` (every Query finds the same HISTORY turns, nothing is kept), `table` (a dict keeps the items, no
condition is checked), or the port of a real server, to which everything is forwarded. `GET` answers the counts.
"""

import asyncio
import http.client
import json
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

HISTORY = 10
HEAD = re.compile(rb"(?is)x-amz-target: *\w+\.(\w+)")
LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
BODY = {
    "message": "a message of a usual length, one line",
    "answer": "You said: a message of a usual length, one line",
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0, "steps": 0, "usd": 0.0},
}

Answer = Callable[[str, bytes], bytes]


def canned() -> Answer:
    """Answer every Query with a page of HISTORY done turns, anything else with success."""
    body = {"S": json.dumps(BODY, separators=(",", ":"))}
    items = [
        {
            "pk": {"S": "anonymous/s"},
            "turn": {"N": str(turn)},
            "run": {"S": f"{turn:032x}"},
            "req": {"S": f"{turn:032x}"},
            "expires": {"N": "9999999999"},
            "body": body,
        }
        for turn in range(HISTORY, 0, -1)
    ]
    page = json.dumps({"Items": items, "Count": HISTORY, "ScannedCount": HISTORY}).encode()
    return lambda action, _: page if action == "Query" else b"{}"


def table() -> Answer:
    """Keep the items; a Query finds its partition's newest."""
    partitions: dict[str, dict[int, Any]] = {}

    def answer(action: str, body: bytes) -> bytes:
        asked = json.loads(body)
        if action == "PutItem":
            item = asked["Item"]
            partitions.setdefault(item["pk"]["S"], {})[int(item["turn"]["N"])] = item
            return b"{}"
        items = partitions.get(asked["ExpressionAttributeValues"][":pk"]["S"], {})
        found = [items[turn] for turn in sorted(items, reverse=True)[: asked["Limit"]]]
        return json.dumps({"Items": found, "Count": len(found)}).encode()

    return answer


def forward(port: int) -> Answer:
    """Ask the server on `port`."""
    server = http.client.HTTPConnection("127.0.0.1", port)
    headers = {
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Date": "20260101T000000Z",
        "Authorization": "AWS4-HMAC-SHA256 Credential=benchmark/20260101/eu-central-1/dynamodb/aws4_request, "
        "SignedHeaders=host, Signature=0",
    }

    def answer(action: str, body: bytes) -> bytes:
        server.request("POST", "/", body, {**headers, "X-Amz-Target": f"DynamoDB_20120810.{action}"})
        response = server.getresponse()
        found = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(found.decode())
        return found

    return answer


class Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, answer: Answer, counts: Counter[str]) -> None:
        self._answer = answer
        self._counts = counts
        self._data = b""
        self._used = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 asyncio.Protocol
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:  # noqa: D102 asyncio.Protocol
        self._data += data
        head, separator, rest = self._data.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        size = int(length[1]) if length else 0
        if not separator or len(rest) < size:
            return
        self._data = rest[size:]
        found = HEAD.search(head)
        self._reply(self._count(found[1].decode(), rest[:size]) if found else json.dumps(self._counts).encode())

    def _count(self, action: str, body: bytes) -> bytes:
        self._counts["connections"] += not self._used
        self._used = True
        self._counts["calls"] += 1
        self._counts["written"] += len(body) if action != "Query" else 0
        return self._answer(action, body)

    def _reply(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def main(descriptor: int, mode: str) -> None:
    """Serve until killed."""
    answer = canned() if mode == "canned" else table() if mode == "table" else forward(int(mode))
    counts: Counter[str] = Counter()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(answer, counts), sock=socket.socket(fileno=descriptor)
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
