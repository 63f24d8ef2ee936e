"""The line that closes a turn; docs/logs.md says what its fields mean."""

import hashlib
import logging
from collections.abc import Mapping
from types import MappingProxyType

from app import telemetry
from app.errors import QuotaExceeded, RateLimited, StoreRefused
from app.problems import kind_of
from app.report import Report

log = logging.getLogger(__name__)

HASH_DIGITS = 16  # 64 bits: among a hundred million sessions, no two are likely to share one
SERVER_ERROR = 500


def write(report: Report, more: Mapping[str, object] = MappingProxyType({})) -> None:
    """Write the line of a turn that has ended, with `more` fields. It holds nothing a user, a tool or a model said."""
    usage, failure = report.usage, report.failure
    level = _level(failure)
    facts: dict[str, object] = {
        "principal_hash": hash_of(report.key.principal),
        "session_hash": hash_of(str(report.key)),
        "turn": report.number,
        "replayed": report.replayed,
        "streamed": report.streamed,
        "stop_reason": report.stop_reason,
        "problem": kind_of(failure).slug if failure else None,
        "steps": usage.steps,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": usage.usd or None,
        "elapsed_ms": _ms(report.elapsed_s),
        "claim_ms": _ms(report.parts_s.get("claim", 0.0)),
        "model_ms": _ms(report.model_s),
        "tools_ms": _ms(report.tools_s),
        "commit_ms": _ms(report.parts_s.get("commit", 0.0)),
    }
    log.log(
        level,
        "turn finished",
        exc_info=(failure.__cause__ or failure) if failure and level == logging.ERROR else None,
        extra={telemetry.FACTS: {name: value for name, value in {**facts, **more}.items() if value is not None}},
    )


def hash_of(text: str) -> str:
    """Return what stands for a principal or a session in the log.

    It has no key, so that whoever knows the text finds its lines. Whoever can guess the text can find it, too.
    """
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def _level(failure: BaseException | None) -> int:
    """Return error where somebody must look: it is no fault of the caller's, and trying again is no use.

    What a limit or a budget refused was never run, and must not fill the log: whoever is refused comes again.
    """
    if failure is None:
        return logging.INFO
    if isinstance(failure, RateLimited | QuotaExceeded):
        return logging.DEBUG
    lasting = getattr(failure, "retry_after_s", None) is None or isinstance(failure, StoreRefused)
    return logging.ERROR if lasting and kind_of(failure).status >= SERVER_ERROR else logging.WARNING


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
