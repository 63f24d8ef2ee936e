"""Every fault on every store call of a turn, and a crash on either side of each, all on sessions of their own."""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from app.deadline import LEASE_MARGIN_S
from tests.chaos.agents import runs
from tests.chaos.callers import Outcome, Said, send, transcript
from tests.chaos.history import check_history, lease_of
from tests.chaos.replicas import OURS, Replica, broken
from tests.chaos.trial import Bar, Trial
from tests.faults import APPLIED, SILENT, Call, Fault, Faults, Operation, Proxy
from tests.servers import Table, sessions_table

OPERATIONS: tuple[Operation, ...] = ("newest", "claim", "commit", "release")
SESSION = re.compile(rb'"anonymous/([^"]+)"')
SETTINGS = {"AGENT": "tests.chaos.agents:frail", "AGENT_TIMEOUT_S": "20"}
SHORT_S, LONG_S = 3, 6  # a turn's time; the longer one has room for a call that is not answered in two seconds
FOR_LONG = 100  # requests; nobody sends as many
REACH_S = 30.0
CRASHES_SHORT, CRASHES_FULL = 1, 5


class FaultsBySession(Faults):
    """Faults that each session meets alone."""

    def __init__(self) -> None:
        super().__init__()
        self.of: defaultdict[str, Faults] = defaultdict(Faults)

    def meet(self, operation: Operation, body: bytes = b"") -> Call:
        found = SESSION.search(body)
        return self.of[found[1].decode()].meet(operation, body) if found else super().meet(operation, body)


@dataclass(frozen=True, slots=True)
class Case:
    """A turn in which the requests of one operation meet a fault: one of them, or all of them while it lasts.

    A release follows a turn that failed only.
    """

    name: str
    operation: Operation
    fault: Fault
    lasting: bool
    stream: bool

    @property
    def message(self) -> str:
        return f"fails-{self.name}" if self.operation == "release" else self.name

    @property
    def time_s(self) -> int:
        return SHORT_S if self.lasting or self.operation == "release" else LONG_S

    @property
    def told(self) -> tuple[int, str]:
        """What its caller is told: a single fault is not noticed."""
        if self.operation == "release":
            return 502, "agent-failed"
        return (503, "store-unavailable") if self.lasting else (200, "")

    @property
    def may_stay_held(self) -> bool:
        """Whether the session cannot be given back: a release has no time for a second try at what is silent."""
        return self.operation == "release" and self.fault not in APPLIED and (self.lasting or self.fault in SILENT)

    @property
    def is_stored(self) -> bool:
        return self.operation == "commit" and self.fault in APPLIED


@dataclass(frozen=True, slots=True)
class Place:
    """Where the cases happen."""

    trial: Trial
    http: aiohttp.ClientSession
    table: Table
    folder: Path
    faults: FaultsBySession

    async def send(self, url: str, case: Case, message: str, time_s: int = LONG_S) -> tuple[Outcome, list[Said]]:
        """Send a message of the case once."""
        return await send(self.http, url, case.name, message, stream=case.stream, X_Request_Timeout=str(time_s))


async def run(trial: Trial) -> None:
    command = broken("own lost claim not recognised") if trial.broken else OURS
    faults = FaultsBySession()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        table = stack.enter_context(sessions_table())
        proxy = await stack.enter_async_context(Proxy(table.endpoint, faults))
        settings = SETTINGS | table.settings | {"AWS_ENDPOINT_URL_DYNAMODB": proxy}
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        place = Place(trial, http, table, folder, faults)
        steady, mortal = [await stack.enter_async_context(Replica(folder, command, **settings)) for _ in range(2)]
        rounds = CRASHES_FULL if trial.full else CRASHES_SHORT
        async with asyncio.TaskGroup() as group:
            for case in _cases(trial):
                group.create_task(_meet(place, steady.url, case))
            group.create_task(_crashes(place, mortal, rounds))
    # Who gives a session back waits a second only, and may be answered before the others have come to their points.
    trial.demand("crashes between store calls", rounds * (len(OPERATIONS) * len(SILENT) - 2))


def _cases(trial: Trial) -> list[Case]:
    """Return every fault on every call of a turn, once and lasting: as JSON or as SSE by turns, and in full as both."""
    cases = []
    for n, (operation, fault, lasting) in enumerate(product(OPERATIONS, Fault, (False, True))):
        for stream in (False, True) if trial.full else (n // 2 % 2 == 0,):
            name = f"{operation}-{fault.name}-{'lasting' if lasting else 'once'}-{'sse' if stream else 'json'}"
            cases.append(Case(name, operation, fault, lasting, stream))
    return cases


async def _meet(place: Place, url: str, case: Case) -> None:
    """Take a turn while its fault lasts."""
    trial, faults = place.trial, place.faults.of[case.name]
    _, before = await place.send(url, case, "before")
    faults.plan(case.operation, *[case.fault] * (FOR_LONG if case.lasting else 1))
    outcome, said = await place.send(url, case, case.message, case.time_s)
    if case.operation != "release":  # whose last request may still be on its way, and must not come through now
        faults.end()
    trial.saw("faults met", faults.met(case.fault))
    if not trial.broken:
        trial.check(faults.met(case.fault), f"vacuous: {case.name} did not happen")
    problem = outcome.slug
    status = int(outcome.events[-1][1]["status"]) if problem and outcome.is_stream else outcome.status
    trial.check((status, problem) == case.told, f"{case.name}: told {status} {problem}, not {case.told}")
    if not case.may_stay_held:
        trial.check(lease_of(place.table, case.name) is None, f"{case.name}: the session is not given back")
    await _come_again(place, url, case, before + said)


async def _come_again(place: Place, url: str, case: Case, said: Sequence[Said]) -> None:
    """Repeat the message, as soon as the session can be free, and take one more turn: each is stored once."""
    trial = place.trial
    await _outlive_lease(place, url, case)
    place.faults.of[case.name].end()
    outcome, again = await place.send(url, case, case.message)
    trial.check(again, f"{case.name}: its retry was told {outcome.status} {outcome.slug}")
    if case.is_stored or len(said) > 1:
        ran = sum(each["message"] == case.message and each["what"] == "began" for each in runs(place.folder))
        trial.check(again and again[0].replayed, f"{case.name}: a stored turn is not replayed")
        trial.check(ran == 1, f"{case.name}: the agent of a stored turn ran {ran} times")
        trial.saw("replays")
    outcome, after = await place.send(url, case, "after")
    trial.check(after, f"{case.name}: the next turn was told {outcome.status} {outcome.slug}")
    check_history(trial, case.name, await transcript(place.http, url, case.name), [*said, *again, *after])


async def _outlive_lease(place: Place, url: str, case: Case) -> None:
    """Wait for the end of the lease, if a run has left one: it is respected, and ends with the deadline's margin."""
    lease, now = lease_of(place.table, case.name), time.time()
    if lease is None:
        return
    place.trial.saw("leases left")
    place.trial.check(lease <= now + case.time_s + LEASE_MARGIN_S, f"{case.name} is held for {lease - now:.0f} s")
    outcome, _ = await place.send(url, case, case.message)
    if time.time() < lease:
        busy = (outcome.status, outcome.slug) == (409, "turn-in-progress")
        place.trial.check(busy, f"{case.name}: a lease was not respected: {outcome.status} {outcome.slug}")
    await asyncio.sleep(max(lease - time.time(), 0) + 0.01)


async def _crashes(place: Place, replica: Replica, rounds: int) -> None:
    """Kill the replica when one session's turn has come to each side of each store call, again and again."""
    for n in range(rounds):
        cases = [
            Case(f"crash-{operation}-{fault.name}-{n}", operation, fault, lasting=True, stream=(n + k) % 2 == 0)
            for k, (operation, fault) in enumerate(product(OPERATIONS, SILENT))
        ]
        said = [(await place.send(replica.url, case, "before"))[1] for case in cases]
        for case in cases:
            place.faults.of[case.name].plan(case.operation, *[case.fault] * FOR_LONG)
        sending = [asyncio.create_task(place.send(replica.url, case, case.message, case.time_s)) for case in cases]
        await _reach(place, cases)
        replica.kill()
        died = sum(outcome.cut for outcome, _ in await asyncio.gather(*sending))
        place.trial.saw("crashes between store calls", died)
        for case in cases:
            place.faults.of[case.name].end()
        await replica.process.wait()
        await replica.start()
        await replica.until_ready()
        await asyncio.gather(*[_come_again(place, replica.url, *each) for each in zip(cases, said, strict=True)])


async def _reach(place: Place, cases: Sequence[Case]) -> None:
    """Return when every case is at its point: the call is applied, or is not, and nobody has heard of it."""

    def there(case: Case) -> bool:
        last = place.faults.of[case.name].calls[-1]
        return last.fault is case.fault and bool(last.answer_bytes) == (case.fault in APPLIED)

    async with asyncio.timeout(REACH_S):
        while not all(map(there, cases)):
            await asyncio.sleep(0.005)


BAR = Bar(
    name="faults",
    promise="Whatever a store call meets, and wherever in a turn a process dies, a retry stores the turn exactly once.",
    control="the recognition of a claim whose reply was lost",
    run=run,
)
