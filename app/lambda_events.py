"""Lambda events as requests: HTTP API, Function URL, REST API, ALB; and what is none of them. And their context.

Nothing that an event source can send may raise out of an entry point, which answers what cannot be read itself.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias
from urllib.parse import unquote

from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
from starlette.types import ASGIApp, Scope

from app.problems import MEDIA_TYPE

Event: TypeAlias = dict[str, Any]

HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?")  # what Mangum can split into a name and a port
PORT = re.compile(r"[0-9]{1,5}")
PARAMETER = re.compile(r"\{(\w+)\+?\}")  # of a REST resource: /{proxy+}
SCHEDULERS = ("aws.events", "aws.scheduler")
PONG = {"statusCode": 200, "body": '{"status":"alive"}'}  # what a ping is answered


@dataclass(frozen=True, slots=True)
class Context:
    """One invocation as the app finds it in `scope["aws.context"]`: the names are those of Lambda's own object."""

    aws_request_id: str
    invoked_function_arn: str
    deadline_ms: int
    trace_id: str

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        """Return the context of an invocation from the headers of its event."""
        return cls(
            headers["Lambda-Runtime-Aws-Request-Id"],
            headers.get("Lambda-Runtime-Invoked-Function-Arn", ""),
            int(headers["Lambda-Runtime-Deadline-Ms"]),
            headers.get("Lambda-Runtime-Trace-Id", ""),
        )

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the platform lets this invocation live."""
        return max(self.deadline_ms - int(time.time() * 1000), 0)


def adapter(app: ASGIApp) -> Mangum:
    """Return what turns an event into a request to `app`, and the whole response into what the event's source wants."""
    return Mangum(app, lifespan="off", text_mime_types=[*DEFAULT_TEXT_MIME_TYPES, MEDIA_TYPE])  # type: ignore[arg-type]


def parse(payload: bytes) -> object:
    """Return the event in a payload; None, which is no request, where there is none."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return None


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
    return _without_base(event)


def _without_base(event: Event) -> Event:
    """Return the event with the path that the service knows: without its API's stage or base path."""
    context = event["requestContext"]
    if "http" in context:  # payload 2.0 has the stage in its path, behind a custom domain too
        path = _after(f"/{context.get('stage')}", context["http"]["path"])
        return event | {"requestContext": context | {"http": context["http"] | {"path": path}}}
    if "resource" in event:  # REST has the base path of a custom domain in it
        found = event.get("pathParameters") or {}
        tail = unquote(PARAMETER.sub(lambda name: found.get(name[1], name[0]), event["resource"]))
        path, whole = event["path"], unquote(event["path"])
        if whole.endswith(tail):
            return event | {"path": _after(whole.removesuffix(tail), path)}
    return event


def _after(base: str, path: str) -> str:
    return path.removeprefix(base) or "/" if f"{path}/".startswith(f"{base}/") else path


def wants_several(event: object) -> bool:
    """Return whether this is a load balancer that reads, of a result, only headers with several values each."""
    if not isinstance(event, dict) or event.get("multiValueHeaders") is None:
        return False
    context = event.get("requestContext")
    return isinstance(context, dict) and "elb" in context


def request_of(mangum: Mangum, event: object, context: object) -> tuple[Scope, bytes]:
    """Return the ASGI scope of an event, and its body. Raises as `readable` does."""
    found = mangum.infer(readable(event), context)  # type: ignore[arg-type]  # it reads no context
    return found.scope, found.body


def _method(event: Event) -> object:
    return event["httpMethod"] if "httpMethod" in event else event["requestContext"]["http"]["method"]


def _is_readable(name: str, value: str) -> bool:
    rule = {"host": HOST, "x-forwarded-port": PORT}.get(name)
    return rule is None or rule.fullmatch(value) is not None
