"""What runs inside the process of one agent or client: it takes as many turns as it is told, and tells their CPU."""

import asyncio
import json
import os
import sys
import time

import uvloop

from benchmarks import peers

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def work(name: str, url: str, loop: str) -> None:
    """Answer each line `[message, turns, at_once]` of the input with the seconds of CPU of one of those turns."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(_work(getattr(peers, name), url))


async def _work(make: peers.Factory, url: str) -> None:
    take = await make(url)
    for line in sys.stdin:
        message, turns, at_once = json.loads(line)
        before = time.process_time()
        for _ in range(turns):
            await asyncio.gather(*(take(message) for _ in range(at_once)))
        print((time.process_time() - before) / (turns * at_once), flush=True)
    os._exit(0)  # what the agent holds open is left to the system


def first(name: str, url: str) -> None:
    """Take one turn and end there; print the seconds of CPU that it took to have the agent made."""
    asyncio.run(_first(getattr(peers, name), url))


async def _first(make: peers.Factory, url: str) -> None:
    take = await make(url)
    print(time.process_time(), flush=True)
    await take("hello")
    os._exit(0)
