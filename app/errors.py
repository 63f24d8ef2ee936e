"""Every exception this service raises on purpose.

    ServiceError
    ├── ConfigurationError        the environment is wrong; the process must not start
    ├── NotServing                this process cannot take the turn now; try again
    │   ├── WarmingUp             not ready yet
    │   ├── ShuttingDown          draining, or stopped in the middle of a turn
    │   └── Overloaded            as many turns as allowed are running
    ├── InvalidRequest            the caller must change something
    │   ├── MalformedEvent        the Lambda event is no HTTP request
    │   ├── MalformedRequest      what came is no HTTP
    │   ├── MisdirectedRequest    it is for a host that is none of ours
    │   ├── HeadersTooLarge       the headers are over a limit
    │   ├── TargetTooLong         the target in the request line is over the limit
    │   ├── MalformedJSON         the body is no JSON document
    │   ├── RequestTimeout        the body did not arrive in time
    │   ├── ValidationFailed      the document does not fit the contract
    │   ├── UnsupportedMediaType  the body is not declared as JSON
    │   ├── NotAcceptable         neither JSON nor SSE is accepted
    │   ├── ContentTooLarge       body or message over the limit
    │   ├── InvalidIdempotencyKey the header breaks its syntax
    │   └── IdempotencyKeyReused  same key, other message
    ├── Unauthenticated           no credential, or none that is good
    ├── AuthUnavailable           what credentials are checked with cannot be had
    ├── RateLimited               the principal has begun, or runs, as many turns as it may
    ├── QuotaExceeded             a budget of the principal or of the session is used up
    ├── UsageNotCounted           without a budget of the day nobody counts
    ├── SessionNotFound           absent, or another principal's
    ├── SessionConflict           somebody else holds the session; try again
    │   ├── SessionBusy           another turn is running
    │   ├── TurnInProgress        the turn with this idempotency key is running
    │   └── LeaseLost             this run was overtaken; nothing of it is stored
    ├── StoreUnavailable          the session store did not answer
    │   └── StoreRefused          it refused the request, and would refuse it again
    ├── DamagedTurn               a stored turn cannot be read
    ├── DeadlineExceeded          nothing was said before the turn's deadline
    ├── AgentFailed               the agent raised, or broke its contract
    ├── ModelFailed               the model's API did not give an answer
    │   ├── ModelRejected         it refused our request
    │   ├── ModelUnpaid           it refused our key, or its credit or spend limit is used up
    │   ├── ModelInvalid          it sent something cut off, or not of its protocol
    │   ├── ModelOverloaded       it is overloaded, or cannot be reached
    │   └── ModelRateLimited      it takes no more requests from us for a while
    ├── TurnCancelled             the turn was ended from outside, and nothing of it is stored
    └── ResponseTooLarge          the answer does not fit where it must go

`problems.py` gives each its HTTP status. Texts here are for logs and people: they name settings, fields and limits,
never a value, a secret or a user's words.
"""

from collections.abc import Mapping


class ServiceError(Exception):
    """Root of the tree.

    `retry_after_s` is how many seconds the caller should wait before it tries again; None where trying again is no use.
    """

    retry_after_s: int | None = None


class ConfigurationError(ServiceError):
    """The environment is wrong. `problems` names every bad setting, one text each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class NotServing(ServiceError):
    """This process cannot take the turn now."""

    retry_after_s = 1


class WarmingUp(NotServing):
    """Warm-up has not finished."""


class ShuttingDown(NotServing):
    """The process is draining, or stopped this turn because its grace ran out."""


class Overloaded(NotServing):
    """As many turns as allowed are running in this process."""


class InvalidRequest(ServiceError):
    """The caller must change the request."""


class MalformedEvent(InvalidRequest):
    """The Lambda event is not an HTTP request, or one that cannot be read."""


class MalformedRequest(InvalidRequest):
    """What came over the connection is no HTTP."""


class MisdirectedRequest(InvalidRequest):
    """The request is for a host that the service does not answer for."""


class HeadersTooLarge(InvalidRequest):
    """The headers are over the limit of their bytes or of their number."""


class TargetTooLong(InvalidRequest):
    """The target in the request line is over the limit."""


class MalformedJSON(InvalidRequest):
    """The body is not one JSON document of Unicode text without duplicate keys or non-finite numbers."""


class RequestTimeout(InvalidRequest):
    """The body did not arrive in time."""

    retry_after_s = 1


class ValidationFailed(InvalidRequest):
    """The document does not fit the contract. `errors` holds `{"loc": […], "type": …}` and never the input."""

    def __init__(self, errors: list[dict[str, object]]) -> None:
        super().__init__("validation failed")
        self.errors = errors


class UnsupportedMediaType(InvalidRequest):
    """The body is not declared as application/json."""


class NotAcceptable(InvalidRequest):
    """The Accept header admits neither JSON nor SSE."""


class ContentTooLarge(InvalidRequest):
    """The body or the message is over its limit."""


class InvalidIdempotencyKey(InvalidRequest):
    """The Idempotency-Key header is not 1 to 255 visible ASCII characters."""


class IdempotencyKeyReused(InvalidRequest):
    """The key was used in this session with another message."""


class Unauthenticated(ServiceError):
    """There is no credential, or none that is good. The text says why, for the log: a constant, nothing of it."""


class AuthUnavailable(ServiceError):
    """What the credential is checked with cannot be had now, so nobody can say whether it is good."""

    retry_after_s = 5


class RateLimited(ServiceError):
    """The principal has begun as many turns of this minute as it may, or as many of its turns run.

    `fields` are those of the response that tell which limit it met.
    """

    def __init__(self, retry_after_s: int = 1, fields: Mapping[str, str] | None = None) -> None:
        super().__init__("a limit of the principal is used up")
        self.retry_after_s = retry_after_s
        self.fields = fields or {}


class QuotaExceeded(ServiceError):
    """All of a budget is used, or set aside for turns that run. `retry_after_s` is None where it never comes back."""

    def __init__(self, retry_after_s: int | None = None) -> None:
        super().__init__("a budget is used up")
        self.retry_after_s = retry_after_s


class UsageNotCounted(ServiceError):
    """What a principal uses in a day is counted only where a budget of the day is set."""


class SessionNotFound(ServiceError):
    """No such session for this principal; absent and foreign are told apart nowhere."""


class SessionConflict(ServiceError):
    """Somebody else holds the session."""

    retry_after_s = 2


class SessionBusy(SessionConflict):
    """Another turn is running on the session."""


class TurnInProgress(SessionConflict):
    """The turn with this idempotency key is still running."""


class LeaseLost(SessionConflict):
    """Another run took the turn over, or the session was deleted; nothing of this run is stored."""

    retry_after_s = 1


class StoreUnavailable(ServiceError):
    """The session store did not answer within its limits; whether the last write happened is unknown."""

    retry_after_s = 2


class StoreRefused(StoreUnavailable):
    """The session store refused the request: no table, no permission, no space. Trying again at once is no use."""


class DamagedTurn(ServiceError):
    """A stored turn is not of the form in which turns are stored."""


class DeadlineExceeded(ServiceError):
    """The turn's deadline passed before the agent said anything."""

    retry_after_s = 1


class AgentFailed(ServiceError):
    """The agent raised or broke its contract."""


class ModelFailed(ServiceError):
    """The model's API did not give an answer; nothing of the turn is stored.

    `retry_after_s` is what the API asked for, at least a second, where it asked for something.
    """

    def __init__(self, text: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(text)
        if retry_after_s is not None:
            self.retry_after_s = max(retry_after_s, 1)


class ModelRejected(ModelFailed):
    """The API refused our request. Sending it again changes nothing."""


class ModelUnpaid(ModelFailed):
    """The API refused our key, or a credit or spend limit is used up. Somebody must act."""


class ModelInvalid(ModelFailed):
    """The answer was cut off, stalled, or is not of the protocol."""

    retry_after_s = 1


class ModelOverloaded(ModelFailed):
    """The API is overloaded, failed by itself, or cannot be reached."""

    retry_after_s = 2


class ModelRateLimited(ModelFailed):
    """The API takes no more requests with our key for a while."""

    retry_after_s = 5


class TurnCancelled(ServiceError):
    """The turn was ended from outside: before anything was said, or with its session. Nothing of it is stored."""

    retry_after_s = 1


class ResponseTooLarge(ServiceError):
    """The answer does not fit into an item of the store or a response of the platform."""
