"""What a report is made from, asked of an API like everybody else asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
import msgspec

from shadowproxy.errors import ApiUnavailable
from shadowproxy.report.material import History, Made, Material
from shadowproxy.verdict.record import Verdict

_T = TypeVar("_T")


class Missing(Exception):  # noqa: N818  (what is so, and nobody's error)
    """The API has no such thing: an older one doesn't know all endpoints."""


class Answers:
    """Asks one API over one connection."""

    def __init__(self, session: aiohttp.ClientSession, root: str) -> None:
        self._session = session
        self._root = f"{root.rstrip('/')}/api/v1"

    async def get(self, what: str, query: Mapping[str, str] | None = None) -> bytes:
        """An endpoint's answer. Raises Missing for 404, ApiUnavailable for whatever else is no answer."""
        where = f"{self._root}/{what}"
        try:
            async with self._session.get(where, params=query) as response:
                answer = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ApiUnavailable(
                f"{where} does not answer ({str(error) or type(error).__name__}); "
                "is `shadowproxy serve` or `run` running, and is --url right?"
            ) from None
        if status == 404:
            raise Missing(where)
        if status != 200:
            raise ApiUnavailable(f"{where} answers {status}: {answer[:300].decode('utf-8', 'replace')}")
        return answer


@asynccontextmanager
async def answers(root: str, *, patience: float = 10.0) -> AsyncIterator[Answers]:
    """The API at `root`, each of whose answers may take `patience` seconds."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(patience)) as session:
        yield Answers(session, root)


async def collect(api: Answers, made: Made) -> Material:
    """All that a report shows. Raises ApiUnavailable where there is no verdict or an answer can't be read."""
    data: dict[str, msgspec.Raw] = {}
    missing: list[str] = []

    async def part(name: str, kind: type[_T], otherwise: _T | None = None) -> _T:
        try:
            answer = await api.get(name)
        except Missing as error:
            if otherwise is None:
                raise ApiUnavailable(f"there is nothing at {error}; is --url right?") from None
            missing.append(f"the API has no {name}: it is an older one")
            return otherwise
        data[name] = msgspec.Raw(answer)
        return _read(answer, kind, name)

    verdict = await part("verdict", Verdict)
    history = await part("history", History, History())
    return Material(
        verdict=verdict,
        history=history,
        made=msgspec.structs.replace(made, missing=tuple(missing)),
        data=data,
    )


def _read(answer: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.MsgspecError as error:
        raise ApiUnavailable(f"{what} is not answered as it should be ({error}); is --url right?") from None
