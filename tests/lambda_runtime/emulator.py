"""AWS's Lambda Runtime Interface Emulator with our handler under it."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.machine import free_port, listens, wait_until

ROOT = Path(__file__).parents[2]
INVOKE = "/2015-03-31/functions/function/invocations"
TIMEOUT_S = 29  # as template.yaml has it
BUFFERED = (sys.executable, "-m", "awslambdaric", "handler.handler")
STREAMING = (sys.executable, "-m", "app.lambda_runtime")
# What Lambda sets and the emulator does not.
PLATFORM = {
    "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What the platform hands back: its own status, and the bytes the function (or the failure) gave."""

    status: int
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        document = json.loads(self.body)
        assert isinstance(document, dict)
        return document

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON object in the HTTP answer that the function gave."""
        answer = json.loads(self.document["body"])
        assert isinstance(answer, dict)
        return answer

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the HTTP answer, whichever of the two shapes its front door reads."""
        several = self.document.get("multiValueHeaders") or {}
        single = self.document.get("headers") or {}
        return {k.lower(): v[-1] for k, v in several.items()} | {k.lower(): v for k, v in single.items()}


@dataclass(frozen=True, slots=True)
class Emulator:
    """One Lambda environment. Never two invocations at once: the emulator dies of it."""

    host: str
    port: int
    log: Path | None = None
    pid: int | None = None

    def invoke(self, event: object) -> Reply:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request("POST", INVOKE, json.dumps(event))
            response = connection.getresponse()
            return Reply(response.status, response.read())
        finally:
            connection.close()


def http_event(method: str, path: str, document: object = None) -> dict[str, Any]:
    """An HTTP API event, made from the one in events/."""
    event: dict[str, Any] = load_event("http_api_chat")
    event["rawPath"] = event["requestContext"]["http"]["path"] = path
    event["requestContext"]["http"]["method"] = method
    event["body"] = None if document is None else json.dumps(document)
    return event


def load_event(name: str) -> dict[str, Any]:
    event = json.loads((ROOT / "events" / f"{name}.json").read_text())
    assert isinstance(event, dict)
    return event


@contextmanager
def emulator(
    rie: str,
    settings: Mapping[str, str],
    log: Path,
    timeout_s: int = TIMEOUT_S,
    command: Sequence[str] = BUFFERED,
    folder: Path = ROOT,
) -> Iterator[Emulator]:
    """A new environment that ends with the block. Nothing of ours is imported before the first call.

    timeout_s: after which it ends an invocation
    command:   of the runtime
    folder:    where the code is
    """
    port, api_port = free_port(), free_port()
    emulate = [rie, "--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    emulate += ["--runtime-api-address", f"127.0.0.1:{api_port}"]
    # Through `env`, because the emulator would obey some of our settings itself (LOG_LEVEL).
    runtime = ["env", *(f"{name}={value}" for name, value in settings.items())]
    runtime += command
    with (
        log.open("wb") as output,
        subprocess.Popen(
            emulate + runtime,
            cwd=folder,
            env=PLATFORM | {"PATH": os.environ["PATH"], "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout_s)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as process,
    ):
        try:
            wait_until(lambda: listens("127.0.0.1", port), limit_s=10, what="the emulator listens")
            yield Emulator("127.0.0.1", port, log, process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the runtime is a child of the emulator
