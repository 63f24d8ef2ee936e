"""What the Messages API refuses with 400, as far as a conversation can break it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Block: TypeAlias = dict[str, Any]
Body: TypeAlias = dict[str, Any]

PARAMETERS = {
    "model",
    "max_tokens",
    "messages",
    "stream",
    "system",
    "tools",
    "tool_choice",
    "cache_control",
    "thinking",
}
VERSIONS = {"2023-06-01", "2026-10-21"}
NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
THOUGHTS = {"thinking", "redacted_thinking"}
# By type: who may say it, the fields it must have, and the ones it may have.
KNOWN: dict[str, tuple[str, dict[str, type], set[str]]] = {
    "text": ("user assistant", {"text": str}, {"citations", "cache_control"}),
    "tool_use": ("assistant", {"id": str, "name": str, "input": dict}, {"cache_control"}),
    "tool_result": ("user", {"tool_use_id": str, "content": str}, {"is_error", "cache_control"}),
}


class Refused(Exception):
    """The API answers 400 `invalid_request_error`."""


@dataclass
class Issued:
    """What the API has said itself and knows again: blocks that it alone can make, and where it paused."""

    calls: set[str] = field(default_factory=set)
    thoughts: list[tuple[Block, Body]] = field(default_factory=list)
    others: list[Block] = field(default_factory=list)
    paused: list[Block] = field(default_factory=list)


def read(raw: bytes, headers: Mapping[str, str]) -> Body:
    """Return the request, or raise Refused: it must be one JSON object of UTF-8, nothing after it, and say so."""
    _demand(headers.get("anthropic-version") in VERSIONS, "anthropic-version: header is required")
    _demand(headers.get("content-type") == "application/json", "content-type must be application/json")
    try:
        body = json.loads(raw.decode(), parse_constant=_refuse)
        json.dumps(body, ensure_ascii=False).encode()
    except ValueError:
        raise Refused("the request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise Refused("the request body must be an object")
    return body


def check(body: Body, issued: Issued) -> None:
    """Raise Refused for what the API does not take."""
    _demand(set(body) <= PARAMETERS, "extra inputs are not permitted")
    _demand(isinstance(body.get("model"), str) and body["model"], "model: field required")
    limit = body.get("max_tokens")
    _demand(isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1, "max_tokens: field required")
    _demand(body.get("system") != "", "system: text content blocks must be non-empty")
    names = _check_tools(body.get("tools"))
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages: at least one message is required")
    for message in messages:
        _check_message(message)
    _demand(messages[0]["role"] == "user", "messages: first message must use the user role")
    last = messages[-1]
    _demand(last["role"] == "user" or _blocks(last) == issued.paused, "the conversation must end with a user message")
    _check_calls(messages, names, issued)
    _check_made_here(body, messages, issued)


def _check_tools(tools: object) -> set[str] | None:
    if tools is None:
        return None
    if not isinstance(tools, list):
        raise Refused("tools: must be a list")
    for tool in tools:
        _demand(set(tool) == {"name", "description", "input_schema"}, "tools: extra inputs are not permitted")
        _demand(NAME.fullmatch(tool["name"]), "tools: name must match a pattern")
        _demand(tool["input_schema"].get("type") == "object", "tools: input_schema.type must be object")
    names = [tool["name"] for tool in tools]
    _demand(len(set(names)) == len(names), "tools: names must be unique")
    return set(names)


def _check_message(message: object) -> None:
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        raise Refused("messages: a message has a role and a content")
    _demand(message["role"] in ("user", "assistant"), "messages: role must be user or assistant")
    content = message["content"]
    _demand(isinstance(content, str | list) and content, "messages: content must be non-empty")
    for block in _blocks(message):
        _check_block(message["role"], block)


def _check_block(role: str, block: object) -> None:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise Refused("messages: a content block has a type")
    kind = block["type"]
    if kind not in KNOWN:
        _demand(role == "assistant", f"messages: a user sends no {kind}")
        return
    speakers, required, optional = KNOWN[kind]
    _demand(role in speakers.split(), f"messages: {kind} blocks are not for the {role}")
    _demand(required.keys() <= set(block) - {"type"} <= required.keys() | optional, f"{kind}: fields are wrong")
    _demand(all(isinstance(block[name], of) for name, of in required.items()), f"{kind}: a field has a wrong type")
    _demand(kind != "text" or block["text"].strip(), "text content blocks must contain non-whitespace text")
    _demand(kind != "tool_use" or NAME.fullmatch(block["id"]), "tool_use.id must match a pattern")


def _check_calls(messages: Sequence[Mapping[str, Any]], names: set[str] | None, issued: Issued) -> None:
    """Every call has exactly one result, in the user's next words and before anything else there."""
    open_calls: list[str] = []
    seen: set[str] = set()
    for role, blocks in _spoken(messages):
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        calls = [block for block in blocks if block["type"] == "tool_use"]
        if role == "user":
            _demand(sorted(results) == sorted(open_calls), "tool_use ids without tool_result blocks, or the reverse")
            kinds = [block["type"] for block in blocks[: len(results)]]
            _demand(set(kinds) <= {"tool_result"}, "tool_result blocks must come first")
        open_calls = [block["id"] for block in calls]
        _demand(not calls or names is not None, "requests with tool_use blocks must define tools")
        for call in calls:
            _demand(call["id"] not in seen, "tool_use ids must be unique")
            seen.add(call["id"])
            _demand(call["name"] in (names or ()) or call["id"] in issued.calls, "tool_use of a tool that is unknown")
    _demand(not open_calls, "tool_use ids were found without tool_result blocks immediately after")


def _check_made_here(body: Body, messages: Sequence[Mapping[str, Any]], issued: Issued) -> None:
    """What only the API makes comes back as it was; a thought moreover after the very words it followed."""
    for number, message in enumerate(messages):
        for block in _blocks(message):
            if block["type"] in THOUGHTS:
                before = {**prefix(body), "messages": list(messages[:number])}
                _demand((block, before) in issued.thoughts, "thinking blocks cannot be modified")
            elif block["type"] not in KNOWN:
                _demand(block in issued.others, f"messages: unknown or modified {block['type']} block")


def prefix(body: Body) -> Body:
    """Return what a thought is bound to."""
    return {name: body.get(name) for name in ("model", "system", "tools", "messages")}


def _spoken(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Block]]]:
    """Yield roles and blocks in turns, messages of one role in a row taken together as the API does."""
    role, blocks = messages[0]["role"], list[Block]()
    for message in messages:
        if message["role"] != role:
            yield role, blocks
            role, blocks = message["role"], []
        blocks += _blocks(message)
    yield role, blocks


def _blocks(message: Mapping[str, Any]) -> list[Block]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _demand(fact: object, text: str) -> None:
    if not fact:
        raise Refused(text)


def _refuse(_: str) -> None:
    raise ValueError
