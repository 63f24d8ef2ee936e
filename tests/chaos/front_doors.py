"""One request as each front door of Lambda hands it to the function, on the models in `events/`."""

import base64
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.entry_points import ROOT

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it goes over the wire; `target` is percent-encoded."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def http_api(sent: Sent) -> Event:
    """Return what an HTTP API hands on (payload 2.0)."""
    return _payload_2("http_api", sent)


def function_url(sent: Sent) -> Event:
    """Return what a Function URL hands on."""
    return _payload_2("function_url", sent)


def rest(sent: Sent) -> Event:
    """Return what a REST API hands on: its query is decoded, and each header is there twice."""
    url, event = urlsplit(sent.target), _model("rest", sent)
    pairs = parse_qsl(url.query, keep_blank_values=True)
    event["multiValueHeaders"] = {name: [value] for name, value in event["headers"].items()}
    event["queryStringParameters"] = dict(pairs) or None
    event["multiValueQueryStringParameters"] = {
        name: [value for other, value in pairs if other == name] for name, _ in pairs
    } or None
    return event | {"httpMethod": sent.method, "path": url.path}


def alb(sent: Sent) -> Event:
    """Return what a load balancer hands on: its query is still encoded."""
    url, event = urlsplit(sent.target), _model("alb", sent)
    pairs = [part.partition("=") for part in url.query.split("&") if part]
    event["queryStringParameters"] = {name: value for name, _, value in pairs}
    return event | {"httpMethod": sent.method, "path": url.path}


DOORS: dict[str, Callable[[Sent], Event]] = {
    "HTTP API": http_api,
    "REST API": rest,
    "Function URL": function_url,
    "ALB": alb,
}


def _payload_2(name: str, sent: Sent) -> Event:
    url, event = urlsplit(sent.target), _model(name, sent)
    event["requestContext"]["http"] |= {"method": sent.method, "path": url.path}
    return event | {"rawPath": url.path, "rawQueryString": url.query}


MODELS = {
    name: json.loads((ROOT / f"events/{name}_healthz.json").read_text())
    for name in ("http_api", "rest", "function_url", "alb")
}


def _model(name: str, sent: Sent) -> Event:
    """Return a model with the headers and the body of the request; of bytes that are no text, base64."""
    event: Event = deepcopy(MODELS[name])
    event["headers"] = {key: value for key, value in event["headers"].items() if key.lower() != "accept"}
    event["headers"] |= dict(sent.headers)
    try:
        return event | {"body": sent.body.decode() or None, "isBase64Encoded": False}
    except UnicodeDecodeError:
        return event | {"body": base64.b64encode(sent.body).decode(), "isBase64Encoded": True}
