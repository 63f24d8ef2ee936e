"""The fake model refuses what the real API refuses; else every test that counts on it would prove nothing."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.messages_rules import Issued, Refused, check, prefix, read

HEADERS = {"anthropic-version": "2023-06-01", "content-type": "application/json"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sun"}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "sig-0"}
OTHER = {"type": "hologram", "data": 1}
VALID: dict[str, Any] = {
    "model": "m",
    "max_tokens": 1,
    "system": "Be brief.",
    "tools": [{"name": "weather", "description": "Weather.", "input_schema": {"type": "object"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "assistant", "content": [THOUGHT, OTHER, {"type": "text", "text": "hm"}, CALL]},
        {"role": "user", "content": [RESULT, {"type": "text", "text": "and?"}]},
    ],
}


def issued() -> Issued:
    """What the API has said to make VALID possible."""
    question = {**prefix(VALID), "messages": VALID["messages"][:1]}
    return Issued(thoughts=[(THOUGHT, question)], others=[OTHER])


def test_a_valid_request_is_taken() -> None:
    check(VALID, issued())


BREACHES: dict[str, Callable[[Any], object]] = {
    "unknown parameter": lambda b: b.update(temperature=1),
    "no model": lambda b: b.pop("model"),
    "no max_tokens": lambda b: b.pop("max_tokens"),
    "max_tokens of nothing": lambda b: b.update(max_tokens=0),
    "blank system": lambda b: b.update(system=""),
    "no messages": lambda b: b.pop("messages"),
    "empty messages": lambda b: b.update(messages=[]),
    "the model first": lambda b: b["messages"].pop(0),
    "the model last": lambda b: b["messages"].append({"role": "assistant", "content": "so"}),
    "nobody's message": lambda b: b["messages"][0].update(role="system"),
    "an extra field": lambda b: b["messages"][0].update(id="1"),
    "empty content": lambda b: b["messages"][0].update(content=[]),
    "empty text": lambda b: b["messages"][0]["content"][0].update(text=""),
    "blank text": lambda b: b["messages"][0]["content"][0].update(text=" \n"),
    "no type": lambda b: b["messages"][0]["content"][0].pop("type"),
    "unknown block of a user": lambda b: b["messages"][0]["content"].append(OTHER),
    "changed block": lambda b: b["messages"][1]["content"][1].update(data=2),
    "call without result": lambda b: b["messages"][2]["content"].pop(0),
    "call at the end": lambda b: b["messages"].pop(2),
    "result without call": lambda b: b["messages"][1]["content"].pop(3),
    "result twice": lambda b: b["messages"][2]["content"].insert(0, RESULT),
    "result after text": lambda b: b["messages"][2]["content"].reverse(),
    "call of a user": lambda b: b["messages"][0]["content"].append(CALL),
    "result of the model": lambda b: b["messages"][1]["content"].append(RESULT),
    "call with the same id": lambda b: b["messages"].extend(copy.deepcopy(b["messages"][1:])),
    "call of an unknown tool": lambda b: b["messages"][1]["content"][3].update(name="other"),
    "call without tools": lambda b: b.pop("tools"),
    "call with a list": lambda b: b["messages"][1]["content"][3].update(input=[]),
    "call with a strange id": lambda b: b["messages"][1]["content"][3].update(id="a b"),
    "changed thought": lambda b: b["messages"][1]["content"][0].update(thinking="ha"),
    "thought after other words": lambda b: b["messages"][0]["content"][0].update(text="bye"),
    "thought under another system": lambda b: b.update(system="Be long."),
    "tool twice": lambda b: b["tools"].append(b["tools"][0]),
    "tool without a description": lambda b: b["tools"][0].pop("description"),
    "tool with a strange name": lambda b: b["tools"][0].update(name="the weather"),
    "tool of no object": lambda b: b["tools"][0].update(input_schema={"type": "array"}),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_refused(breach: str) -> None:
    body = copy.deepcopy(VALID)
    BREACHES[breach](body)
    with pytest.raises(Refused):
        check(body, issued())


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{} x", b'{"a": NaN}', b'{"a": "\xff"}', b'{"a": "\\ud800"}'])
def test_what_is_no_object_of_json_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused):
        read(raw, HEADERS)


@pytest.mark.parametrize("name", HEADERS)
def test_a_missing_header_is_refused(name: str) -> None:
    assert read(json.dumps(VALID).encode(), HEADERS) == VALID
    with pytest.raises(Refused):
        read(b"{}", {**HEADERS, name: ""})


def test_a_call_that_the_api_made_itself_is_taken_back() -> None:
    body = copy.deepcopy(VALID)
    body["messages"][1]["content"][3]["name"] = "other"
    check(body, Issued(calls={"toolu_1"}, thoughts=issued().thoughts, others=[OTHER]))
