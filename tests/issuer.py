"""A token issuer: real keys, a real HTTP server that publishes them, and tokens good and bad."""

import json
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import InsecureKeyLengthWarning
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://issuer.example.com/", "agent-service"
RSA_KEY = rsa.generate_private_key(65_537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65_537, 2048)
WEAK_RSA_KEY = rsa.generate_private_key(65_537, 1024)  # noqa: S505 that is what it is for
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
RSA_PEM = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def published(kid: str = "rsa", key: Any = RSA_KEY, **members: object) -> dict[str, Any]:
    """Return a key as an issuer publishes it."""
    kind = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    algorithm: Any = next((kind[each] for each in kind if isinstance(key, each)), OKPAlgorithm)
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", **members}


KEYS = {
    "keys": [
        published(alg="RS256"),
        published("ec", EC_KEY),
        published("ed", ED_KEY),
        published("weak", WEAK_RSA_KEY),
        published("enc", use="enc"),
        {name: value for name, value in published("bare").items() if name != "use"},  # which RFC 7517 leaves open
        {"kty": "oct", "kid": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"},
        {"kty": "??", "kid": "odd"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": []},
        "no key",
    ]
}


def token(algorithm: str = "RS256", key: Any = RSA_KEY, kid: str | None = "rsa", **changes: Any) -> str:
    """Return a token for `alice`. A changed claim that is None is left out; `headers` are added to the header."""
    headers = {"kid": kid} if kid is not None else {}
    headers |= changes.pop("headers", {})
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) + 300} | changes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyLengthWarning)  # of a key that is weak on purpose
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm, headers=headers)


@dataclass
class Issuer:
    """A running issuer: what it answers next, and what it was asked.

    open: it lets an answer wait until this is set
    """

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = json.dumps(KEYS).encode()
    asked: int = 0
    open: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)

    def publish(self, *keys: object) -> None:
        """Answer with these keys from now on."""
        self.status, self.body = 200, json.dumps({"keys": keys}).encode()

    @property
    def settings(self) -> dict[str, str]:
        """The variables of a service that trusts this issuer."""
        named = {"AUTH_JWT_ISSUER": ISSUER, "AUTH_JWT_AUDIENCE": AUDIENCE, "AUTH_JWT_JWKS_URL": self.url}
        return {"AUTH": "jwt", **named}


@contextmanager
def issuer() -> Iterator[Issuer]:
    """Serve in a thread of this process."""
    found = Issuer()
    found.open.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked += 1
            found.waiting.set()
            found.open.wait(30)
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.open.set()
        server.shutdown()
        server.server_close()
        thread.join()
