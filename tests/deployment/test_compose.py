"""compose.yaml, and the settings of `sam local` that lean on it."""

import re
from typing import Any

import pytest

from app.config import Settings
from tests.deployment.documents import CREDENTIALS, ROOT, SETTINGS, check_config, load, variables
from tests.deployment.promises import DELETE, Document, Promises, Rule, is_noticed

SESSIONS = {"SESSIONS_TABLE", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_REGION"} | CREDENTIALS

promises = Promises()


def text(name: str) -> str:
    return (ROOT / name).read_text()


def environment_of(compose: Document, name: str) -> dict[str, Any]:
    found = compose["services"][name]["environment"]
    assert isinstance(found, dict)
    return found


@promises.broken_by(
    ("services.agent.depends_on.table.condition", "service_started"),
    ("services.table.depends_on", DELETE),
)
def the_agent_starts_when_its_table_is_there(compose: Document) -> None:
    services = compose["services"]
    assert services["agent"]["depends_on"] == {"table": {"condition": "service_completed_successfully"}}
    assert list(services["table"].get("depends_on", {})) == ["dynamodb"]


@promises.broken_by(
    ("services.table.environment.SESSIONS_TABLE", "sessions"),
    ("services.table.environment.AWS_ENDPOINT_URL_DYNAMODB", "http://localhost:8000"),
    ("services.dynamodb", DELETE),
)
def the_table_is_made_where_the_agent_looks(compose: Document) -> None:
    agent, table = environment_of(compose, "agent"), environment_of(compose, "table")
    assert table == {name: agent[name] for name in SESSIONS}
    assert table["AWS_ENDPOINT_URL_DYNAMODB"] == "http://dynamodb:8000"
    assert "dynamodb" in compose["services"]


@promises.broken_by(("services.table.image", "python"), ("services.table.entrypoint", ["python", "create-table.py"]))
def the_table_is_made_by_our_own_image(compose: Document) -> None:
    agent, table = compose["services"]["agent"], compose["services"]["table"]
    assert (table["image"], table["build"]) == (agent["image"], agent["build"]) == ("agent-service", ".")
    [[ours, there, mode]] = [volume.split(":") for volume in table["volumes"]]
    assert (ROOT / ours).is_file()
    assert (["python", there.removeprefix("/srv/")], mode) == (table["entrypoint"], "ro")


@promises.broken_by(("services.dynamodb.command", "-jar DynamoDBLocal.jar -inMemory"))
def every_access_key_sees_the_same_tables(compose: Document) -> None:
    assert compose["services"]["dynamodb"]["command"].split()[:2] == ["-jar", "DynamoDBLocal.jar"]
    assert {"-inMemory", "-sharedDb"} <= set(compose["services"]["dynamodb"]["command"].split())


@promises.broken_by(("services.dynamodb.image", "amazon/dynamodb-local:latest"))
def dynamodb_local_is_the_version_that_the_suite_runs_on(compose: Document) -> None:
    version = re.search(r"^version=(.+)$", text(".ci/dynamodb-local"), re.MULTILINE)
    assert version
    assert compose["services"]["dynamodb"]["image"] == f"amazon/dynamodb-local:{version[1]}"


@promises.broken_by(
    ("services.agent.ports.0", "${PORT:-8000}:8000"),
    ("services.agent.ports.0", "127.0.0.1:8000:8080"),
    ("services.dynamodb.ports", ["8000:8000"]),
)
def only_the_agent_is_reached_and_only_from_this_machine(compose: Document) -> None:
    published = {name: each["ports"] for name, each in compose["services"].items() if "ports" in each}
    assert published == {"agent": ["127.0.0.1:${PORT:-8000}:8000"]}


@promises.broken_by(("services.agent.healthcheck", {"test": ["CMD", "true"]}))
def the_agent_is_healthy_when_it_is_ready(compose: Document) -> None:
    assert "http://127.0.0.1:8000/readyz" in str(compose["services"]["agent"]["healthcheck"]["test"])


@promises.broken_by(("services.agent.stop_grace_period", "9s"))
def a_stop_waits_for_the_drain(compose: Document) -> None:
    grace_s = Settings.model_fields["shutdown_grace_s"].default
    assert "SHUTDOWN_GRACE_S" not in environment_of(compose, "agent")
    assert int(compose["services"]["agent"]["stop_grace_period"].removesuffix("s")) >= grace_s + 2


@promises.broken_by(
    ("services.agent.read_only", False),
    ("services.agent.cap_drop", DELETE),
    ("services.agent.user", "0"),
)
def the_agent_may_do_nothing_but_serve(compose: Document) -> None:
    agent = compose["services"]["agent"]
    locked = {"read_only": True, "tmpfs": "/tmp", "cap_drop": ["ALL"]}  # noqa: S108 in the container
    assert locked.items() <= {"cap_drop": [], **agent}.items()
    assert agent["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in agent


@promises.broken_by(("services.agent.environment.LOGLEVEL", "INFO"))
def every_variable_is_a_setting(compose: Document) -> None:
    assert set(environment_of(compose, "agent")) <= SETTINGS | CREDENTIALS


@promises.broken_by(("name", "agent"))
def sam_local_joins_the_network_that_this_makes(compose: Document) -> None:
    commands = load("samconfig.toml")["default"]
    networks = {commands[name]["parameters"]["docker_network"] for name in ("local_invoke", "local_start_api")}
    assert networks == {f"{compose['name']}_default"}


@promises.broken_by(("services.agent.environment.SESSIONS_TABLE", "sessions"))
def sam_local_uses_the_same_table(compose: Document) -> None:
    local = load("docker/sam-local.json")["Parameters"]
    same = {"ENVIRONMENT", "AUTH", "SESSIONS_TABLE", "AWS_ENDPOINT_URL_DYNAMODB"}
    assert local == {name: environment_of(compose, "agent")[name] for name in same}


@promises.broken_by(("services.table", DELETE))
def the_services_that_the_documents_name_exist(compose: Document) -> None:
    documents = [text(name) for name in ("README.md", "samconfig.toml", "compose.yaml")]
    named = [re.findall(r"docker compose run --rm (\w+)", document) for document in documents]
    assert all(named)
    assert {service for names in named for service in names} <= set(compose["services"])


@pytest.fixture(scope="module")
def compose() -> Document:
    # Through JSON-like copies, or a change of what an anchor shares would change both its places.
    return load("compose.yaml")


@promises.kept
def test_the_project_keeps_its_promise(compose: Document, rule: Rule) -> None:
    rule(compose)


@promises.broken
def test_a_broken_promise_is_noticed(compose: Document, rule: Rule, path: str, value: object) -> None:
    assert is_noticed(rule, compose, path, value)


def test_the_agent_starts_with_these_variables(compose: Document) -> None:
    # The defaults that Compose puts in the place of ${NAME:-default}.
    given = {
        name: re.sub(r"\$\{\w+:-(\w*)\}", r"\1", value) for name, value in environment_of(compose, "agent").items()
    }
    assert check_config(given) == (0, "")
    assert check_config(given | {"AWS_REGION": ""}) == (78, "AWS_REGION is required with SESSIONS_TABLE\n")


def test_sam_local_sets_no_variable_that_the_template_does_not_declare() -> None:
    """It would drop it without a word."""
    declared = set(variables(load("template.yaml")))
    assert set(load("docker/sam-local.json")["Parameters"]) <= declared
