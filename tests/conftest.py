"""What every test may ask for."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import OWN_PREFIXES, Settings
from tests.entry_points import ENTRY_POINTS, Client
from tests.package import build


@pytest.fixture
def anyio_backend() -> str:
    """The service runs on asyncio only: aiohttp does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the variables of whoever runs it."""
    ours = {str(field.validation_alias) for field in Settings.model_fields.values()}
    for name in os.environ:
        if name in ours or name.startswith(OWN_PREFIXES):
            monkeypatch.delenv(name)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a laptop, with sessions in a file of the test's own."""
    return Settings(_env_file=None, sessions_file=tmp_path / "sessions.db")


@pytest.fixture(scope="session", params=ENTRY_POINTS)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The service behind each of its entry points in turn; a test that uses it runs once for each."""
    with ENTRY_POINTS[request.param](tmp_path_factory.mktemp(request.param)) as client:
        yield client


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the zip is made of; no test adds to it."""
    folder = tmp_path_factory.mktemp("package")
    build(folder)
    return folder
