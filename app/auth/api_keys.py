"""AUTH=api-key: keys that are known by their SHA-256 digests only.

A key is random, so its digest needs neither salt nor a slow function: there is no list of likely ones to try.
"""

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from app.auth import ANONYMOUS, PRINCIPAL, Headers, bearer, only
from app.errors import ConfigurationError, Unauthenticated

log = logging.getLogger(__name__)

PREFIX = "agentkey_"  # by which people, and programs that look for leaked keys, recognise one
KEY_BYTES = 32
LOOK_S = 1.0  # between two looks at the file
MAX_FILE_BYTES = 1024 * 1024
DIGEST = re.compile(r"[0-9A-Fa-f]{64}")


def make() -> str:
    """Return a new key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def pair(principal: str, key: str) -> str:
    """Return what has to be set for a key."""
    return f"{principal}:{hashlib.sha256(key.encode()).hexdigest()}"


def parse(text: str) -> dict[bytes, str]:
    """Return digest → principal from `principal:digest` pairs between commas or in lines; `#` begins a line of words.

    Raises:
        ValueError: a part is no such pair, a digest belongs to two principals, or there is no pair. Tells nothing more.
    """
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    keys: dict[bytes, str] = {}
    for part in filter(None, (part.strip() for line in lines for part in line.split(","))):
        principal, _, digest = part.rpartition(":")
        if not PRINCIPAL.fullmatch(principal) or principal == ANONYMOUS or not DIGEST.fullmatch(digest):
            raise ValueError
        if keys.setdefault(bytes.fromhex(digest), principal) != principal:
            raise ValueError
    if not keys:
        raise ValueError
    return keys


def checked(text: str | None) -> str | None:
    """Return the pairs as they are, or raise ValueError as `parse` does."""
    if text is not None:
        parse(text)
    return text


class KeyFile:
    """The pairs in a file, read again when it changes: a mounted secret rotates without a restart.

    clock: seconds, on which the looks at the file are LOOK_S apart

    Raises:
        ConfigurationError: the file cannot be used. Later, the pairs that were read last stay.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._looked_at, self._stamp, self._unread = clock(), self._now(), False
        try:
            self._keys = self._read()
        except (OSError, ValueError):
            problem = "AUTH_API_KEYS_FILE must be a readable text file of principal:digest pairs in UTF-8"
            raise ConfigurationError([problem]) from None

    def keys(self) -> Mapping[bytes, str]:
        """Return digest → principal, as the file was at most LOOK_S ago."""
        now = self._clock()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look()
        return self._keys

    def _look(self) -> None:
        stamp = self._now()
        changed, self._stamp = stamp != self._stamp, stamp
        if not changed and not self._unread:
            return
        try:
            self._keys, self._unread = self._read(), False
            log.info("API keys read again")
        except (OSError, ValueError) as exc:
            self._unread = isinstance(exc, OSError)  # it may be readable in a moment, and no stamp changes with that
            if changed:
                log.error("API keys cannot be read again", extra={"reason": type(exc).__name__})  # noqa: TRY400 no text

    def _now(self) -> tuple[int, int, int] | None:
        """Return what changes with the file; a mounted secret is replaced by another file of the same name."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> dict[bytes, str]:
        if not self._path.is_file():  # to open a pipe would wait for its writer
            raise FileNotFoundError
        with self._path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ValueError
        return parse(content.decode())


class ApiKeys:
    """The keys of a setting and, where there is one, of a file."""

    def __init__(self, keys: Mapping[bytes, str], file: KeyFile | None = None) -> None:
        self._keys, self._file = keys, file

    async def principal(self, headers: Headers, event: object) -> str:  # noqa: ARG002 a key is in a header
        """Return whose key is in `Authorization: Bearer` or in `X-API-Key`; see the port."""
        presented = {key for key in (bearer(headers), only(headers, b"x-api-key")) if key is not None}
        if len(presented) != 1:
            raise Unauthenticated("two keys" if presented else "no key")
        digest = hashlib.sha256(presented.pop()).digest()
        found = None
        for keys in (self._keys, self._file.keys() if self._file else {}):
            for known, principal in keys.items():  # all of them, so that time tells nothing about which
                if hmac.compare_digest(known, digest):
                    found = principal
        if found is None:
            raise Unauthenticated("unknown key")
        return found
