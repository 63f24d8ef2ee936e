"""The image that the tests of this directory run."""

import pytest

from tests.container.engine import IMAGE, docker


@pytest.fixture(scope="session", autouse=True)
def _image() -> None:
    docker("build", "--tag", IMAGE, ".", limit_s=110)
