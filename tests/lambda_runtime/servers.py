"""Real parts for tests of whole processes: tools, ports, a table on a DynamoDB-compatible server."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest

REQUIRE_ALL = os.environ.get("REQUIRE_ALL") == "1"
REGION = "us-east-1"
# No server here checks them, and every client insists on having some.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_REGION": REGION}


def tool(variable: str, script: str) -> str:
    """Return what the variable holds. Without it a module is skipped in one line, or fails."""
    if value := os.environ.get(variable):
        return value
    reason = f"{variable} is not set; {script} prints its value"
    if REQUIRE_ALL:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], *, limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


def listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Table:
    """A table and the settings by which the service finds it."""

    endpoint: str
    name: str

    @property
    def settings(self) -> dict[str, str]:
        address = {"SESSIONS_TABLE": self.name, "AWS_ENDPOINT_URL_DYNAMODB": self.endpoint}
        return CREDENTIALS | address

    def turns(self, session_id: str) -> list[dict[str, Any]]:
        """The stored turns of a session, oldest first."""
        items = _client(self.endpoint).scan(TableName=self.name, ConsistentRead=True)["Items"]
        owned = [item for item in items if item["pk"]["S"].endswith(f"/{session_id}")]
        return sorted(owned, key=lambda item: int(item["turn"]["N"]))


@contextmanager
def sessions_table(host: str = "127.0.0.1") -> Iterator[Table]:
    """A new table on a new server: dynoxide where DYNOXIDE names it, else moto."""
    binary = os.environ.get("DYNOXIDE") or (REQUIRE_ALL and tool("DYNOXIDE", ".ci/dynoxide"))
    with _dynoxide(binary, host) if binary else _moto(host) as endpoint:
        table = Table(endpoint, "agent-sessions")
        _client(endpoint).create_table(
            TableName=table.name,
            KeySchema=[
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "turn", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "turn", "AttributeType": "N"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        yield table


@contextmanager
def _dynoxide(binary: str, host: str) -> Iterator[str]:
    port = free_port(host)
    command = [binary, "serve", "--host", host, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: listens(host, port), limit_s=10, what="dynoxide listens")
            yield f"http://{host}:{port}"
        finally:
            server.terminate()


@contextmanager
def _moto(host: str) -> Iterator[str]:
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 a second that dynoxide does not cost

    server = ThreadedMotoServer(host, 0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def _client(endpoint: str) -> Any:
    return boto3.client(
        "dynamodb",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106 no server here checks it
    )
