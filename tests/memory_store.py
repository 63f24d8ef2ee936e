"""SessionStore in a dict: a fake for tests and measurements, held to the same conformance suite as the real ones."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Self

from app.sessions import NONE, Numbers, SessionKey, SessionStart, TurnItem


class MemoryStore:
    """Turns that are forgotten with this object. No method waits, so each is atomic on its event loop."""

    def __init__(self) -> None:
        self._sessions: dict[SessionKey, dict[int, TurnItem]] = {}
        self._counters: dict[tuple[SessionKey, int], Counter[str]] = defaultdict(Counter)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def newest(self, key: SessionKey, limit: int, before: int | None = None) -> Sequence[TurnItem]:
        turns = self._sessions.get(key, {})
        numbers = sorted(turns, reverse=True)
        return [turns[number] for number in numbers if before is None or number < before][:limit]

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        turns = self._sessions.setdefault(key, {})
        free = item.turn not in turns if dead_run is None else self._is_open(key, item.turn, dead_run)
        if free:
            turns[item.turn] = item
        return free

    async def commit(self, key: SessionKey, item: TurnItem) -> bool:
        turns = self._sessions.get(key, {})
        held = turns.get(item.turn)
        if held is None or held.run != item.run:
            return False
        turns[item.turn] = item
        return True

    async def release(self, key: SessionKey, turn: int, run: str) -> None:
        if self._is_open(key, turn, run):
            del self._sessions[key][turn]

    async def delete(self, key: SessionKey) -> None:
        self._sessions.pop(key, None)

    async def list_sessions(
        self, principal: str, limit: int, before: SessionStart | None = None
    ) -> Sequence[SessionStart]:
        found = [
            SessionStart(key.session_id, item.created, item.expires)
            for key, turns in self._sessions.items()
            for item in turns.values()
            if item.created is not None and key.principal == principal
        ]
        found.sort(key=_place, reverse=True)
        return [each for each in found if before is None or _place(each) < _place(before)][:limit]

    async def add(
        self, key: SessionKey, window: int, amounts: Numbers, expires: int, *, below: Numbers = NONE, once: bool = False
    ) -> Numbers | None:
        del expires, once  # nothing expires here, and nothing is tried again
        held = self._counters[key, window]
        if any(held[name] >= bound for name, bound in below.items()):
            return None
        held.update(amounts)
        return {name: held[name] for name in amounts}

    async def numbers(self, key: SessionKey, window: int) -> Numbers:
        return dict(self._counters[key, window])

    async def ping(self) -> None:
        pass

    def _is_open(self, key: SessionKey, turn: int, run: str) -> bool:
        held = self._sessions.get(key, {}).get(turn)
        return held is not None and held.run == run and held.body is None


def _place(start: SessionStart) -> tuple[float, str]:
    return start.created, start.session_id
