"""The cold starts of the zip and of the image under AWS's own Lambda emulator.

It starts the runtime with the first invocation, so that a process and its first event begin at once.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from benchmarks import runtimes
from benchmarks.cases import HELLO as BARE
from benchmarks.cases import Effort
from benchmarks.invoke import event
from benchmarks.lambda_cases import ASKED, Variables, environments, seconds, starts
from benchmarks.measure import ROOT, Row
from benchmarks.runtimes import GOOD, children, free_port
from tests import package
from tests.container import engine
from tests.lambda_runtime.emulator import PLATFORM, Emulator, emulator
from tests.machine import listens, wait_until

ZIP, IMAGE = "cold start of the zip", "cold start of the image"
HELLO = {ZIP: f"{BARE}, from the zip", IMAGE: f"{BARE}, in the image"}
HELLO_FILE = ROOT / "benchmarks" / "hello.py"
COLD = {"echo": 1.6}  # the handler's target, wherever it runs
OF_THIS_MACHINE = ("PATH", "PYTHONPATH")  # the image has its own


@dataclass(frozen=True)
class Start(runtimes.Start):
    """What the runtime needed for its first answer.

    wall_s:  since it was asked
    whole_s: since the emulator, or the container with it, was to start
    """

    whole_s: float


Case: TypeAlias = Callable[[str, Variables, object], Start]


def zip_cold_start(effort: Effort) -> Iterator[Row]:
    """Process start to first answer of the zip's content, with nothing else installed."""
    rie = os.environ.get("RIE")
    if not effort.ungated:
        return
    if not rie:
        yield Row(ZIP, HELLO[ZIP], "not run: no emulator")
        return
    with tempfile.TemporaryDirectory() as folder:
        package.build(Path(folder))
        yield from of_zip(rie, Path(folder), effort)


def of_zip(rie: str, folder: Path, effort: Effort) -> Iterator[Row]:
    """Yield the rows of the zip whose content is in the folder."""
    for agent, pairs in _pairs(partial(_start_zip, rie, folder), effort):
        yield from starts(f"{ZIP}, {agent}", HELLO[ZIP], pairs, COLD.get(agent))


def image_cold_start(effort: Effort) -> Iterator[Row]:
    """The same of the image, with the emulator as its entry point, and from `docker run` on."""
    rie = os.environ.get("RIE")
    if not effort.ungated:
        return
    if not rie or not os.environ.get("ENGINE"):
        yield Row(IMAGE, HELLO[IMAGE], f"not run: no {'engine' if rie else 'emulator'}")
        return
    engine.build()
    for agent, pairs in _pairs(partial(_start_image, rie), effort):
        yield from starts(f"{IMAGE}, {agent}", HELLO[IMAGE], pairs, COLD.get(agent))
        whole = [(floor.whole_s, case.whole_s) for floor, case in pairs]
        yield seconds(f"{IMAGE}, {agent}, from `docker run`", HELLO[IMAGE], whole)


def _pairs(start: Case, effort: Effort) -> Iterator[tuple[str, list[tuple[Start, Start]]]]:
    """Yield the starts of the floor and of the handler, by agent; the first may compile, and goes uncounted."""
    with environments() as agents:
        for agent, variables in agents.items():
            pairs = [
                (start("hello.handler", variables, event("GET", "/")), start("handler.handler", variables, ASKED))
                for _ in range(1 + effort.cold)
            ]
            yield agent, pairs[1:]


def _start_zip(rie: str, folder: Path, handler: str, variables: Variables, asked: object) -> Start:
    """Start the emulator where the zip lies unpacked, as Lambda does; `-S` keeps every other package out."""
    path = os.pathsep.join(map(str, (folder, HELLO_FILE.parent)))
    command = [sys.executable, "-S", "-m", "awslambdaric", handler]
    with tempfile.TemporaryDirectory() as scratch:
        began, log = time.perf_counter(), Path(scratch, "log")
        with emulator(rie, variables | {"PYTHONPATH": path}, log, command=command, folder=folder) as running:
            assert running.pid
            return _ask(running, running.pid, asked, began)


def _start_image(rie: str, handler: str, variables: Variables, asked: object) -> Start:
    """Run the image as Lambda does. It shares this machine's network, where the canned servers are."""
    port = free_port()
    listen = ["--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    listen += ["--runtime-api-address", f"127.0.0.1:{free_port()}"]
    entry = engine.config("Entrypoint")
    assert isinstance(entry, list)
    options = ["--network", "host", "--read-only", "--tmpfs", "/tmp"]  # noqa: S108 in the container
    options += ["--volume", f"{rie}:/rie:ro", "--entrypoint", "/rie"]
    options += ["--volume", f"{HELLO_FILE}:/srv/{HELLO_FILE.name}:ro"]
    known = {name: value for name, value in (PLATFORM | variables).items() if name not in OF_THIS_MACHINE}
    options += [f"--env={name}={value}" for name, value in known.items()]
    began = time.perf_counter()
    with engine.container(*options, arguments=[*listen, *entry, handler]) as running:
        wait_until(lambda: listens("127.0.0.1", port), what="the emulator listens")
        pid = int(running.inspect("{{.State.Pid}}"))
        return _ask(Emulator("127.0.0.1", port), pid, asked, began)


def _ask(running: Emulator, pid: int, asked: object, began: float) -> Start:
    """Invoke for the first time, and count what the runtime took, without the emulator above it."""
    asked_at = time.perf_counter()
    reply = running.invoke(asked)
    answered = time.perf_counter()
    if not GOOD.search(reply.body):
        raise RuntimeError(f"{reply}\n{running.log.read_text() if running.log else ''}")
    [runtime] = children(pid)
    return Start(runtime.cpu_s(), answered - asked_at, answered - began)
