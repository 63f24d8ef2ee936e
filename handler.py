"""Lambda entry: `handler.handler`. Opened and warmed once per environment, then one Mangum call per invocation.

Nothing a caller or an event source can send makes the handler raise: to Lambda an exception here is a function error,
which it retries and alarms on, and for which the caller gets a 502 that is not ours.
"""

import gc

gc.disable()  # collecting while the modules load costs a tenth of the cold start and finds nothing

import asyncio  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
from typing import Any, TypeAlias  # noqa: E402

from app.errors import MalformedEvent, ResponseTooLarge, ServiceError  # noqa: E402
from app.lambda_environment import Environment  # noqa: E402
from app.lambda_events import PONG, Event, adapter, is_ping, readable, wants_several  # noqa: E402
from app.main import build  # noqa: E402
from app.middleware import problem_outside  # noqa: E402

log = logging.getLogger(__name__)

Result: TypeAlias = dict[str, Any]

MAX_RESULT_BYTES = 5_767_168  # 5.5 MiB; at 6,291,556 the runtime refuses the answer and the environment is lost
MAX_BALANCER_BYTES = 950_000  # a load balancer takes 1 MB, whatever the runtime takes, and makes a 502 of more
CHECK_OVER_CHARS = 75_000  # JSON makes at most twelve bytes of a character, so shorter bodies always fit

app = build()
environment = Environment(app)
mangum = adapter(app)
environment.open()
gc.enable()
gc.freeze()  # what is loaded now stays, so no collection needs to look at it again


def handler(event: object, context: object) -> Result:
    """Answer one Lambda event: HTTP API, Function URL, REST API, ALB, or a scheduled ping. Never raises."""
    asyncio.set_event_loop(environment.loop)  # an asyncio.run() anywhere in the process takes the current loop away
    try:
        if is_ping(event):
            return PONG
        if environment.is_stale():
            environment.loop.run_until_complete(environment.reopen())
        result = _within_limit(mangum(readable(event), context), event)  # type: ignore[arg-type]  # unchecked, as said
        environment.loop.run_until_complete(environment.finish(context))
    except Exception as exc:  # noqa: BLE001 an edge: events come from anywhere, and Mangum reads them unchecked
        log.warning("event cannot be read", extra={"reason": type(exc).__name__})
        return _problem(MalformedEvent(), event)
    return result


def _within_limit(result: Result, event: Event) -> Result:
    limit = MAX_BALANCER_BYTES if "elb" in event["requestContext"] else MAX_RESULT_BYTES
    if len(result.get("body") or "") > CHECK_OVER_CHARS and len(json.dumps(result)) > limit:
        headers = result.get("multiValueHeaders", {}) | result.get("headers", {})
        known = headers.get("x-request-id")
        return _problem(ResponseTooLarge(), event, known[-1] if isinstance(known, list) else known)
    return result


def _problem(error: ServiceError, event: object, request_id: str | None = None) -> Result:
    response = problem_outside(error, request_id)
    headers = {name.decode(): value.decode() for name, value in response.raw_headers}
    several = {"multiValueHeaders": {name: [value] for name, value in headers.items()}}
    return {
        "statusCode": response.status_code,
        **(several if wants_several(event) else {"headers": headers}),
        "body": bytes(response.body).decode(),
        "isBase64Encoded": False,
    }
