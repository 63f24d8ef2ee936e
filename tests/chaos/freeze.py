"""A Lambda environment that is frozen while its connections are closed, or forgotten by the network."""

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from tests.chaos.callers import chat
from tests.chaos.trial import Bar, Trial
from tests.fake_model import in_thread as model_in_thread
from tests.lambda_runtime.emulator import BUFFERED, STREAMING
from tests.lambda_runtime.front_door import FrontDoor
from tests.lambda_runtime.network import Network, network
from tests.lambda_runtime.service import Function, Service
from tests.model_process import variables_for
from tests.servers import sessions_table

FROZEN_SHORT_S, FROZEN_FULL_S = 2.0, 70.0
OVER_S = 3.0  # the time of a usual turn, which is none
WITHOUT_RETRY = (sys.executable, "-m", "tests.chaos.broken", "no retry of the store", "app.lambda_runtime")


async def run(trial: Trial) -> None:
    commands = [WITHOUT_RETRY] if trial.broken else [BUFFERED, STREAMING]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        await asyncio.gather(
            *[_freeze(trial, http, command, forget=forget) for command in commands for forget in (False, True)]
        )
    trial.demand("freezes", 2 * len(commands))


async def _freeze(trial: Trial, http: aiohttp.ClientSession, command: tuple[str, ...], *, forget: bool) -> None:
    """Take a turn, freeze the process, end its connections and take another turn."""
    how = f"{'forgotten' if forget else 'closed'}, {command[2]}"
    with ExitStack() as stack:
        table = stack.enter_context(sessions_table())
        model = stack.enter_context(model_in_thread())
        nets = stack.enter_context(network(table.endpoint)), stack.enter_context(network(model.url))
        urls = {"AWS_ENDPOINT_URL_DYNAMODB": nets[0].url, "ANTHROPIC_BASE_URL": nets[1].url}
        folder = Path(stack.enter_context(TemporaryDirectory()))
        function = Function(command, folder, {**table.settings, **variables_for(model), **urls}, freeze=True)
        async with FrontDoor(Service(function)) as door:
            first = await chat(http, door.url, "frozen", "hello")
            trial.check(first.done, f"{how}: the first turn answers {first.status}")
            # A model that is forgotten for less than IDLE_S is only noticed by its silence.
            _end(nets if trial.full or not forget else nets[:1], forget=forget)
            await asyncio.sleep(FROZEN_FULL_S if trial.full else FROZEN_SHORT_S)
            trial.saw("freezes", sum(each.frozen for each in door.service.environments))
            began = asyncio.get_running_loop().time()
            second = await chat(http, door.url, "frozen", "again")
            took_s = asyncio.get_running_loop().time() - began
            trial.check(second.done and second.done["turn"] == 2, f"{how}: the next turn answers {second.status}")
            trial.check(took_s < OVER_S, f"{how}: the next turn took {took_s:.1f} s")
            tried = sum(each.tried for each in nets)
            trial.check(tried <= 1, f"{how}: {tried} dead connections were tried")
            trial.check(len(model.requests) <= 2, f"{how}: the model was asked {len(model.requests)} times")


def _end(nets: tuple[Network, ...], *, forget: bool) -> None:
    for each in nets:
        each.forget() if forget else each.close()


BAR = Bar(
    name="freeze",
    promise="After a freeze in which every connection has died, the next turn is answered with at most one retry.",
    control="the store's second attempt",
    run=run,
)
