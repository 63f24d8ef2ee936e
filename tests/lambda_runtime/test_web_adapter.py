"""AWS's own Lambda Web Adapter in front of `python -m app`, under the fake service: the same conversations again.

What is imported with a star are these conversations. They take their `client` from here.
"""

import shlex
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.entry_points import Client, HTTPClient, environment
from tests.fake_model import in_thread as model_in_thread
from tests.lambda_runtime.front_door import Running, in_thread
from tests.lambda_runtime.service import Function
from tests.machine import START_S, free_port, tool, wait_until
from tests.model_process import heard_while_it_speaks, variables_for
from tests.test_bad_input import *  # noqa: F403 as said
from tests.test_conversations import *  # noqa: F403 as said
from tests.test_front_doors import CONVERSATION, Told, expected, over_http, told

__all__ = ["expected"]

ADAPTER = tool("web-adapter")
MODES = ["response_stream", "buffered"]
# Lambda starts what is in /opt/extensions first, and the function's command beside it.
COMMAND = ["sh", "-c", f"{shlex.quote(ADAPTER)} & exec {shlex.quote(sys.executable)} -m app"]
STORE = {"SESSIONS_TABLE": "sessions", "AWS_REGION": "eu-central-1"}
STORE |= {"AWS_ACCESS_KEY_ID": "canary", "AWS_SECRET_ACCESS_KEY": "canary"}


@contextmanager
def adapted(
    folder: Path, mode: str = MODES[0], variables: dict[str, str] | None = None, **how: Any
) -> Iterator[tuple[Running, httpx2.Client]]:
    """Yield a function that is the container server behind the adapter, and a client of it."""
    port = str(free_port())
    settings = {
        "PORT": port,
        "AWS_LWA_PORT": port,
        "AWS_LWA_READINESS_CHECK_PATH": "/readyz",
        "AWS_LWA_INVOKE_MODE": mode,
        "AWS_LAMBDA_FUNCTION_NAME": "",  # on Lambda itself no session may be kept in a file
    }
    function = Function(COMMAND, folder, environment(**settings, **(variables or {})), **how)
    with in_thread(function) as running, httpx2.Client(base_url=running.url, timeout=START_S) as http:
        yield running, http


@pytest.fixture(scope="module", params=MODES)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The service behind the adapter in each of its modes."""
    folder = tmp_path_factory.mktemp("adapter")
    with adapted(folder, request.param) as (running, http):
        http.get("/healthz").raise_for_status()
        [pid] = running.pids
        yield HTTPClient(folder, http)
        assert running.pids == [pid]


class Table(BaseHTTPRequestHandler):
    """A DynamoDB that fails until its server is `opened`, and then finds nothing."""

    def do_POST(self) -> None:
        assert isinstance(self.server, Store)
        self.server.asked += 1
        body = b'{"Items": [], "Count": 0}'
        self.send_response(200 if self.server.opened.is_set() else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Store(ThreadingHTTPServer):
    """The server of the table."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Table)
        self.opened = threading.Event()
        self.asked = 0


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join(START_S)


def test_a_chunk_reaches_the_client_while_the_agent_still_speaks(tmp_path: Path) -> None:
    with model_in_thread() as model, adapted(tmp_path, variables=variables_for(model)) as (_, http):
        assert heard_while_it_speaks(http, model) == ["one", " two", " three"]


@pytest.mark.parametrize("mode", MODES)
def test_the_answers_are_those_of_the_server_itself(tmp_path: Path, mode: str, expected: dict[str, Told]) -> None:
    """But where a path climbs: the adapter resolves it, the service does not."""
    with adapted(tmp_path, mode) as (running, _):
        port = int(running.url.rpartition(":")[2])
        found = {name: told(over_http(port, request)) for name, request in CONVERSATION.items()}
    assert (found.pop("a path that climbs")[0], expected["a path that climbs"][0]) == (200, 404)
    assert found.items() <= expected.items()
    assert len(found) == len(expected) - 1


def test_nothing_is_invoked_before_the_service_is_ready(tmp_path: Path, store: Store) -> None:
    """Its store does not answer, so /readyz is 503, and the adapter does not ask for an invocation."""
    endpoint = f"http://127.0.0.1:{store.server_address[1]}"
    variables = {**STORE, "AWS_ENDPOINT_URL_DYNAMODB": endpoint}
    with adapted(tmp_path, variables=variables) as (running, http), ThreadPoolExecutor() as callers:
        answer = callers.submit(http.get, "/readyz")
        wait_until(lambda: store.asked > 3, what="the service looks for its store")
        [made] = running.door.service.environments
        assert (made.extensions, made.opened.is_set(), made.waiting, answer.done()) == (
            ["lambda-adapter"],
            False,
            0,
            False,
        )
        store.opened.set()
        assert (answer.result(START_S).status_code, made.opened.is_set()) == (200, True)


def test_a_freeze_between_two_turns_is_not_noticed(tmp_path: Path) -> None:
    with adapted(tmp_path, freeze=True) as (running, http):
        for number in (1, 2, 3):
            answer = http.post("/chat", json={"message": "hello", "session_id": "frozen"})
            assert (answer.status_code, answer.json()["turn"]) == (200, number)
            wait_until(lambda: running.frozen, what="the environment is frozen")
        assert len(running.pids) == 1


def test_the_service_hears_of_the_end_of_its_environment(tmp_path: Path) -> None:
    """The adapter is an extension, and only with one does Lambda send SIGTERM."""
    with adapted(tmp_path) as (running, http):
        http.get("/healthz").raise_for_status()
        running.stop()
        assert '"phase": "draining"' in running.log.read_text()
