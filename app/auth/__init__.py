"""The Authenticator port: who makes a request. The principal that it names is part of every session's key."""

import re
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from app.errors import Unauthenticated

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

ANONYMOUS = "anonymous"  # the principal of everybody where nobody is authenticated, and so no one caller's name
PRINCIPAL = re.compile(r"[\x21-\x7e]{1,1024}")  # the longest ARN has 640; with a session id below a key's 2,048 bytes
MAX_CREDENTIAL_BYTES = 8192  # usual servers take no longer header; nothing longer is hashed or parsed


class Authenticator(Protocol):
    """Tells who makes a request."""

    async def principal(self, headers: Headers, event: object) -> str:
        """Return the principal: 1 to 1024 visible ASCII characters, never `anonymous` for one that proved who it is.

        headers: as ASGI has them
        event:   the Lambda event that brought the request; None elsewhere

        Raises:
            Unauthenticated: there is no credential, or none that is good; its text is a constant.
            AuthUnavailable: what the credential is checked with cannot be had now.
        """
        ...


class Nobody:
    """AUTH=none: every caller is the same principal."""

    async def principal(self, headers: Headers, event: object) -> str:  # noqa: ARG002 of nobody anything is read
        """Return `anonymous`."""
        return ANONYMOUS


def checked(principal: object) -> str:
    """Return the principal if it can be one.

    Raises:
        Unauthenticated: it is no text of 1 to 1024 visible ASCII characters, or is nobody's own.
    """
    if not isinstance(principal, str) or not PRINCIPAL.fullmatch(principal) or principal == ANONYMOUS:
        raise Unauthenticated("no usable principal")
    return principal


def only(headers: Headers, name: bytes) -> bytes | None:
    """Return the value of a header, None where there is none.

    Raises:
        Unauthenticated: there are several, or one that is too long. Which of two is meant, nobody can know.
    """
    values = [value for each, value in headers if each.lower() == name]
    if len(values) > 1:
        raise Unauthenticated("several headers")
    if values and len(values[0]) > MAX_CREDENTIAL_BYTES:
        raise Unauthenticated("too long")
    return values[0] if values else None


def bearer(headers: Headers) -> bytes | None:
    """Return the token of `Authorization: Bearer`, None where there is none. Raises as `only` does."""
    scheme, _, token = (only(headers, b"authorization") or b"").strip().partition(b" ")
    return token.strip() or None if scheme.lower() == b"bearer" else None
