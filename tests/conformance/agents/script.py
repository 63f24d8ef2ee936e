"""The model behind every framework's fake: what it says depends on the conversation alone.

- `again`: calls the clock, whatever comes back
- `time`:  calls the clock, then tells what it gave
- `wait`:  says one word, then nothing more
- else:    repeats every message of the user in this conversation, word by word
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Said: TypeAlias = tuple[Literal["user", "model", "call", "result"], str]


@dataclass(frozen=True, slots=True)
class Call:
    """The model asks for the clock. The ids begin anew with each conversation, as with some providers."""

    id: str


@dataclass(slots=True)
class Script:
    """One model. `asked` holds the conversations it was shown; `waiting` and `closed` count what became of `wait`."""

    asked: list[list[Said]] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, conversation: Sequence[Said]) -> AsyncGenerator[str | Call, None]:
        """Yield the model's next message in pieces."""
        self.asked.append(list(conversation))
        messages = [text for role, text in conversation if role == "user"]
        results = _results_of_this_turn(conversation)
        match messages[-1]:
            case "wait":
                async for word in self._wait():
                    yield word
            case "again":
                yield f"look {len(results)} "
                yield Call(f"call-{len(results)}")
            case "time" if not results:
                yield Call("call-0")
            case "time":
                yield "it "
                yield f"is {results[-1]}"
            case _:
                for word in messages:
                    yield f"{word} "
        await asyncio.sleep(0)

    async def _wait(self) -> AsyncGenerator[str, None]:
        try:
            yield "begun"
            self.waiting.set()
            await asyncio.Event().wait()
        finally:
            self.closed.set()


def _results_of_this_turn(conversation: Sequence[Said]) -> list[str]:
    results: list[str] = []
    for role, text in conversation:
        results = [] if role == "user" else results + [text] * (role == "result")
    return results
