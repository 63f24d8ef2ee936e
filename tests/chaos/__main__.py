"""`python -m tests.chaos [--full] [--seed N] [BAR...]`: hold the service to its guarantees while everything fails.

Each bar runs twice: as the service is, and with the guarded thing taken out of it, where it must find violations.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence

from tests.chaos import (
    budgets,
    cancel,
    contract,
    drain,
    faults,
    freeze,
    grace,
    hostile,
    interrupted,
    invocations,
    kill,
    leaks,
    lengthy,
    limits,
    machine,
    outage,
    overload,
    rolling,
    writers,
    zombie,
)
from tests.chaos.trial import Bar, Trial

BARS = (
    kill.BAR,
    faults.BAR,
    zombie.BAR,
    writers.BAR,
    interrupted.BAR,
    cancel.BAR,
    drain.BAR,
    grace.BAR,
    rolling.BAR,
    outage.BAR,
    overload.BAR,
    limits.BAR,
    budgets.BAR,
    hostile.BAR,
    leaks.BAR,
    lengthy.BAR,
    machine.BAR,
    contract.BAR,
    invocations.BAR,
    freeze.BAR,
)
SHOWN = 5  # violations of a bar; more of them say no more


def main() -> int:
    """Run the bars and return the exit status."""
    names = [bar.name for bar in BARS]
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the long set, of about a quarter of an hour")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (1)")
    parser.add_argument("bar", nargs="*", choices=[*names, []], help=", ".join(names))
    options = parser.parse_args()
    chosen = [bar for bar in BARS if not options.bar or bar.name in options.bar]
    results = [_hold(bar, full=options.full, seed=options.seed) for bar in chosen]
    print(f"{len(results)} bars, {results.count(False)} failed")
    return 0 if all(results) else 1


def _hold(bar: Bar, *, full: bool, seed: int) -> bool:
    """Run a bar and its control, print a line for each, and return whether both came out as they must."""
    missing = [name for name in bar.needs if name not in os.environ]
    if missing:
        print(f"{bar.name}: not run, {', '.join(missing)} is not set (see .ci/with)")
        return os.environ.get("REQUIRE_ALL") != "1"
    whole, control = Trial(full, seed), Trial(full=False, seed=seed, broken=True)
    for together in [[whole], [control]] if bar.alone else [[whole, control]]:
        asyncio.run(_try(bar, together))
    for violation in whole.violations[:SHOWN]:
        print(f"  {violation}", file=sys.stderr)
    return not whole.violations and bool(control.violations)


async def _try(bar: Bar, trials: Sequence[Trial]) -> None:
    async with asyncio.TaskGroup() as group:
        for trial in trials:
            group.create_task(_try_one(bar, trial))


async def _try_one(bar: Bar, trial: Trial) -> None:
    started = time.monotonic()
    await bar.run(trial)
    found = f"{trial.checked} checked, {len(trial.violations)} violations"
    facts = ", ".join(f"{count} {what}" for what, count in trial.seen.items())
    title = f"{bar.name} without {bar.control}" if trial.broken else bar.name
    verdict = " [must be red]" if trial.broken else ""
    print(f"{title}: {found}{verdict} ({facts}; {time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
