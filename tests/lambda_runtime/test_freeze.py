"""A process that was frozen finds its connections closed or forgotten, and answers with at most one retry."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from app.config import Settings
from app.lambda_environment import IDLE_S, Environment
from app.main import create_app
from tests.fake_model import FakeModel
from tests.fake_model import in_thread as model_in_thread
from tests.lambda_runtime import agents
from tests.lambda_runtime.emulator import BUFFERED, STREAMING
from tests.lambda_runtime.front_door import Running, in_thread
from tests.lambda_runtime.network import Network, network
from tests.lambda_runtime.service import Function
from tests.machine import START_S, wait_until
from tests.memory_store import MemoryStore
from tests.model_process import variables_for
from tests.servers import sessions_table

OVER_S = 3.0  # the usual time, at most


@pytest.fixture(params=[BUFFERED, STREAMING], ids=["buffered", "streaming"])
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return tuple(request.param)


@contextmanager
def frozen(command: tuple[str, ...], folder: Path) -> Iterator[tuple[Running, FakeModel, Network, Network]]:
    """Yield a service that has taken a turn and is frozen, with its networks to the store and to the model."""
    with ExitStack() as stack:
        table = stack.enter_context(sessions_table())
        model = stack.enter_context(model_in_thread())
        store_net = stack.enter_context(network(table.endpoint))
        model_net = stack.enter_context(network(model.url))
        urls = {"AWS_ENDPOINT_URL_DYNAMODB": store_net.url, "ANTHROPIC_BASE_URL": model_net.url}
        function = Function(command, folder, {**table.settings, **variables_for(model), **urls}, freeze=True)
        running = stack.enter_context(in_thread(function))
        assert say(running) == 1
        wait_until(lambda: running.frozen, what="it is frozen")
        yield running, model, store_net, model_net


def say(running: Running) -> int:
    """Take a turn and return its number."""
    body = {"message": "hello", "session_id": "frozen"}
    answer = httpx2.post(f"{running.url}/chat", json=body, timeout=START_S)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["turn"])


def test_connections_that_were_closed_in_a_freeze_cost_one_retry(command: tuple[str, ...], tmp_path: Path) -> None:
    with frozen(command, tmp_path) as (running, model, *networks):
        before = [len(each.connections) for each in networks]
        for each in networks:
            each.close()
        began = time.monotonic()
        assert say(running) == 2
        assert time.monotonic() - began < OVER_S
        assert [len(each.connections) for each in networks] == [count + 1 for count in before]
        assert len(model.requests) == 2


def test_a_store_connection_that_was_forgotten_in_a_freeze_costs_one_retry(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    with frozen(command, tmp_path) as (running, _, store_net, _):
        store_net.forget()
        began = time.monotonic()
        assert say(running) == 2
        assert time.monotonic() - began < OVER_S
        assert store_net.tried == 1


@pytest.mark.parametrize(
    ("idle_s", "told"), [(IDLE_S - 1, "opened"), (IDLE_S + 1, "opened closed opened")], ids=["short", "long"]
)
def test_after_a_long_freeze_no_connection_is_used_again(idle_s: float, told: str) -> None:
    """Whatever the event loop's own clock did meanwhile."""
    clock = [1000.0]
    agent = agents.Snapshot()
    app = create_app(Settings(_env_file=None), store=MemoryStore(), agent=agent)
    environment = Environment(app, lambda: clock[0])
    environment.open()
    clock[0] += idle_s
    environment.loop.run_until_complete(environment.prepare())
    assert agent.told == told
    environment.loop.run_until_complete(app.state.clients.close())
    environment.loop.close()
    asyncio.set_event_loop(None)
