"""`python -m tests.chaos.broken NAME,... [ENTRY]`: the service with something taken out of it, for negative controls.

ENTRY is the module whose `main` is run: the container server's, unless another one is named.

A module's source is edited before anything imports it; an edit whose text the module no longer holds is an error, so a
control cannot stay green by missing its target.
"""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True, slots=True)
class Edit:
    """What to write in `module` instead of the one place where `old` stands."""

    module: str
    old: str
    new: str


ALWAYS = "(attribute_exists(pk) OR attribute_not_exists(pk))"
CLOCK = "clock: Callable[[], float] = time.time,"

EDITS = {
    "claim unconditional": Edit("app.sessions.dynamodb", '"attribute_not_exists(pk)"', f'"{ALWAYS}"'),
    "no drain": Edit("app.main", "with drain_on_signal(lifecycle):", "if True:"),
    "no release": Edit(
        "app.turns", "            await self._release(request, claim)\n            raise", "            raise"
    ),
    "undocumented status": Edit("app.problems", "SessionNotFound: NOT_FOUND,", "SessionNotFound: METHOD_NOT_ALLOWED,"),
    "no limit of turns": Edit("app.lifecycle", "if len(self._turns) >= self._max_turns:", "if False:"),
    "no thread for tools": Edit("app.agents.tools", "result = await self._threads.run(work)", "result = work()"),
    "no look": Edit("app.turns", "running.watch(lambda: self._look(claim, running))", "pass"),
    "commit unconditional": Edit(
        "app.sessions.dynamodb", '"run = :run", item.run', f'"{ALWAYS} OR run = :run", item.run'
    ),
    "clock ahead": Edit("app.main", CLOCK, CLOCK.replace("time.time", "lambda: time.time() + 5")),
    "clock behind": Edit("app.main", CLOCK, CLOCK.replace("time.time", "lambda: time.time() - 5")),
    "no missing results": Edit("app.work", "(*self.tools, *unanswered)", "(*self.tools,)"),
    "no repair": Edit(
        "app.agents.conversation",
        "[results.get(call) or tool_result(call, NOT_FINISHED, ok=False) for call in calls]",
        "[results[call] for call in calls if call in results]",
    ),
    "own lost claim not recognised": Edit("app.sessions.claims", "head.body is None and head.run == run", "False"),
    "own protocol": Edit("app.__main__", "    return LimitedProtocol\n", '    return "auto"\n'),
    "turns are kept": Edit(
        "app.lifecycle",
        "turn.add_done_callback(self._turns.discard)",
        "turn.add_done_callback(self._turns.discard)\n        "
        "vars(self).setdefault('kept', []).append((turn, asyncio.create_task(asyncio.Event().wait()), b' ' * 20_000))",
    ),
    "read without limit": Edit(
        "app.sessions.dynamodb",
        "ConsistentRead=True,\n            Limit=limit,",
        "ConsistentRead=True,\n            Limit=100_000,",
    ),
    "hasty store connections": Edit("app.sessions.dynamodb", "IDLE_CONNECTION_S = 55", "IDLE_CONNECTION_S = 1"),
    # Not broken but hasty: limits whose whole length only the full set waits for.
    "hasty head": Edit("app.connections", "HEAD_S = 10.0", "HEAD_S = 3.0"),
    "hasty unread": Edit("app.connections", "UNREAD_S = 60.0", "UNREAD_S = 5.0"),
    "hasty body": Edit("app.main", "BODY_S = 10.0", "BODY_S = 3.0"),
    "hasty keep-alive": Edit("app.__main__", "KEEP_ALIVE_S = 75", "KEEP_ALIVE_S = 5"),
    "no retry of the store": Edit("app.sessions.dynamodb", "ATTEMPTS = 3", "ATTEMPTS = 1"),
    "no platform margin": Edit("app.deadline", "PLATFORM_MARGIN_S = 1.5", "PLATFORM_MARGIN_S = 0.0"),
    "slots of the living are taken": Edit("app.limits", "each not in held or", "True or"),
    "nothing is set aside": Edit("app.budgets", "{name: 2 * most", "{name: 0 * most"),
    "usage is not taken at once": Edit("app.turns", "await reservation.grow(work.usage)", "pass"),
    "no replay": Edit("app.sessions.claims", "if item.req == request_id:", "if False:"),
}


def apply(*edits: Edit) -> None:
    """Load the edited modules under their own names."""
    sources: dict[str, str] = {}
    for edit in edits:
        source = sources.get(edit.module) or _source(edit.module)
        if source.count(edit.old) != 1:
            raise LookupError(f"{edit.module} holds this {source.count(edit.old)} times: {edit.old}")
        sources[edit.module] = source.replace(edit.old, edit.new)
    for name, source in sources.items():
        spec = importlib.util.find_spec(name)
        assert spec
        module = ModuleType(name)
        module.__spec__, module.__file__, module.__package__ = spec, spec.origin, spec.parent
        sys.modules[name] = module
        exec(compile(source, str(spec.origin), "exec"), module.__dict__)  # noqa: S102


def _source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec
    assert spec.origin
    with open(spec.origin, encoding="utf-8") as file:  # noqa: PTH123 the one use of a file
        return file.read()


if __name__ == "__main__":
    apply(*[EDITS[name] for name in sys.argv.pop(1).split(",")])
    from app.__main__ import main

    main()
    for name in sys.argv.pop(1).split(","):
        apply(EDITS[name])
    entry = sys.argv.pop(1) if sys.argv[1:] else "app.__main__"
    importlib.import_module(entry).main()
