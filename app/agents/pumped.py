"""Reading an async generator from a task of its own."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

T = TypeVar("T")

SETTLE_S = 0.5  # how long what was cut off may clean up


async def pumped(source: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Yield what `source` yields. Closing this ends `source` at once, wherever in it something waits.

    Closing `source` itself would not reach what waits inside a generator that it reads without `aclosing`, which is
    closed some time later, by the garbage collector.
    """
    items: asyncio.Queue[tuple[T] | None] = asyncio.Queue()  # holds no more than a turn does

    async def pump() -> None:
        try:
            async for item in source:
                items.put_nowait((item,))
        finally:
            items.put_nowait(None)

    task = asyncio.create_task(pump())
    try:
        while item := await items.get():
            yield item[0]
        await task
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=SETTLE_S)
