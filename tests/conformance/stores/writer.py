"""A process that takes turns on a session in an SQLite file: `python -m …stores.writer FILE NAME COUNT`.

It says when it is ready and begins when it is told to. After its turns it claims another one and kills itself.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from app.errors import LeaseLost
from app.events import Turn
from app.sessions import SessionKey
from app.sessions.claims import Claim, Claims
from app.sessions.sqlite import SQLiteStore

KEY = SessionKey("principal", "session")  # as in `rig`, whose imports would cost each process a second
LEASE_S = 1.0
WAIT_S = 60.0


async def claim(claims: Claims, message: str) -> Claim:
    claim = await claims.claim_or_wait(KEY, None, message, LEASE_S, WAIT_S)
    assert isinstance(claim, Claim)
    return claim


async def take_turn(claims: Claims, message: str) -> None:
    while True:
        held = await claim(claims, message)
        turn = Turn(held.item.turn, message, "".join(f"[{done.message}]" for done in held.history))
        with suppress(LeaseLost):  # on a machine so busy that the lease was over
            await claims.commit(held, turn, limit_s=WAIT_S)
            return


async def main(path: str, name: str, count: int) -> None:
    async with SQLiteStore(Path(path)) as store:
        claims = Claims(store, window=1000, keep_s=3600)
        await store.ping()
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(count):
            await take_turn(claims, f"message {number} of {name}")
        await claim(claims, "never answered")
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
