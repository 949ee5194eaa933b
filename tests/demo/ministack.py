"""The least that can be called a stack, on real sockets: one proxy that asks both and a verdict over its pairs.

Answers are those of the services; durations are the service times that the seed gives, not measured ones, so that a
busy machine does not change the verdict.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import aiohttp
import numpy as np
import orjson
from aiohttp import web
from demo.simulation import (
    UNDEFINED,
    VERDICT,
    decide,
    exchange_values,
    list_values,
    log_e_values,
    losses,
    weights,
)

from shadowproxy.config import Settings
from shadowproxy.demo.faults import Draws
from shadowproxy.demo.run import StackUrls
from shadowproxy.demo.service import service_time
from shadowproxy.model import Accounting
from shadowproxy.verdict.record import OVERALL, Cell, CohortReport, Finding, State, Verdict

Answer = tuple[int, bytes]


class MiniStack:
    def __init__(self, seed: int = 7) -> None:
        self.seed = seed
        self.rows: list[tuple[float, ...]] = []
        self.cohorts: list[set[str]] = []
        self.requests: list[str] = []
        self.copies: set[asyncio.Task[None]] = set()
        self.stopped = 0
        self.runner: web.AppRunner | None = None
        self.client: aiohttp.ClientSession | None = None

    async def start(self, settings: Settings) -> StackUrls:
        self.settings = settings
        patience = aiohttp.ClientTimeout(total=30)
        self.client = aiohttp.ClientSession(timeout=patience, connector=aiohttp.TCPConnector(limit=0))
        application = web.Application()
        application.router.add_post("/recommend", self._recommend)
        self.runner = web.AppRunner(application, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return StackUrls(url, url)

    async def stop(self) -> None:
        self.stopped += 1
        if self.runner is not None and self.client is not None:
            await self.runner.cleanup()
            await asyncio.gather(*self.copies, return_exceptions=True)
            await self.client.close()

    async def _recommend(self, request: web.Request) -> web.Response:
        body = await request.read()
        name = request.headers["X-Request-Id"]
        self.requests.append(name)
        known = orjson.loads(base64.urlsafe_b64decode(request.headers["x-shadow-annotations"]))
        candidate = asyncio.create_task(self._ask(self.settings.candidate.url, name, body))
        baseline = await self._ask(self.settings.baseline.url, name, body)
        copy = asyncio.create_task(self._compare(name, baseline, candidate, known))
        self.copies.add(copy)
        copy.add_done_callback(self.copies.discard)
        return web.Response(status=baseline[0], body=baseline[1], content_type="application/json")

    async def _ask(self, url: str, name: str, body: bytes) -> Answer:
        assert self.client is not None
        try:
            async with self.client.post(f"{url}/recommend", data=body, headers={"X-Request-Id": name}) as response:
                return response.status, await response.read()
        except (TimeoutError, aiohttp.ClientError):
            return 0, b""

    async def _compare(self, name: str, a: Answer, asked: asyncio.Task[Answer], known: dict[str, Any]) -> None:
        b = await asked
        failed = b[0] != 200
        lists = UNDEFINED
        if not failed:
            left, right = (
                {item["id"]: item["score"] for item in orjson.loads(answer[1])["items"]} for answer in (a, b)
            )
            lists = list_values(left, right, set(known["truth"]))
        before, after = (service_time(Draws(self.seed, name), side) for side in ("baseline", "candidate"))
        self.rows.append(exchange_values(before, after, failed) + lists)
        self.cohorts.append({f"{key}={value}" for key, value in known["cohort"].items()})

    async def verdict(self) -> Verdict:
        if not self.rows:
            return self._verdict(State.CONTINUE, (), {})
        # In a thread: a loop that is held up would time the candidate later than the baseline.
        return await asyncio.to_thread(self._judge, list(self.rows), list(self.cohorts))

    def _judge(self, rows: list[tuple[float, ...]], own_cohorts: list[set[str]]) -> Verdict:
        values = np.array(rows)
        names = sorted(set().union(*own_cohorts))
        member = np.array([[True, *(name in own for name in names)] for own in own_cohorts])
        guardrails, safe, harm = log_e_values(values, member, every=len(values))
        safe, harm = safe[:, :, 0], harm[:, :, 0]
        share = member.mean(axis=0)
        at = 1 / VERDICT.alpha_rollback / weights(*harm.shape)
        found = losses(values)

        def cell(g: int, c: int) -> Cell:
            name, guardrail, _, loss = found[g]
            here = loss[member[:, c]]
            defined = here[~np.isnan(here)]
            e_safe, e_harm = np.exp(np.minimum((safe[g, c], harm[g, c]), 600)).tolist()
            promote_at = 1 / VERDICT.alpha_promote
            finding = Finding.UNDECIDED if e_safe < promote_at else Finding.SAFE
            return Cell(
                guardrail=name,
                metric=guardrail.metric,
                cohort=OVERALL if c == 0 else names[c - 1],
                unit="",
                margin=(guardrail.margin if c == 0 else guardrail.cohort_margin) or 0.0,
                pairs=len(defined),
                undefined=len(here) - len(defined),
                estimate=float(defined.mean()) if len(defined) else None,
                interval=None,
                e_promote=e_safe,
                e_rollback=e_harm,
                promote_at=promote_at,
                rollback_at=float(at[g, c]),
                required=bool(c == 0 or share[c] >= VERDICT.large_cohort),
                finding=Finding.HARMFUL if e_harm >= at[g, c] else finding,
            )

        cohorts = {
            name: CohortReport(
                pairs=int(member[:, c].sum()), guardrails=tuple(cell(g, c) for g in range(len(guardrails)))
            )
            for c, name in enumerate(names, start=1)
        }
        overall = tuple(cell(g, 0) for g in range(len(guardrails)))
        return self._verdict(decide(safe, harm, share, len(values)), overall, cohorts, len(values))

    def _verdict(
        self, state: State, overall: tuple[Cell, ...], cohorts: dict[str, CohortReport], pairs: int = 0
    ) -> Verdict:
        seen = len(self.requests)
        return Verdict(
            state=state,
            exhausted=False,
            reasons=(f"{state} by the small stack",),
            experiment=self.settings.experiment,
            at=0.0,
            pairs=pairs,
            open_pairs=seen - pairs,
            late_pairs=0,
            guardrails=overall,
            cohorts=cohorts,
            accounting=Accounting(requests=seen, eligible=seen, recorded=pairs),
            checks=(),
            failures={},
            summaries=(),
            latencies=(),
            evidence_rollback=0.0,
        )
