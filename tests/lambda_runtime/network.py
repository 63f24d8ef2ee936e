"""A network between a service and a server that it talks with: it can forget connections, as networks do."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.machine import START_S


@dataclass(eq=False)
class Connection:
    """A connection through the network, and whether the service has sent something on it since it is dead."""

    service: asyncio.StreamWriter
    server: asyncio.StreamWriter
    dead: bool = False
    tried: bool = False


@dataclass(eq=False)
class Network:
    """Carries connections to the server at `upstream`. Its methods may be called from any thread."""

    upstream: str
    url: str = ""
    connections: list[Connection] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop = field(init=False)

    @property
    def tried(self) -> int:
        """How many dead connections the service has used."""
        return sum(each.tried for each in self.connections)

    def close(self) -> None:
        """Close every connection there is, as a server does with idle ones."""
        for each in self.connections:
            self.loop.call_soon_threadsafe(each.service.close)

    def forget(self) -> None:
        """Carry nothing more on the connections there are, and tell nobody."""
        for each in self.connections:
            each.dead = True

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = urlsplit(self.upstream).netloc.partition(":")
        server_reader, server = await asyncio.open_connection(host, int(port))
        connection = Connection(writer, server)
        self.connections.append(connection)
        try:
            await asyncio.gather(self._to_server(reader, connection), self._to_service(server_reader, connection))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            server.close()

    async def _to_server(self, reader: asyncio.StreamReader, connection: Connection) -> None:
        while data := await reader.read(65_536):
            connection.tried = connection.dead
            if not connection.dead:
                connection.server.write(data)
        connection.server.close()

    async def _to_service(self, reader: asyncio.StreamReader, connection: Connection) -> None:
        while data := await reader.read(65_536):
            if not connection.dead:
                connection.service.write(data)
        if not connection.dead:
            connection.service.close()


@contextlib.contextmanager
def network(upstream: str) -> Iterator[Network]:
    """Yield a network before `upstream`, on an event loop in a thread of its own."""
    found, ready = Network(upstream), threading.Event()
    leave = asyncio.Event()

    async def carrying() -> None:
        found.loop = asyncio.get_running_loop()
        tasks = set[asyncio.Task[None]]()
        server = await asyncio.start_server(
            lambda reader, writer: tasks.add(asyncio.ensure_future(found.carry(reader, writer))), "127.0.0.1", 0
        )
        found.url = "http://{}:{}".format(*server.sockets[0].getsockname())
        ready.set()
        await leave.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what was closed notices

    thread = threading.Thread(target=lambda: asyncio.run(carrying()))
    thread.start()
    try:
        assert ready.wait(START_S)
        yield found
    finally:
        found.loop.call_soon_threadsafe(leave.set)
        thread.join(START_S)
