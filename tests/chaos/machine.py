"""Any order of calls on each store, against a dict: the machine of the conformance suite, for longer."""

import asyncio
import os
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import servers
from tests.chaos.trial import Bar, Trial
from tests.conformance.stores.machine import explore
from tests.conformance.stores.rig import Rig, in_memory, on_dynamodb, on_sqlite
from tests.mutants import MUTANTS

RUNS = {True: 150, False: 14}  # of each store, of some thirty steps each
RUNS_TO_FIND = 60
STEPS = {True: 10_000, False: 600}
TRIES = 5  # with another seed each, until everything has been met
MET = ("takeovers", "zombies refused", "replays", "leases lost", "late claims refused")
BROKEN = ("takeover ignores the body", "commit on mere existence", "abort ignores the run", "lease ignored")


async def run(trial: Trial) -> None:
    with TemporaryDirectory() as folder, ExitStack() as started:
        if trial.broken:
            for mutant in (each for each in MUTANTS if each.name in BROKEN):
                broken = on_sqlite(Path(folder) / f"{mutant.name}.db", mutant.edits[-1].parts())
                await _explore(trial, mutant.name, broken, RUNS_TO_FIND, trial.seed)
            return
        server = started.enter_context(servers.dynoxide() if "DYNOXIDE" in os.environ else servers.moto())
        for seed in range(trial.seed, trial.seed + TRIES):
            stores: dict[str, AbstractAsyncContextManager[Rig]] = {
                "memory": in_memory(),
                "SQLite": on_sqlite(Path(folder) / f"{seed}.db"),
                "DynamoDB": on_dynamodb(server),
            }
            for name, store in stores.items():
                await _explore(trial, name, store, RUNS[trial.full], seed)
            if all(trial.seen[what] for what in MET):
                break
    trial.demand("steps", STEPS[trial.full])
    for what in MET:
        trial.demand(what, 1)


async def _explore(trial: Trial, name: str, store: AbstractAsyncContextManager[Rig], runs: int, seed: int) -> None:
    """Run the machine, in a thread because it has an event loop of its own."""
    try:
        met = await asyncio.to_thread(explore, store, runs, seed)
    except AssertionError as exc:
        trial.check(False, f"{name}: {exc} {getattr(exc, '__notes__', '')}")  # noqa: FBT003
    else:
        trial.checked += met["steps"]
        for what, times in met.items():
            trial.saw(what, times)


BAR = Bar(
    name="machine",
    promise="In any order of calls, by any run however late, every store does what a dict does.",
    control="one condition of the store at a time",
    run=run,
)
