"""Every front door's event through AWS's own runtime client, and a result that it would not survive."""

from collections.abc import Iterator

import pytest

from tests.lambda_events import DOORS, Request, answer_to
from tests.lambda_runtime.emulator import Emulator, emulator, http_event
from tests.machine import tool
from tests.servers import sessions_table

RIE = tool("rie")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An environment with a session of seven turns of almost a megabyte each."""
    with sessions_table() as table:
        settings = table.settings | {"AGENT": "tests.agents:lengthy"}
        with emulator(RIE, settings, tmp_path_factory.mktemp("doors") / "log") as environment:
            turn = http_event("POST", "/chat", {"message": "hello", "session_id": "s"})
            assert {environment.invoke(turn).document["statusCode"] for _ in range(7)} == {200}
            yield environment


@pytest.mark.parametrize("door", DOORS)
def test_a_result_that_the_runtime_refuses_is_never_given(environment: Emulator, door: str) -> None:
    """The runtime client ends the process over one of more than 6,291,556 bytes."""
    for limit, status in ((1, 200), (7, 500)):
        event = DOORS[door](Request("GET", f"/sessions/s?limit={limit}"))
        reply = environment.invoke(event)
        answer = answer_to(event, reply.document)
        assert (reply.status, answer.status) == (200, status)
        assert answer.headers.get("x-cold-start") is None
    assert answer.slug == "response-too-large"
