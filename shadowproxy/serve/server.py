"""The API's server: every group of endpoints, behind the guard."""

from __future__ import annotations

import time

from shadowproxy import metrics
from shadowproxy.certificates import Contexts
from shadowproxy.config import Settings
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.report.view import Viewer
from shadowproxy.serve.access import Access, caller
from shadowproxy.serve.admin import AdminServer, Front
from shadowproxy.serve.api.control import ControlApi
from shadowproxy.serve.api.curves import CurveApi
from shadowproxy.serve.api.evidence import EvidenceApi
from shadowproxy.serve.api.experiments import ExperimentApi
from shadowproxy.serve.api.guardrails import GuardrailApi
from shadowproxy.serve.api.labels import LabelApi
from shadowproxy.serve.api.pairs import PairApi
from shadowproxy.serve.api.verdict import VerdictApi
from shadowproxy.serve.endpoint import table
from shadowproxy.serve.endpoints import ENDPOINTS
from shadowproxy.serve.events import Events
from shadowproxy.serve.index import ExemplarIndex
from shadowproxy.serve.openapi import OpenApi
from shadowproxy.serve.page import Page
from shadowproxy.serve.reader import VerdictReader


def api_server(
    settings: Settings,
    store: Partitions,
    reader: VerdictReader,
    verdict: VerdictApi,
    registry: metrics.Registry,
    contexts: Contexts | None = None,
) -> AdminServer:
    """The server, not started. Whoever has it keeps `verdict` fresh, which has `reader`; `contexts` are those of TLS.

    Raises Undocumented for a route that is not in the table of endpoints.
    """
    serve = settings.serve
    metrics.VerdictMetrics(registry, verdict.exported, verdict.readable)
    exemplars = ExemplarIndex(store, settings)
    events = Events(verdict.current, lambda: verdict.etag, listeners=serve.limits.listeners)
    verdict.on_update = events.look
    access = Access(serve, {one.key: one for one in ENDPOINTS}, clock=time.time, monotonic=time.monotonic)
    groups = (
        verdict,
        GuardrailApi(verdict.current, exemplars.guardrails, exemplars.worst),
        CurveApi(verdict.current),
        EvidenceApi(verdict.current, reader, exemplars.guardrails),
        ExperimentApi(store.home.url, settings),
        PairApi(exemplars, Viewer(settings.routes), may_see=lambda request: caller(request).sees),
        ControlApi(store.home),
        LabelApi(store, awaited=settings.longest_wait is not None),
        events,
        OpenApi(ENDPOINTS),
        access,
        Page(),
    )
    front = Front(
        middleware=[access.middleware],
        prepare=[access.protect],
        shutdown=[events.end],
        body=serve.limits.body,
        connections=serve.limits.connections,
        contexts=contexts,
    )
    server = AdminServer("api", registry, verdict.ready, [route for group in groups for route in group.routes], front)
    table(ENDPOINTS, server.served)
    return server
