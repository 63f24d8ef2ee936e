"""deploy/zip.yaml and deploy/web-function.yaml: what they share with template.yaml, and what is their own."""

import re

import pytest

from app.web_function import LONGEST_S, MARGIN_S
from tests.deployment import callers
from tests.deployment.documents import OPERATIONS, ROOT, SETTINGS, load, of_type, properties, statements
from tests.deployment.promises import DELETE, Document, Promises, Rule, is_noticed

ARN = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${SessionsTable}"
KEY = {"Fn::Sub": "{{resolve:secretsmanager:${ApiKeySecretArn}:SecretString}}"}
POLICIES = "FunctionRole.Properties.Policies"
ZIP, WEB = "deploy/zip.yaml", "deploy/web-function.yaml"
# Not settings of ours: what Lambda and pydantic read.
FOREIGN = {"AWS_LAMBDA_PYTHON_ENTRYPOINT", "PYDANTIC_DISABLE_PLUGINS"}

of_both, of_zip, of_web = Promises(), Promises(), Promises()


def environment(template: Document) -> Document:
    """Return the variables of the function or of the revision."""
    for resource in template["Resources"].values():
        match resource["Properties"]:
            case {"Environment": {"Variables": found}} | {"ServiceConfig": {"EnvironmentVariables": found}}:
                assert isinstance(found, dict)
                return found
    raise AssertionError("no environment")


@of_both.broken_by(
    (f"{POLICIES}.0.PolicyDocument.Statement.0.Action", ["dynamodb:*"]),
    (f"{POLICIES}.0.PolicyDocument.Statement.0.Resource", "*"),
    (f"{POLICIES}.0.PolicyDocument.Statement.1.Action", "dynamodb:Scan"),
    (f"{POLICIES}.0.PolicyDocument.Statement.1.Resource", {"Fn::Sub": f"{ARN}/*"}),
    (f"{POLICIES}.1.PolicyDocument.Statement.0.Resource", "*"),
    (f"{POLICIES}.1.PolicyDocument.Statement.0.Action", ["logs:*"]),
    ("FunctionRole.Properties.ManagedPolicyArns", ["arn:aws:iam::aws:policy/AdministratorAccess"]),
)
def the_role_allows_the_operations_in_use_on_the_table_and_its_own_log(template: Document) -> None:
    assert statements(template) == [
        {"Effect": "Allow", "Action": [f"dynamodb:{name}" for name in OPERATIONS], "Resource": {"Fn::Sub": ARN}},
        {"Effect": "Allow", "Action": "dynamodb:Query", "Resource": {"Fn::Sub": f"{ARN}/index/begun"}},
        {
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": {"Fn::GetAtt": "LogGroup.Arn"},
        },
    ]
    assert "ManagedPolicyArns" not in properties(template, "FunctionRole")


@of_both.broken_by(("LogGroup.Properties.RetentionInDays", DELETE), ("Parameters.LogRetentionDays.Default", 3653))
def its_log_forgets(template: Document) -> None:
    assert properties(template, "LogGroup").get("RetentionInDays") == {"Ref": "LogRetentionDays"}
    assert template["Parameters"]["LogRetentionDays"]["Default"] == 30


@of_both.broken_by(
    ("Rules.ProductionNeedsAnApiKey.Assertions", []),
    ("Parameters.Environment.Default", "development"),
)
def production_needs_a_key_and_is_never_meant_by_mistake(template: Document) -> None:
    given = {"Fn::Not": [{"Fn::Equals": [{"Ref": "ApiKeySecretArn"}, ""]}]}
    assert [a["Assert"] for a in template["Rules"]["ProductionNeedsAnApiKey"]["Assertions"]] == [given]
    assert "Default" not in template["Parameters"]["Environment"]
    assert environment(template)["ENVIRONMENT"] == {"Ref": "Environment"}


@of_zip.broken_by(
    ("AgentFunction.Properties.Environment.Variables.ANTHROPIC_API_KEY", {"Ref": "ApiKey"}),
    ("AgentFunction.Properties.Environment.Variables.AGENT", "sk-ant-api03-canary"),
    ("AgentFunction.Properties.Environment.Variables.AGENT_MAX_STEP", "6"),
    ("AgentFunction.Properties.Environment.Variables.SESSIONS_TABLE", "sessions"),
)
def the_function_is_told_settings_and_no_secret(template: Document) -> None:
    told = environment(template)
    assert told["ANTHROPIC_API_KEY"] == {"Fn::If": ["HasApiKey", KEY, ""]}
    assert told["SESSIONS_TABLE"] == {"Ref": "SessionsTable"}
    assert set(told) <= SETTINGS | FOREIGN
    assert not re.search(r"sk-ant-|AKIA[0-9A-Z]{16}", str(template))


@of_zip.broken_by(
    ("AgentFunction.Properties.SnapStart", DELETE),
    ("AgentFunction.Properties.SnapStart.ApplyOn", "None"),
    ("AgentFunction.Properties.AutoPublishAlias", DELETE),
    ("AgentFunction.Properties.AutoPublishAliasAllProperties", False),
    ("AgentFunction.Properties.PackageType", "Image"),
    ("AgentFunction.Properties.EphemeralStorage", {"Size": 1024}),
    ("AgentFunction.Properties.ProvisionedConcurrencyConfig", {"ProvisionedConcurrentExecutions": 1}),
    (
        "HttpApiIntegration.Properties.IntegrationUri.Fn::Sub",
        "arn:aws:apigateway:r:lambda:path/2015-03-31/functions/${AgentFunction.Arn}/invocations",
    ),
    ("HttpApiPermission.Properties.FunctionName", {"Ref": "AgentFunction"}),
)
def the_front_door_leads_to_a_published_snapshot(template: Document) -> None:
    """SnapStart leaves $LATEST cold, and goes with neither provisioned concurrency nor more than 512 MB of /tmp."""
    function = properties(template, "AgentFunction")
    assert function.get("SnapStart") == {"ApplyOn": "PublishedVersions"}
    assert (function.get("AutoPublishAlias"), function.get("AutoPublishAliasAllProperties")) == ("live", True)
    assert not {"EphemeralStorage", "ProvisionedConcurrencyConfig"} & set(function)
    assert function["PackageType"] == "Zip"
    assert properties(template, "HttpApiIntegration")["IntegrationUri"]["Fn::Sub"].endswith(
        "/functions/${AgentFunction.Arn}:live/invocations"
    )
    assert properties(template, "HttpApiPermission")["FunctionName"] == {"Ref": "AgentFunction.Alias"}


@of_zip.broken_by(
    ("AgentFunction.Properties.Timeout", 30),
    ("AgentFunction.Properties.Timeout", 27),
    ("AgentFunction.Properties.Environment.Variables.AGENT_TIMEOUT_S", "27"),
    ("AgentFunction.Properties.ReservedConcurrentExecutions", DELETE),
    ("AgentFunction.Properties.Environment.Variables.LAMBDA_RESPONSE_MODE", "stream"),
    ("AgentFunction.Properties.FunctionUrlConfig", {"AuthType": "NONE", "InvokeMode": "RESPONSE_STREAM"}),
)
def a_buffered_function_behind_an_http_api_answers_in_time(template: Document) -> None:
    function, told = properties(template, "AgentFunction"), environment(template)
    assert int(told["AGENT_TIMEOUT_S"]) + 3 <= function["Timeout"] <= 29
    assert function.get("ReservedConcurrentExecutions") == {"Ref": "ReservedConcurrency"}
    assert "LAMBDA_RESPONSE_MODE" not in told  # the managed runtime brings its own client, which collects answers
    assert not {"FunctionUrlConfig", "Events", "Policies"} & set(function)


@of_zip.broken_by(
    ("HttpApiRoute.Properties.AuthorizationType", "NONE"),
    ("Parameters.Auth.Default", "NONE"),
    ("HttpApiPermission.Properties.SourceArn", DELETE),
    ("HttpApiStage.Properties.DefaultRouteSettings", {}),
    ("HttpApiIntegration.Properties.PayloadFormatVersion", "1.0"),
)
def the_http_api_asks_for_iam_and_limits_its_rate(template: Document) -> None:
    assert properties(template, "HttpApiRoute")["AuthorizationType"] == {"Ref": "Auth"}
    assert template["Parameters"]["Auth"]["Default"] == "AWS_IAM"
    source = properties(template, "HttpApiPermission").get("SourceArn", {"Fn::Sub": "any"})
    assert source["Fn::Sub"].endswith(":${HttpApi}/*")
    rate = {"Ref": "RequestsPerSecond"}
    limits = {"ThrottlingRateLimit": rate, "ThrottlingBurstLimit": rate}
    assert properties(template, "HttpApiStage")["DefaultRouteSettings"] == limits
    assert properties(template, "HttpApiIntegration")["PayloadFormatVersion"] == "2.0"


of_zip.broken_by(*callers.CHANGES)(callers.whom_iam_lets_in_is_the_principal_unless_callers_have_keys)


@of_zip.broken_by(
    ("AgentFunction.Metadata.BuildMethod", "python3.13"),
    ("AgentFunction.Properties.Runtime", "python3.12"),
    ("Parameters.Architecture.Default", "x86_64"),
)
def the_build_is_for_the_machine_that_runs_it(template: Document) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert template["Resources"]["AgentFunction"]["Metadata"]["BuildMethod"] == "makefile"
    assert re.findall(r"^(\w+) \?= (\S+)$", makefile, re.MULTILINE)[1:] == [
        ("ARCH", template["Parameters"]["Architecture"]["Default"]),
        ("FOR", properties(template, "AgentFunction")["Runtime"].removeprefix("python")),
    ]


@of_web.broken_by(
    ("Revision.Properties.ServiceConfig.TimeoutSeconds", 298),
    ("Revision.Properties.ServiceConfig.TimeoutSeconds", 901),
    ("Revision.Properties.ServiceConfig.EnvironmentVariables.AGENT_TIMEOUT_S", "300"),
)
def a_turn_ends_before_its_stream_is_cut(template: Document) -> None:
    timeout_s = properties(template, "Revision")["ServiceConfig"]["TimeoutSeconds"]
    assert int(environment(template)["AGENT_TIMEOUT_S"]) + MARGIN_S <= timeout_s <= LONGEST_S


@of_web.broken_by(
    ("Revision.Properties.ServiceConfig.EnvironmentVariables.AWS_LAMBDA_PYTHON_ENTRYPOINT", "main:app"),
    ("Revision.Properties.ServiceConfig.EnvironmentVariables.AWS_LAMBDA_HTTP_ENDPOINT", "0.0.0.0:3000"),
    ("Revision.Properties.ServiceConfig.EnvironmentVariables.DRAIN_DELAY_S", "2"),
    ("Revision.Properties.ServiceConfig.EnvironmentVariables.MAX_CONCURRENT_TURNS", "10"),
    ("Revision.Properties.ServiceConfig.EnvironmentVariables.ANTHROPIC_API_KEY", {"Ref": "ApiKey"}),
    ("Revision.Properties.ServiceConfig.EnvironmentVariables.SESSIONS_TABLE", "sessions"),
    ("Revision.Properties.ServiceConfig.EnvironmentVariables.AGENT", "sk-ant-api03-canary"),
    ("Revision.Properties.ServiceConfig.EnvironmentVariables.AGENT_MAX_STEP", "6"),
    ("Revision.Properties.ServiceConfig.MaxConcurrencyPerEnvironment", 65),
)
def the_revision_is_told_its_entry_point_settings_and_no_secret(template: Document) -> None:
    told = environment(template)
    assert told["AWS_LAMBDA_PYTHON_ENTRYPOINT"] == "asgi:app:app"
    assert told["ANTHROPIC_API_KEY"] == {"Fn::If": ["HasApiKey", KEY, {"Ref": "AWS::NoValue"}]}
    assert told["SESSIONS_TABLE"] == {"Ref": "SessionsTable"}
    at_once = properties(template, "Revision")["ServiceConfig"]["MaxConcurrencyPerEnvironment"]
    assert told["MAX_CONCURRENT_TURNS"] == str(at_once)
    set_by_lambda = {"AWS_LAMBDA_HTTP_ENDPOINT", "AWS_LAMBDA_FUNCTION_NAME", "AWS_REGION"}
    assert set(told) <= SETTINGS - set_by_lambda - {"DRAIN_DELAY_S", "SHUTDOWN_GRACE_S"} | FOREIGN
    assert not re.search(r"sk-ant-|AKIA[0-9A-Z]{16}", str(template))


@of_web.broken_by(
    ("Revision.Properties.ServiceConfig.EnvironmentVariables.AUTH", "none"),
    ("Revision.Properties.ServiceConfig.EnvironmentVariables.AUTH_API_KEYS", DELETE),
    ("Rules.OpenProductionNeedsCallerKeys.Assertions", []),
    ("Rules.OpenProductionNeedsCallerKeys.RuleCondition", {"Fn::Equals": [{"Ref": "Auth"}, "IamAuth"]}),
)
def callers_of_a_web_function_have_keys_and_in_open_production_must(template: Document) -> None:
    told, rule = environment(template), template["Rules"]["OpenProductionNeedsCallerKeys"]
    keys = {"Ref": "CallerKeys"}
    assert told["AUTH"] == {"Fn::If": ["HasCallerKeys", "api-key", "none"]}
    assert told.get("AUTH_API_KEYS") == {"Fn::If": ["HasCallerKeys", keys, {"Ref": "AWS::NoValue"}]}
    opened = [{"Ref": "Environment"}, "production"], [{"Ref": "Auth"}, "ApplicationManaged"]
    assert rule["RuleCondition"] == {"Fn::And": [{"Fn::Equals": each} for each in opened]}
    assert [each["Assert"] for each in rule["Assertions"]] == [{"Fn::Not": [{"Fn::Equals": [keys, ""]}]}]


@of_web.broken_by(
    ("Endpoint.Properties.AuthType", "ApplicationManaged"),
    ("Parameters.Auth.Default", "ApplicationManaged"),
    ("Endpoint.Properties.ScalingConfig", DELETE),
    ("Endpoint.Properties.ThrottleConfig", DELETE),
    ("Revision.Properties.ServiceConfig.TelemetryConfig.LoggingConfig.LogGroup", "/aws/lambda/web/x"),
)
def the_endpoint_asks_for_iam_and_has_ceilings(template: Document) -> None:
    endpoint = properties(template, "Endpoint")
    assert endpoint["AuthType"] == {"Ref": "Auth"}
    assert template["Parameters"]["Auth"]["Default"] == "IamAuth"
    assert endpoint.get("ScalingConfig") == {"MaxEnvironments": {"Ref": "MaxEnvironments"}}
    assert endpoint.get("ThrottleConfig") == {"RateLimit": {"Ref": "RequestsPerSecond"}}
    logging = properties(template, "Revision")["ServiceConfig"]["TelemetryConfig"]["LoggingConfig"]
    assert logging["LogGroup"] == {"Ref": "LogGroup"}


@of_web.broken_by(
    ("Revision.Properties.FunctionName", {"Fn::GetAtt": "WebFunction.FunctionArn"}),
    ("Revision.DependsOn", DELETE),
    ("Endpoint.DependsOn", DELETE),
    ("Revision.Properties.BuildConfig.CodeConfig.S3Object.VersionId", DELETE),
    ("Endpoint.Properties.RevisionWeights.0.RevisionId", "1"),
)
def other_code_is_another_revision_that_the_endpoint_moves_to(template: Document) -> None:
    """They are joined by the function's name, which makes no order; its ARN would leave the stack unreadable."""
    parts = [
        next(iter(of_type(template, f"AWS::Lambda::WebFunction{kind}").values()))
        for kind in ("", "Revision", "Endpoint")
    ]
    assert [part["FunctionName"] for part in parts] == [{"Ref": "AWS::StackName"}] * 3
    assert [template["Resources"][name].get("DependsOn") for name in ("Revision", "Endpoint")] == ["WebFunction"] * 2
    code = parts[1]["BuildConfig"]["CodeConfig"]["S3Object"]
    assert code == {"Bucket": {"Ref": "CodeBucket"}, "Key": {"Ref": "CodeKey"}, "VersionId": {"Ref": "CodeVersion"}}
    assert parts[2]["RevisionWeights"] == [{"RevisionId": {"Fn::GetAtt": "Revision.RevisionId"}, "Weight": 100}]


@pytest.mark.parametrize("name", [ZIP, WEB])
@of_both.kept
def test_both_keep_a_promise(name: str, rule: Rule) -> None:
    rule(load(name))


@pytest.mark.parametrize("name", [ZIP, WEB])
@of_both.broken
def test_a_broken_promise_of_both_is_noticed(name: str, rule: Rule, path: str, value: object) -> None:
    assert is_noticed(rule, load(name), path, value)


@of_zip.kept
def test_the_zip_keeps_its_promise(rule: Rule) -> None:
    rule(load(ZIP))


@of_zip.broken
def test_a_broken_promise_of_the_zip_is_noticed(rule: Rule, path: str, value: object) -> None:
    assert is_noticed(rule, load(ZIP), path, value)


@of_web.kept
def test_the_web_function_keeps_its_promise(rule: Rule) -> None:
    rule(load(WEB))


@of_web.broken
def test_a_broken_promise_of_the_web_function_is_noticed(rule: Rule, path: str, value: object) -> None:
    assert is_noticed(rule, load(WEB), path, value)
