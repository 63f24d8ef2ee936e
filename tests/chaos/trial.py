"""One trial of a bar: what it checked, what it found, and what shows that it was not empty."""

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any


@dataclass(slots=True)
class Trial:
    """The record of one run of a bar.

    full:   run long; else as long as every change can afford
    broken: the guarded thing has been taken away, so that the run must find violations
    seed:   of everything random in it
    """

    full: bool
    seed: int
    broken: bool = False
    checked: int = 0
    violations: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    random: Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)  # noqa: S311 nothing here is secret

    def check(self, holds: object, violation: str) -> None:
        """Count one check, and the violation unless it `holds`."""
        self.checked += 1
        if not holds:
            self.violations.append(violation)

    def saw(self, what: str, times: int = 1) -> None:
        """Count something that shows that the run was what it says."""
        self.seen[what] += times

    def add(self, part: "Trial") -> None:
        """Take over everything that a part of this trial found."""
        self.checked += part.checked
        self.violations += part.violations
        self.seen.update(part.seen)

    def demand(self, what: str, at_least: int) -> None:
        """Fail a run that was empty: it must have seen this so often. What is broken may fail earlier."""
        if not self.broken:
            self.check(self.seen[what] >= at_least, f"vacuous: {self.seen[what]} {what}, not {at_least}")


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise that can be measured.

    run:      does it; must leave no process behind
    control:  what a broken trial takes away, and so what the bar proves to guard
    needs:    programs that .ci/with names, by the variable that it sets
    alone:    it compares times, so that nothing else may run meanwhile, not even its own control
    """

    name: str
    promise: str
    control: str
    run: Callable[[Trial], Coroutine[Any, Any, None]]
    needs: tuple[str, ...] = ()
    alone: bool = False
