"""The image that the tests of this directory run."""

import pytest

from tests.container.engine import build


@pytest.fixture(scope="session", autouse=True)
def _image() -> None:
    build()
