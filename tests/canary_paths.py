"""Every way to fail that a caller, a model or an agent can cause, with a secret wherever there is room for one."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import httpx2

from tests.canaries import secret
from tests.entry_points import Answer, HTTPClient, http_api_event
from tests.issuer import token
from tests.machine import START_S
from tests.model_faults import INVALID, LATE, LIMITED, OVERLOADED, REJECTED, UNPAID
from tests.model_script import Call, Fault, Script, before_the_status, broken, error, in_pieces, says
from tests.with_model import SSE

Told: TypeAlias = tuple[int, str]
Headers: TypeAlias = dict[str, str | None]
Refused: TypeAlias = tuple[Told, str, str, bytes, Headers]

FAILED, LATE_END = (502, "agent-failed"), (504, "deadline-exceeded")
AGENTS: dict[str, tuple[Told, Headers]] = {  # by the first word of the message
    "early": (FAILED, {}),
    "late": (FAILED, {}),
    "foreign": (FAILED, {}),
    "exit": (FAILED, {}),
    "group": (FAILED, {}),
    "behind": (FAILED, {}),
    "silent": (LATE_END, {"x_request_timeout": "0.3"}),
}


@dataclass
class Caller:
    """Sends secrets wherever there is room for one, and keeps what must hold none of them.

    Each request has a connection of its own: what is left of a body that was refused is of no concern to the next.
    """

    url: str
    credential: str
    kept: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        alone = httpx2.Limits(max_keepalive_connections=0)
        self._http = httpx2.Client(base_url=self.url, timeout=START_S, limits=alone)

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str | None) -> Answer:
        """Make one request. A header that is None is left out."""
        named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        given = self._headers() | named
        target += ("&" if "?" in target else "?") + f"{secret('parameter')}={secret('query')}"
        sent = {name: value for name, value in given.items() if value is not None}
        answer = HTTPClient(Path(), self._http).request(method, target, body, sent)
        self.kept.append(json.dumps(dict(answer.headers)) + refusal(answer))
        return answer

    def chat(self, message: str, session: str, **headers: str | None) -> Answer:
        """Take a turn that is told as JSON, if `headers` do not ask for something else."""
        said = f'{message} {secret("message")} \u00fc"'
        return self.ask("POST", "/chat", json.dumps({"message": said, "session_id": session}).encode(), **headers)

    def _headers(self) -> dict[str, str]:
        plain = ("user-agent", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via", "baggage", "last-event-id")
        return {
            **{name: secret(name) for name in (*plain, "x-amz-security-token", "idempotency-key", "x-proxy-secret")},
            "authorization": f"Bearer {self.credential}",
            "content-type": "application/json",
            "x-request-id": f"{secret('x-request-id')} \u00fc",
            "traceparent": f"00-{secret('traceparent')}-{secret('span')}-01",
            "tracestate": f"vendor={secret('tracestate')}",
            "cookie": f"session={secret('cookie')}; {secret('name of a cookie')}=1",
            "referer": f"https://page.example/{secret('referer')}",
            "origin": f"https://{secret('origin')}.example",
            "forwarded": f"for={secret('forwarded')}",
            "prefer": f"wait=0, {secret('prefer')}",
            "x-request-timeout": secret("x-request-timeout"),
            f"x-{secret('name of a header')}": secret("header"),
        }


def refusal(answer: Answer) -> str:
    """Return what an answer tells of a failure, which is no place for what anybody said."""
    if answer.status != 200:
        return answer.body
    if answer.headers["content-type"].startswith(SSE):
        return json.dumps([event for event in answer.events if event[0] == "error"])
    return ""


def sent(**headers: str | None) -> Headers:
    """Return headers beside those that every request has."""
    return headers


def requests() -> dict[str, Refused]:
    """Return requests that are refused, by what is wrong with them, and what they are told."""
    return _bad_messages() | _bad_credentials() | _bad_paths()


def _bad_messages() -> dict[str, Refused]:
    """Return requests whose body, or what they want of it, is refused."""
    message = secret("message")
    return {
        "no JSON": ((400, "malformed-json"), "POST", "/chat", f'{{"message": "{message}'.encode(), {}),
        "list": ((422, "validation-failed"), "POST", "/chat", json.dumps([message]).encode(), {}),
        "type": ((422, "validation-failed"), "POST", "/chat", json.dumps({"message": [message]}).encode(), {}),
        "unknown field": (
            (422, "validation-failed"),
            *("POST", "/chat", json.dumps({"message": "x", secret("field"): 1}).encode(), {}),
        ),
        "session id": (
            (422, "validation-failed"),
            *("POST", "/chat", json.dumps({"message": "x", "session_id": f"{secret('bad id')} x"}).encode(), {}),
        ),
        "long message": ((413, "content-too-large"), "POST", "/chat", chat_of(message * 2000), {}),
        "long body": ((413, "content-too-large"), "POST", "/chat", chat_of(message * 40_000), {}),
        "media type": (
            (415, "unsupported-media-type"),
            *("POST", "/chat", chat_of(message), sent(content_type=f"text/{secret('media type')}")),
        ),
        "accept": (
            (406, "not-acceptable"),
            *("POST", "/chat", chat_of(message), sent(accept=f"image/{secret('accepted')}")),
        ),
        "key": (
            (400, "invalid-idempotency-key"),
            *("POST", "/chat", chat_of(message), sent(idempotency_key=f"{secret('bad idempotency key')} x")),
        ),
    }


def _bad_credentials() -> dict[str, Refused]:
    """Return requests of nobody who is known."""
    message, page = secret("message"), f"/sessions/{secret('path')}"
    return {
        "no credential": ((401, "unauthenticated"), "POST", "/chat", chat_of(message), {"authorization": None}),
        "wrong credential": (
            (401, "unauthenticated"),
            *("GET", page, b"", sent(authorization=f"Bearer {secret('wrong key')}")),
        ),
        "wrong scheme": (
            (401, "unauthenticated"),
            *("GET", page, b"", sent(authorization=f"{secret('scheme')} {secret('wrong key')}")),
        ),
        "other header": (
            (401, "unauthenticated"),
            *("GET", page, b"", sent(authorization=None, x_api_key=secret("x-api-key"))),
        ),
        "wrong token": (
            (401, "unauthenticated"),
            *("GET", page, b"", sent(authorization=f"Bearer {token(sub=secret('subject'), kid=secret('kid'))}")),
        ),
    }


def _bad_paths() -> dict[str, Refused]:
    """Return requests for what is not there, or cannot be."""
    page = f"/sessions/{secret('path')}"
    return {
        "no path": ((404, "not-found"), "GET", f"/{secret('path')}/{secret('rest of a path')}", b"", {}),
        "no session": ((404, "not-found"), "GET", page, b"", {}),
        "no method": ((405, "method-not-allowed"), "PUT", page, b"", {}),
        "query": ((422, "validation-failed"), "GET", f"{page}?before={secret('bad query')}", b"", {}),
        "path": ((422, "validation-failed"), "GET", f"/sessions/{secret('bad path')}%20x", b"", {}),
    }


def chat_of(message: str) -> bytes:
    return json.dumps({"message": message, "session_id": secret("session")}).encode()


def models() -> dict[str, tuple[Told, list[Script], Headers]]:
    """Return what a model's API does wrong, what the caller is told, and the headers of the turn."""
    text, kind, header = secret("model's error"), secret("kind of an error"), {"x_odd": secret("model's header")}
    event = f"event: x\ndata: {{{secret('garbage')}\n\n".encode()
    inside = {"type": "error", "error": {"type": "overloaded_error", "message": text}}
    words = says(secret("model's answer"), secret("model's last words"))
    call = says(secret("model's answer"), Call("failing", {"text": secret("argument")}))
    looked_up = says(Call("looked_up", {"key": secret("argument")}))
    odd = says(Call(secret("name of a tool")), Call("failing", f'{{"{secret("cut argument")}'), Call("failing", [text]))
    return {
        "400": (REJECTED, [error(400, kind, text, **header)], {}),
        "401": (UNPAID, [error(401, "authentication_error", text, **header)], {}),
        "429": (LIMITED, [error(429, "rate_limit_error", text, retry_after="120")], {}),
        "500": (OVERLOADED, [error(500, "api_error", text)] * 3, {}),
        "no document": (REJECTED, [in_pieces(400, f"<html>{text}".encode())], {}),
        "reset": (OVERLOADED, [before_the_status(Fault.RESET)] * 3, {}),
        "garbage": (INVALID, [broken(LATE, event, of=words)], {}),
        "cut": (INVALID, [broken(LATE, Fault.CUT, of=words)], {}),
        "late reset": (INVALID, [broken(LATE, Fault.RESET, of=words)], {}),
        "error in the stream": (OVERLOADED, [broken(LATE, inside, of=words)], {}),
        "stall": (LATE_END, [before_the_status(Fault.STALL)], {"x_request_timeout": "0.5"}),
        "a tool raises": (REJECTED, [call, error(400, kind, text)], {}),
        "after a tool": (REJECTED, [looked_up, error(400, kind, text)], {}),
        "calls of no tool": (REJECTED, [odd, error(400, kind, text)], {}),
    }


def raw() -> dict[str, tuple[Told, bytes]]:
    """Return what is no request, and what its sender is told."""
    text, bad = secret("raw").encode(), (400, "malformed-request")
    head = b"GET /" + text + b"?" + text + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Secret: " + text + b"\r\n"
    return {
        "no HTTP": (bad, text + b"\r\n\r\n"),
        "no version": (bad, b"GET / " + text + b"\r\n\r\n"),
        "no header": (bad, head + text + b"\r\n\r\n"),
        "a blank in a name": (bad, head + text + b" : 1\r\n\r\n"),
        "a NUL": (bad, head + b"X: " + text + b"\0\r\n\r\n"),
        "no length": (bad, head + b"Content-Length: " + text + b"\r\n\r\n"),
        "no coding": (bad, head + b"Transfer-Encoding: " + text + b"\r\n\r\n"),
        "long header": ((431, "headers-too-large"), head + b"X: " + text * 4000 + b"\r\n\r\n"),
        "long target": ((414, "target-too-long"), b"GET /" + text * 800 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        "other host": (
            (421, "misdirected-request"),
            b"GET /chat HTTP/1.1\r\nConnection: close\r\nHost: " + text + b".example\r\n\r\n",
        ),
    }


def events() -> list[object]:
    """Return events of Lambda that no front door sends, three of which cannot be read."""
    text = secret("event")
    whole = http_api_event("POST", f"/{text}", text.encode(), {"X-Secret": text})
    context = whole["requestContext"]
    return [
        text,
        {"Records": [{"body": text}]},
        whole | {"body": f"{text}!"},
        whole | {"rawPath": [text]},
        whole | {"headers": {"host": {"name": text}}},
        whole | {"requestContext": context | {"http": {"method": {"name": text}}}},
    ]
