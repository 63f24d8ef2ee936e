"""Tools: plain typed Python functions that a model may call, described by their docstrings.

    def weather(city: str, days: int = 1) -> str:
        '''Return the weather forecast of a city.'''

A function may be sync (it runs in a thread) or async. A parameter annotated `ToolKey` is not the model's to fill: it
gets a text that is the same when a retry of the turn, with its idempotency key, makes the same call again, for side
effects that must happen once.
"""

import asyncio
import contextvars
import hashlib
import inspect
import json
import logging
import pkgutil
import re
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import (
    Any,
    NewType,
    NotRequired,  # pydantic takes that of `typing` from 3.12 on
    TypeVar,
    cast,
    get_type_hints,
)

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import PydanticSerializationError, to_json
from typing_extensions import TypedDict

from app.agents import OpenTurn
from app.errors import ConfigurationError, DeadlineExceeded
from app.events import JSON

log = logging.getLogger(__name__)

T = TypeVar("T")
ToolKey = NewType("ToolKey", str)

MAX_RESULT_CHARS = 16_384  # what a model can use of one result; the turn must fit one item with all of its results
THREADS = 64  # for sync tools of the process; a call that outlives its turn holds one until it returns
SETTLE_S = 0.1  # how long tools that were cut off may clean up; it comes out of the agent's reserve at its end
NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")  # of a tool, in the Messages API


class ToolError(Exception):
    """Raise it in a tool to tell the model what went wrong; the texts of other exceptions stay in the house."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the model asks for: `args` as it sent them, `key` for the tool's ToolKey parameter."""

    id: str
    name: str
    args: JSON
    key: ToolKey


def key_of(turn: OpenTurn, step: int, index: int, name: str, args: JSON) -> ToolKey:
    """Return the key of the tool call number `index` of a step; a retry with its idempotency key has the same."""
    what = [turn.principal, turn.session_id, turn.number, turn.request, turn.message, step, index, name, args]
    return ToolKey(hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the request with this id: a text for the model, cut to MAX_RESULT_CHARS."""

    id: str
    text: str
    ok: bool


class Tool:
    """One function as the model sees it.

    Raises:
        ConfigurationError: it has no docstring, an untyped or variadic parameter, or a name the API does not take.
    """

    def __init__(self, function: Callable[..., Any], threads: "Threads") -> None:
        self.name = getattr(function, "__name__", "")
        self.description = inspect.getdoc(function) or ""
        self._function = function
        self._threads = threads
        if not NAME.fullmatch(self.name) or not inspect.isroutine(function):
            kind = self.name or type(function).__name__
            raise ConfigurationError([f"AGENT_TOOLS must list functions; {kind} is none"])
        if not self.description:
            raise ConfigurationError([f"AGENT_TOOLS: {self.name} has no docstring to describe it to the model"])
        self._key, self._arguments = _parameters(self.name, function)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of its arguments."""
        return self._arguments.json_schema()

    async def run(self, request: Request) -> Outcome:
        """Run the function and return its result; never raises for what the model or the function did."""
        try:
            arguments = self._arguments.validate_python(request.args)
            if self._key:
                arguments |= {self._key: request.key}
            return Outcome(request.id, _cut(await self._call(arguments)), ok=True)
        except ValidationError as exc:
            wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in exc.errors())
            return Outcome(request.id, _cut(f"The arguments are wrong: {wrong}"), ok=False)
        except asyncio.CancelledError as exc:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            return _failed(request, exc)
        except GeneratorExit:
            raise
        except BaseException as exc:  # noqa: BLE001 a tool is the user's code: it may raise anything, and even leave the process
            return _failed(request, exc)

    async def _call(self, arguments: Mapping[str, Any]) -> str:
        if inspect.iscoroutinefunction(self._function):
            return _text(await self._function(**arguments))
        work = partial(contextvars.copy_context().run, self._call_here, arguments)
        result = await self._threads.run(work)
        return result if isinstance(result, str) else _text(await result)

    def _call_here(self, arguments: Mapping[str, Any]) -> str | Awaitable[object]:
        try:
            result = self._function(**arguments)
            return result if inspect.isawaitable(result) else _text(result)
        except ValidationError as exc:  # of the tool's own making, and no word about the model's arguments
            raise ToolError(_name_of(exc)) from exc


class Threads:
    """Runs functions in threads, at most `most` at once.

    Daemon threads, which Python does not wait for: a tool that never returns must not keep the process from ending.
    """

    def __init__(self, most: int) -> None:
        self._free = most

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns.

        Raises:
            ToolError: no thread is free; waiting for one could last for ever.
        """
        if not self._free:
            log.error("all tool threads are taken")
            raise ToolError("Too many tools are running. Try again later.")
        self._free -= 1
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: BaseException | None) -> None:
            self._free += 1
            if not ended.done():
                ended.set_exception(error) if error else ended.set_result(cast("T", result))

        def run() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = work()
            except StopIteration as exc:  # no future takes it
                error = ToolError(_name_of(exc))
            except BaseException as exc:  # noqa: BLE001 it is told to whoever waits
                error = exc
            with suppress(RuntimeError):  # the loop was closed, so nobody waits
                loop.call_soon_threadsafe(finish, result, error)

        threading.Thread(target=run, name="tool", daemon=True).start()
        return await ended


class Toolbox:
    """The tools that a model may call, and nothing else."""

    def __init__(self, functions: Sequence[Callable[..., Any]] = ()) -> None:
        threads = Threads(THREADS)
        tools = [Tool(function, threads) for function in functions]
        self._tools = {tool.name: tool for tool in tools}
        if len(self._tools) < len(tools):
            raise ConfigurationError(["AGENT_TOOLS lists two functions of one name"])
        self.definitions = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in tools
        ]

    @property
    def names(self) -> frozenset[str]:
        """The names of the tools."""
        return frozenset(self._tools)

    async def run(self, requests: Sequence[Request], deadline: float) -> AsyncGenerator[Outcome, None]:
        """Run all at once and yield what came of each as it ends.

        Raises:
            DeadlineExceeded: the deadline, on the running event loop's clock, passed before all had ended.
        """
        tasks = [asyncio.create_task(self._run(request)) for request in requests]
        try:
            for ended in asyncio.as_completed(tasks):
                try:
                    async with asyncio.timeout_at(deadline):
                        outcome = await ended
                except TimeoutError:
                    raise DeadlineExceeded from None
                yield outcome
        finally:
            for task in tasks:
                task.cancel()
            if not all(task.done() for task in tasks):
                await asyncio.wait(tasks, timeout=SETTLE_S)

    async def _run(self, request: Request) -> Outcome:
        tool = self._tools.get(request.name)
        if tool is None:
            return Outcome(request.id, "There is no tool of this name.", ok=False)
        return await tool.run(request)


def load(name: str | None) -> Toolbox:
    """Import and return the tools that `name` lists: `module:object`, an iterable of functions. None means none.

    Raises:
        ConfigurationError: there is no such module or object, its import raises, or it lists what is no tool.
    """
    if name is None:
        return Toolbox()
    try:
        functions = list(pkgutil.resolve_name(name))
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError([f"AGENT_TOOLS cannot be found: {type(exc).__name__}"]) from None
    except TypeError:
        raise ConfigurationError(["AGENT_TOOLS must name a list of functions"]) from None
    except (Exception, SystemExit) as exc:  # noqa: BLE001 the module is the user's and may raise anything
        raise ConfigurationError([f"AGENT_TOOLS cannot be imported: {type(exc).__name__}"]) from None
    return Toolbox(functions)


def _parameters(name: str, function: Callable[..., Any]) -> tuple[str | None, TypeAdapter[Any]]:
    """Return the name of the ToolKey parameter, if there is one, and what validates the others."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 an annotation is code
        raise ConfigurationError([f"AGENT_TOOLS: the types of {name} cannot be read"]) from None
    key, fields = None, {}
    for each in inspect.signature(function).parameters.values():
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) or each.name not in hints:
            raise ConfigurationError([f"AGENT_TOOLS: parameter {each.name} of {name} must have a name and a type"])
        if hints[each.name] is ToolKey:
            key = each.name
        else:
            optional = each.default is not each.empty
            fields[each.name] = NotRequired[hints[each.name]] if optional else hints[each.name]
    arguments: Any = TypedDict(name, fields)  # type: ignore[misc]  # made at run time
    try:
        return key, TypeAdapter(with_config(ConfigDict(extra="forbid"))(arguments))
    except (PydanticSchemaGenerationError, PydanticUserError):
        raise ConfigurationError([f"AGENT_TOOLS: a parameter of {name} has a type that JSON cannot carry"]) from None


def _failed(request: Request, error: BaseException) -> Outcome:
    """Return what the model hears: the text of a ToolError, of any other error its name."""
    return Outcome(request.id, _cut(_text(str(error)) if isinstance(error, ToolError) else _name_of(error)), ok=False)


def _name_of(error: BaseException) -> str:
    return f"The tool failed: {type(error).__name__}"


def _text(result: object) -> str:
    """Return a result as the model reads it: texts as they are, anything else as JSON."""
    if isinstance(result, str):
        return result.encode("utf-8", "replace").decode()
    try:
        return to_json(result, inf_nan_mode="constants").decode()
    except (PydanticSerializationError, ValueError) as exc:
        raise ToolError("The tool returned something that is not JSON.") from exc


def _cut(text: str) -> str:
    if len(text) <= MAX_RESULT_CHARS:
        return text
    return f"{text[:MAX_RESULT_CHARS]}\n[cut here: {len(text)} characters in all]"
