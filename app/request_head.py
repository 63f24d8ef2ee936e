"""What a request's head must be beyond what the parser asks for: short enough, and read by everybody in one way.

Whoever stands before the service has read the same bytes. Where the two can differ on whose request this is or where it
ends, one caller's body becomes another one's request, so such a head is refused (RFC 9112, section 11.2).
"""

import re
from collections.abc import Sequence
from typing import TypeAlias

from app.errors import HeadersTooLarge, MalformedRequest, TargetTooLong

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]  # names in lower case

MAX_HEAD_BYTES = 65_536  # as h11, uvicorn's other parser, has it; usual servers take 8 to 32 KB
MAX_HEADERS = 100  # as Apache and Tomcat have it; each costs far more than its bytes
MAX_TARGET_BYTES = 8192  # RFC 9112, section 3, asks for 8000; ours are below 400

PORT = rb"(?::[0-9]{0,5})?"
HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Za-z:.%]+\])?" + PORT)
_TARGET = re.compile(rb"(?:https?://([^/?#]+))?/[^#]*|\*", re.IGNORECASE)


def check(method: bytes, target: bytes, version: str, headers: Headers) -> None:
    """Return if the head is acceptable.

    Raises:
        TargetTooLong: its target is over MAX_TARGET_BYTES.
        HeadersTooLarge: it is over MAX_HEAD_BYTES or MAX_HEADERS.
        MalformedRequest: it is no HTTP/1.0 or 1.1, or can be read in two ways.
    """
    if len(target) > MAX_TARGET_BYTES:
        raise TargetTooLong
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES:
        raise HeadersTooLarge
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    hosts = [value for name, value in headers if name == b"host"]
    if not (
        version in ("1.0", "1.1")
        and method != b"CONNECT"  # a tunnel, which this is not: what follows would be nobody's request
        and _is_for_one(target, version, hosts)
        # Another coding is one that we do not decode, and version 1.0 has none (RFC 9112, section 6.1).
        and (not codings or (version == "1.1" and [value.lower() for value in codings] == [b"chunked"]))
    ):
        raise MalformedRequest


def _is_for_one(target: bytes, version: str, hosts: Sequence[bytes]) -> bool:
    """Return whether target and Host name one host: none twice, none that is no name, none beside another."""
    form = _TARGET.fullmatch(target)
    if form is None or len(hosts) > 1 or (not hosts and version == "1.1"):
        return False
    named = hosts[0] if hosts else b""
    return HOST.fullmatch(named) is not None and form[1] in (None, named)
