"""Every endpoint of the API's process: routes that don't stand here are not served (see `endpoint.table`)."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from shadowproxy.pairs.controls import MAX_REASON, ControlChange, ControlStatus
from shadowproxy.pairs.experiments import History
from shadowproxy.report.view import PairView
from shadowproxy.serve.api.experiments import Experiments
from shadowproxy.serve.api.guardrails import Cohorts, Guardrails
from shadowproxy.serve.api.labels import JSON_LINES, Added, Label
from shadowproxy.serve.api.pairs import AnswerKind, BoardName, Exemplars, FoundPairs
from shadowproxy.serve.endpoint import Answer, Body, Endpoint, Parameter
from shadowproxy.serve.experiments import Report
from shadowproxy.verdict.record import OVERALL, Finding, Verdict
from shadowproxy.verdict.reported.curves import Distributions, Latencies
from shadowproxy.verdict.reported.evidence import Evidence

_Text = Annotated[str, Meta(max_length=256)]

_UNREAD: Final = {503: "The verdict can't be read: the store is away, or what is stored can't be used."}
_AWAY: Final = {503: "The store is away."}
_NONE: Final = {404: "There is no such guardrail, cohort or route."}

_GUARDRAIL: Final = Parameter(
    name="guardrail", kind=_Text, about="Of this guardrail only; all unless given.", example="latency.total_p99"
)
_ROUTE: Final = Parameter(name="route", kind=_Text, about="Of this route only; all unless given.", example="recommend")


class Health(msgspec.Struct, frozen=True):
    """That the process is up."""

    status: str
    process: str


class Readiness(msgspec.Struct, frozen=True):
    """Whether what the process needs is there."""

    ready: bool
    checks: dict[str, str]
    """By name of what is needed: `ok`, or what is wrong."""


def _cohort(usual: str | None = None) -> Parameter:
    about = "Of this cohort only" + ("; all unless given." if usual is None else f"; `{OVERALL}`: of all pairs.")
    return Parameter(name="cohort", kind=_Text, about=about, usual=usual, example=OVERALL)


def _limit(usual: int) -> Parameter:
    return Parameter(
        name="limit", kind=Annotated[int, Meta(ge=1, le=10_000)], about="How many at the most.", usual=usual
    )


def _json(kind: Any, about: str, status: int = 200) -> Answer:
    return Answer(kind=kind, about=about, status=status)


ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    Endpoint(
        path="/api/v1/verdict",
        summary="The verdict as it is now.",
        about="Send the ETag of the last one as If-None-Match: what has not changed is not sent again.",
        answers=(_json(Verdict, "The verdict."), Answer(status=304, about="It has not changed.", content="")),
        problems=_UNREAD,
    ),
    Endpoint(
        path="/api/v1/history",
        summary="How the verdict changed, newest first.",
        answers=(_json(History, "Its changes."),),
        problems=_AWAY,
    ),
    Endpoint(
        path="/api/v1/guardrails",
        summary="The verdict's guardrails, overall first, then by cohort.",
        parameters=(
            _GUARDRAIL,
            _cohort(),
            Parameter(name="finding", kind=Finding, about="Those of which this was found; all unless given."),
        ),
        answers=(_json(Guardrails, "The guardrails."),),
        problems=_UNREAD | _NONE,
    ),
    Endpoint(
        path="/api/v1/cohorts",
        summary="How many guardrails are safe, harmful and undecided in each cohort.",
        answers=(_json(Cohorts, "The cohorts."),),
        problems=_UNREAD,
    ),
    Endpoint(
        path="/api/v1/distributions",
        summary="The scores of both sides as histograms with common bins.",
        parameters=(_ROUTE, _cohort(OVERALL)),
        answers=(_json(Distributions, "The histograms."),),
        problems=_UNREAD | _NONE,
    ),
    Endpoint(
        path="/api/v1/latencies",
        summary="The quantiles of each upstream's latency, from 1% to 99.9%.",
        parameters=(_ROUTE, _cohort(OVERALL)),
        answers=(_json(Latencies, "The quantiles."),),
        problems=_UNREAD | _NONE,
    ),
    Endpoint(
        path="/api/v1/evidence",
        summary="How the e-values went on their way to the thresholds.",
        parameters=(
            _GUARDRAIL,
            _cohort(),
            Parameter(
                name="points", kind=Annotated[int, Meta(ge=2, le=2000)], about="How many at the most.", usual=300
            ),
        ),
        answers=(_json(Evidence, "The cells, and the points oldest first; the last is now."),),
        problems=_UNREAD | _NONE,
    ),
    Endpoint(
        path="/api/v1/experiments",
        summary="Every experiment in the store.",
        answers=(_json(Experiments, "The experiments."),),
        problems=_AWAY,
    ),
    Endpoint(
        path="/api/v1/experiments/{id}",
        summary="One experiment with all that is known of it.",
        parameters=(Parameter(name="id", within="path", kind=_Text, about="Its id.", example="default-1a2b3c4d"),),
        answers=(_json(Report, "The experiment, with its verdict worked out anew."),),
        problems=_AWAY | {404: "There is no such experiment."},
    ),
    Endpoint(
        path="/api/v1/pairs/worst",
        summary="The pairs with the greatest loss, worst first.",
        parameters=(_GUARDRAIL, _cohort(OVERALL), _limit(10)),
        answers=(_json(Exemplars, "The pairs of each guardrail, without heads and bodies."),),
        problems=_AWAY | _NONE,
    ),
    Endpoint(
        path="/api/v1/pairs/sample",
        summary="Pairs that were kept by chance, each as likely as any other.",
        parameters=(_limit(100),),
        answers=(_json(Exemplars, "The pairs in the order of time, without heads and bodies."),),
        problems=_AWAY,
    ),
    Endpoint(
        path="/api/v1/pairs",
        summary="The pairs that were kept to be looked at, searched.",
        parameters=(
            _GUARDRAIL,
            _cohort(),
            _ROUTE,
            Parameter(name="outcome", kind=AnswerKind, about="How the candidate answered."),
            Parameter(name="id", kind=_Text, about="A request's id (X-Request-Id)."),
            Parameter(name="text", kind=Annotated[str, Meta(max_length=200)], about="Text in the id or the target."),
            Parameter(name="board", kind=BoardName, about="Why they were kept; for either reason unless given."),
            Parameter(name="limit", kind=Annotated[int, Meta(ge=1, le=1000)], about="How many at the most.", usual=50),
            Parameter(
                name="offset", kind=Annotated[int, Meta(ge=0, le=1_000_000)], about="How many to leave out.", usual=0
            ),
        ),
        answers=(_json(FoundPairs, "Some of them, without heads and bodies, and how many there are."),),
        problems=_AWAY | _NONE,
    ),
    Endpoint(
        path="/api/v1/pairs/{id}",
        summary="One pair side by side.",
        about="The newest of those that were kept under this id, since clients choose ids and may choose one twice; "
        "partition, entry and position name another one. Heads and bodies are there for who shows a token and, where "
        "no tokens are configured, on this machine; else `withheld` is true.",
        parameters=(
            Parameter(name="id", within="path", kind=_Text, about="The request's id.", example="0b1c"),
            Parameter(name="partition", kind=Annotated[int, Meta(ge=0, le=1023)], about="As of an exemplar."),
            Parameter(name="entry", kind=_Text, about="As of an exemplar."),
            Parameter(name="position", kind=Annotated[int, Meta(ge=0, le=16_383)], about="As of an exemplar."),
        ),
        answers=(_json(PairView, "The pair."),),
        problems=_AWAY | {404: "No such pair is kept, or it is no more."},
    ),
    Endpoint(
        path="/api/v1/control",
        summary="Whether and how much is mirrored, who said so, and which proxies go by it.",
        answers=(_json(ControlStatus, "What is in force."),),
        problems=_AWAY,
    ),
    Endpoint(
        path="/api/v1/control",
        method="POST",
        summary="Pauses, resumes, stops, or sets the share that is mirrored.",
        about="Proxies go by it within a second.",
        needs="control",
        body=Body(
            about="What is to be changed; what is not given stays.",
            kinds={"application/json": ControlChange},
            example={"paused": True, "reason": "the candidate is overloaded"},
            constraint={
                "anyOf": [{"required": [one]} for one in ("paused", "stopped", "sample")],
                "properties": {
                    "sample": {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]},
                    "reason": {"type": "string", "maxLength": MAX_REASON},
                    "by": {"type": "string", "maxLength": MAX_REASON},
                },
            },
        ),
        answers=(_json(ControlStatus, "What is in force now."),),
        problems=_AWAY | {400: "The change can't be.", 409: "It can't be now: the experiment is stopped."},
    ),
    Endpoint(
        path="/api/v1/labels",
        method="POST",
        summary="Adds labels: what a right answer to an earlier request would have held.",
        about="All of them or none. Posting them again is always safe: each counts once.",
        needs="control",
        body=Body(
            about="One label, a list of them, or one a line.",
            kinds={"application/json": Label | list[Label], **dict.fromkeys(JSON_LINES)},
            example={"id": "0b1c", "truth": ["a", "b"]},
        ),
        answers=(_json(Added, "They are stored.", 202),),
        problems=_AWAY | {400: "A label can't be read.", 409: "No route of this experiment waits for labels."},
    ),
    Endpoint(
        path="/api/v1/events",
        summary="Tells when the verdict is another, as server-sent events.",
        about="`event: verdict` has an object with state, pairs, at and etag: fetch /api/v1/verdict then. "
        "`event: trouble` has a problem: it can't be read. The present one comes first; comments only show life.",
        answers=(
            Answer(
                about="A stream without end.",
                content="text/event-stream",
                example='event: verdict\ndata: {"state":"continue","pairs":812,"at":1767225600.0,"etag":"a1"}\n\n',
            ),
        ),
        problems={503: "There are `serve.limits.listeners` already, or the API is stopping."},
    ),
    Endpoint(
        path="/api/v1/openapi.json",
        summary="This document.",
        needs="nothing",
        answers=(_json(dict[str, Any], "OpenAPI 3.1."),),
    ),
    Endpoint(
        path="/login",
        method="POST",
        summary="Begins a browser's session, by the token that is sent with it.",
        about="The session lasts 12 hours and may read. No script reads its cookie; no other site's requests have it.",
        of_page=True,
        answers=(Answer(status=204, about="The cookie is set.", content=""),),
    ),
    Endpoint(
        path="/logout",
        method="POST",
        summary="Ends a browser's session.",
        needs="nothing",
        of_page=True,
        answers=(Answer(status=204, about="The cookie is gone.", content=""),),
    ),
    Endpoint(
        path="/healthz", summary="Whether the process is up.", needs="nothing", answers=(_json(Health, "It is."),)
    ),
    Endpoint(
        path="/readyz",
        summary="Whether there is a verdict.",
        needs="nothing",
        answers=(_json(Readiness, "There is."), _json(Readiness, "There is none.", 503)),
    ),
    Endpoint(
        path="/metrics",
        summary="Metrics for Prometheus, as OpenMetrics where Accept asks for it (docs/metrics.md).",
        about="It needs a token where `serve.metrics_token` says so.",
        needs="nothing",
        answers=(Answer(about="The metrics.", content="text/plain"),),
        problems={401: "A token is needed."},
    ),
    Endpoint(path="/", summary="The live page.", needs="nothing", documented=False),
    Endpoint(path="/assets/{name}", summary="What the page is made of.", needs="nothing", documented=False),
)
