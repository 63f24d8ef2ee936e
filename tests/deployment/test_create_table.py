"""docker/create_table.py makes the table that template.yaml describes."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.deployment.documents import ROOT, load, properties
from tests.entry_points import environment
from tests.servers import Server, moto

NAME = "agent-sessions"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with moto() as server:
        yield server


def create(**settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "docker/create_table.py"],
        cwd=ROOT / "docs",  # no .env there
        env=environment(**CREDENTIALS, **settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_it_makes_the_table_of_the_template_and_leaves_it_alone_then(server: Server) -> None:
    for _ in range(2):
        done = create(SESSIONS_TABLE=NAME, AWS_ENDPOINT_URL_DYNAMODB=server.endpoint)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"the table is there: {NAME}\n", "")
    made = server.client.describe_table(TableName=NAME)["Table"]
    wanted = properties(load("template.yaml"), "SessionsTable")
    assert made["KeySchema"] == wanted["KeySchema"]
    assert made["AttributeDefinitions"] == wanted["AttributeDefinitions"]
    [index], [wanted_index] = made["GlobalSecondaryIndexes"], wanted["GlobalSecondaryIndexes"]
    assert {name: index[name] for name in wanted_index} == wanted_index
    assert made["BillingModeSummary"]["BillingMode"] == wanted["BillingMode"]


def test_it_makes_none_on_aws_itself() -> None:
    done = create(SESSIONS_TABLE=NAME)
    assert done.returncode == 1
    assert done.stderr == "SESSIONS_TABLE and AWS_ENDPOINT_URL_DYNAMODB must name a table of a local server\n"


def test_it_names_bad_settings_and_not_their_values(server: Server) -> None:
    done = create(SESSIONS_TABLE="?canary", AWS_ENDPOINT_URL_DYNAMODB=server.endpoint)
    assert (done.returncode, done.stderr) == (1, "SESSIONS_TABLE must be a table name or ARN\n")


def test_it_says_when_the_server_refuses(server: Server) -> None:
    done = create(SESSIONS_TABLE=NAME, AWS_ENDPOINT_URL_DYNAMODB=f"{server.endpoint}/elsewhere")
    assert (done.returncode, done.stderr) == (1, "the table was not created: UnknownError\n")
