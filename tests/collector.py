"""A collector of OTLP over HTTP: what it was sent, or one that behaves badly."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """A span as it was sent, its ids in hexadecimal."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    began: int
    ended: int
    failed: bool
    events: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    schema: str


@dataclass
class Collector:
    """Where it listens, and what it has got; every byte of it in `raw`."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    raw: bytes = b""
    asked: int = 0

    def take(self, path: str, body: bytes) -> None:
        self.raw += body
        if path == "/v1/traces":
            self._take_spans(ExportTraceServiceRequest.FromString(body))
        else:
            self._take_metrics(ExportMetricsServiceRequest.FromString(body))

    def _take_spans(self, request: Any) -> None:
        for of_resource in request.resource_spans:
            resource = plain(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += [_span(each, resource, scope.schema_url) for each in scope.spans]

    def _take_metrics(self, request: Any) -> None:
        for of_resource in request.resource_metrics:
            for scope in of_resource.scope_metrics:
                for metric in scope.metrics:
                    self.metrics[metric.name] = metric

    def named(self, start: str) -> list[Span]:
        return [span for span in self.spans if span.name.startswith(start)]


def plain(attributes: Any) -> dict[str, Any]:
    return {each.key: _plain(each.value) for each in attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_plain(each) for each in found.values] if kind == "array_value" else found


def _span(span: Any, resource: dict[str, Any], schema: str) -> Span:
    return Span(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=span.kind,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        failed=span.status.code == 2,
        events=len(span.events) + len(span.links) + len(span.status.message),
        attributes=plain(span.attributes),
        resource=resource,
        schema=schema,
    )


@contextlib.contextmanager
def collector(*, hangs: bool = False, status: int = 200) -> Iterator[Collector]:
    """Serve a collector in a thread; one that hangs reads the request and never answers."""
    found, released = Collector(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.asked += 1
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if hangs:
                released.wait()
                return
            found.take(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()
