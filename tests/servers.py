"""DynamoDB-compatible servers to test against: moto in a thread, dynoxide, Amazon's DynamoDB Local.

Each is a context manager that yields a running `Server`. A server whose program is not named in the environment skips
the test that asks for it; with REQUIRE_ALL=1 it fails it. Ask with `require` before the fixtures of a test are set up,
and pytest reports one line for a server, not one for each test.
"""

import os
import subprocess
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
from aiodynamo.credentials import Key, StaticCredentials

from tests.machine import free_port, listens, tool, wait_until

REGION = "us-east-1"
CREDENTIALS = StaticCredentials(key=Key(id="local", secret="local"))  # noqa: S106 no server here checks it
BATCH_WRITES = 25  # BatchWriteItem's limit


@dataclass(frozen=True, slots=True)
class Table:
    """A table on a server that answers `client`, and the settings by which the service finds it."""

    name: str
    endpoint: str
    client: Any  # boto3 makes its classes at run time

    @property
    def settings(self) -> dict[str, str]:
        """The variables of a service that keeps its sessions here."""
        key = CREDENTIALS.key
        assert key is not None
        credentials = {"AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret, "AWS_REGION": REGION}
        return credentials | {"SESSIONS_TABLE": self.name, "AWS_ENDPOINT_URL_DYNAMODB": self.endpoint}

    def turns(self, session_id: str) -> list[dict[str, Any]]:
        """Return the stored turns of a session, oldest first."""
        items = self.client.scan(TableName=self.name, ConsistentRead=True)["Items"]
        owned = [item for item in items if item["pk"]["S"].endswith(f"/{session_id}")]
        return sorted(owned, key=lambda item: int(item["turn"]["N"]))


@dataclass(frozen=True, slots=True)
class Server:
    """A server that speaks DynamoDB's protocol at `endpoint`; `crowd` is how many writers it takes in a test's time."""

    endpoint: str
    client: Any  # boto3 makes its classes at run time
    crowd: int = 50

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
                {"AttributeName": "principal", "AttributeType": "S"},
                {"AttributeName": "created", "AttributeType": "N"},
            ],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": "begun",
                    "KeySchema": [
                        {"AttributeName": "principal", "KeyType": "HASH"},
                        {"AttributeName": "created", "KeyType": "RANGE"},
                    ],
                    "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["expires"]},
                }
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        return name

    def repeat_newest(self, table: str, pk: str, turns: int) -> None:
        """Copy the newest turn of the partition `pk` to the numbers above it, up to `turns`."""
        page = self.client.query(
            TableName=table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": pk}},
            ScanIndexForward=False,
            Limit=1,
        )
        puts = [
            {"PutRequest": {"Item": {**later, "turn": {"N": str(number)}}}}
            for newest in page["Items"]
            for later in [{name: newest[name] for name in newest.keys() - {"principal", "created"}}]
            for number in range(int(newest["turn"]["N"]) + 1, turns + 1)
        ]
        for first in range(0, len(puts), BATCH_WRITES):
            answer = self.client.batch_write_item(RequestItems={table: puts[first : first + BATCH_WRITES]})
            assert not answer["UnprocessedItems"]


def require(program: str) -> str:
    """Return where the program is, or skip or fail the test that asks."""
    return tool(program, for_module=False)


@contextmanager
def moto(host: str = "127.0.0.1") -> Iterator[Server]:
    """Serve moto in a thread of this process."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 a second that the other servers do not cost

    with _atomic_moto():
        server = ThreadedMotoServer(host, port=0, verbose=False)
        server.start()
        try:
            with _server(host, server.get_host_and_port()[1], crowd=20) as found:  # its queries scan the whole table
                yield found
        finally:
            server.stop()


@contextmanager
def dynoxide(host: str = "127.0.0.1") -> Iterator[Server]:
    """Serve the binary that DYNOXIDE names, its tables in memory."""
    binary, port = Path(require("dynoxide")).absolute(), free_port(host)
    with _process([str(binary), "serve", "--host", host, "--port", str(port)], host, port) as server:
        yield server


@contextmanager
def dynamodb_local() -> Iterator[Server]:
    """Serve Amazon's own, from the directory of jars and native libraries that DYNAMODB_LOCAL names; needs Java."""
    directory, port = Path(require("dynamodb-local")).absolute(), free_port()
    command = [
        *("java", f"-Djava.library.path={directory}", "-cp", f"{directory}/*"),
        *("com.amazonaws.services.dynamodbv2.local.main.ServerRunner", "-inMemory", "-port", str(port)),
    ]
    with _process(command, "127.0.0.1", port) as server:
        yield server


@contextmanager
def sessions_table(host: str = "127.0.0.1") -> Iterator[Table]:
    """Make a new table on a new server: dynoxide where DYNOXIDE names it or everything is required, else moto."""
    real = os.environ.get("DYNOXIDE") or os.environ.get("REQUIRE_ALL") == "1"
    with (dynoxide if real else moto)(host) as server:
        yield Table(server.create_table(), server.endpoint, server.client)


@contextmanager
def _atomic_moto() -> Iterator[None]:
    """Let moto handle one request at a time.

    Its conditional writes are not atomic under threads: one race in a hundred has two winners. The service's are, so
    without this lock the suite would judge moto.
    """
    from moto.dynamodb.responses import DynamoHandler  # noqa: PLC0415 see `moto`

    lock, plain = threading.RLock(), DynamoHandler.call_action

    def call_action(self: DynamoHandler) -> Any:
        with lock:
            return plain(self)

    DynamoHandler.call_action = call_action  # type: ignore[method-assign]  # the point of it
    try:
        yield
    finally:
        DynamoHandler.call_action = plain  # type: ignore[method-assign]  # as above


@contextmanager
def _server(host: str, port: int, crowd: int = 50) -> Iterator[Server]:
    endpoint = f"http://{host}:{port}"
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
        yield Server(endpoint, client, crowd)


@contextmanager
def _process(command: Sequence[str], host: str, port: int) -> Iterator[Server]:
    with (
        TemporaryDirectory() as directory,  # DynamoDB Local writes a file into the one it was started in
        subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
    ):
        try:
            wait_until(lambda: listens(host, port) or process.poll() is not None, what=f"{command[0]} listens")
            assert process.poll() is None, f"it did not start: {command[0]}"
            with _server(host, port) as server:
                yield server
        finally:
            process.terminate()
