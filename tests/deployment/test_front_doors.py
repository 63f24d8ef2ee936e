"""template.yaml: who may call the function, and how."""

import pytest

from tests.deployment.documents import load, of_type, properties
from tests.deployment.promises import DELETE, Document, Promises, Rule, is_noticed

FUNCTION = {"Ref": "AgentFunction"}
CALLER = {"Fn::If": ["IsOpenToEverybody", "*", {"Ref": "AWS::AccountId"}]}

promises = Promises()


@promises.broken_by(
    ("FunctionAddress.Properties.AuthType", "NONE"),
    ("HttpApiRoute.Properties.AuthorizationType", "NONE"),
    ("Parameters.Auth.Default", "NONE"),
    ("Conditions.IsOpenToEverybody", {"Fn::Equals": [{"Ref": "Auth"}, "AWS_IAM"]}),
)
def every_front_door_asks_for_iam_unless_a_parameter_says_otherwise(template: Document) -> None:
    auth = template["Parameters"]["Auth"]
    urls = of_type(template, "AWS::Lambda::Url").values()
    routes = of_type(template, "AWS::ApiGatewayV2::Route").values()
    assert [url["AuthType"] for url in urls] == [{"Ref": "Auth"}]
    assert [route["AuthorizationType"] for route in routes] == [{"Ref": "Auth"}]
    assert auth["Default"] == "AWS_IAM"
    assert template["Conditions"]["IsOpenToEverybody"] == {"Fn::Equals": [{"Ref": "Auth"}, "NONE"]}


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
    ("Parameters.FunctionUrl.Default", "true"),
)
def a_function_url_exists_only_on_request(template: Document) -> None:
    conditions = {n: r["Condition"] for n, r in template["Resources"].items() if "Condition" in r}
    names = ["FunctionAddress", "FunctionAddressPermission", "FunctionAddressInvokePermission"]
    assert conditions == dict.fromkeys(names, "HasFunctionUrl")
    assert template["Parameters"]["FunctionUrl"]["Default"] == "false"


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
)
def only_this_api_and_this_url_may_invoke_the_function(template: Document) -> None:
    granted = of_type(template, "AWS::Lambda::Permission").values()
    others = [p for p in granted if p["Principal"] != CALLER]
    assert [p["Principal"] for p in others] == ["apigateway.amazonaws.com"]
    assert others[0]["SourceArn"]["Fn::Sub"].endswith(":${HttpApi}/*")


@promises.broken_by(("HttpApiStage.Properties.DefaultRouteSettings", {}))
def the_api_limits_its_rate(template: Document) -> None:
    limits = properties(template, "HttpApiStage")["DefaultRouteSettings"]
    rate = {"Ref": "RequestsPerSecond"}
    assert limits == {"ThrottlingRateLimit": rate, "ThrottlingBurstLimit": rate}


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
