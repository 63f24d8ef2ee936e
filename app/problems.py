"""Every error as RFC 9457 problem details: one table, used for JSON responses and for SSE `error` events.

`type` is `urn:agent-service:problem:<slug>`. Titles and details are constants: no input, no foreign text.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route

from app import errors, telemetry

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """RFC 9457 problem details.

    `instance` is the request id; `retryable` tells whether the same request may succeed later.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    retryable: bool
    errors: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table."""

    slug: str
    status: int
    title: str
    detail: str


NOT_FOUND = Kind("not-found", 404, "Not found", "There is no such resource.")
METHOD_NOT_ALLOWED = Kind(
    "method-not-allowed", 405, "Method not allowed", "The Allow header names the methods of this resource."
)
VALIDATION_FAILED = Kind(
    "validation-failed", 422, "Validation failed", "The request does not fit the contract; `errors` says where."
)
INTERNAL = Kind("internal", 500, "Internal error", "The service made an error. It has been logged under this id.")
STORE_UNAVAILABLE = Kind(
    "store-unavailable",
    503,
    "Store unavailable",
    "The session store does not answer. Retry with the same key.",
)

KINDS: dict[type[Exception], Kind] = {
    errors.MalformedEvent: Kind(
        "malformed-event",
        400,
        "Malformed event",
        "The Lambda event is not an HTTP request that can be read.",
    ),
    errors.MalformedRequest: Kind("malformed-request", 400, "Bad Request", "This is no HTTP request."),
    errors.MisdirectedRequest: Kind(
        "misdirected-request", 421, "Misdirected Request", "The service does not answer for this host."
    ),
    errors.HeadersTooLarge: Kind(
        "headers-too-large",
        431,
        "Request Header Fields Too Large",
        "The headers are over a limit of the service.",
    ),
    errors.TargetTooLong: Kind("target-too-long", 414, "URI Too Long", "The path is over the service's limit."),
    errors.MalformedJSON: Kind(
        "malformed-json",
        400,
        "Malformed JSON",
        "The body must be one JSON object in UTF-8 without duplicate keys.",
    ),
    errors.InvalidIdempotencyKey: Kind(
        "invalid-idempotency-key",
        400,
        "Invalid idempotency key",
        "Idempotency-Key must be one header of 1 to 255 visible ASCII characters.",
    ),
    errors.Unauthenticated: Kind(
        "unauthenticated", 401, "Unauthenticated", "There is no credential in the request, or none that is good."
    ),
    errors.AuthUnavailable: Kind(
        "auth-unavailable", 503, "Authentication unavailable", "The credential cannot be checked now."
    ),
    errors.SessionNotFound: NOT_FOUND,
    errors.NotAcceptable: Kind(
        "not-acceptable", 406, "Not acceptable", "Accept application/json or text/event-stream."
    ),
    errors.RequestTimeout: Kind("request-timeout", 408, "Request timeout", "The body did not arrive in time."),
    errors.SessionBusy: Kind(
        "session-busy",
        409,
        "Session busy",
        "Another turn is running on this session. `Prefer: wait=N` waits for it.",
    ),
    errors.TurnInProgress: Kind(
        "turn-in-progress",
        409,
        "Turn in progress",
        "The turn with this idempotency key is still running.",
    ),
    errors.LeaseLost: Kind(
        "lease-lost",
        409,
        "Lease lost",
        "Another request took this turn over; nothing of this one is stored.",
    ),
    errors.ContentTooLarge: Kind(
        "content-too-large",
        413,
        "Content too large",
        "The body or the message is over the service's limit.",
    ),
    errors.UnsupportedMediaType: Kind(
        "unsupported-media-type",
        415,
        "Unsupported media type",
        "Send the body as application/json.",
    ),
    errors.ValidationFailed: VALIDATION_FAILED,
    errors.IdempotencyKeyReused: Kind(
        "idempotency-key-reused",
        422,
        "Idempotency key reused",
        "This key belongs to another message of this session.",
    ),
    errors.RateLimited: Kind(
        "rate-limited", 429, "Rate limited", "You have begun, or run, as many turns as you may; RateLimit names which."
    ),
    errors.QuotaExceeded: Kind(
        "quota-exceeded", 429, "Quota exceeded", "The tokens or dollars of this session or of your day are used up."
    ),
    errors.UsageNotCounted: Kind(
        "usage-not-counted", 404, "Usage not counted", "No daily budget is set, so nothing is counted."
    ),
    errors.ResponseTooLarge: Kind(
        "response-too-large",
        500,
        "Response too large",
        "The answer is over a limit of the store or the platform. The session's transcript shows if it is stored.",
    ),
    errors.AgentFailed: Kind(
        "agent-failed", 502, "Agent failed", "The agent did not finish the turn; nothing is stored."
    ),
    errors.ModelRejected: Kind(
        "upstream-rejected", 502, "Rejected by the model", "The model's API refused the request; nothing is stored."
    ),
    errors.ModelUnpaid: Kind(
        "upstream-auth", 502, "Refused by the model", "The model's API refuses this service; nothing is stored."
    ),
    errors.ModelInvalid: Kind(
        "upstream-invalid",
        502,
        "Invalid answer of the model",
        "The model's answer was cut off or cannot be understood; nothing is stored.",
    ),
    errors.ModelOverloaded: Kind(
        "model-overloaded", 503, "Model overloaded", "The model's API cannot answer now; nothing is stored."
    ),
    errors.ModelRateLimited: Kind(
        "model-rate-limited",
        503,
        "Model rate limited",
        "The model's API takes no more requests from this service for now; nothing is stored.",
    ),
    errors.TurnCancelled: Kind("cancelled", 409, "Cancelled", "The turn was cancelled; nothing of it is stored."),
    errors.WarmingUp: Kind("warming-up", 503, "Warming up", "This process is not ready yet."),
    errors.Overloaded: Kind("overloaded", 503, "Overloaded", "This process runs as many turns as it may."),
    errors.ShuttingDown: Kind(
        "shutting-down", 503, "Shutting down", "This process is being stopped; nothing is stored."
    ),
    errors.StoreUnavailable: STORE_UNAVAILABLE,
    errors.StoreRefused: STORE_UNAVAILABLE,
    errors.DamagedTurn: Kind(
        "damaged-turn", 500, "Damaged turn", "A stored turn of this session cannot be read. It has been logged."
    ),
    errors.DeadlineExceeded: Kind(
        "deadline-exceeded",
        504,
        "Deadline exceeded",
        "The agent said nothing in time; nothing is stored.",
    ),
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the API's description says of these statuses: that they are problems."""
    return {
        status: {"content": {MEDIA_TYPE: {"schema": _schema()}}, "description": "Problem (RFC 9457)"}
        for status in statuses
    }


@cache
def _schema() -> dict[str, Any]:
    return Problem.model_json_schema()  # half a millisecond, for each of thirty places


def kind_of(error: BaseException) -> Kind:
    """Return the row for `error`: that of the nearest class in its order of inheritance, else `internal`."""
    for base in type(error).__mro__:
        if issubclass(base, Exception) and base in KINDS:
            return KINDS[base]
    return INTERNAL


def problem_of(error: Exception) -> Problem:
    """Return the problem that tells a client of `error`, under the id of the current request."""
    return _problem(
        kind_of(error),
        retryable=getattr(error, "retry_after_s", None) is not None,
        found=getattr(error, "errors", None) if isinstance(error, errors.ValidationFailed) else None,
    )


def response_of(error: Exception) -> Response:
    """Return the HTTP response that tells a client of `error`."""
    retry_after_s: int | None = getattr(error, "retry_after_s", None)
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    if isinstance(error, errors.RateLimited):
        headers |= error.fields
    if isinstance(error, errors.RequestTimeout):
        headers["Connection"] = "close"  # RFC 9110, section 15.5.9; or what still dribbles in goes on holding it
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, section 15.5.2, wants one; there is none for our other ways
    return _response(problem_of(error), headers)


async def on_service_error(_: Request, error: Exception) -> Response:
    """Exception handler for `ServiceError`."""
    return response_of(error)


def http_error_handler(routes: Sequence[BaseRoute]) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return the exception handler for what the router refuses itself: no such path, no such method.

    routes: whose methods are named then; the router itself would name those of the first one with the path only
    """

    async def on_http_error(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        kind = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}.get(status, INTERNAL)
        if kind is INTERNAL:
            log.error("unexpected HTTP error", extra={"status": status})
        matching = [each for each in routes if each.matches(request.scope)[0] is not Match.NONE]
        methods = sorted({method for each in matching if isinstance(each, Route) for method in each.methods or ()})
        return _response(_problem(kind), {"Allow": ", ".join(methods)} if kind is METHOD_NOT_ALLOWED else None)

    return on_http_error


async def on_invalid_parameter(_: Request, error: Exception) -> Response:
    """Exception handler for path and query parameters. Says where and which rule, never what was sent."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    places = [{"loc": list(each["loc"]), "type": each["type"]} for each in found]
    return _response(_problem(VALIDATION_FAILED, found=places))


def _problem(kind: Kind, *, retryable: bool = False, found: list[dict[str, Any]] | None = None) -> Problem:
    return Problem(
        type=f"urn:agent-service:problem:{kind.slug}",
        title=kind.title,
        status=kind.status,
        detail=kind.detail,
        instance=telemetry.request_id.get(),
        retryable=retryable,
        errors=found,
    )


def _response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    body = to_json(problem, exclude_none=True)
    return Response(body, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)
