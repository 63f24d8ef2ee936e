"""template.yaml: the alarms."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.metrics import METRICS
from app.metrics.emf import NAMESPACE, SERVICE
from app.telemetry_settings import LOGGED
from tests.deployment.documents import OPERATIONS, load, of_type, properties, variables
from tests.deployment.promises import DELETE, Document, Promises, Rule, is_noticed

promises = Promises()


def watched(alarm: dict[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each metric of an alarm as (namespace, metric, the values of its plain dimensions)."""
    single = [alarm] if "MetricName" in alarm else []
    listed = [m["Fn::If"][1] if "Fn::If" in m else m for m in alarm.get("Metrics", [])]
    several = [m["MetricStat"]["Metric"] for m in listed if "MetricStat" in m]
    for metric in single + several:
        values = [d["Value"] for d in metric["Dimensions"] if isinstance(d["Value"], str)]
        yield metric["Namespace"], metric["MetricName"], tuple(values)


@promises.broken_by(
    ("ErrorsAlarm", DELETE),
    ("ServerErrorsAlarm", DELETE),
    ("ThrottlesAlarm", DELETE),
    ("DurationAlarm", DELETE),
    ("TableThrottlesAlarm", DELETE),
    ("TableSystemErrorsAlarm.Properties.Metrics.2", DELETE),
    ("ServerErrorsAlarm.Properties.Metrics.1", DELETE),
    ("ServerErrorsAlarm.Properties.Metrics.2", DELETE),
    ("TurnFailuresAlarm", DELETE),
    ("CostAlarm", DELETE),
)
def alarms_watch_every_way_to_fail(template: Document) -> None:
    alarms = of_type(template, "AWS::CloudWatch::Alarm").values()
    expected = {
        ("AWS/Lambda", "Errors", ()),
        ("AWS/Lambda", "Throttles", ()),
        ("AWS/Lambda", "Duration", ()),
        ("AWS/Lambda", "Url5xxCount", ()),
        ("AWS/ApiGateway", "5xx", ()),
        ("AWS/ApiGateway", "5XXError", ()),
        ("AWS/DynamoDB", "ReadThrottleEvents", ()),
        ("AWS/DynamoDB", "WriteThrottleEvents", ()),
        (NAMESPACE, "failures", ()),
        (NAMESPACE, "cost_usd", ()),
    } | {("AWS/DynamoDB", "SystemErrors", (operation,)) for operation in OPERATIONS}
    assert {metric for alarm in alarms for metric in watched(alarm)} == expected


@promises.broken_by(("ErrorsAlarm.Properties.AlarmActions", []))
def alarms_tell_the_topic(template: Document) -> None:
    tell = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
    alarms = of_type(template, "AWS::CloudWatch::Alarm").values()
    assert [alarm["AlarmActions"] for alarm in alarms] == [tell] * 8


@promises.broken_by(
    ("ServerErrorsAlarm.Properties.Metrics.1.Fn::If.0", "HasRestApi"),
    ("ServerErrorsAlarm.Properties.Metrics.2.Fn::If.0", "HasHttpApi"),
    ("RestApiGateway.Properties.Name", {"Ref": "AWS::StackName"}),
)
def an_alarm_watches_the_front_doors_that_exist(template: Document) -> None:
    conditional = [m["Fn::If"] for m in properties(template, "ServerErrorsAlarm")["Metrics"] if "Fn::If" in m]
    assert [(condition, metric["Id"]) for condition, metric, _ in conditional] == [
        ("HasHttpApi", "api"),
        ("HasRestApi", "rest"),
    ]
    [named] = conditional[1][1]["MetricStat"]["Metric"]["Dimensions"]
    assert named["Value"] == properties(template, "RestApiGateway")["Name"]


@promises.broken_by(
    ("Mappings.Modes.buffer.SlowMs", 25000),
    ("Mappings.Modes.stream.SlowMs", 296000),
    ("DurationAlarm.Properties.Threshold", 20000),
)
def the_duration_alarm_rings_before_the_deadline(template: Document) -> None:
    alarm = properties(template, "DurationAlarm")
    assert alarm["ExtendedStatistic"] == "p99"
    assert alarm["Threshold"] == {"Fn::FindInMap": ["Modes", {"Ref": "ResponseMode"}, "SlowMs"]}
    for mode in template["Mappings"]["Modes"].values():
        assert mode["SlowMs"] < int(mode["TurnS"]) * 1000


@promises.broken_by(
    ("TurnFailuresAlarm.Properties.MetricName", "turn_failures"),
    ("CostAlarm.Properties.Namespace", "agent_service"),
    ("CostAlarm.Properties.Dimensions.0.Name", "Service"),
    ("TurnFailuresAlarm.Properties.Dimensions.0.Value", "agent-service"),
    ("AgentFunction.Properties.Environment.Variables.METRICS", "none"),
    ("AgentFunction.Properties.Environment.Variables.LOG_LEVEL", "WARNING"),
    ("AgentFunction.Properties.Environment.Variables.OTEL_SERVICE_NAME", "agent"),
    ("Parameters.Metrics.Default", "none"),
)
def alarms_watch_metrics_that_the_function_makes(template: Document) -> None:
    own = [
        alarm for alarm in of_type(template, "AWS::CloudWatch::Alarm").values() if alarm.get("Namespace") == NAMESPACE
    ]
    assert len(own) == 2
    for alarm in own:
        assert alarm["MetricName"] in {metric.emf for metric in METRICS}
        assert alarm["Dimensions"] == [{"Name": SERVICE, "Value": {"Ref": "AgentFunction"}}]
    told, metrics = variables(template), template["Parameters"]["Metrics"]
    assert (told["METRICS"], metrics["Default"]) == ({"Ref": "Metrics"}, "emf")
    assert told["LOG_LEVEL"] in LOGGED
    assert "OTEL_SERVICE_NAME" not in told  # so that the service is the function


@promises.broken_by(("CostAlarm.Properties.Threshold", 10), ("CostAlarm.Properties.Period", 60))
def the_cost_alarm_rings_at_what_an_hour_may_cost(template: Document) -> None:
    alarm = properties(template, "CostAlarm")
    assert (alarm["Threshold"], alarm["Period"]) == ({"Ref": "CostPerHour"}, 3600)
    assert alarm["Statistic"] == "Sum"


@pytest.fixture(scope="module")
def template() -> Document:
    return load("template.yaml")


@promises.kept
def test_the_template_keeps_its_promise(template: Document, rule: Rule) -> None:
    rule(template)


@promises.broken
def test_a_broken_promise_is_noticed(template: Document, rule: Rule, path: str, value: object) -> None:
    assert is_noticed(rule, template, path, value)
