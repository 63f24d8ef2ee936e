"""What is known of a turn once it has ended: for its log line, and for whoever else counts. No I/O."""

import time
from collections.abc import Callable
from typing import Literal, TypeAlias

from app.events import NO_USAGE, StopReason, Usage
from app.sessions import SessionKey
from app.work import Work  # noqa: TC001 imported as the others are

Part: TypeAlias = Literal["claim", "agent", "commit", "release"]


class Report:
    """One turn, filled in as it goes on. Every turn that began has one in the end, whatever ended it.

    streamed:    whether its caller is told events
    number:      of the turn in its session; None where none was claimed
    replayed:    whether an earlier request with the same idempotency key had made it
    stop_reason: of a stored turn; None where `failure` says what ended it instead
    work:        what the agent did; None where it was not run
    elapsed_s:   from the turn's start to its end
    parts_s:     of that, what each part took, as far as they were reached: to read the session and to claim the turn,
                 with the limits and the wait for a busy session; to run the agent; to store the turn; to give back
    """

    def __init__(self, key: SessionKey, *, streamed: bool) -> None:
        self.key = key
        self.streamed = streamed
        self.number: int | None = None
        self.replayed = False
        self.stop_reason: StopReason | None = None
        self.failure: BaseException | None = None
        self.work: Work | None = None
        self.elapsed_s = 0.0
        self.parts_s: dict[Part, float] = {}
        self._part: Part = "claim"
        self._began = self._since = time.monotonic()  # the event loop's clock may move on but once a round

    def begin(self, part: Part) -> None:
        """The part before has ended."""
        now = time.monotonic()
        self.parts_s[self._part] = now - self._since
        self._part, self._since = part, now

    def end(self, failure: BaseException | None) -> None:
        """The turn has ended."""
        self.begin(self._part)
        self.elapsed_s = self._since - self._began
        self.failure = failure

    @property
    def usage(self) -> Usage:
        """What this turn consumed, also where it failed; nothing where it was replayed."""
        return self.work.usage if self.work else NO_USAGE

    @property
    def tools_s(self) -> float:
        """For how long the agent had a tool call without its result; of several at once the time counts once."""
        return self.work.tools_s if self.work else 0.0

    @property
    def model_s(self) -> float:
        """The agent's other time: that of its model calls, and what it did itself."""
        return self.parts_s.get("agent", 0.0) - self.tools_s


Reporter: TypeAlias = Callable[[Report], None]
