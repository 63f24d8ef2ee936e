"""Lambda events of AWS's that were damaged: what a front door never sends, and a caller of `Invoke` may."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.lambda_events import DOORS, Event, Request
from tests.lambda_runtime.emulator import ROOT, load_event

CANARY = "canary-7f3a"
# As a client's mistake, if at all: what is nobody's mistake would be a 500.
STATUSES = {200, 204, 400, 404, 405, 406, 408, 413, 415, 422, 431}
REQUESTS = (
    Request("POST", "/chat", json.dumps({"message": CANARY}).encode(), (("Content-Type", "application/json"),)),
    Request("GET", "/sessions/s?limit=2&before=3"),
)
GOLDEN = [
    *(load_event(file.stem) for file in sorted((ROOT / "events").iterdir())),
    *(door(request) for door in DOORS.values() for request in REQUESTS),
]
Place = tuple[str | int, ...]
GONE = object()
VALUES: list[object] = [
    *(GONE, None, True, 0, -1, 7, 1e308, 10**400, "", "0", "2.0", "/", "%", "\ud800", "\x00", "[::1]:80", "POST"),
    *(f"{CANARY}\r\n", "\u4f60\u597d", "y" * 70_000, [], [None], ["a", 7], [[]], {}, {"a": None}, {"http": {}}),
    *({"elb": {}}, {"proxy": 7}),
]


def places(value: object, place: Place = ()) -> Iterator[Place]:
    """Yield where something stands in an event."""
    if place:
        yield place
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*place, key))


def changed(event: Event, place: Place, value: object) -> None:
    """Put another value, or none, where the event still has that place."""
    here: Any = event
    for key in place[:-1]:
        here = here[key] if isinstance(here, dict) and key in here else None
    if isinstance(here, dict):
        here.pop(place[-1], None) if value is GONE else here.update({place[-1]: copy.deepcopy(value)})


@st.composite
def odd_events(draw: st.DrawFn) -> Event:
    """An event of AWS's in which one to three things are missing or are something else."""
    golden: Event = draw(st.sampled_from(GOLDEN))
    event: Event = copy.deepcopy(golden)
    for _ in range(draw(st.integers(1, 3))):
        changed(event, draw(st.sampled_from(list(places(golden)))), draw(st.sampled_from(VALUES)))
    return event
