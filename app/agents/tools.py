"""Tools: plain typed Python functions that a model may call, described by their docstrings.

    def weather(city: str, days: int = 1) -> str:
        '''Return the weather forecast of a city.'''

A function may be sync (it runs in a thread) or async. A parameter annotated `ToolKey` is not the model's to fill: it
gets a text that is the same whenever the same call of the same turn is made again, for side effects that must happen
once.
"""

import asyncio
import contextvars
import hashlib
import inspect
import json
import pkgutil
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import (
    Any,
    NewType,
    NotRequired,  # pydantic takes that of `typing` from 3.12 on
    get_type_hints,
)

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import PydanticSerializationError, to_json
from typing_extensions import TypedDict

from app.agents import OpenTurn
from app.errors import ConfigurationError, DeadlineExceeded
from app.events import JSON

ToolKey = NewType("ToolKey", str)

MAX_RESULT_CHARS = 16_384  # what a model can use of one result; the turn must fit one item with all of its results
THREADS = 64  # for sync tools; a call that outlives its turn holds one until it returns
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
    """Return the key of the tool call that is number `index` of a step; a retry of the same turn gives the same."""
    what = [turn.principal, turn.session_id, turn.number, turn.message, step, index, name, args]
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

    def __init__(self, function: Callable[..., Any], threads: ThreadPoolExecutor) -> None:
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
        except ValidationError as exc:
            wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in exc.errors())
            return Outcome(request.id, _cut(f"The arguments are wrong: {wrong}"), ok=False)
        if self._key:
            arguments |= {self._key: request.key}
        try:
            return Outcome(request.id, _cut(await self._call(arguments)), ok=True)
        except ToolError as exc:
            return Outcome(request.id, _cut(_text(str(exc))), ok=False)

    async def _call(self, arguments: Mapping[str, Any]) -> str:
        if not inspect.iscoroutinefunction(self._function):
            work = partial(contextvars.copy_context().run, self._call_here, arguments)
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return _text(await self._function(**arguments))
        except (Exception, asyncio.CancelledError, SystemExit) as exc:  # if we cancelled it, nobody waits for this
            raise _failure(exc) from exc

    def _call_here(self, arguments: Mapping[str, Any]) -> str:
        try:
            return _text(self._function(**arguments))
        except BaseException as exc:  # a StopIteration would get lost on its way out of the thread
            raise _failure(exc) from exc


class Toolbox:
    """The tools that a model may call, and nothing else."""

    def __init__(self, functions: Sequence[Callable[..., Any]] = ()) -> None:
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tool")
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
    except Exception as exc:  # noqa: BLE001 the module is the user's and may raise anything
        raise ConfigurationError([f"AGENT_TOOLS cannot be imported: {type(exc).__name__}"]) from None
    return Toolbox(functions)


def _parameters(name: str, function: Callable[..., Any]) -> tuple[str | None, TypeAdapter[Any]]:
    """Return the name of the ToolKey parameter, if there is one, and what validates the others."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as exc:  # an annotation is code
        raise ConfigurationError([f"AGENT_TOOLS: the types of {name} cannot be read"]) from exc
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
    except (PydanticSchemaGenerationError, PydanticUserError) as exc:
        raise ConfigurationError([f"AGENT_TOOLS: a parameter of {name} has a type that JSON cannot carry"]) from exc


def _failure(error: BaseException) -> ToolError:
    """Return what the model hears. A tool is the user's code: it may raise anything, and even leave the process."""
    return error if isinstance(error, ToolError) else ToolError(f"The tool failed: {type(error).__name__}")


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
