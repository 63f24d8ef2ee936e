"""JSON, read more strictly than RFC 8259 demands, because what is lax is also ambiguous."""

import json
import math
from typing import Any, NoReturn

from app.errors import MalformedJSON

MAX_DEPTH = 64  # of nested JSON; the contract needs one


def parse(body: bytes) -> object:
    """Return the document in `body`.

    Raises:
        MalformedJSON: it is not one document of Unicode text, its numbers finite, its keys unique, MAX_DEPTH levels.
    """
    try:
        text = body.decode()
        document = _DECODER.decode(text)
        _check_depth(document)
        if "\\u" in text:  # an escape can smuggle in half of a surrogate pair, which no UTF-8 can carry on
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise MalformedJSON from None  # the cause's text holds the input
    return document


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError
    return document


def _refuse(_: str) -> NoReturn:
    raise ValueError


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_refuse, parse_float=_finite)


def _check_depth(document: object) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError
