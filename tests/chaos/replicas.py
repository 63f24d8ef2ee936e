"""Processes of the service: started, killed, started again on the same port."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import aiohttp

from tests.entry_points import environment
from tests.machine import free_port
from tests.servers import sessions_table

START_S = 60.0  # on a busy machine
OURS = (sys.executable, "-m", "app")


def broken(*names: str) -> tuple[str, ...]:
    """Return the command of the container server with something taken out of it: names of `broken.EDITS`."""
    return (sys.executable, "-m", "tests.chaos.broken", ",".join(names))


class Replica:
    """A server process in `folder`; leaving it kills what is left of it. Further variables are its settings."""

    def __init__(self, folder: Path, command: tuple[str, ...] = OURS, **variables: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.log = folder / f"server-{self.port}.log"
        self._command = command
        self._variables = variables
        self.process: asyncio.subprocess.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        await self.until_ready()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.kill()
        await self.process.wait()

    async def start(self) -> None:
        """Start the process, without waiting for it."""
        with self.log.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=self.folder,
                env=environment(PORT=str(self.port), **self._variables),
                stdout=out,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL the process and its children."""
        self.signal(signal.SIGKILL, group=True)

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal, to all of the process group if asked; to nobody once it has ended."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number) if group else self.process.send_signal(number)

    async def exit_status(self, limit_s: float) -> int:
        """Wait for the end of the process.

        Raises:
            TimeoutError: it did not end within `limit_s`.
        """
        async with asyncio.timeout(limit_s):
            return await self.process.wait()

    async def ended(self, limit_s: float) -> int | None:
        """Return the exit status; None where the process had to be killed after `limit_s`."""
        try:
            return await self.exit_status(limit_s)
        except TimeoutError:
            self.kill()
            await self.process.wait()
            return None

    async def is_ready(self) -> bool:
        """Return whether a new connection finds the process ready."""
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def until_ready(self) -> None:
        async with asyncio.timeout(START_S):
            while not await self.is_ready():
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.05)


@asynccontextmanager
async def pair(command: tuple[str, ...], settings: Mapping[str, str]) -> AsyncIterator[tuple[Replica, Replica]]:
    """Yield two replicas over one new table, in one new folder."""
    with TemporaryDirectory() as folder, sessions_table() as table:
        variables = {**settings, **table.settings}
        async with (
            Replica(Path(folder), command, **variables) as one,
            Replica(Path(folder), command, **variables) as other,
        ):
            yield one, other
