"""The pair explorer by itself, on answers that a test writes: what no live system gives in a short time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from shadowproxy.report.assets import web_files

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
SHELL = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Pairs</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/assets/css/base.css">
<link rel="stylesheet" href="/assets/css/explorer.css">
<main><h1>Pairs</h1><section><h2>Pairs</h2><div id="pairs"></div></section></main>
<script type="module" src="/stage.js"></script></html>"""
SCRIPT = """
import { drawExplorer } from "/assets/js/explorer.js";
import { live } from "/assets/js/source.js";
const source = live("/api/v1/");
globalThis.show = (verdict) => drawExplorer(document.getElementById("pairs"), source, { verdict });
globalThis.show(await source.get("verdict"));
"""
TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
VERDICT: Mapping[str, Any] = {
    "pairs": 400, "guardrails": [{"guardrail": "ranking.rbo"}, {"guardrail": "failures.difference"}],
    "cohorts": {"region=us": {}, "region=apac": {}}, "summaries": [{"route": "rank"}],
    "distributions": [], "latencies": [],
}  # fmt: skip


def body(value: Any = None, *, text: str | None = None, **other: Any) -> dict[str, Any]:
    """A BodyView of JSON, or of text."""
    raw = msgspec.json.encode(value).decode() if text is None and value is not None else text
    made = {"text": raw, "base64": None, "bytes": len((raw or "").encode()), "truncated": False}
    return {**made, **({} if value is None else {"json": value}), **other}


def exemplar(at: int, **other: Any) -> dict[str, Any]:
    """One in a list; the greater `at`, the less its loss."""
    ended = {"outcome": "ok", "status": 200, "total": 0.02}
    return {
        "guardrail": "ranking.rbo", "cohort": "all", "loss": 1 / (at + 1), "value": 1 / (at + 1), "id": f"r{at}",
        "started": 1_700_000_000.0 + at, "route": "rank", "cohorts": ["region=us"], "method": "POST", "target": "/rank",
        "baseline": ended, "candidate": ended, "partition": 0, "entry": f"{at}-0", "position": 0, **other,
    }  # fmt: skip


def exchange(**other: Any) -> dict[str, Any]:
    """An answer that came."""
    return {
        "outcome": "ok", "status": 200, "ttfb": 0.01, "total": 0.02, "detail": "",
        "headers": [["content-type", "application/json"]], "body": body({"ids": ["a", "b"]}), **other,
    }  # fmt: skip


def view(at: int = 0, **other: Any) -> dict[str, Any]:
    """A PairView."""
    return {
        "exemplar": exemplar(at),
        "request": {"method": "POST", "target": "/rank", "headers": [["accept", "*/*"]], "body": body({"user": 1})},
        "baseline": exchange(), "candidate": exchange(), "replica": None, "ranking": None, "differences": [], "more": 0,
        "values": {}, "notes": [], "annotations": None, "withheld": False, **other,
    }  # fmt: skip


def ranked(baseline: list[str], candidate: list[str]) -> dict[str, Any]:
    """The ranking of two lists, with falling scores."""
    first, second = ({name: at for at, name in enumerate(names, 1)} for names in (baseline, candidate))
    return {
        "items": [
            {
                "id": name,
                "baseline": first.get(name),
                "candidate": second.get(name),
                "baseline_score": 1 / first[name] if name in first else None,
                "candidate_score": 1 / second[name] if name in second else None,
            }
            for name in {**first, **second}
        ]
    }


@dataclass
class Stage:
    """What is answered, and what was asked."""

    url: str = ""
    pairs: list[dict[str, Any]] = field(default_factory=list)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)

    async def listed(self, request: web.Request) -> web.Response:
        """Pages of what there is, of one guardrail and with a text in the id."""
        query = dict(request.query)
        self.asked.append(query)
        found = [
            one
            for one in self.pairs
            if query.get("guardrail") in (None, one["guardrail"]) and query.get("text", "") in one["id"]
        ]
        first = int(query["offset"])
        return _json({"pairs": found[first : first + int(query["limit"])], "total": len(found)})

    async def one(self, request: web.Request) -> web.Response:
        """One of the views."""
        found = self.views.get(request.match_info["id"])
        if found is None:
            return _json({"title": "Not Found", "status": 404, "detail": "there is no such pair"}, 404)
        return _json(found)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    """Serves it all on a port of its own, with the policy of the real page."""
    stage, files = Stage(), web_files()

    async def asset(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.Response(body=files[name], content_type=TYPES[name.rpartition(".")[2]])

    async def policy(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Content-Security-Policy"] = POLICY

    async def shell(_request: web.Request) -> web.Response:
        return web.Response(text=SHELL, content_type="text/html")

    async def script(_request: web.Request) -> web.Response:
        return web.Response(text=SCRIPT, content_type="text/javascript")

    async def verdict(_request: web.Request) -> web.Response:
        return _json(VERDICT)

    app = web.Application()
    app.on_response_prepare.append(policy)
    app.add_routes(
        [
            web.get("/", shell),
            web.get("/stage.js", script),
            web.get("/assets/{name:.+}", asset),
            web.get("/api/v1/verdict", verdict),
            web.get("/api/v1/pairs", stage.listed),
            web.get("/api/v1/pairs/{id:.+}", stage.one),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stage.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield stage
    finally:
        await runner.cleanup()
