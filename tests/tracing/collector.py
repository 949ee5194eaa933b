"""An OpenTelemetry collector as far as OTLP over HTTP goes, with the messages of the protocol's own definition."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


def said(attributes: Any) -> dict[str, Any]:
    """Attributes as a dictionary."""
    return {one.key: _value(one) for one in attributes}


def _value(one: KeyValue) -> Any:
    return getattr(one.value, one.value.WhichOneof("value"))


@dataclass
class Collector:
    """Takes spans, or does what `status` says: None hangs until the end."""

    status: int | None = 200
    url: str = ""
    asked: int = 0
    headers: list[Mapping[str, str]] = field(default_factory=list)
    raw: bytes = b""
    resources: list[dict[str, Any]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self.changed:
            self.asked += 1
            self.changed.notify_all()
        if self.status is None:
            await self.over.wait()
            return web.Response(status=503)
        if self.status != 200:
            return web.Response(status=self.status)
        assert request.content_type == "application/x-protobuf"
        told = ExportTraceServiceRequest.FromString(body)
        async with self.changed:
            self.headers.append(request.headers.copy())
            self.raw += body
            for group in told.resource_spans:
                self.resources.append(said(group.resource.attributes))
                for scope in group.scope_spans:
                    self.spans += scope.spans
            self.changed.notify_all()
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    async def has(self, spans: int = 0, *, asked: int = 0) -> list[Span]:
        """Wait for so many spans, or attempts."""
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: len(self.spans) >= spans and self.asked >= asked)
        return self.spans


@contextlib.asynccontextmanager
async def collector(status: int | None = 200) -> AsyncIterator[Collector]:
    made = Collector(status)
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        made.over.set()
        await runner.cleanup()
