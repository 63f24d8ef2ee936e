"""One message of the model, put together from the events of its stream."""

import json
from collections import Counter
from collections.abc import Set as AbstractSet
from typing import Any, NoReturn

from app.agents.conversation import THOUGHTS, Block
from app.agents.messages_api import Event
from app.errors import ModelInvalid

CALLING = "tool_use"
READ = {CALLING: ("id", "name"), "text": ("text",)}  # what is read here of a block, always texts


class Reply:
    """What has arrived of a message so far.

    `stop_reason` is None until the end is announced. Blocks stay as they came, whatever their type, with their deltas
    added: texts to texts, lists to lists, anything else in place of what was there.
    """

    def __init__(self, used: AbstractSet[str] = frozenset()) -> None:
        """Begin with the ids of the tool calls so far, which no further call may have again."""
        self._used = set(used)
        self._blocks: list[Block] = []
        self._input: dict[int, str] = {}  # by block: the JSON of its `input`, which comes in pieces
        self._usage: dict[str, int] = {}
        self._wasted: Counter[str] = Counter()  # what attempts before this one have used
        self.stop_reason: str | None = None
        self.unreadable: set[str] = set()

    def take(self, event: Event) -> str:
        """Add an event and return the words in it that are meant for the user.

        Raises:
            ModelInvalid: it does not fit what came before it.
        """
        try:
            return self._take(event)
        except (KeyError, IndexError, TypeError, AttributeError) as exc:
            raise ModelInvalid("an event of the model's answer does not fit") from exc

    def _take(self, event: Event) -> str:
        match event["type"]:
            case "message_start" if self._blocks:
                raise ModelInvalid("a message of the model began within another")
            case "message_start":
                self._wasted.update(self._usage)
                self._usage = _counts(event["message"]["usage"])
            case "content_block_start":
                self._blocks.append(self._block(event["content_block"]))
                return str(self._blocks[-1].get("text", ""))
            case "content_block_delta":
                return self._add(event["index"], event["delta"])
            case "content_block_stop" if event["index"] in self._input:
                self._read_input(self._blocks[event["index"]], self._input.pop(event["index"]))
            case "message_delta":
                self.stop_reason = event["delta"].get("stop_reason") or self.stop_reason
                self._usage |= _counts(event["usage"])
            case "message_stop" if self.stop_reason is None or self._input:
                raise ModelInvalid("the model's answer ended without a reason, or in the middle of a tool call")
        return ""

    def _block(self, block: dict[str, Any]) -> Block:
        """Return a block as it begins, with what is read of it checked.

        An id that was used before is made another one: there are gateways that number the calls of each message anew.
        """
        texts = [block[name] for name in READ.get(block["type"], ())]
        if not all(isinstance(each, str) for each in [block["type"], *texts]):
            raise TypeError
        if block["type"] != CALLING:
            return dict(block)
        call_id = block["id"]
        while call_id in self._used:
            call_id += "_"
        self._used.add(call_id)
        return {"input": {}, **block, "id": call_id}

    def _add(self, index: int, delta: dict[str, Any]) -> str:
        block = self._blocks[index]
        if delta["type"] == "input_json_delta":
            self._input[index] = self._input.get(index, "") + delta["partial_json"]
            return ""
        if delta["type"] == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
            return ""
        if delta["type"] == "text_delta":
            block["text"] += delta["text"]
            words: str = delta["text"]
            return words
        for name, value in delta.items():
            if name != "type":
                block[name] = block[name] + value if isinstance(block.get(name), str | list) else value
        return ""

    def _read_input(self, block: Block, pieces: str) -> None:
        try:
            args = json.loads(pieces or "{}", parse_constant=_refuse)
            json.dumps(args, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            args = None
        if not isinstance(args, dict):  # which the API would not take back
            self.unreadable.add(block["id"])
            args = {}
        block["input"] = args

    def count(self, name: str) -> int:
        """Return a figure of the API's usage report so far, such as `input_tokens`, with those of failed attempts."""
        return self._usage.get(name, 0) + self._wasted[name]

    @property
    def calls(self) -> list[Block]:
        """The tool calls that await a result of ours."""
        return [block for block in self._blocks if block.get("type") == CALLING and self.stop_reason == CALLING]

    @property
    def blocks(self) -> list[Block]:
        """The blocks that may stand in the conversation: no blank ones; of a cut message no thought and no call."""
        whole = self.stop_reason in (CALLING, "end_turn", "stop_sequence", "pause_turn")
        left_out = set() if whole else THOUGHTS | {CALLING}
        return [block for block in self._blocks if block["type"] not in left_out and _says_something(block)]


def _says_something(block: Block) -> bool:
    """Return whether the API would take the block back. It sends texts of white space, and refuses them."""
    return block["type"] != "text" or bool(block["text"].strip())


def _counts(usage: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in usage.items() if isinstance(count, int) and count >= 0}


def _refuse(_: str) -> NoReturn:
    raise ValueError
