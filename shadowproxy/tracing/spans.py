"""Spans by OpenTelemetry's SDK, after its semantic conventions for HTTP (extra `otlp`).

The only module that knows OpenTelemetry. It is loaded where tracing is configured and nowhere else.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from shadowproxy import __version__
from shadowproxy.compare.routes import Router
from shadowproxy.config import Settings, experiment_id
from shadowproxy.errors import StartError
from shadowproxy.model import Outcome, Side
from shadowproxy.tracing.context import derived_span
from shadowproxy.tracing.record import Ended, Traced

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
        TraceState,
        set_span_in_context,
    )
except ImportError:
    raise StartError(
        "tracing.endpoint needs OpenTelemetry, which is not installed: pip install 'shadowproxy[otlp]', or take it out"
    ) from None

_NANO: Final = 1_000_000_000
_METHODS: Final = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
"""Those that the conventions let stand for themselves."""

Attributes = dict[str, str | int | float]


class _GivenIds(IdGenerator):
    """Ids that are known before the spans are begun."""

    def __init__(self) -> None:
        self.trace = self.span = 0

    def generate_trace_id(self) -> int:
        """The id of the next trace of our own."""
        return self.trace

    def generate_span_id(self) -> int:
        """The id of the next span."""
        return self.span


class _Collected(SpanProcessor):
    """Spans that have ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Called by the SDK."""
        self.spans.append(span)


class SpanMaker:
    """Makes spans of requests. For one thread at a time.

    `resource` says who we are, by the conventions' names; `urls` are those of the upstreams, by side; `route` gives
    (name, glob) for a path, or None.
    """

    def __init__(
        self,
        resource: Mapping[str, str],
        urls: Mapping[Side, str],
        route: Callable[[str], tuple[str, str] | None],
    ) -> None:
        self._ids = _GivenIds()
        self._collected = _Collected()
        self._route = route
        self._servers = {side: _server(url) for side, url in urls.items()}
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create(resource), id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(self._collected)
        self._tracer = self._provider.get_tracer("shadowproxy", __version__)

    def __call__(self, requests: Iterable[Traced]) -> list[ReadableSpan]:
        """All spans of these requests: one of each request, and one of each exchange under it."""
        for request in requests:
            self._request(request)
        made, self._collected.spans = self._collected.spans, []
        return made

    def _request(self, request: Traced) -> None:
        route = self._route(request.path)
        method, common = _common(request, route)
        baseline = request.exchanges[0]
        started = round(request.started * _NANO)
        self._ids.trace = int(request.trace, 16)
        self._ids.span = _id(request, "request")
        attributes = {**common, "url.path": request.path, **_answered(baseline, error_from=500)}
        if route is not None:
            attributes["http.route"] = route[1]
        parent = self._tracer.start_span(
            f"{method} {route[1]}" if route else method,
            context=_parent(request),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=started,
        )
        if "error.type" in attributes:
            parent.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(parent)
        for exchange in request.exchanges:
            self._ids.span = _id(request, exchange.side.value)
            attributes = {
                **common,
                **self._servers.get(exchange.side, {}),
                **_answered(exchange, error_from=400),
                "shadowproxy.side": exchange.side.value,
                "shadowproxy.outcome": exchange.outcome.value,
            }
            span = self._tracer.start_span(
                f"{method} {exchange.side.value}", inside, SpanKind.CLIENT, attributes, start_time=started
            )
            if "error.type" in attributes:
                span.set_status(Status(StatusCode.ERROR, exchange.detail or None))
            if math.isfinite(exchange.ttfb):
                span.add_event("first byte", timestamp=started + round(exchange.ttfb * _NANO))
            span.end(started + round(exchange.seconds * _NANO))
        parent.end(started + round(baseline.seconds * _NANO))


def _id(request: Traced, what: str) -> int:
    return int(derived_span(request.trace, request.parent, request.started, what), 16)


def _parent(request: Traced) -> Context:
    """The client's span as the context of ours; an empty one where there is none."""
    if not request.parent:
        return set_span_in_context(NonRecordingSpan(SpanContext(0, 0, is_remote=False)))
    return set_span_in_context(
        NonRecordingSpan(
            SpanContext(
                int(request.trace, 16),
                int(request.parent, 16),
                is_remote=True,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
                trace_state=TraceState.from_header([request.state.decode("latin-1")]),
            )
        )
    )


def _common(request: Traced, route: tuple[str, str] | None) -> tuple[str, Attributes]:
    """What names the method in a span's name, and the attributes that all spans of a request have."""
    known = request.method in _METHODS
    said: Attributes = {
        "http.request.method": request.method if known else "_OTHER",
        "shadowproxy.request_id": request.request_id,
    }
    if not known:
        said["http.request.method_original"] = request.method
    if route is not None:
        said["shadowproxy.route"] = route[0]
    return request.method if known else "HTTP", said


def _answered(exchange: Ended, *, error_from: int) -> Attributes:
    said: Attributes = {}
    if exchange.status:
        said["http.response.status_code"] = exchange.status
        said["http.response.body.size"] = exchange.body_size
    if exchange.outcome is not Outcome.OK:
        said["error.type"] = exchange.outcome.value
    elif exchange.status >= error_from:
        said["error.type"] = str(exchange.status)
    return said


def _server(url: str) -> Attributes:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port, "url.scheme": parts.scheme}


class OtlpSender:
    """Sends spans to the collector of the settings (see `outbox.Sender`). For one thread, but for `give_up`.

    What the settings don't say is said by OpenTelemetry's own environment variables, such as
    OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_EXPORTER_OTLP_COMPRESSION and OTEL_RESOURCE_ATTRIBUTES.
    """

    def __init__(self, settings: Settings) -> None:
        tracing = settings.tracing
        resource = {
            "service.name": tracing.service_name,
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
            "shadowproxy.experiment": experiment_id(settings),
        }
        urls = {side: upstream.url for side, upstream in settings.upstreams.items()}
        self._make = SpanMaker(resource, urls, _routes(settings))
        self._exporter = OTLPSpanExporter(
            endpoint=tracing.endpoint,
            headers={name: value.get_secret_value() for name, value in tracing.headers.items()},
            timeout=tracing.timeout,
        )

    def __call__(self, requests: Sequence[Traced]) -> str:
        """See `outbox.Sender`."""
        # The exporter logs each attempt; the outbox says once that they fail, and why, and once that they no longer do.
        said = _Overheard()
        logger = logging.getLogger(OTLPSpanExporter.__module__)
        logger.addFilter(said)
        try:
            result = self._exporter.export(self._make(requests))
        finally:
            logger.removeFilter(said)
        return "" if result is SpanExportResult.SUCCESS else said.last or "the collector did not take them"

    def give_up(self) -> None:
        """See `outbox.Sender`."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # (of theirs)


class _Overheard(logging.Filter):
    """Keeps what a logger was told last, and lets nothing through."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        self.last = record.getMessage()
        return False


def _routes(settings: Settings) -> Callable[[str], tuple[str, str] | None]:
    found = Router([route.path for route in settings.routes])
    named = [(route.name, route.path) for route in settings.routes]

    def route(path: str) -> tuple[str, str] | None:
        at = found(path)
        return None if at < 0 else named[at]

    return route
