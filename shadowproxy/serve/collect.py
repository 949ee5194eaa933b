"""What a report is made from, asked of an API like everybody else asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

from shadowproxy.errors import ApiUnavailable
from shadowproxy.report.material import (
    Frozen,
    History,
    Made,
    Material,
)
from shadowproxy.report.view import BodyView, ExchangeView, Exemplar, PairView, RequestView
from shadowproxy.report.words import harmed, size
from shadowproxy.serve.client import Remote, trusted
from shadowproxy.verdict.record import OVERALL, Finding, Verdict, cells
from shadowproxy.verdict.reported.curves import Distributions, Latencies
from shadowproxy.verdict.reported.evidence import NO_EVIDENCE, Evidence

_T = TypeVar("_T")

_MOST_COHORTS: Final = 10
"""Harmed cohorts whose curves are in a report."""
_MOST_CELLS: Final = 20
"""Harmful cells whose own worst pairs are in a report."""
_POINTS: Final = 120
"""Of each way of an e-value: of 480 cells these are two megabytes already."""
_MOST_BODY: Final = 64 * 1024
"""Characters of a body that are kept."""
_MOST_BYTES: Final = 8 * 1024**2
"""Of all pairs together; past it their heads and bodies are left out."""
_PATIENCE: Final = 30.0
"""Seconds that an API may make us wait altogether because we ask too often."""


class Missing(Exception):  # noqa: N818  (what is so, and nobody's error)
    """The API has no such thing: an older one doesn't know all endpoints."""


class Answers:
    """Asks one API over one connection."""

    def __init__(self, session: aiohttp.ClientSession, root: str) -> None:
        self._session = session
        self._root = f"{root.rstrip('/')}/api/v1"
        self._patience = _PATIENCE

    async def get(self, what: str, query: Mapping[str, str] | None = None) -> bytes:
        """An endpoint's answer; `what` is its path, quoted.

        Raises Missing for 404, ApiUnavailable for whatever else is no answer.
        """
        where = f"{self._root}/{what}"
        while True:
            try:
                async with self._session.get(
                    URL(where, encoded=True),
                    params=query,
                    # Whoever it leads to has no right to the token.
                    allow_redirects=False,
                ) as response:
                    answer, status = await response.read(), response.status
                    later = response.headers.get("Retry-After", "1")
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                raise ApiUnavailable(
                    f"{where} does not answer ({str(error) or type(error).__name__}); "
                    "is `shadowproxy serve` or `run` running, and is --url right?"
                ) from None
            if status == 429 and self._patience > 0:
                pause = min(float(later) if later.isdigit() else 1.0, self._patience)
                self._patience -= max(pause, 0.1)
                await asyncio.sleep(pause)
                continue
            if status == 404:
                raise Missing(what)
            if status in (401, 403):
                raise ApiUnavailable(f"{where} answers {status}: a report needs --token, or SHADOWPROXY_API_TOKEN")
            if status != 200:
                raise ApiUnavailable(f"{where} answers {status}: {answer[:300].decode('utf-8', 'replace')}")
            return answer


@asynccontextmanager
async def answers(remote: Remote, *, patience: float = 10.0) -> AsyncIterator[Answers]:
    """An API, each of whose answers may take `patience` seconds. Raises ApiUnavailable."""
    headers = {"Authorization": f"Bearer {remote.token}"} if remote.token else {}
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(patience),
        headers=headers,
        connector=aiohttp.TCPConnector(ssl=trusted(remote.cacert)),
    ) as session:
        yield Answers(session, remote.url)


def named(url: str) -> str:
    """An address as it may stand in a report: without what may be a password.

    >>> named("http://me:secret@api.example:9100/")
    'http://api.example:9100'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


async def collect(api: Answers, made: Made, *, pairs: int = 3, bodies: bool = True) -> Material:
    """All that a report shows, with up to `pairs` pairs of each guardrail and of each harmful cell.

    Raises ApiUnavailable where there is no verdict, or an answer can't be read.
    """
    gathering = _Gathering(api)
    verdict = await gathering.part("verdict", Verdict)
    cohorts = [OVERALL, *harmed(verdict)[:_MOST_COHORTS]]
    history = await gathering.part("history", History, History())
    evidence = await gathering.part("evidence", Evidence, NO_EVIDENCE, {"points": str(_POINTS)})
    distributions = await gathering.joined("distributions", cohorts, Distributions, Distributions(distributions=()))
    latencies = await gathering.joined("latencies", cohorts, Latencies, Latencies(latencies=()))
    experiment = await gathering.experiment(verdict.experiment)
    worst = await gathering.worst(verdict, pairs, bodies=bodies) if pairs else {}
    return Material(
        verdict=verdict,
        made=msgspec.structs.replace(made, missing=(*made.missing, *gathering.missing)),
        history=history,
        evidence=evidence,
        distributions=distributions,
        latencies=latencies,
        worst=worst,
        experiment=experiment,
        data=gathering.data,
    )


class _Gathering:
    """Asks for one thing after the other, and keeps the answers as they came."""

    def __init__(self, api: Answers) -> None:
        self._api = api
        self.data: dict[str, Any] = {}
        self.missing: list[str] = []

    async def part(
        self, name: str, kind: type[_T], otherwise: _T | None = None, query: Mapping[str, str] | None = None
    ) -> _T:
        """One answer as a record. Without `otherwise` it must be there."""
        try:
            answer = await self._api.get(name, query)
        except Missing:
            if otherwise is None:
                raise ApiUnavailable(f"there is no {name}: is --url right?") from None
            return self._without(name, otherwise)
        self.data[name] = msgspec.Raw(answer)
        return _read(answer, kind, name)

    async def joined(self, name: str, cohorts: Iterable[str], kind: type[_T], otherwise: _T) -> _T:
        """The answers on several cohorts as one."""
        rows: list[msgspec.Raw] = []
        for cohort in cohorts:
            try:
                answer = await self._api.get(name, {"cohort": cohort})
            except Missing:
                # Such a cohort may have no curve; `all` has one, or the API has none at all.
                if cohort == OVERALL:
                    return self._without(name, otherwise)
                continue
            rows += _read(answer, dict[str, list[msgspec.Raw]], name).get(name, [])
        self.data[name] = {name: rows}
        return _read(msgspec.json.encode(self.data[name]), kind, name)

    async def experiment(self, name: str) -> Frozen | None:
        """What the experiment was begun with."""
        try:
            return _read(await self._api.get(f"experiments/{quote(name, safe='')}"), Frozen, "the experiment")
        except Missing:
            return self._without("experiments", None)

    async def worst(self, verdict: Verdict, most: int, *, bodies: bool) -> dict[str, tuple[PairView, ...]]:
        """By guardrail its worst pairs: those of harmful cells first, for they are why."""
        harmful = [cell for cell in cells(verdict) if cell.finding is Finding.HARMFUL and cell.cohort != OVERALL]
        asked = [(cell.guardrail, cell.cohort) for cell in harmful[:_MOST_CELLS]]
        asked += [(cell.guardrail, OVERALL) for cell in verdict.guardrails]
        views: dict[str, dict[str, PairView]] = {}
        spent = 0
        try:
            listed = {cohort: await self._listed(cohort, most) for cohort in dict.fromkeys(name for _, name in asked)}
        except Missing:
            return self._without("pairs", {})
        for guardrail, cohort in asked:
            own = views.setdefault(guardrail, {})
            for exemplar in listed[cohort]:
                if exemplar.guardrail != guardrail or exemplar.id in own:
                    continue
                view = await self._view(exemplar, bodies=bodies and spent < _MOST_BYTES)
                if view is not None:
                    own[exemplar.id] = view
                    spent += len(msgspec.json.encode(view))
        if bodies and spent >= _MOST_BYTES:
            self.missing.append(f"heads and bodies of some pairs are left out: they are more than {size(_MOST_BYTES)}")
        kept = {guardrail: tuple(own.values()) for guardrail, own in views.items() if own}
        self.data["pairs"] = {"worst": kept}
        return kept

    async def _listed(self, cohort: str, most: int) -> tuple[Exemplar, ...]:
        """Of every guardrail the worst in a cohort; none of a cohort of which no pair was kept."""
        try:
            answer = await self._api.get("pairs/worst", {"cohort": cohort, "limit": str(most)})
        except Missing:
            if cohort == OVERALL:
                raise
            return ()
        return _read(answer, dict[str, tuple[Exemplar, ...]], "pairs")["pairs"]

    async def _view(self, exemplar: Exemplar, *, bodies: bool) -> PairView | None:
        """The pair in full, under what it was listed for: asked for by itself it is of no guardrail.

        None where it is no more, or can't be read: what it holds was written by others.
        """
        place = {name: str(getattr(exemplar, name)) for name in ("partition", "entry", "position")}
        try:
            answer = await self._api.get(f"pairs/{quote(exemplar.id, safe='')}", place)
            view = msgspec.structs.replace(_read(answer, PairView, "a pair"), exemplar=exemplar)
        except Missing:
            return None
        except ApiUnavailable as error:
            self.missing.append(f"pair {exemplar.id} is left out: {error}")
            return None
        return shortened(view) if bodies else bare(view)

    def _without(self, name: str, otherwise: _T) -> _T:
        self.missing.append(f"there is no {name}: the API is an older one")
        return otherwise


def bare(view: PairView) -> PairView:
    """A pair's view without anything that heads and bodies hold, as for who may not see them."""
    return msgspec.structs.replace(
        view,
        request=_without_content(view.request),
        baseline=_without_content(view.baseline),
        candidate=_without_content(view.candidate),
        replica=None if view.replica is None else _without_content(view.replica),
        ranking=None,
        differences=(),
        more=0,
        annotations=None,
        withheld=True,
    )


_Part = TypeVar("_Part", RequestView, ExchangeView)


def _without_content(part: _Part) -> _Part:
    return msgspec.structs.replace(part, headers=None, body=None)


def shortened(view: PairView) -> PairView:
    """A pair's view whose bodies are no longer than a report bears."""
    return msgspec.structs.replace(
        view,
        request=_with_short(view.request),
        baseline=_with_short(view.baseline),
        candidate=_with_short(view.candidate),
        replica=None if view.replica is None else _with_short(view.replica),
    )


def _with_short(part: _Part) -> _Part:
    return part if part.body is None else msgspec.structs.replace(part, body=_short(part.body))


def _short(body: BodyView) -> BodyView:
    if len(body.text or body.base64 or "") <= _MOST_BODY:
        return body
    cut = {form: None if (whole := getattr(body, form)) is None else whole[:_MOST_BODY] for form in ("text", "base64")}
    return msgspec.structs.replace(body, **cut, json=msgspec.UNSET, truncated=True)


def _read(answer: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ApiUnavailable(f"{what} is not answered as it should be ({error}); is --url right?") from None
