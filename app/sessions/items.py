"""What the table of sessions holds, as DynamoDB sends it: turns and counters as the attributes of items."""

import base64
from collections.abc import Mapping
from typing import TypeAlias

from app.sessions import SessionKey, TurnItem
from app.sessions.codec import is_text

Attributes: TypeAlias = dict[str, dict[str, str]]
OF_EVERY_ITEM = ("pk", "turn", "expires")


def key_of(key: SessionKey, turn: int) -> Attributes:
    """Return the key of an item: of a turn, or of a counter whose window is `turn`."""
    return {"pk": {"S": str(key)}, "turn": {"N": str(turn)}}


def dump(key: SessionKey, item: TurnItem) -> Attributes:
    """Return the attributes of a turn."""
    attributes = {
        **key_of(key, item.turn),
        "run": {"S": item.run},
        "req": {"S": item.req},
        "expires": {"N": str(item.expires)},
    }
    if item.lease is not None:
        attributes["lease"] = {"N": f"{item.lease:.3f}"}
    if item.created is not None:
        attributes |= {"principal": {"S": key.principal}, "created": {"N": f"{item.created:.3f}"}}
    if item.body is not None:
        attributes["body"] = (
            {"S": item.body.decode()} if is_text(item.body) else {"B": base64.b64encode(item.body).decode()}
        )
    return attributes


def load(attributes: Mapping[str, Mapping[str, str]]) -> TurnItem:
    """Return the turn that has these attributes."""
    body = attributes.get("body", {})
    lease, created = attributes.get("lease"), attributes.get("created")
    return TurnItem(
        turn=int(attributes["turn"]["N"]),
        run=attributes["run"]["S"],
        req=attributes["req"]["S"],
        expires=int(attributes["expires"]["N"]),
        lease=float(lease["N"]) if lease else None,
        body=body["S"].encode() if "S" in body else base64.b64decode(body["B"]) if "B" in body else None,
        created=float(created["N"]) if created else None,
    )


def load_numbers(attributes: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Return the numbers of the counter that has these attributes."""
    return {name: int(value["N"]) for name, value in attributes.items() if name not in OF_EVERY_ITEM}
