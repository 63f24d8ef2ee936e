"""The keys of a token issuer: fetched when they are needed, kept, and looked at again within limits."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Collection
from typing import Self

import aiohttp
from jwt import PyJWK, PyJWTError

from app.errors import AuthUnavailable, Unauthenticated

log = logging.getLogger(__name__)

FETCH_S = 3.0  # a cached file of a few kilobytes; requests wait for it
MAX_BYTES = 256 * 1024  # large issuers publish 10 KB
FRESH_S = 600.0  # after which a key that its issuer has withdrawn is good no more
REFETCH_S = 60.0  # between two fetches; issuers publish a key before they sign with it
RETRY_S = 5.0  # the same, while there is no key at all and so nobody can be let in
OK = 200


class JWKS:
    """The keys at `url`, by key id; only those of `algorithms`. Enter it before use.

    clock: epoch seconds; the event loop's may stand still while Lambda freezes the process
    """

    def __init__(self, url: str, algorithms: Collection[str], clock: Callable[[], float] = time.time) -> None:
        self._url, self._algorithms, self._clock = url, algorithms, clock
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lost = True  # whether the last fetch brought nothing
        self._fetching = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=FETCH_S), cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session:
            await self._session.close()

    async def key(self, kid: str) -> PyJWK:
        """Return the key with this id. Of all who need a fetch one makes it; whose key is known waits for nobody else.

        Raises:
            Unauthenticated: the issuer has no such key.
            AuthUnavailable: its keys cannot be had now, and this one is not known from before.
        """
        if kid not in self._keys or (self._since(self._fetched_at) >= FRESH_S and not self._fetching.locked()):
            async with self._fetching:
                if self._since(self._tried_at) >= (REFETCH_S if self._keys else RETRY_S):
                    await self._fetch()
        if kid in self._keys:
            return self._keys[kid]
        if self._lost:
            raise AuthUnavailable("the keys of the token issuer cannot be had")
        raise Unauthenticated("unknown key")

    def _since(self, then: float) -> float:
        """Return the seconds since `then`; for ever, if the clock was set back."""
        passed_s = self._clock() - then
        return passed_s if passed_s >= 0 else float("inf")

    async def _fetch(self) -> None:
        self._tried_at, self._lost = self._clock(), True
        try:
            self._keys = self._parse(await self._get())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as exc:
            log.warning("keys of the token issuer cannot be had", extra={"reason": type(exc).__name__})
        else:
            self._fetched_at, self._lost = self._tried_at, False

    async def _get(self) -> bytes:
        if self._session is None:
            raise ValueError
        body = bytearray()
        async with self._session.get(self._url, allow_redirects=False) as answer:  # elsewhere may be somebody else
            async for chunk in answer.content.iter_chunked(MAX_BYTES):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError
        if answer.status != OK:
            raise ValueError
        return bytes(body)

    def _parse(self, body: bytes) -> dict[str, PyJWK]:
        """Return the keys in a document.

        Raises:
            ValueError, RecursionError: there is none that can be used.
        """
        document = json.loads(body)
        listed = document.get("keys") if isinstance(document, dict) else None
        keys = {}
        for each in listed if isinstance(listed, list) else ():
            if isinstance(each, dict) and isinstance(each.get("kid"), str) and each.get("use", "sig") == "sig":
                key = _usable(each)
                if key and key.algorithm_name in self._algorithms:
                    keys[each["kid"]] = key
        if not keys:
            raise ValueError
        return keys


def _usable(described: dict[str, object]) -> PyJWK | None:
    """Return the key, with the one algorithm it is for: its `alg`, else the usual one of its type. None if it is none.

    What the library says of a bad one is dropped, for it quotes it.
    """
    try:
        return PyJWK(described)
    except (PyJWTError, ValueError, TypeError, AttributeError, KeyError):
        return None
