"""Fixtures of the agents' conformance suite."""

from collections.abc import Iterator

import pytest

from tests.conformance.agents.rig import SUBJECTS, WITH_MODEL, WITHOUT_MODEL, Subject


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Each agent in turn."""
    with SUBJECTS[request.param]() as subject:
        yield subject


@pytest.fixture(params=WITH_MODEL)
def modelled(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Each agent that calls a model."""
    with SUBJECTS[request.param]() as subject:
        yield subject


@pytest.fixture(params=WITHOUT_MODEL)
def plain(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Each agent that calls none."""
    with SUBJECTS[request.param]() as subject:
        yield subject
