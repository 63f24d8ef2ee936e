"""Conversations on Lambda with a model that stalls, drips or asks to retry later: none is ended by the platform."""

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from tests.chaos.callers import Outcome, chat
from tests.chaos.trial import Bar, Trial
from tests.fake_model import FakeModel
from tests.faults import Faults, Proxy
from tests.lambda_runtime.emulator import BUFFERED, STREAMING
from tests.lambda_runtime.front_door import FrontDoor
from tests.lambda_runtime.service import Function, Service
from tests.lambda_runtime.stuck_model import FAULTS, script
from tests.model_process import variables_for
from tests.servers import sessions_table

TIMEOUT_S = 6.0
CONVERSATIONS_SHORT, CONVERSATIONS_FULL = 14, 100
ENVIRONMENTS = 7
STORE_S = 0.4  # what a call of a slow store takes; the last one comes after the turn's deadline
WITHOUT_MARGIN = (sys.executable, "-m", "tests.chaos.broken", "no platform margin", "app.lambda_runtime")


async def run(trial: Trial) -> None:
    commands = [WITHOUT_MARGIN] if trial.broken else [BUFFERED, STREAMING]
    conversations = CONVERSATIONS_FULL if trial.full else CONVERSATIONS_SHORT
    with ExitStack() as stack:
        table = stack.enter_context(sessions_table())
        for command in commands:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            faults = Faults()
            faults.delay_s = STORE_S
            async with FakeModel() as model, Proxy(table.endpoint, faults) as store, aiohttp.ClientSession() as http:
                model.otherwise = script
                settings = {**table.settings, **variables_for(model), "AGENT_TOOLS": "tests.model_tools:with_stuck"}
                settings["AWS_ENDPOINT_URL_DYNAMODB"] = store
                function = Function(command, folder, settings, timeout_s=TIMEOUT_S, environments=ENVIRONMENTS)
                async with FrontDoor(Service(function)) as door:
                    await _hold(trial, http, door, conversations // len(commands))
                    trial.check(door.service.report == [], f"the platform: {door.service.report}")
    trial.demand("conversations", conversations)


async def _hold(trial: Trial, http: aiohttp.ClientSession, door: FrontDoor, conversations: int) -> None:
    """Hold conversations, as many at once as there are environments."""
    free = asyncio.Semaphore(ENVIRONMENTS)
    await asyncio.gather(*[_warm(http, door) for _ in range(ENVIRONMENTS)])

    async def one(number: int) -> None:
        fault = list(FAULTS)[number % len(FAULTS)]
        async with free:
            await _converse(trial, http, door.url, f"{door.url.rpartition(':')[2]}-{number}", fault)

    await asyncio.gather(*[one(number) for number in range(conversations)])


async def _warm(http: aiohttp.ClientSession, door: FrontDoor) -> None:
    """Start an environment, in a time that no invocation has."""
    async with http.get(f"{door.url}/healthz") as answer:
        await answer.read()


async def _converse(trial: Trial, http: aiohttp.ClientSession, url: str, session: str, fault: str) -> None:
    """Meet the fault; then the session must go on as if it had not been."""
    trial.saw("conversations")
    stream = trial.random.random() < 0.5
    met = await chat(http, url, session, fault, stream=stream)
    told = FAULTS[fault][1]
    trial.check(_told(met) == told, f"{fault}: told {met.status} {_told(met) or met.text[-80:]!r}, not {told}")
    if told == "deadline":
        trial.check((met.done or {}).get("answer"), f"{fault}: nothing of what was said is in the answer")
    after = await chat(http, url, session, "and now?")
    turn = 2 if told == "deadline" else 1
    trial.check(after.done and after.done["turn"] == turn, f"after {fault} the session answers {after.status}")


def _told(outcome: Outcome) -> str:
    if outcome.done is not None:
        return str(outcome.done["stop_reason"])
    return "" if outcome.cut or not outcome.text.startswith(("{", "event")) or _is_platforms(outcome) else outcome.slug


def _is_platforms(outcome: Outcome) -> bool:
    """Whether the platform and not the service answered."""
    return outcome.status >= 400 and "type" not in outcome.json


BAR = Bar(
    name="invocations",
    promise="On Lambda every turn is answered before the platform ends it, whatever the model does.",
    control="the margin before the platform's timeout",
    run=run,
)
