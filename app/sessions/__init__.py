"""The SessionStore port: one item per turn, which is the lock, the order, the idempotency record and the data.

An item is *open* (`lease`, no `body`: a run holds the turn) or *done* (`body`, no `lease`: immutable). Turns are
numbered 1, 2, 3 … without holes and only the newest can be open, so a claim of turn n + 1 that succeeds proves that the
history up to n was complete when it was read. Clocks decide liveness only; `run`, the fencing token, decides safety.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, Self, TypeAlias

Numbers: TypeAlias = Mapping[str, int]  # of a counter, by name
NONE: Numbers = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class SessionKey:
    """A session and its owner. The principal comes from authentication, never from the request."""

    principal: str
    session_id: str

    def __str__(self) -> str:
        """Return `principal/session_id`; the id holds no slash, so the last one parts them and no two share a text."""
        return f"{self.principal}/{self.session_id}"


@dataclass(frozen=True, slots=True)
class TurnItem:
    """One stored turn, open or done.

    run:     id of the attempt that holds the turn: the fencing token, fresh per request
    req:     the caller's idempotency key, or a fresh id where it sent none
    expires: epoch seconds after which the item is invisible and may be removed
    lease:   epoch seconds until which the attempt may be alive; None once done
    body:    the packed turn (`codec.py`); None while open
    created: epoch seconds, to the millisecond, at which the session began; on its first turn only, once done
    """

    turn: int
    run: str
    req: str
    expires: int
    lease: float | None = None
    body: bytes | None = None
    created: float | None = None


@dataclass(frozen=True, slots=True)
class SessionStart:
    """A session in its principal's list: when it began, and until when its first turn is kept, in epoch seconds."""

    session_id: str
    created: float
    expires: int


class SessionStore(Protocol):
    """Turns of sessions under conditional writes. Enter it before use; leaving it closes its connections.

    Every method raises `StoreUnavailable` when the store does not answer within its limits. A write that raised may
    still have happened.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def newest(self, key: SessionKey, limit: int, before: int | None = None) -> Sequence[TurnItem]:
        """Return up to `limit` items, newest first, only turns below `before` if given.

        Sees every write acknowledged before the call. May return fewer items than there are (a page of the store).
        """
        ...

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        """Write the open `item` and return True, or return False and change nothing.

        Without `dead_run` the turn must be absent; with it, the turn must be open and held by `dead_run`.
        """
        ...

    async def commit(self, key: SessionKey, item: TurnItem) -> bool:
        """Write the done `item` and return True if the turn is held by `item.run`; else return False.

        Repeating it with the same item is harmless.
        """
        ...

    async def release(self, key: SessionKey, turn: int, run: str) -> None:
        """Remove the turn if it is open and held by `run`; else change nothing."""
        ...

    async def delete(self, key: SessionKey) -> None:
        """Remove every item of the session, open ones too."""
        ...

    async def list_sessions(
        self, principal: str, limit: int, before: SessionStart | None = None
    ) -> Sequence[SessionStart]:
        """Return up to `limit` of the principal's sessions, those that began last first; `before` ends the page before.

        A session stands in the list once its first turn is done, for as long as that is kept. The list may lag behind
        the writes by moments.
        """
        ...

    async def add(
        self, key: SessionKey, window: int, amounts: Numbers, expires: int, *, below: Numbers = NONE, once: bool = False
    ) -> Numbers | None:
        """Add to named numbers of a counter, and return the new values of those.

        A counter belongs to a `key`, which is no session's, and a `window`; a number that it does not hold yet is 0. If
        one that `below` names has reached its bound, which is above 0, nothing is changed and None returned. Atomic.
        Kept until `expires`, in epoch seconds, at least.

        A call that raised may have added, and one that a fault held up may have added twice; with `once` it never does,
        because it is tried again only where it was surely not applied.
        """
        ...

    async def numbers(self, key: SessionKey, window: int) -> Numbers:
        """Return the numbers of a counter; empty for one that never was. Sees every acknowledged `add`."""
        ...

    async def ping(self) -> None:
        """Ask the store for something cheap, with the permissions a turn needs."""
        ...
