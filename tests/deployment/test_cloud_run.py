"""service.yaml: the service on Cloud Run.

Its fields were compared with the schema of Cloud Run's Admin API v1 (revision 20261031); the limits are from there too.
"""

from typing import Any

import pytest

from tests.deployment.documents import CREDENTIALS, SETTINGS, check_config, load
from tests.deployment.promises import DELETE, Document, Promises, Rule, is_noticed

SPEC = "spec.template.spec"
CONTAINER = f"{SPEC}.containers.0"
PORT = 8000
KILLED_AFTER_S = 10  # SIGTERM to SIGKILL
# Cloud Run sets these itself and refuses a service that does. https://cloud.google.com/run/docs/container-contract
RESERVED = {"PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION"}

promises = Promises()


def container(service: Document) -> dict[str, Any]:
    [only] = service["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def plain(service: Document) -> dict[str, str]:
    """Return the variables that stand in the document."""
    return {each["name"]: each["value"] for each in container(service)["env"] if "value" in each}


def secret(service: Document) -> dict[str, Document]:
    """Return the variables that refer to a secret."""
    referring = [each for each in container(service)["env"] if "valueFrom" in each]
    return {each["name"]: each["valueFrom"]["secretKeyRef"] for each in referring}


@promises.broken_by(
    (f"{CONTAINER}.livenessProbe.httpGet.path", "/readyz"),
    (f"{CONTAINER}.readinessProbe.httpGet.path", "/healthz"),
    (f"{CONTAINER}.startupProbe", {"tcpSocket": {}}),
)
def each_probe_asks_its_own_question(service: Document) -> None:
    found = {name: probe.get("httpGet") for name, probe in container(service).items() if name.endswith("Probe")}
    ready = {"path": "/readyz"}
    assert found == {"startupProbe": ready, "livenessProbe": {"path": "/healthz"}, "readinessProbe": ready}


@promises.broken_by(
    (f"{CONTAINER}.readinessProbe.timeoutSeconds", 5),
    (f"{CONTAINER}.livenessProbe.successThreshold", 2),
    (f"{CONTAINER}.startupProbe.failureThreshold", 121),
)
def the_probes_keep_within_the_limits(service: Document) -> None:
    probes = [probe for name, probe in container(service).items() if name.endswith("Probe")]
    assert all(probe["timeoutSeconds"] < probe["periodSeconds"] for probe in probes)
    assert all(probe.get("successThreshold", 1) == 1 for probe in probes)
    startup = container(service)["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] <= 240


@promises.broken_by((f"{SPEC}.containerConcurrency", 101), (f"{SPEC}.containerConcurrency", 0))
def an_instance_gets_no_more_requests_than_it_takes_turns(service: Document) -> None:
    concurrency = service["spec"]["template"]["spec"]["containerConcurrency"]
    assert 0 < concurrency <= int(plain(service)["MAX_CONCURRENT_TURNS"])


@promises.broken_by((f"{SPEC}.timeoutSeconds", 60), (f"{SPEC}.timeoutSeconds", 3601))
def the_platform_waits_longer_than_a_turn_may_take(service: Document) -> None:
    timeout_s = service["spec"]["template"]["spec"]["timeoutSeconds"]
    assert int(plain(service)["AGENT_TIMEOUT_S"]) + 3 <= timeout_s <= 3600


@promises.broken_by((f"{CONTAINER}.env.5.value", "10"))
def a_stop_is_over_before_the_platform_kills(service: Document) -> None:
    assert int(plain(service)["SHUTDOWN_GRACE_S"]) + 2 <= KILLED_AFTER_S


@promises.broken_by((f"{CONTAINER}.ports.0.containerPort", 8080), (f"{CONTAINER}.env.0.name", "PORT"))
def the_platform_chooses_the_port(service: Document) -> None:
    assert container(service)["ports"] == [{"containerPort": PORT}]
    assert not RESERVED & {each["name"] for each in container(service)["env"]}


@promises.broken_by(
    (f"{CONTAINER}.env.10", {"name": "ANTHROPIC_API_KEY", "value": "sk-ant-api03-canary"}),
    (f"{CONTAINER}.env.12", {"name": "AWS_SECRET_ACCESS_KEY", "value": "canary"}),
    (f"{CONTAINER}.env.9.valueFrom.secretKeyRef.key", "latest"),
)
def secrets_are_references_to_one_version(service: Document) -> None:
    assert set(secret(service)) == {"ANTHROPIC_API_KEY", "AUTH_API_KEYS"} | CREDENTIALS
    assert all(reference["name"] and reference["key"].isdigit() for reference in secret(service).values())


@promises.broken_by((f"{CONTAINER}.env.2.name", "AGENT_TIMEOUT"))
def every_variable_is_a_setting(service: Document) -> None:
    assert {each["name"] for each in container(service)["env"]} <= SETTINGS | CREDENTIALS


@promises.broken_by((f"{CONTAINER}.env.0.value", "development"), (f"{CONTAINER}.env.6.name", "SESSIONS_FILE"))
def it_is_production_with_its_sessions_in_a_table(service: Document) -> None:
    assert plain(service)["ENVIRONMENT"] == "production"
    assert plain(service).get("SESSIONS_TABLE")


@promises.broken_by(
    (f"{CONTAINER}.command", ["python", "-m", "app"]),
    (f"{CONTAINER}.securityContext", {"runAsUser": 0}),
)
def the_container_starts_as_the_image_says(service: Document) -> None:
    assert not {"command", "args", "securityContext", "workingDir"} & set(container(service))


@promises.broken_by(("spec.template.metadata.annotations", {}), ("metadata.annotations", DELETE))
def instances_have_a_ceiling_and_cpu_between_requests(service: Document) -> None:
    annotations = service["spec"]["template"]["metadata"]["annotations"]
    assert int(annotations.get("autoscaling.knative.dev/maxScale", 0)) > 0
    assert annotations["run.googleapis.com/cpu-throttling"] == "false"
    assert service["metadata"].get("annotations") == {"run.googleapis.com/launch-stage": "BETA"}


@promises.broken_by((f"{SPEC}.serviceAccountName", DELETE))
def it_does_not_run_as_the_project_s_default_account(service: Document) -> None:
    assert service["spec"]["template"]["spec"].get("serviceAccountName", "").startswith("agent-service@")


@promises.broken_by((f"{CONTAINER}.env.8.value", "none"))
def callers_have_keys_of_their_own(service: Document) -> None:
    assert plain(service)["AUTH"] == "api-key"
    assert "AUTH_API_KEYS" in secret(service)


@pytest.fixture(scope="module")
def service() -> Document:
    return load("service.yaml")


@promises.kept
def test_the_service_keeps_its_promise(service: Document, rule: Rule) -> None:
    rule(service)


@promises.broken
def test_a_broken_promise_is_noticed(service: Document, rule: Rule, path: str, value: object) -> None:
    assert is_noticed(rule, service, path, value)


def test_it_is_a_service_of_cloud_run(service: Document) -> None:
    assert (service["apiVersion"], service["kind"]) == ("serving.knative.dev/v1", "Service")


def test_the_service_starts_with_these_variables(service: Document) -> None:
    secrets = dict.fromkeys(secret(service), "a secret") | {"AUTH_API_KEYS": f"me:{'0' * 64}"}
    assert check_config(plain(service) | secrets) == (0, "")
    assert check_config(plain(service))[1].splitlines() == [
        "ANTHROPIC_API_KEY is required in production",
        "AUTH_API_KEYS or AUTH_API_KEYS_FILE is required with AUTH=api-key",
    ]
