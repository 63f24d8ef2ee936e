"""DynamoDB-compatible servers to test against: moto in a thread, dynoxide, Amazon's DynamoDB Local.

Each is a context manager that yields a running `Server`. A server whose program is not named in the environment skips
the test that asks for it; with REQUIRE_ALL=1 it fails it.
"""

import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiodynamo.credentials import Key, StaticCredentials

REGION = "us-east-1"
CREDENTIALS = StaticCredentials(key=Key(id="local", secret="local"))  # noqa: S106 no server here checks it
START_S = 30.0  # a JVM on a busy machine; the others need well below a second


@dataclass(frozen=True, slots=True)
class Server:
    """A server that speaks DynamoDB's protocol at `endpoint`."""

    endpoint: str
    client: Any  # boto3 makes its classes at run time

    def create_table(self) -> str:
        """Create an empty table for sessions and return its name, which nobody else has."""
        name = f"sessions-{uuid.uuid4().hex}"
        self.client.create_table(
            TableName=name,
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
        return name


@contextmanager
def moto() -> Iterator[Server]:
    """moto's server in a thread of this process."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 a second that the other servers do not cost

    with _atomic_moto():
        server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            with _server(server.get_host_and_port()[1]) as found:
                yield found
        finally:
            server.stop()


@contextmanager
def dynoxide() -> Iterator[Server]:
    """The binary that DYNOXIDE names, its table in memory."""
    binary = _named("DYNOXIDE", ".ci/dynoxide")
    port = _free_port()
    with _process([str(binary), "serve", "--port", str(port)], port) as server:
        yield server


@contextmanager
def dynamodb_local() -> Iterator[Server]:
    """Amazon's own, from the directory of jars and native libraries that DYNAMODB_LOCAL names; needs Java."""
    directory = _named("DYNAMODB_LOCAL", ".ci/dynamodb-local")
    port = _free_port()
    command = [
        *("java", f"-Djava.library.path={directory}", "-cp", f"{directory}/*"),
        *("com.amazonaws.services.dynamodbv2.local.main.ServerRunner", "-inMemory", "-port", str(port)),
    ]
    with _process(command, port) as server:
        yield server


@contextmanager
def _atomic_moto() -> Iterator[None]:
    """Let moto handle one request at a time.

    Its conditional writes are not atomic under threads: one race in a hundred has two winners. The service's are, so
    without this lock the suite would judge moto.
    """
    from moto.dynamodb.responses import DynamoHandler  # noqa: PLC0415 see `moto`

    lock, plain = threading.RLock(), DynamoHandler.call_action

    def call_action(self: DynamoHandler) -> Any:  # noqa: ANN401 as in moto
        with lock:
            return plain(self)

    DynamoHandler.call_action = call_action  # type: ignore[method-assign]  # the point of it
    try:
        yield
    finally:
        DynamoHandler.call_action = plain  # type: ignore[method-assign]  # as above


@contextmanager
def _server(port: int) -> Iterator[Server]:
    endpoint = f"http://127.0.0.1:{port}"
    key = CREDENTIALS.key
    assert key is not None
    client = boto3.client(
        "dynamodb",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=key.id,
        aws_secret_access_key=key.secret,
    )
    with closing(client):
        yield Server(endpoint, client)


@contextmanager
def _process(command: Sequence[str], port: int) -> Iterator[Server]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_it_listens(process, port)
            with _server(port) as server:
                yield server
        finally:
            process.terminate()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"the server did not start: {process.args!r}", pytrace=False)


def _named(variable: str, script: str) -> Path:
    if value := os.environ.get(variable):
        return Path(value)
    reason = f"{variable} is not set; {script} prints its value"
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
