"""Cross-origin calls: which web pages may call the service from a browser, and what of its answers they may read.

For any other page, and without a list, the service answers as if it had never heard of CORS. Starlette's middleware
tells every origin what is allowed to some, refuses in plain text, and does not see the errors of our own shell.
"""

from collections.abc import Sequence
from typing import TypeAlias

from starlette.types import Scope

Headers: TypeAlias = list[tuple[bytes, bytes]]

SENT = b"Authorization, Content-Type, Idempotency-Key, Prefer, X-API-Key, X-Request-ID, X-Request-Timeout, traceparent"
VARY: Headers = [(b"vary", b"Origin")]
PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    (b"access-control-allow-headers", SENT),
    (b"access-control-max-age", b"600"),  # browsers notice after ten minutes that a page may do more, or nothing
]
EXPOSED: Headers = [
    (
        b"access-control-expose-headers",
        b"Idempotency-Replayed, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, X-Request-ID",
    ),
]


class Cors:
    """What is allowed to the pages of `origins`. Never with credentials: cookies and the like mean nothing here."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def is_preflight(self, scope: Scope) -> bool:
        """Return whether a browser asks for one of the pages what it may call."""
        asks = scope["method"] == "OPTIONS" and any(
            name == b"access-control-request-method" for name, _ in scope["headers"]
        )
        return asks and self._origin(scope) is not None

    def headers(self, scope: Scope) -> Headers:
        """Return what every response to the request says about it."""
        origin = self._origin(scope)
        if origin is None:
            return VARY
        allowed = PREFLIGHT if self.is_preflight(scope) else EXPOSED
        return [*VARY, (b"access-control-allow-origin", origin), *allowed]

    def _origin(self, scope: Scope) -> bytes | None:
        """Return the page's origin, if there is one and it is on the list."""
        found = [value for name, value in scope["headers"] if name == b"origin"]
        return found[0] if len(found) == 1 and found[0] in self._origins else None
