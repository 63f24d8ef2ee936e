"""template.yaml: the function, its settings, its limits, its log; and that the whole is a valid template."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment.documents import ROOT, SETTINGS, TABLE, load, of_type, properties, variables
from tests.deployment.promises import DELETE, Document, Promises, Rule, is_noticed

API_GATEWAY_LIMIT_S = 30  # how long an HTTP API waits for its integration; no quota raises it
LAMBDA_LIMIT_S = 900  # for an invocation, and as long a REST API that streams waits

promises = Promises()


@promises.broken_by(("AgentFunction.Properties.Environment.Variables.ANTHROPIC_API_KEY", {"Ref": "ApiKey"}))
def the_api_key_is_a_reference_to_a_secret(template: Document) -> None:
    reference = {"Fn::Sub": "{{resolve:secretsmanager:${ApiKeySecretArn}:SecretString}}"}
    assert variables(template)["ANTHROPIC_API_KEY"] == {"Fn::If": ["HasApiKey", reference, ""]}


@promises.broken_by(("AgentFunction.Properties.Environment.Variables.AGENT", "sk-ant-api03-canary"))
def no_secret_stands_in_the_template(template: Document) -> None:
    assert not re.search(r"sk-ant-|AKIA[0-9A-Z]{16}", str(template))


@promises.broken_by(
    ("Rules.ProductionNeedsAnApiKey.Assertions", []),
    (
        "Rules.ProductionNeedsAnApiKey.RuleCondition",
        {"Fn::Equals": [{"Ref": "Environment"}, "staging"]},
    ),
)
def production_needs_an_api_key(template: Document) -> None:
    rule = template["Rules"]["ProductionNeedsAnApiKey"]
    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "Environment"}, "production"]}
    given = {"Fn::Not": [{"Fn::Equals": [{"Ref": "ApiKeySecretArn"}, ""]}]}
    assert [a["Assert"] for a in rule["Assertions"]] == [given]


@promises.broken_by(
    ("Parameters.Environment.Default", "development"),
    ("AgentFunction.Properties.Environment.Variables.ENVIRONMENT", "development"),
)
def the_environment_has_no_default(template: Document) -> None:
    assert "Default" not in template["Parameters"]["Environment"]
    assert variables(template)["ENVIRONMENT"] == {"Ref": "Environment"}


@promises.broken_by(
    ("Mappings.Modes.buffer.TimeoutS", 27),
    ("Mappings.Modes.buffer.TimeoutS", 30),
    ("Mappings.Modes.buffer.TurnS", "27"),
    ("Mappings.Modes.stream.TimeoutS", 901),
    ("Mappings.Modes.stream.TurnS", "298"),
    ("AgentFunction.Properties.Timeout", 60),
    ("AgentFunction.Properties.Environment.Variables.AGENT_TIMEOUT_S", "60"),
    ("HttpApiIntegration.Properties.TimeoutInMillis", 10000),
    ("RestApiMethod.Properties.Integration.TimeoutInMillis", 29000),
    ("RestApiMethod.Properties.Integration.TimeoutInMillis", 900001),
)
def the_platform_waits_longer_than_a_turn_may_take(template: Document) -> None:
    assert properties(template, "AgentFunction")["Timeout"] == of_mode("TimeoutS")
    assert variables(template)["AGENT_TIMEOUT_S"] == of_mode("TurnS")
    modes = template["Mappings"]["Modes"]
    assert modes["buffer"]["TimeoutS"] < API_GATEWAY_LIMIT_S
    assert modes["stream"]["TimeoutS"] <= LAMBDA_LIMIT_S
    for mode in modes.values():
        assert int(mode["TurnS"]) + 3 <= mode["TimeoutS"]
    (integration,) = of_type(template, "AWS::ApiGatewayV2::Integration").values()
    assert "TimeoutInMillis" not in integration
    streaming = properties(template, "RestApiMethod")["Integration"]["TimeoutInMillis"]
    assert modes["stream"]["TimeoutS"] * 1000 < streaming <= LAMBDA_LIMIT_S * 1000


def of_mode(name: str) -> Document:
    return {"Fn::FindInMap": ["Modes", {"Ref": "ResponseMode"}, name]}


@promises.broken_by(
    ("AgentFunction.Properties.Environment.Variables.LAMBDA_RESPONSE_MODE", "stream"),
    ("Parameters.ResponseMode.Default", "stream"),
    ("Parameters.ResponseMode.AllowedValues", ["buffer", "stream", "both"]),
)
def the_function_answers_in_the_mode_of_its_front_doors(template: Document) -> None:
    mode = template["Parameters"]["ResponseMode"]
    assert variables(template)["LAMBDA_RESPONSE_MODE"] == {"Ref": "ResponseMode"}
    assert (mode["Default"], mode["AllowedValues"]) == ("buffer", ["buffer", "stream"])


@promises.broken_by(("AgentFunction.Properties.ReservedConcurrentExecutions", DELETE))
def executions_have_a_ceiling(template: Document) -> None:
    ceiling = properties(template, "AgentFunction").get("ReservedConcurrentExecutions")
    assert ceiling == {"Ref": "ReservedConcurrency"}


@promises.broken_by(("AgentFunction.Properties.PackageType", "Zip"))
def the_function_is_the_image(template: Document) -> None:
    assert properties(template, "AgentFunction")["PackageType"] == "Image"
    metadata = template["Resources"]["AgentFunction"]["Metadata"]
    assert (metadata["DockerContext"], metadata["Dockerfile"]) == (".", "Dockerfile")


@promises.broken_by(
    ("AgentFunction.Properties.LoggingConfig.LogGroup", "x"),
    ("LogGroup.Properties.RetentionInDays", DELETE),
)
def the_function_logs_to_a_group_that_forgets(template: Document) -> None:
    assert properties(template, "AgentFunction")["LoggingConfig"]["LogGroup"] == {"Ref": "LogGroup"}
    assert properties(template, "LogGroup").get("RetentionInDays") == {"Ref": "LogRetentionDays"}
    assert template["Parameters"]["LogRetentionDays"]["Default"] == 30


@promises.broken_by(("AgentFunction.Properties.Environment.Variables.SESSIONS_TABLE", "sessions"))
def the_function_knows_its_table(template: Document) -> None:
    assert variables(template)["SESSIONS_TABLE"] == TABLE


@promises.broken_by(("AgentFunction.Properties.Environment.Variables.AWS_ENDPOINT_URL_DYNAMODB", DELETE))
def a_local_run_can_name_another_dynamodb(template: Document) -> None:
    assert variables(template).get("AWS_ENDPOINT_URL_DYNAMODB") == ""


@promises.broken_by(("AgentFunction.Properties.Environment.Variables.AGENT_MAX_STEP", "6"))
def the_function_has_no_variable_that_is_no_setting(template: Document) -> None:
    assert set(variables(template)) <= SETTINGS


@pytest.fixture(scope="module")
def template() -> Document:
    return load("template.yaml")


@promises.kept
def test_the_template_keeps_its_promise(template: Document, rule: Rule) -> None:
    rule(template)


@promises.broken
def test_a_broken_promise_is_noticed(template: Document, rule: Rule, path: str, value: object) -> None:
    assert is_noticed(rule, template, path, value)


def test_cfn_lint_finds_nothing() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), "template.yaml", *sorted(ROOT.glob("deploy/*.yaml"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (lint.returncode, lint.stdout) == (0, "")
