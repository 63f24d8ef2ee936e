"""AUTH=jwt: tokens (RFC 7519) that an issuer has signed with a key of its own; PyJWT reads and checks them."""

from collections.abc import Sequence
from typing import Self

import jwt

from app.auth import Headers, bearer, checked
from app.auth.jwks import JWKS
from app.errors import Unauthenticated

LEEWAY_S = 30  # machines that keep time differ by less than a second; a laptop or a paused machine by some

# PyJWT's own, and what Python's parsers raise below it.
REFUSED = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class Tokens:
    """Tokens of `issuer` for `audience`, signed with one of its `keys`; `claim` names the principal. Enter it first."""

    def __init__(self, keys: JWKS, *, issuer: str, audience: str, algorithms: Sequence[str], claim: str) -> None:
        self._keys = keys
        self._issuer, self._audience = issuer, audience
        self._algorithms = algorithms
        self._claim = claim

    async def __aenter__(self) -> Self:
        await self._keys.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._keys.__aexit__(*exc)

    async def principal(self, headers: Headers, event: object) -> str:  # noqa: ARG002 a token is in a header
        """Return whom the token in `Authorization: Bearer` names; see the port."""
        token = bearer(headers)
        if token is None:
            raise Unauthenticated("no token")
        key = await self._keys.key(self._kid(token))
        try:
            claims = jwt.decode(
                token,
                key,  # which has one algorithm of its own, so a token cannot choose
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", self._claim], "enforce_minimum_key_length": True},
            )
        except REFUSED:
            raise Unauthenticated("token refused") from None  # whose text may quote the token
        return checked(claims[self._claim])

    def _kid(self, token: bytes) -> str:
        """Return the id of the key that a token says it is signed with, before anything is fetched for it."""
        try:
            header = jwt.get_unverified_header(token)
        except REFUSED:
            raise Unauthenticated("no token that can be read") from None
        kid = header.get("kid")
        # `crit` asks for rules that this does not know (RFC 7515, section 4.1.11).
        if header.get("alg") not in self._algorithms or "crit" in header or not isinstance(kid, str):
            raise Unauthenticated("token refused")
        return kid
