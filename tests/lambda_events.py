"""Requests as each front door of Lambda hands them over, and answers as it reads them."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from tests.entry_points import Answer

Event: TypeAlias = dict[str, Any]
Headers: TypeAlias = list[tuple[str, str]]
HOST = ("Host", "api.example.com")


@dataclass(frozen=True)
class Request:
    """An HTTP request; several headers may have one name."""

    method: str
    target: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> str:
        return urlsplit(self.target).query


def _joined(headers: Headers) -> dict[str, str]:
    """Headers as payload 2.0 has them: lower case, those of one name with commas between them."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value)
    return {name: ",".join(values) for name, values in found.items()}


def _several(pairs: Headers) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _body(body: bytes, *, encoded: bool) -> Event:
    text = base64.b64encode(body).decode() if encoded else body.decode()
    return {"body": text or None, "isBase64Encoded": encoded}


def http_api(request: Request, base: str = "", stage: str = "$default", *, encoded: bool = False) -> Event:
    """An HTTP API's event, payload 2.0, its path after `base`."""
    headers = [HOST, *request.headers]
    cookies = [each for name, value in headers if name.lower() == "cookie" for each in value.split("; ")]
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": base + request.path,
        "rawQueryString": request.query,
        **({"cookies": cookies} if cookies else {}),
        "headers": _joined([each for each in headers if each[0].lower() != "cookie"]),
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "a1b2c3d4e5",
            "domainName": "a1b2c3d4e5.execute-api.us-east-1.amazonaws.com",
            "domainPrefix": "a1b2c3d4e5",
            "http": {
                "method": request.method,
                "path": base + request.path,
                "protocol": "HTTP/1.1",
                "sourceIp": "2001:db8::7",
                "userAgent": "curl/8.9.1",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": stage,
            "timeEpoch": 1773119783000,
        },
        **_body(request.body, encoded=encoded),
    }


def rest(request: Request, base: str = "", resource: str = "/{proxy+}", *, encoded: bool = False) -> Event:
    """A REST API's event; its path has the base path of a custom domain before it, and never the stage."""
    headers, query = [HOST, *request.headers], parse_qsl(request.query, keep_blank_values=True)
    context = {
        "apiId": "a1b2c3d4e5",
        "httpMethod": request.method,
        "identity": {"sourceIp": "2001:db8::7", "userAgent": "curl/8.9.1"},
        "path": (base or "/prod") + request.path,
        "protocol": "HTTP/1.1",
        "resourcePath": resource,
        "stage": "prod",
    }
    return {
        "resource": resource,
        "path": base + request.path,
        "httpMethod": request.method,
        "headers": dict(headers),
        "multiValueHeaders": _several(headers),
        "queryStringParameters": dict(query) or None,
        "multiValueQueryStringParameters": _several(query) or None,
        "pathParameters": {"proxy": request.path.removeprefix("/")} if "{proxy+}" in resource else None,
        "stageVariables": None,
        "requestContext": context,
        **_body(request.body, encoded=encoded),
    }


def balancer(request: Request, *, several: bool = False, encoded: bool = False) -> Event:
    """A load balancer's event, with one value for each header and parameter or with all."""
    headers = [(name.lower(), value) for name, value in (HOST, *request.headers)]
    query = [(name, value) for pair in request.query.split("&") if pair for name, _, value in [pair.partition("=")]]
    single = {"headers": dict(headers), "queryStringParameters": dict(query)}
    all_of_them = {"multiValueHeaders": _several(headers), "multiValueQueryStringParameters": _several(query)}
    return {
        "requestContext": {
            "elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/agent/01234567"}
        },
        "httpMethod": request.method,
        "path": request.path,
        **(all_of_them if several else single),
        **_body(request.body, encoded=encoded),
    }


DOORS: dict[str, Callable[[Request], Event]] = {
    "http api": http_api,
    "http api, named stage": lambda request: http_api(request, "/prod", "prod"),
    "http api, custom domain": lambda request: http_api(request, "", "prod"),
    "function url, base64": lambda request: http_api(request, encoded=True),  # the same payload
    "rest": rest,
    "rest, base64": lambda request: rest(request, encoded=True),
    "rest, base path": lambda request: rest(request, "/v1/agents"),
    "rest, own resources": lambda request: rest(request, "/v1", request.path),
    "balancer": balancer,
    "balancer, base64": lambda request: balancer(request, encoded=True),
    "balancer, several values": lambda request: balancer(request, several=True),
}


def answer_to(event: Event, result: Mapping[str, Any]) -> Answer:
    """Return the response that a front door makes of a result for its event."""
    if "multiValueHeaders" in event and "elb" in event["requestContext"]:
        headers = {name.lower(): values[-1] for name, values in result["multiValueHeaders"].items()}
    else:
        several = {name: values[-1] for name, values in result.get("multiValueHeaders", {}).items()}
        headers = {name.lower(): value for name, value in (several | result["headers"]).items()}
    content = result.get("body") or ""
    body = base64.b64decode(content).decode() if result["isBase64Encoded"] else content
    return Answer(result["statusCode"], headers, body)
