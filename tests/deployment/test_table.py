"""template.yaml: the table, and what the function may do with it."""

import re

import pytest

from tests.deployment.documents import OPERATIONS, ROOT, load, properties, statements
from tests.deployment.promises import DELETE, Document, Promises, Rule, is_noticed

TABLE_ARN = {"Fn::GetAtt": "SessionsTable.Arn"}

promises = Promises()


@promises.broken_by(
    ("FunctionRole.Properties.Policies.0.PolicyDocument.Statement.0.Action", ["dynamodb:*"]),
    (
        "FunctionRole.Properties.Policies.0.PolicyDocument.Statement.0.Action.1",
        "dynamodb:GetItem",
    ),
    ("FunctionRole.Properties.Policies.0.PolicyDocument.Statement.0.Resource", "*"),
    ("FunctionRole.Properties.Policies.0.PolicyDocument.Statement.1.Resource", "*"),
    ("FunctionRole.Properties.Policies.0.PolicyDocument.Statement.1.Action", "dynamodb:Scan"),
)
def the_role_allows_the_operations_in_use_on_this_table_and_no_other(template: Document) -> None:
    on_table = [s for s in statements(template) if "dynamodb" in str(s["Action"])]
    actions = [f"dynamodb:{operation}" for operation in OPERATIONS]
    assert on_table == [
        {"Effect": "Allow", "Action": actions, "Resource": TABLE_ARN},
        {"Effect": "Allow", "Action": "dynamodb:Query", "Resource": {"Fn::Sub": "${SessionsTable.Arn}/index/begun"}},
    ]


@promises.broken_by(
    ("FunctionRole.Properties.Policies.1.PolicyDocument.Statement.0.Resource", "*"),
    ("FunctionRole.Properties.Policies.1.PolicyDocument.Statement.0.Action", ["logs:*"]),
    (
        "FunctionRole.Properties.ManagedPolicyArns",
        ["arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"],
    ),
    ("AgentFunction.Properties.Policies", ["AdministratorAccess"]),
)
def the_role_allows_nothing_else_but_its_own_log(template: Document) -> None:
    others = [s for s in statements(template) if "dynamodb" not in str(s["Action"])]
    actions = ["logs:CreateLogStream", "logs:PutLogEvents"]
    log = {"Fn::GetAtt": "LogGroup.Arn"}
    assert others == [{"Effect": "Allow", "Action": actions, "Resource": log}]
    assert "ManagedPolicyArns" not in properties(template, "FunctionRole")
    function = properties(template, "AgentFunction")
    assert function["Role"] == {"Fn::GetAtt": "FunctionRole.Arn"}
    assert "Policies" not in function


@promises.broken_by(
    ("SessionsTable.Properties.KeySchema.1.AttributeName", "expires"),
    ("SessionsTable.Properties.AttributeDefinitions.1.AttributeType", "S"),
    ("SessionsTable.Properties.BillingMode", "PROVISIONED"),
)
def the_table_is_keyed_by_session_and_turn(template: Document) -> None:
    table = properties(template, "SessionsTable")
    keys = [(k["AttributeName"], k["KeyType"]) for k in table["KeySchema"]]
    kinds = kinds_of(table)
    assert keys == [("pk", "HASH"), ("turn", "RANGE")]
    assert (kinds["pk"], kinds["turn"]) == ("S", "N")
    assert table["BillingMode"] == "PAY_PER_REQUEST"


def kinds_of(table: Document) -> dict[str, str]:
    return {a["AttributeName"]: a["AttributeType"] for a in table["AttributeDefinitions"]}


@promises.broken_by(
    ("SessionsTable.Properties.GlobalSecondaryIndexes", []),
    ("SessionsTable.Properties.GlobalSecondaryIndexes.0.IndexName", "other"),
    ("SessionsTable.Properties.GlobalSecondaryIndexes.0.KeySchema.1.AttributeName", "turn"),
    ("SessionsTable.Properties.GlobalSecondaryIndexes.0.Projection.NonKeyAttributes", ["body"]),
    ("SessionsTable.Properties.AttributeDefinitions.3.AttributeType", "S"),
)
def one_small_index_lists_sessions_by_their_beginning(template: Document) -> None:
    table = properties(template, "SessionsTable")
    assert [index["IndexName"] for index in table["GlobalSecondaryIndexes"]] == ["begun"]
    index = table["GlobalSecondaryIndexes"][0]
    keys = [(k["AttributeName"], k["KeyType"]) for k in index["KeySchema"]]
    kinds = kinds_of(table)
    assert keys == [("principal", "HASH"), ("created", "RANGE")]
    assert (kinds["principal"], kinds["created"]) == ("S", "N")
    assert index["Projection"] == {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["expires"]}


@promises.broken_by(("SessionsTable.Properties.TimeToLiveSpecification.Enabled", False))
def the_table_forgets_old_turns(template: Document) -> None:
    ttl = properties(template, "SessionsTable")["TimeToLiveSpecification"]
    assert ttl == {"AttributeName": "expires", "Enabled": True}


@promises.broken_by(("SessionsTable.Properties.PointInTimeRecoverySpecification", DELETE))
def the_table_can_be_restored_to_a_point_in_time(template: Document) -> None:
    recovery = properties(template, "SessionsTable").get("PointInTimeRecoverySpecification")
    assert recovery == {"PointInTimeRecoveryEnabled": True}


@promises.broken_by(("SessionsTable.Properties.SSESpecification.SSEEnabled", False))
def the_table_is_encrypted(template: Document) -> None:
    assert properties(template, "SessionsTable")["SSESpecification"] == {"SSEEnabled": True}


@promises.broken_by(("SessionsTable.DeletionPolicy", "Delete"))
def the_table_outlives_the_stack(template: Document) -> None:
    table = template["Resources"]["SessionsTable"]
    assert table["DeletionPolicy"] == table["UpdateReplacePolicy"] == "Retain"


@promises.broken_by(("SessionsTable.Properties.DeletionProtectionEnabled", False))
def the_table_refuses_deletion(template: Document) -> None:
    assert properties(template, "SessionsTable")["DeletionProtectionEnabled"] is True


@pytest.fixture(scope="module")
def template() -> Document:
    return load("template.yaml")


@promises.kept
def test_the_template_keeps_its_promise(template: Document, rule: Rule) -> None:
    rule(template)


@promises.broken
def test_a_broken_promise_is_noticed(template: Document, rule: Rule, path: str, value: object) -> None:
    assert is_noticed(rule, template, path, value)


def operations_in(code: str) -> set[str]:
    """Return the operations that the store's methods name where they send or write."""
    return set(re.findall(r'self\._(?:send|write)\(\s*"(\w+)"', code))


def test_the_operations_are_those_that_the_store_sends() -> None:
    code = (ROOT / "app/sessions/dynamodb.py").read_text()
    assert operations_in(code) == set(OPERATIONS)
    assert operations_in(code.replace('"DeleteItem"', '"GetItem"')) != set(OPERATIONS)


def test_nothing_else_of_the_service_speaks_to_dynamodb() -> None:
    speakers = [path.name for path in (ROOT / "app").rglob("*.py") if "signed_dynamo_request(" in path.read_text()]
    assert speakers == ["dynamodb.py"]
