"""Lambda events as requests: HTTP API, Function URL, REST API, ALB; and what is none of them.

Nothing that an event source can send may raise out of an entry point, so what cannot be read has a response too.
"""

import re
import uuid
from typing import Any, TypeAlias

from fastapi.responses import Response

from app import telemetry
from app.errors import ServiceError
from app.middleware import HEADERS
from app.problems import response_of

Event: TypeAlias = dict[str, Any]

HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?")  # what Mangum can split into a name and a port
PORT = re.compile(r"[0-9]{1,5}")
SCHEDULERS = ("aws.events", "aws.scheduler")
PONG = {"statusCode": 200, "body": '{"status":"alive"}'}  # what a ping is answered


def is_ping(event: object) -> bool:
    """Return whether a schedule sent this, to keep the environment warm."""
    return isinstance(event, dict) and event.get("source") in SCHEDULERS


def readable(event: object) -> Event:
    """Return the event with its headers as Mangum expects them: present, texts only, the host splittable.

    Raises:
        Exception: it is no request; any kind, because nothing of an event is checked before it is used.
    """
    if not isinstance(event, dict) or not isinstance(_method(event), str):
        raise TypeError
    event = {name: value for name, value in event.items() if not (name == "multiValueHeaders" and value is None)}
    event["headers"] = {
        name: value
        for name, value in (event.get("headers") or {}).items()
        if isinstance(value, str) and _is_readable(name.lower(), value)
    }
    if "multiValueHeaders" in event:
        event["multiValueHeaders"] = {
            name: [value for value in values or () if isinstance(value, str) and _is_readable(name.lower(), value)]
            for name, values in event["multiValueHeaders"].items()
        }
    return event


def problem(error: ServiceError, request_id: str | None = None) -> Response:
    """Return the problem as the app would have answered it, under the id of the request or a new one."""
    token = telemetry.request_id.set(request_id or uuid.uuid4().hex)
    response = response_of(error)
    headers = HEADERS | {"X-Request-ID": telemetry.request_id.get() or ""}
    response.raw_headers += [(name.encode(), value.encode()) for name, value in headers.items()]
    telemetry.request_id.reset(token)
    return response


def _method(event: Event) -> object:
    return event["httpMethod"] if "httpMethod" in event else event["requestContext"]["http"]["method"]


def _is_readable(name: str, value: str) -> bool:
    rule = {"host": HOST, "x-forwarded-port": PORT}.get(name)
    return rule is None or rule.fullmatch(value) is not None
