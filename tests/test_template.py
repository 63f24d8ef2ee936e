"""What template.yaml promises.

Linters see none of this, so each rule is also seen to fail: `broken_by` names changes that break
the promise in a copy of the template, and the rule must notice each.
"""

import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# CloudFormation's trees have any depth; a wrong step into one raises, and so fails the test.
Template = dict[str, Any]
Rule = Callable[[Template], None]

TABLE = {"Ref": "SessionsTable"}
TABLE_ARN = {"Fn::GetAtt": "SessionsTable.Arn"}
FUNCTION = {"Ref": "AgentFunction"}
OPERATIONS = ["Query", "PutItem", "DeleteItem", "BatchWriteItem"]
CALLER = {"Fn::If": ["IsOpenToEverybody", "*", {"Ref": "AWS::AccountId"}]}
API_GATEWAY_LIMIT_S = 30  # how long an HTTP API waits for its integration; no quota raises it

DELETE = object()
BROKEN_BY: dict[Rule, tuple[tuple[str, object], ...]] = {}


def broken_by(*changes: tuple[str, object]) -> Callable[[Rule], Rule]:
    """Name changes that break the rule: a dotted path from the root or a resource, and a value."""

    def register(rule: Rule) -> Rule:
        BROKEN_BY[rule] = changes
        return rule

    return register


def change(template: Template, path: str, value: object) -> Template:
    """Return a copy with another value, or nothing, at the path. Numbers index lists."""
    changed = copy.deepcopy(template)
    *way, last = parts = [int(part) if part.isdigit() else part for part in path.split(".")]
    here: Any = changed if parts[0] in changed else changed["Resources"]
    for part in way:
        here = here[part]
    here[last] = value
    if value is DELETE:
        del here[last]
    return changed


class CloudFormationLoader(yaml.SafeLoader):
    """Reads CloudFormation's short tags as their long forms: `!Ref x` is `{"Ref": "x"}`."""


def _long_form(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag in {"Ref", "Condition"} else f"Fn::{tag}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    assert isinstance(node, yaml.SequenceNode)
    return {name: loader.construct_sequence(node, deep=True)}


CloudFormationLoader.add_multi_constructor("!", _long_form)


def load() -> Template:
    document = yaml.load((ROOT / "template.yaml").read_text(), Loader=CloudFormationLoader)  # noqa: S506
    assert isinstance(document, dict)
    return document


def properties(template: Template, name: str) -> dict[str, Any]:
    found = template["Resources"][name]["Properties"]
    assert isinstance(found, dict)
    return found


def of_type(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    return {n: r["Properties"] for n, r in template["Resources"].items() if r["Type"] == kind}


def variables(template: Template) -> dict[str, Any]:
    found = properties(template, "AgentFunction")["Environment"]["Variables"]
    assert isinstance(found, dict)
    return found


def statements(template: Template) -> list[dict[str, Any]]:
    policies = properties(template, "FunctionRole")["Policies"]
    return [s for policy in policies for s in policy["PolicyDocument"]["Statement"]]


def watched(alarm: dict[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each metric of an alarm as (namespace, metric, the values of its plain dimensions)."""
    single = [alarm] if "MetricName" in alarm else []
    several = [m["MetricStat"]["Metric"] for m in alarm.get("Metrics", []) if "MetricStat" in m]
    for metric in single + several:
        values = [d["Value"] for d in metric["Dimensions"] if isinstance(d["Value"], str)]
        yield metric["Namespace"], metric["MetricName"], tuple(values)


@broken_by(
    ("FunctionAddress.Properties.AuthType", "NONE"),
    ("HttpApiRoute.Properties.AuthorizationType", "NONE"),
    ("Parameters.Auth.Default", "NONE"),
    ("Conditions.IsOpenToEverybody", {"Fn::Equals": [{"Ref": "Auth"}, "AWS_IAM"]}),
)
def every_front_door_asks_for_iam_unless_a_parameter_says_otherwise(template: Template) -> None:
    auth = template["Parameters"]["Auth"]
    urls = of_type(template, "AWS::Lambda::Url").values()
    routes = of_type(template, "AWS::ApiGatewayV2::Route").values()
    assert [url["AuthType"] for url in urls] == [{"Ref": "Auth"}]
    assert [route["AuthorizationType"] for route in routes] == [{"Ref": "Auth"}]
    assert auth["Default"] == "AWS_IAM"
    assert template["Conditions"]["IsOpenToEverybody"] == {"Fn::Equals": [{"Ref": "Auth"}, "NONE"]}


@broken_by(
    ("AgentFunction.Properties.FunctionUrlConfig", {"AuthType": "NONE"}),
    ("AgentFunction.Properties.Events", {"Api": {"Type": "HttpApi"}}),
)
def the_function_has_no_front_door_but_those(template: Template) -> None:
    function = properties(template, "AgentFunction")
    assert "FunctionUrlConfig" not in function
    assert "Events" not in function


@broken_by(
    ("FunctionAddress.Condition", DELETE),
    ("FunctionAddressInvokePermission.Condition", DELETE),
    ("Parameters.FunctionUrl.Default", "true"),
)
def a_function_url_exists_only_on_request(template: Template) -> None:
    conditions = {n: r["Condition"] for n, r in template["Resources"].items() if "Condition" in r}
    names = ["FunctionAddress", "FunctionAddressPermission", "FunctionAddressInvokePermission"]
    assert conditions == dict.fromkeys(names, "HasFunctionUrl")
    assert template["Parameters"]["FunctionUrl"]["Default"] == "false"


@broken_by(
    ("FunctionAddressPermission", DELETE),
    ("FunctionAddressInvokePermission", DELETE),
    ("FunctionAddressInvokePermission.Properties.InvokedViaFunctionUrl", DELETE),
)
def a_function_url_has_both_permissions(template: Template) -> None:
    granted = of_type(template, "AWS::Lambda::Permission").values()
    common = {"FunctionName": FUNCTION, "Principal": CALLER}
    url = {"Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": {"Ref": "Auth"}}
    invoke = {"Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": True}
    assert {**common, **url} in granted
    assert {**common, **invoke} in granted


@broken_by(
    ("FunctionAddressPermission.Properties.Principal", "*"),
    (
        "HttpApiPermission.Properties.SourceArn",
        {"Fn::Sub": "arn:${AWS::Partition}:execute-api:*:*:*"},
    ),
)
def only_this_api_and_this_url_may_invoke_the_function(template: Template) -> None:
    granted = of_type(template, "AWS::Lambda::Permission").values()
    others = [p for p in granted if p["Principal"] != CALLER]
    assert [p["Principal"] for p in others] == ["apigateway.amazonaws.com"]
    assert others[0]["SourceArn"]["Fn::Sub"].endswith(":${HttpApi}/*")


@broken_by(
    ("FunctionRole.Properties.Policies.0.PolicyDocument.Statement.0.Action", ["dynamodb:*"]),
    (
        "FunctionRole.Properties.Policies.0.PolicyDocument.Statement.0.Action.1",
        "dynamodb:UpdateItem",
    ),
    ("FunctionRole.Properties.Policies.0.PolicyDocument.Statement.0.Resource", "*"),
)
def the_role_allows_the_operations_in_use_on_this_table_and_no_other(template: Template) -> None:
    on_table = [s for s in statements(template) if "dynamodb" in str(s["Action"])]
    actions = [f"dynamodb:{operation}" for operation in OPERATIONS]
    assert on_table == [{"Effect": "Allow", "Action": actions, "Resource": TABLE_ARN}]


@broken_by(
    ("FunctionRole.Properties.Policies.1.PolicyDocument.Statement.0.Resource", "*"),
    ("FunctionRole.Properties.Policies.1.PolicyDocument.Statement.0.Action", ["logs:*"]),
    (
        "FunctionRole.Properties.ManagedPolicyArns",
        ["arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"],
    ),
    ("AgentFunction.Properties.Policies", ["AdministratorAccess"]),
)
def the_role_allows_nothing_else_but_its_own_log(template: Template) -> None:
    others = [s for s in statements(template) if "dynamodb" not in str(s["Action"])]
    actions = ["logs:CreateLogStream", "logs:PutLogEvents"]
    log = {"Fn::GetAtt": "LogGroup.Arn"}
    assert others == [{"Effect": "Allow", "Action": actions, "Resource": log}]
    assert "ManagedPolicyArns" not in properties(template, "FunctionRole")
    function = properties(template, "AgentFunction")
    assert function["Role"] == {"Fn::GetAtt": "FunctionRole.Arn"}
    assert "Policies" not in function


@broken_by(("AgentFunction.Properties.Environment.Variables.ANTHROPIC_API_KEY", {"Ref": "ApiKey"}))
def the_api_key_is_a_reference_to_a_secret(template: Template) -> None:
    reference = {"Fn::Sub": "{{resolve:secretsmanager:${ApiKeySecretArn}:SecretString}}"}
    assert variables(template)["ANTHROPIC_API_KEY"] == {"Fn::If": ["HasApiKey", reference, ""]}


@broken_by(("AgentFunction.Properties.Environment.Variables.AGENT", "sk-ant-api03-canary"))
def no_secret_stands_in_the_template(template: Template) -> None:
    assert not re.search(r"sk-ant-|AKIA[0-9A-Z]{16}", str(template))


@broken_by(
    ("Rules.ProductionNeedsAnApiKey.Assertions", []),
    (
        "Rules.ProductionNeedsAnApiKey.RuleCondition",
        {"Fn::Equals": [{"Ref": "Environment"}, "staging"]},
    ),
)
def production_needs_an_api_key(template: Template) -> None:
    rule = template["Rules"]["ProductionNeedsAnApiKey"]
    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "Environment"}, "production"]}
    given = {"Fn::Not": [{"Fn::Equals": [{"Ref": "ApiKeySecretArn"}, ""]}]}
    assert [a["Assert"] for a in rule["Assertions"]] == [given]


@broken_by(
    ("Parameters.Environment.Default", "development"),
    ("AgentFunction.Properties.Environment.Variables.ENVIRONMENT", "development"),
)
def the_environment_has_no_default(template: Template) -> None:
    assert "Default" not in template["Parameters"]["Environment"]
    assert variables(template)["ENVIRONMENT"] == {"Ref": "Environment"}


@broken_by(
    ("AgentFunction.Properties.Timeout", 27),
    ("AgentFunction.Properties.Timeout", 30),
    ("AgentFunction.Properties.Environment.Variables.AGENT_TIMEOUT_S", "27"),
    ("HttpApiIntegration.Properties.TimeoutInMillis", 10000),
)
def the_platform_waits_longer_than_a_turn_may_take(template: Template) -> None:
    timeout_s = properties(template, "AgentFunction")["Timeout"]
    deadline_s = int(variables(template)["AGENT_TIMEOUT_S"])
    assert deadline_s + 3 <= timeout_s < API_GATEWAY_LIMIT_S
    (integration,) = of_type(template, "AWS::ApiGatewayV2::Integration").values()
    assert "TimeoutInMillis" not in integration


@broken_by(("AgentFunction.Properties.ReservedConcurrentExecutions", DELETE))
def executions_have_a_ceiling(template: Template) -> None:
    ceiling = properties(template, "AgentFunction").get("ReservedConcurrentExecutions")
    assert ceiling == {"Ref": "ReservedConcurrency"}


@broken_by(("HttpApiStage.Properties.DefaultRouteSettings", {}))
def the_api_limits_its_rate(template: Template) -> None:
    limits = properties(template, "HttpApiStage")["DefaultRouteSettings"]
    rate = {"Ref": "RequestsPerSecond"}
    assert limits == {"ThrottlingRateLimit": rate, "ThrottlingBurstLimit": rate}


@broken_by(("HttpApiIntegration.Properties.PayloadFormatVersion", "1.0"))
def the_handler_gets_the_payload_it_reads(template: Template) -> None:
    assert properties(template, "HttpApiIntegration")["PayloadFormatVersion"] == "2.0"
    assert properties(template, "HttpApiRoute")["RouteKey"] == "$default"


@broken_by(("AgentFunction.Properties.PackageType", "Zip"))
def the_function_is_the_image(template: Template) -> None:
    assert properties(template, "AgentFunction")["PackageType"] == "Image"
    metadata = template["Resources"]["AgentFunction"]["Metadata"]
    assert (metadata["DockerContext"], metadata["Dockerfile"]) == (".", "Dockerfile")


@broken_by(
    ("AgentFunction.Properties.LoggingConfig.LogGroup", "x"),
    ("LogGroup.Properties.RetentionInDays", DELETE),
)
def the_function_logs_to_a_group_that_forgets(template: Template) -> None:
    assert properties(template, "AgentFunction")["LoggingConfig"]["LogGroup"] == {"Ref": "LogGroup"}
    assert properties(template, "LogGroup").get("RetentionInDays") == {"Ref": "LogRetentionDays"}
    assert template["Parameters"]["LogRetentionDays"]["Default"] == 30


@broken_by(("AgentFunction.Properties.Environment.Variables.SESSIONS_TABLE", "sessions"))
def the_function_knows_its_table(template: Template) -> None:
    assert variables(template)["SESSIONS_TABLE"] == TABLE


@broken_by(("AgentFunction.Properties.Environment.Variables.AWS_ENDPOINT_URL_DYNAMODB", DELETE))
def a_local_run_can_name_another_dynamodb(template: Template) -> None:
    assert variables(template).get("AWS_ENDPOINT_URL_DYNAMODB") == ""


@broken_by(
    ("SessionsTable.Properties.KeySchema.1.AttributeName", "expires"),
    ("SessionsTable.Properties.AttributeDefinitions.1.AttributeType", "S"),
    ("SessionsTable.Properties.BillingMode", "PROVISIONED"),
)
def the_table_is_keyed_by_session_and_turn(template: Template) -> None:
    table = properties(template, "SessionsTable")
    keys = [(k["AttributeName"], k["KeyType"]) for k in table["KeySchema"]]
    kinds = {a["AttributeName"]: a["AttributeType"] for a in table["AttributeDefinitions"]}
    assert keys == [("pk", "HASH"), ("turn", "RANGE")]
    assert kinds == {"pk": "S", "turn": "N"}
    assert table["BillingMode"] == "PAY_PER_REQUEST"


@broken_by(("SessionsTable.Properties.TimeToLiveSpecification.Enabled", False))
def the_table_forgets_old_turns(template: Template) -> None:
    ttl = properties(template, "SessionsTable")["TimeToLiveSpecification"]
    assert ttl == {"AttributeName": "expires", "Enabled": True}


@broken_by(("SessionsTable.Properties.PointInTimeRecoverySpecification", DELETE))
def the_table_can_be_restored_to_a_point_in_time(template: Template) -> None:
    recovery = properties(template, "SessionsTable").get("PointInTimeRecoverySpecification")
    assert recovery == {"PointInTimeRecoveryEnabled": True}


@broken_by(("SessionsTable.Properties.SSESpecification.SSEEnabled", False))
def the_table_is_encrypted(template: Template) -> None:
    assert properties(template, "SessionsTable")["SSESpecification"] == {"SSEEnabled": True}


@broken_by(("SessionsTable.DeletionPolicy", "Delete"))
def the_table_outlives_the_stack(template: Template) -> None:
    table = template["Resources"]["SessionsTable"]
    assert table["DeletionPolicy"] == table["UpdateReplacePolicy"] == "Retain"


@broken_by(("SessionsTable.Properties.DeletionProtectionEnabled", False))
def the_table_refuses_deletion(template: Template) -> None:
    assert properties(template, "SessionsTable")["DeletionProtectionEnabled"] is True


@broken_by(
    ("ErrorsAlarm", DELETE),
    ("ServerErrorsAlarm", DELETE),
    ("ThrottlesAlarm", DELETE),
    ("DurationAlarm", DELETE),
    ("TableThrottlesAlarm", DELETE),
    ("TableSystemErrorsAlarm.Properties.Metrics.2", DELETE),
)
def alarms_watch_every_way_to_fail(template: Template) -> None:
    alarms = of_type(template, "AWS::CloudWatch::Alarm").values()
    expected = {
        ("AWS/Lambda", "Errors", ()),
        ("AWS/Lambda", "Throttles", ()),
        ("AWS/Lambda", "Duration", ()),
        ("AWS/Lambda", "Url5xxCount", ()),
        ("AWS/ApiGateway", "5xx", ()),
        ("AWS/DynamoDB", "ReadThrottleEvents", ()),
        ("AWS/DynamoDB", "WriteThrottleEvents", ()),
    } | {("AWS/DynamoDB", "SystemErrors", (operation,)) for operation in OPERATIONS}
    assert {metric for alarm in alarms for metric in watched(alarm)} == expected


@broken_by(("ErrorsAlarm.Properties.AlarmActions", []))
def alarms_tell_the_topic(template: Template) -> None:
    tell = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
    alarms = of_type(template, "AWS::CloudWatch::Alarm").values()
    assert [alarm["AlarmActions"] for alarm in alarms] == [tell] * 6


@broken_by(("DurationAlarm.Properties.Threshold", 25000))
def the_duration_alarm_rings_before_the_deadline(template: Template) -> None:
    alarm = properties(template, "DurationAlarm")
    assert alarm["ExtendedStatistic"] == "p99"
    assert alarm["Threshold"] < int(variables(template)["AGENT_TIMEOUT_S"]) * 1000


CHANGES = [(rule, *each) for rule, changes in BROKEN_BY.items() for each in changes]


@pytest.fixture(scope="module")
def template() -> Template:
    return load()


@pytest.mark.parametrize("rule", BROKEN_BY, ids=lambda rule: rule.__name__)
def test_the_template_keeps_its_promise(template: Template, rule: Rule) -> None:
    rule(template)


@pytest.mark.parametrize(("rule", "path", "value"), [pytest.param(*c, id=f"{c[1]}-{i}") for i, c in enumerate(CHANGES)])
def test_a_broken_promise_is_noticed(template: Template, rule: Rule, path: str, value: object) -> None:
    with pytest.raises(AssertionError):
        rule(change(template, path, value))


def test_cfn_lint_finds_nothing() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), "template.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (lint.returncode, lint.stdout) == (0, "")
