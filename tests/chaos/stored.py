"""What is in the table once nothing runs any more, read past the service."""

from collections import defaultdict
from dataclasses import dataclass

from tests.chaos.trial import Trial
from tests.servers import Table


@dataclass(frozen=True, slots=True)
class Stored:
    """The numbers of the stored turns of each session, and the sessions that are held."""

    turns: dict[str, list[int]]
    held: list[str]


def stored(table: Table) -> Stored:
    """Scan the whole table."""
    found = Stored(defaultdict(list), [])
    for page in table.client.get_paginator("scan").paginate(TableName=table.name, ConsistentRead=True):
        for item in page["Items"]:
            session = item["pk"]["S"].rpartition("/")[2]
            if "body" in item:
                found.turns[session].append(int(item["turn"]["N"]))
            else:
                found.held.append(session)
    return found


def judge(trial: Trial, table: Table, acknowledged: set[str]) -> None:
    """Check that of sessions with one message each, what was acknowledged is stored once and nothing else is."""
    found = stored(table)
    trial.check(not found.held, f"{len(found.held)} sessions are held by nobody that runs")
    for session in acknowledged | found.turns.keys():
        numbers, expected = found.turns.get(session, []), [1] if session in acknowledged else []
        trial.check(numbers == expected, f"{session} has the turns {numbers}, acknowledged are {expected}")
