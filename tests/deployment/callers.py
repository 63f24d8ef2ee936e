"""Who the callers are to a function behind an event: one promise of every template that has one."""

from tests.deployment.documents import variables
from tests.deployment.promises import DELETE, Change, Document

# What breaks it.
CHANGES: tuple[Change, ...] = (
    ("AgentFunction.Properties.Environment.Variables.AUTH", "none"),
    ("AgentFunction.Properties.Environment.Variables.AUTH_API_KEYS", DELETE),
    ("Parameters.CallerKeys.Default", "me:0"),
    ("Conditions.HasCallerKeys", {"Fn::Equals": [{"Ref": "CallerKeys"}, ""]}),
    ("Conditions.IsOpenToEverybody", {"Fn::Equals": [{"Ref": "Auth"}, "AWS_IAM"]}),
    ("Rules.OpenProductionNeedsCallerKeys.Assertions", []),
    ("Rules.OpenProductionNeedsCallerKeys.RuleCondition", {"Fn::Equals": [{"Ref": "Environment"}, "production"]}),
)


def whom_iam_lets_in_is_the_principal_unless_callers_have_keys(template: Document) -> None:
    """Check it of a template whose function stands behind IAM or is open."""
    told = variables(template)
    way = {"Fn::If": ["HasCallerKeys", "api-key", {"Fn::If": ["IsOpenToEverybody", "none", "platform"]}]}
    assert (told["AUTH"], told.get("AUTH_API_KEYS")) == (way, {"Ref": "CallerKeys"})
    some = {"Fn::Not": [{"Fn::Equals": [{"Ref": "CallerKeys"}, ""]}]}
    conditions, rule = template["Conditions"], template["Rules"]["OpenProductionNeedsCallerKeys"]
    opened = {"Fn::Equals": [{"Ref": "Auth"}, "NONE"]}
    assert (conditions["HasCallerKeys"], conditions["IsOpenToEverybody"]) == (some, opened)
    assert template["Parameters"]["CallerKeys"]["Default"] == ""
    assert rule["RuleCondition"] == {"Fn::And": [{"Fn::Equals": [{"Ref": "Environment"}, "production"]}, opened]}
    assert [each["Assert"] for each in rule["Assertions"]] == [some]
