"""What a history must be: what was acknowledged and nothing else, each turn once, in an order that time allows."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tests.chaos.callers import Said
from tests.chaos.trial import Trial
from tests.servers import Table

KEPT = ("turn", "answer", "stop_reason", "usage")  # of an acknowledgement, all of which the transcript repeats


def check_history(trial: Trial, session: str, stored: Sequence[Mapping[str, Any]], said: Sequence[Said]) -> None:
    """Compare a session's whole transcript with all that its callers were told, in no order. Its agent is `witness`."""
    acknowledged = {each.message: each for each in said}
    times = Counter(turn["message"] for turn in stored)
    for message in acknowledged:
        trial.check(message in times, f"{session}: {message} was acknowledged and is lost")
    for n, turn in enumerate(stored):
        place, message = f"{session}: turn {n + 1}", turn["message"]
        trial.check(turn["turn"] == n + 1, f"{place} has the number {turn['turn']}")
        trial.check(times[message] == 1, f"{place}: {message} is stored {times[message]} times")
        trial.check(_is_true(turn, [before["message"] for before in stored[:n]]), f"{place} did not see those before")
        if told := acknowledged.get(message):
            trial.check(_is_kept(turn, told), f"{place} is not what was acknowledged")
        else:
            trial.check(False, f"{place}: {message} was never acknowledged")  # noqa: FBT003 the check that cannot hold
    _check_time(trial, session, said)


def _is_true(turn: Mapping[str, Any], before: Sequence[str]) -> bool:
    """Return whether the witness said which messages came before; at the deadline, what it had said of it stands."""
    whole = json.dumps(before)
    return whole.startswith(turn["answer"]) if turn["stop_reason"] == "deadline" else whole == turn["answer"]


def _is_kept(turn: Mapping[str, Any], told: Said) -> bool:
    return all(turn[name] == told.done[name] for name in KEPT)


def _check_time(trial: Trial, session: str, said: Sequence[Said]) -> None:
    """Whoever was acknowledged before another one was sent has the lower number."""
    latest = 0.0  # of all lower numbers, when one was sent
    for one, other in pairwise(sorted(said, key=lambda each: int(each.done["turn"]))):
        latest = max(latest, one.sent)
        trial.check(latest < other.acknowledged, f"{session}: {other.message} ended before a lower number began")


def newest(table: Table, session: str) -> Mapping[str, Any]:
    """Return the session's newest item in the table, open or done; an empty one where there is none."""
    page = table.client.query(
        TableName=table.name,
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": f"anonymous/{session}"}},
        ConsistentRead=True,
        ScanIndexForward=False,
        Limit=1,
    )
    return dict(page["Items"][0]) if page["Items"] else {}


def lease_of(table: Table, session: str) -> float | None:
    """Return until when, in epoch seconds, the session is held; None where nobody holds it."""
    lease = newest(table, session).get("lease")
    return float(lease["N"]) if lease else None
