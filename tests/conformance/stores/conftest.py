"""The stores under test. Every test that takes a `rig` runs over each of them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests import servers
from tests.conformance.stores.rig import Rig, WireRig, in_memory, on_dynamodb, on_sqlite
from tests.servers import Server

SERVERS = ("moto", "dynoxide", "dynamodb-local")


def pytest_runtest_setup(item: pytest.Item) -> None:
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    for program in {"dynoxide", "dynamodb-local"}.intersection(map(str, params.values())):
        servers.require(program)


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    with servers.moto() as server:
        yield server


@pytest.fixture(scope="session")
def dynoxide() -> Iterator[Server]:
    with servers.dynoxide() as server:
        yield server


@pytest.fixture(scope="session")
def dynamodb_local() -> Iterator[Server]:
    with servers.dynamodb_local() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", *SERVERS])
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractAsyncContextManager[Rig]:
    match request.param:
        case "memory":
            return in_memory()
        case "sqlite":
            return on_sqlite(tmp_path / "sessions.db")
    return _on_server(request)


@pytest.fixture(params=SERVERS)
def deployment_on_dynamodb(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[WireRig]:
    return _on_server(request)


@pytest.fixture
async def rig(deployment: AbstractAsyncContextManager[Rig]) -> AsyncIterator[Rig]:
    async with deployment as rig:
        yield rig


@pytest.fixture
async def wire_rig(deployment_on_dynamodb: AbstractAsyncContextManager[WireRig]) -> AsyncIterator[WireRig]:
    async with deployment_on_dynamodb as rig:
        yield rig


def _on_server(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[WireRig]:
    server: Server = request.getfixturevalue(request.param.replace("-", "_"))
    return on_dynamodb(server)
