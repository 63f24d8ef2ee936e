"""Finding the agent that AGENT names: a built-in one, an async generator, or an object of a known framework."""

import importlib
import inspect
import pkgutil
from typing import cast

from app.agents import Agent
from app.errors import ConfigurationError

BUILT_IN = {"echo": "app.agents.echo:echo"}
# By the package that an object's class comes from: the module whose `adapt` makes an agent of it, and what to install.
ADAPTERS = {
    "pydantic_ai": "app.agents.from_pydantic_ai",
    "langgraph": "app.agents.from_langgraph",
    "strands": "app.agents.from_strands",
}
DISTRIBUTIONS = {
    "pydantic_ai": "pydantic-ai-slim",
    "langgraph": "langgraph",
    "langchain_core": "langgraph",
    "strands": "strands-agents",
}


def load(name: str) -> Agent:
    """Import and return the agent called `name`: one that is built in, or `module:object`.

    Raises:
        ConfigurationError: there is no such module or object, its import raises, or it is nothing that can be served.
            Without its cause, whose text holds the value of AGENT, or whatever the module raised.
    """
    found = _find(BUILT_IN.get(name, name))
    if inspect.isclass(found):
        raise ConfigurationError(["AGENT must be an async generator function or an object; this is a class"])
    if inspect.isasyncgenfunction(found) or inspect.isasyncgenfunction(
        getattr(found, "__call__", None)  # noqa: B004 the function itself is asked for, not whether there is one
    ):
        return cast("Agent", found)
    for package in (each.__module__.partition(".")[0] for each in type(found).__mro__):
        if package in ADAPTERS:
            return cast("Agent", importlib.import_module(ADAPTERS[package]).adapt(found))
    if not callable(found):
        raise ConfigurationError([f"AGENT must be something that can be called, not a {type(found).__name__}"])
    raise ConfigurationError(["AGENT must be an async generator function (async def with yield)"])


def _find(target: str) -> object:
    try:
        return pkgutil.resolve_name(target)
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package in DISTRIBUTIONS:
            raise ConfigurationError([f"AGENT needs {DISTRIBUTIONS[package]}: install it beside the service"]) from None
        raise ConfigurationError([f"AGENT cannot be found: {type(exc).__name__}"]) from None
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError([f"AGENT cannot be found: {type(exc).__name__}"]) from None
    except (Exception, SystemExit) as exc:  # noqa: BLE001 the module is the user's and may raise anything
        raise ConfigurationError([f"AGENT cannot be imported: {type(exc).__name__}"]) from None
