"""Requests that can be read in two ways, on real connections to the container server: refused, or read as one.

Each carries a whole request where its body is and is followed by another one. The one inside is never answered. The one
after is answered as the second of two, or, where the first is refused, never.
"""

import re
import sys
from collections.abc import Iterator

import pytest

from tests.entry_points import Server, server
from tests.raw_http import said

INSIDE = b"GET /sessions/none HTTP/1.1\r\nHost: a\r\nX-Request-ID: inside\r\n\r\n"
AFTER = b"GET /sessions/none HTTP/1.1\r\nHost: a\r\nX-Request-ID: after\r\nConnection: close\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
SIZE, HEX = b"%d" % len(INSIDE), b"%x" % len(INSIDE)
LENGTH = b"Content-Length: " + SIZE + b"\r\n"
CODING = b"Transfer-Encoding: chunked\r\n"
LAST = b"0\r\n\r\n"
CHUNKED = HEX + b"\r\n" + INSIDE + b"\r\n" + LAST
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


def sized(value: bytes) -> bytes:
    return POST + b"Content-Length:" + value + b"\r\n\r\n" + INSIDE


def coded(value: bytes) -> bytes:
    return POST + b"Transfer-Encoding:" + value + b"\r\n\r\n" + CHUNKED


def chunks(body: bytes) -> bytes:
    return POST + CODING + b"\r\n" + body


def with_header(line: bytes) -> bytes:
    return POST + line + b"\r\n" + LENGTH + b"\r\n" + INSIDE


def turn(session: bytes, headers: bytes = b"") -> bytes:
    body = b'{"message": "hello", "session_id": "%b"}' % session
    return POST + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def to(line: bytes, host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + b"\r\n"


REFUSED = {
    "a length and a coding": POST + LENGTH + CODING + b"\r\n" + CHUNKED,
    "a coding and a length": POST + CODING + LENGTH + b"\r\n" + CHUNKED,
    "an end before the length": POST + b"Content-Length: 100\r\n" + CODING + b"\r\n" + LAST + INSIDE,
    "two lengths": POST + LENGTH + b"Content-Length: 3\r\n\r\n" + INSIDE,
    "the same length twice": POST + LENGTH + LENGTH + b"\r\n" + INSIDE,
    "a list of lengths": sized(b" " + SIZE + b", " + SIZE),
    "a negative length": sized(b" -1"),
    "a length with a plus": sized(b" +" + SIZE),
    "a length in hex": sized(b" 0x40"),
    "a length with an underscore": sized(b" 6_4"),
    "a length with a point": sized(b" 64.0"),
    "a length with a space": sized(b" 6 4"),
    "a length on two lines": sized(b" 6\r\n 4"),
    "a length in other digits": sized(" \u0666\u0664".encode()),
    "no length": sized(b""),
    "a length over 64 bits": sized(b" 18446744073709551680"),
    "a length before a space": POST + b"Content-Length : " + SIZE + b"\r\n\r\n" + INSIDE,
    "chunked not last": coded(b" chunked, identity"),
    "identity first": coded(b" identity, chunked"),
    "compressed": coded(b" gzip, chunked"),
    "chunked twice": coded(b" chunked, chunked"),
    "two codings": POST + CODING + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKED,
    "the same coding twice": POST + CODING + CODING + b"\r\n" + CHUNKED,
    "xchunked": coded(b" xchunked"),
    "chunkedx": coded(b" chunkedx"),
    "chunked with a parameter": coded(b" chunked;q=1"),
    "chunked in quotes": coded(b' "chunked"'),
    "a comma before chunked": coded(b" ,chunked"),
    "a comma after chunked": coded(b" chunked,"),
    "identity": coded(b" identity"),
    "identity and a length": POST + b"Transfer-Encoding: identity\r\n" + LENGTH + b"\r\n" + INSIDE,
    "no coding": coded(b""),
    "no coding and a length": POST + b"Transfer-Encoding:\r\n" + LENGTH + b"\r\n" + INSIDE,
    "a coding on the next line": coded(b"\r\n chunked"),
    "a coding as a folded line": POST + b"X: y\r\n " + CODING + b"\r\n" + CHUNKED,
    "a coding before a space": POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED,
    "a coding before a tab": POST + b"Transfer-Encoding\t: chunked\r\n\r\n" + CHUNKED,
    "a coding after a vertical tab": coded(b"\x0bchunked"),
    "a coding with a NUL": coded(b" chunked\x00"),
    "a coding after a bare CR": POST + b"X: y\r" + CODING + b"\r\n" + CHUNKED,
    "a coding in version 1.0": POST.replace(b"1.1", b"1.0") + CODING + b"Connection: keep-alive\r\n\r\n" + CHUNKED,
    "bare LFs": (POST + LENGTH).replace(b"\r\n", b"\n") + b"\n" + INSIDE,
    "a bare LF in the request line": POST.replace(b"\r\n", b"\n", 1) + LENGTH + b"\r\n" + INSIDE,
    "a bare LF after a header": with_header(b"X: y\nZ: w"),
    "a bare LF after the head": POST + LENGTH + b"\n" + INSIDE,
    "a bare CR": with_header(b"X: y\rZ: w"),
    "a NUL in a value": with_header(b"X: a\x00b"),
    "a control character in a value": with_header(b"X: a\x01b"),
    "a NUL in a name": with_header(b"X\x00: y"),
    "a space in a name": with_header(b"X Y: z"),
    "a space before a name": POST.replace(b"Host", b" Host") + LENGTH + b"\r\n" + INSIDE,
    "a bracket in a name": with_header(b"X(: y"),
    "no name": with_header(b": y"),
    "no colon": with_header(b"Xy"),
    "a folded line": with_header(b"X: y\r\n z"),
    "an extension with a bare LF": chunks(HEX + b";a\n" + INSIDE + b"\r\n" + LAST),
    "an extension with a bare CR": chunks(HEX + b";a\rb\r\n" + INSIDE + b"\r\n" + LAST),
    "an extension with a line end in quotes": chunks(HEX + b';a="\r\n' + INSIDE + b"\r\n" + LAST),
    "a chunk size and a space": chunks(HEX + b" \r\n" + INSIDE + b"\r\n" + LAST),
    "a space and a chunk size": chunks(b" " + HEX + b"\r\n" + INSIDE + b"\r\n" + LAST),
    "a chunk size with 0x": chunks(b"0x" + HEX + b"\r\n" + INSIDE + b"\r\n" + LAST),
    "a chunk size with a plus": chunks(b"+" + HEX + b"\r\n" + INSIDE + b"\r\n" + LAST),
    "a negative chunk size": chunks(b"-" + HEX + b"\r\n" + INSIDE + b"\r\n" + LAST),
    "a chunk size with an underscore": chunks(b"4_0\r\n" + INSIDE + b"\r\n" + LAST),
    "a chunk size over 64 bits": chunks(b"10000000000000040\r\n" + INSIDE + b"\r\n" + LAST),
    "no chunk size": chunks(b"\r\n" + INSIDE + b"\r\n" + LAST),
    "chunks with bare LFs": chunks(HEX + b"\n" + INSIDE + b"\n0\n\n"),
    "a chunk without its end": chunks(HEX + b"\r\n" + INSIDE + LAST),
    "a chunk with a bare LF as its end": chunks(HEX + b"\r\n" + INSIDE + b"\n" + LAST),
    "a chunk with another end": chunks(HEX + b"\r\n" + INSIDE + b"xx" + LAST),
    "a length as a trailer": chunks(b"0\r\n" + LENGTH + b"\r\n" + INSIDE),
    "a coding as a trailer": chunks(b"0\r\n" + CODING + b"\r\n" + CHUNKED),
    "version 0.9 without a word": b"GET /healthz\r\n\r\n",
    "version 0.9": to(b"GET /healthz HTTP/0.9"),
    "version 1.2": to(b"GET /healthz HTTP/1.2"),
    "version 2.0": to(b"GET /healthz HTTP/2.0"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no Host": to(b"GET /healthz HTTP/1.1", b""),
    "two Hosts": to(b"GET /healthz HTTP/1.1", b"Host: a\r\nHost: b\r\n"),
    "the same Host twice": to(b"GET /healthz HTTP/1.1", b"Host: a\r\nHost: a\r\n"),
    "two Hosts in version 1.0": to(b"GET /healthz HTTP/1.0", b"Host: a\r\nHost: b\r\n"),
    "two names in Host": to(b"GET /healthz HTTP/1.1", b"Host: a, b\r\n"),
    "a user in Host": to(b"GET /healthz HTTP/1.1", b"Host: b@a\r\n"),
    "a path in Host": to(b"GET /healthz HTTP/1.1", b"Host: a/b\r\n"),
    "no port in Host": to(b"GET /healthz HTTP/1.1", b"Host: a:b\r\n"),
    "a Host of no name": to(b"GET /healthz HTTP/1.1", b"Host: \xff\r\n"),
    "a target on another host": to(b"GET http://b/healthz HTTP/1.1"),
    "a target with a user": to(b"GET http://b@a/healthz HTTP/1.1"),
    "a target of another scheme": to(b"GET gopher://a/healthz HTTP/1.1"),
    "a target with a fragment": to(b"GET /healthz#/chat HTTP/1.1"),
    "a target without a slash": to(b"GET healthz HTTP/1.1"),
    "a target with a space": to(b"GET /heal thz HTTP/1.1"),
    "a target with a NUL": to(b"GET /healthz\x00 HTTP/1.1"),
    "a tunnel": to(b"CONNECT a:443 HTTP/1.1", b"Host: a:443\r\n"),
    "a tunnel with a body": to(b"CONNECT a:443 HTTP/1.1", b"Host: a:443\r\n" + LENGTH) + INSIDE,
    "a tunnel to a path": to(b"CONNECT /healthz HTTP/1.1", UPGRADE + b"Host: a\r\n"),
}

READ_ONCE = {  # what the first answer is
    "a length": (sized(b" " + SIZE), 400),
    "a length with zeros": (sized(b" 000" + SIZE), 400),
    "a length after a tab": (sized(b"\t" + SIZE + b"\t"), 400),
    "a length of another name": (with_header(b"Content_Length: 3"), 400),
    "a length as an option": (with_header(b"Connection: Content-Length"), 400),
    "no value before the length": (with_header(b"X:"), 400),
    "chunks": (coded(b" chunked"), 400),
    "CHUNKED": (coded(b" CHUNKED"), 400),
    "a coding after a tab": (coded(b"\tchunked"), 400),
    "a coding as an option": (POST + b"Connection: Transfer-Encoding\r\n" + CODING + b"\r\n" + CHUNKED, 400),
    "an extension": (chunks(HEX + b';a="b"\r\n' + INSIDE + b"\r\n" + LAST), 400),
    "a long extension": (chunks(HEX + b";" + b"a" * 20_000 + b"\r\n" + INSIDE + b"\r\n" + LAST), 400),
    "a chunk size with zeros": (chunks(b"0" * 30 + HEX + b"\r\n" + INSIDE + b"\r\n" + LAST), 400),
    "a Host as a trailer": (chunks(HEX + b"\r\n" + INSIDE + b"\r\n0\r\nHost: b\r\n\r\n"), 400),
    "a body that nobody reads": (GET + LENGTH + b"\r\n" + INSIDE, 200),
    "chunks that nobody reads": (GET + CODING + b"\r\n" + CHUNKED, 200),
    "an upgrade": (GET + UPGRADE + b"\r\n", 200),
    "an upgrade with a body": (POST + UPGRADE + LENGTH + b"\r\n" + INSIDE, 400),
    "an upgrade with chunks": (POST + UPGRADE + CODING + b"\r\n" + CHUNKED, 400),
    "a web socket": (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + LENGTH + b"\r\n" + INSIDE, 200),
    "a whole URL": (to(b"GET http://a/healthz HTTP/1.1"), 200),
    "an empty Host": (to(b"GET /healthz HTTP/1.1", b"Host:\r\n"), 200),
    "a Host by its address": (to(b"GET /healthz HTTP/1.1", b"Host: [2001:db8::1]:80\r\n"), 200),
    "empty lines before": (b"\r\n\r\n" + GET + b"\r\n", 200),
    "a star": (to(b"OPTIONS * HTTP/1.1"), 404),
    "another host in the path": (to(b"GET //b/healthz HTTP/1.1"), 404),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server([sys.executable, "-m", "app"], tmp_path_factory.mktemp("smuggling")) as running:
        yield running


def in_pieces(request: bytes, how: str) -> list[bytes]:
    """Return the request and the one after it: whole, the head apart from the rest, or byte for byte."""
    whole = request + AFTER
    head, end, rest = whole.partition(b"\r\n\r\n")
    return {"whole": [whole], "head first": [head + end, rest], "bytes": [bytes([each]) for each in whole]}[how]


def answered(running: Server, request: bytes, how: str) -> list[tuple[int, bytes]]:
    """Return of each answer the status, and the request's id if it is of these two, else the kind of the problem."""
    answer = said(running.port, *in_pieces(request, how), pause_s=0.05 if how == "head first" else 0.0)
    heads = [each for each in re.split(rb"(?=HTTP/1\.1 )", answer) if each]
    names = [
        re.search(rb"x-request-id: (inside|after)\r\n|:problem:([a-z-]+)|$", each, re.IGNORECASE) for each in heads
    ]
    return [
        (int(each[9:12]), (found and (found[1] or found[2])) or b"") for each, found in zip(heads, names, strict=True)
    ]


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(running: Server, name: str) -> None:
    assert answered(running, REFUSED[name], "whole") == [(400, b"malformed-request")]


@pytest.mark.parametrize("how", ["head first", "bytes"])
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_pieces_too(running: Server, name: str, how: str) -> None:
    """Whoever goes on sending may find the connection reset before its answer is read."""
    assert answered(running, REFUSED[name], how) in ([(400, b"malformed-request")], [])


@pytest.mark.parametrize("how", ["whole", "head first", "bytes"])
@pytest.mark.parametrize("name", READ_ONCE)
def test_what_is_not_refused_is_read_as_one_request(running: Server, name: str, how: str) -> None:
    request, status = READ_ONCE[name]
    kind = {200: b"", 400: b"malformed-json", 404: b"not-found"}[status]
    assert answered(running, request, how) == [(status, kind), (404, b"after")]


def test_a_trailer_is_no_header(running: Server) -> None:
    """It could say what a proxy has taken out of the head."""
    answer = said(running.port, chunks(b"2\r\n{}\r\n0\r\nX-Request-ID: inside\r\n\r\n") + AFTER)
    assert b"HTTP/1.1 422 " in answer
    assert b"inside" not in answer


def test_a_turn_is_taken_with_a_wish_to_upgrade(running: Server) -> None:
    """Java's client asks for HTTP/2 with every first request."""
    head, end, body = turn(b"java", UPGRADE).partition(b"\r\n\r\n")
    answer = said(running.port, head + end, body + AFTER, pause_s=0.05)
    assert b"You said: hello" in answer


@pytest.mark.parametrize(
    "head",
    [b"GET /healthz HTTP/1.0\r\n" + UPGRADE, GET + UPGRADE.replace(b"Upgrade,", b"close, Upgrade,")],
    ids=["version 1.0", "close"],
)
def test_a_connection_ends_after_a_wish_to_upgrade_as_without(running: Server, head: bytes) -> None:
    answer = said(running.port, head + b"\r\n" + AFTER)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200"]


def test_an_answer_comes_before_what_is_refused_after_it(running: Server) -> None:
    answer = said(running.port, turn(b"first") + REFUSED["two Hosts"])
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_nothing_runs_of_what_is_refused_or_after_it(running: Server) -> None:
    """Not even where an earlier answer left the connection open."""
    answer = said(running.port, turn(b"before"), turn(b"refused", b"Host: a\r\n") + turn(b"later"), pause_s=0.05)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"400"]
    found = {each: running.http.get(f"/sessions/{each}").status_code for each in ("before", "refused", "later")}
    assert found == {"before": 200, "refused": 404, "later": 404}
