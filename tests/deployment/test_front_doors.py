"""template.yaml: who may call the function, and how."""

import itertools
from typing import Any

import pytest

from tests.deployment import callers
from tests.deployment.documents import load, of_type, properties
from tests.deployment.promises import DELETE, Document, Promises, Rule, is_noticed

FUNCTION = {"Ref": "AgentFunction"}
HTTP_API = {f"HttpApi{part}" for part in ("", "Integration", "Route", "Stage", "Permission")}
FUNCTION_URL = {f"FunctionAddress{part}" for part in ("", "Permission", "InvokePermission")}
REST_API = {f"RestApi{part}" for part in ("Gateway", "Path", "Method", "ClosedDeployment", "Stage", "Permission")}
CALLER = {"Fn::If": ["IsOpenToEverybody", "*", {"Ref": "AWS::AccountId"}]}

promises = Promises()


@promises.broken_by(
    ("FunctionAddress.Properties.AuthType", "NONE"),
    ("HttpApiRoute.Properties.AuthorizationType", "NONE"),
    ("RestApiMethod.Properties.AuthorizationType", "NONE"),
    ("Parameters.Auth.Default", "NONE"),
    ("Conditions.IsOpenToEverybody", {"Fn::Equals": [{"Ref": "Auth"}, "AWS_IAM"]}),
)
def every_front_door_asks_for_iam_unless_a_parameter_says_otherwise(template: Document) -> None:
    auth = template["Parameters"]["Auth"]
    urls = of_type(template, "AWS::Lambda::Url").values()
    routes = of_type(template, "AWS::ApiGatewayV2::Route").values()
    assert [url["AuthType"] for url in urls] == [{"Ref": "Auth"}]
    methods = of_type(template, "AWS::ApiGateway::Method").values()
    assert [route["AuthorizationType"] for route in routes] == [{"Ref": "Auth"}]
    assert [method["AuthorizationType"] for method in methods] == [{"Ref": "Auth"}]
    assert auth["Default"] == "AWS_IAM"
    assert template["Conditions"]["IsOpenToEverybody"] == {"Fn::Equals": [{"Ref": "Auth"}, "NONE"]}


promises.broken_by(*callers.CHANGES)(callers.whom_iam_lets_in_is_the_principal_unless_callers_have_keys)


@promises.broken_by(
    ("AgentFunction.Properties.FunctionUrlConfig", {"AuthType": "NONE"}),
    ("AgentFunction.Properties.Events", {"Api": {"Type": "HttpApi"}}),
)
def the_function_has_no_front_door_but_those(template: Document) -> None:
    function = properties(template, "AgentFunction")
    assert "FunctionUrlConfig" not in function
    assert "Events" not in function


@promises.broken_by(
    ("FunctionAddress.Condition", DELETE),
    ("FunctionAddressInvokePermission.Condition", DELETE),
    ("HttpApiPermission.Condition", DELETE),
    ("HttpApi.Condition", "IsStreaming"),
    ("RestApiGateway.Condition", DELETE),
    ("RestApiStage.Condition", "HasHttpApi"),
    ("Conditions.HasHttpApi", {"Fn::Equals": [{"Ref": "ResponseMode"}, "stream"]}),
    ("Conditions.HasRestApi", {"Fn::Equals": [{"Ref": "RestApi"}, "true"]}),
    ("Conditions.HasFunctionUrl", {"Fn::Equals": [{"Ref": "FunctionUrl"}, "true"]}),
    ("Parameters.FunctionUrl.Default", "true"),
    ("Parameters.RestApi.Default", "true"),
)
def a_front_door_exists_where_it_can_carry_the_answers(template: Document) -> None:
    """What a function in stream mode gives is no HTTP answer to a front door that collects it."""
    doors = {
        choice: made(template, *choice)
        for choice in itertools.product(("buffer", "stream"), ("false", "true"), ("false", "true"))
    }
    http, url, rest = HTTP_API, FUNCTION_URL, REST_API
    assert doors == {
        ("buffer", "false", "false"): http,
        ("buffer", "true", "false"): http | url,
        ("buffer", "false", "true"): http,  # which a rule forbids
        ("buffer", "true", "true"): http | url,
        ("stream", "false", "false"): url,
        ("stream", "true", "false"): url,
        ("stream", "false", "true"): rest,
        ("stream", "true", "true"): url | rest,
    }
    assert [template["Parameters"][name]["Default"] for name in ("FunctionUrl", "RestApi")] == ["false", "false"]


def made(template: Document, mode: str, url: str, rest: str) -> set[str]:
    """Return the resources of front doors that these parameters make."""
    chosen = {"Auth": "AWS_IAM", "ResponseMode": mode, "FunctionUrl": url, "RestApi": rest}

    def holds(condition: Any) -> bool:
        match condition:
            case {"Condition": name}:
                return holds(template["Conditions"][name])
            case {"Fn::Equals": [{"Ref": parameter}, value]}:
                return bool(chosen[parameter] == value)
            case {"Fn::Not": [inner]}:
                return not holds(inner)
            case {"Fn::And": inner}:
                return all(holds(each) for each in inner)
            case {"Fn::Or": inner}:
                return any(holds(each) for each in inner)
            case _:
                raise AssertionError(condition)

    return {
        name
        for name, resource in template["Resources"].items()
        if name.startswith(("HttpApi", "FunctionAddress", "RestApi"))
        and ("Condition" not in resource or holds({"Condition": resource["Condition"]}))
    }


@promises.broken_by(
    ("FunctionAddress.Properties.InvokeMode", "BUFFERED"),
    ("Mappings.Modes.buffer.InvokeMode", "RESPONSE_STREAM"),
    ("Mappings.Modes.stream.InvokeMode", "BUFFERED"),
    ("RestApiMethod.Properties.Integration.ResponseTransferMode", "BUFFERED"),
    (
        "RestApiMethod.Properties.Integration.Uri.Fn::Sub",
        "arn:aws:apigateway:x:lambda:path/2015-03-31/functions/${AgentFunction.Arn}/invocations",
    ),
    ("RestApiGateway.Properties.EndpointConfiguration", {"Types": ["EDGE"]}),
)
def a_front_door_streams_where_the_function_does(template: Document) -> None:
    mode = {"Fn::FindInMap": ["Modes", {"Ref": "ResponseMode"}, "InvokeMode"]}
    assert properties(template, "FunctionAddress")["InvokeMode"] == mode
    invoke = {mode: values["InvokeMode"] for mode, values in template["Mappings"]["Modes"].items()}
    assert invoke == {"buffer": "BUFFERED", "stream": "RESPONSE_STREAM"}
    integration = properties(template, "RestApiMethod")["Integration"]
    assert integration["ResponseTransferMode"] == "STREAM"
    uri = integration["Uri"]["Fn::Sub"]
    assert uri.endswith(":lambda:path/2021-11-15/functions/${AgentFunction.Arn}/response-streaming-invocations")
    assert properties(template, "RestApiGateway")["EndpointConfiguration"] == {"Types": ["REGIONAL"]}


@promises.broken_by(
    ("RestApiStage.Properties.DeploymentId", {"Ref": "RestApiClosedDeployment"}),
    ("RestApiOpenDeployment.Condition", "HasRestApi"),
    ("RestApiClosedDeployment.DependsOn", DELETE),
)
def another_auth_is_another_deployment(template: Document) -> None:
    """A deployment is a snapshot of the API. Closing one that was made open must not leave its stage as it was."""
    ours = {n: r for n, r in template["Resources"].items() if r["Type"] == "AWS::ApiGateway::Deployment"}
    assert {name: (r["Condition"], r.get("DependsOn")) for name, r in ours.items()} == {
        "RestApiClosedDeployment": ("HasClosedRestApi", "RestApiMethod"),
        "RestApiOpenDeployment": ("HasOpenRestApi", "RestApiMethod"),
    }
    one_of = {"Fn::If": ["IsOpenToEverybody", {"Ref": "RestApiOpenDeployment"}, {"Ref": "RestApiClosedDeployment"}]}
    assert properties(template, "RestApiStage")["DeploymentId"] == one_of


@promises.broken_by(
    ("Rules.ARestApiStreams.Assertions", []),
    ("Rules.ARestApiStreams.RuleCondition", {"Fn::Equals": [{"Ref": "RestApi"}, "false"]}),
)
def a_rest_api_is_refused_where_it_would_not_be_made(template: Document) -> None:
    rule = template["Rules"]["ARestApiStreams"]
    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "RestApi"}, "true"]}
    assert [a["Assert"] for a in rule["Assertions"]] == [{"Fn::Equals": [{"Ref": "ResponseMode"}, "stream"]}]


@promises.broken_by(
    ("FunctionAddressPermission", DELETE),
    ("FunctionAddressInvokePermission", DELETE),
    ("FunctionAddressInvokePermission.Properties.InvokedViaFunctionUrl", DELETE),
)
def a_function_url_has_both_permissions(template: Document) -> None:
    granted = of_type(template, "AWS::Lambda::Permission").values()
    common = {"FunctionName": FUNCTION, "Principal": CALLER}
    url = {"Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": {"Ref": "Auth"}}
    invoke = {"Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": True}
    assert {**common, **url} in granted
    assert {**common, **invoke} in granted


@promises.broken_by(
    ("FunctionAddressPermission.Properties.Principal", "*"),
    (
        "HttpApiPermission.Properties.SourceArn",
        {"Fn::Sub": "arn:${AWS::Partition}:execute-api:*:*:*"},
    ),
    ("RestApiPermission.Properties.SourceArn", {"Fn::Sub": "arn:aws:execute-api:r:${AWS::AccountId}:*"}),
)
def only_this_api_and_this_url_may_invoke_the_function(template: Document) -> None:
    granted = of_type(template, "AWS::Lambda::Permission").values()
    others = [p for p in granted if p["Principal"] != CALLER]
    assert [(p["Action"], p["Principal"]) for p in others] == [
        ("lambda:InvokeFunction", "apigateway.amazonaws.com")
    ] * 2
    ends = [p["SourceArn"]["Fn::Sub"].rpartition("${AWS::AccountId}")[2] for p in others]
    assert ends == [":${HttpApi}/*", ":${RestApiGateway}/*"]


@promises.broken_by(
    ("HttpApiStage.Properties.DefaultRouteSettings", {}),
    ("RestApiStage.Properties.MethodSettings", []),
    ("RestApiStage.Properties.MethodSettings.0.ThrottlingRateLimit", 1),
)
def the_apis_limit_their_rate(template: Document) -> None:
    limits = properties(template, "HttpApiStage")["DefaultRouteSettings"]
    rate = {"Ref": "RequestsPerSecond"}
    assert limits == {"ThrottlingRateLimit": rate, "ThrottlingBurstLimit": rate}
    everywhere = {"HttpMethod": "*", "ResourcePath": "/*"}
    assert properties(template, "RestApiStage")["MethodSettings"] == [everywhere | limits]


@promises.broken_by(("HttpApiIntegration.Properties.PayloadFormatVersion", "1.0"))
def the_handler_gets_the_payload_it_reads(template: Document) -> None:
    assert properties(template, "HttpApiIntegration")["PayloadFormatVersion"] == "2.0"
    assert properties(template, "HttpApiRoute")["RouteKey"] == "$default"


@pytest.fixture(scope="module")
def template() -> Document:
    return load("template.yaml")


@promises.kept
def test_the_template_keeps_its_promise(template: Document, rule: Rule) -> None:
    rule(template)


@promises.broken
def test_a_broken_promise_is_noticed(template: Document, rule: Rule, path: str, value: object) -> None:
    assert is_noticed(rule, template, path, value)
