"""/api/v1/experiments: all that the store has, and one of them with everything that is known of it."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import orjson
from aiohttp import web

from shadowproxy.config import Settings, experiment_id
from shadowproxy.errors import Refused
from shadowproxy.pairs.experiments import Summary, summaries
from shadowproxy.serve.answers import answered
from shadowproxy.serve.experiments import report
from shadowproxy.serve.problems import Unknown

_HIDDEN: Final = "***"


class Experiments(msgspec.Struct, frozen=True, kw_only=True):
    """All experiments of a store."""

    experiments: tuple[Summary, ...]
    """Oldest first."""


class ExperimentApi:
    """Both read the store anew, over connections of their own: an experiment has its own number of partitions."""

    def __init__(self, url: str, settings: Settings) -> None:
        """`url` is the store's; `settings` say which experiment is the one at hand."""
        self._url = url
        self._settings = settings

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [web.get("/api/v1/experiments", self._all), web.get("/api/v1/experiments/{id}", self._one)]

    async def _all(self, _request: web.Request) -> web.Response:
        return answered(Experiments(experiments=tuple(await self._summaries())))

    async def _one(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        try:
            found = await report(self._url, name, self._settings)
        except Refused as error:
            # Which there are it says already.
            raise Unknown(str(error)) from None
        return answered(msgspec.structs.replace(found, settings=without_secrets(found.settings)))

    async def _summaries(self) -> list[Summary]:
        return await summaries(self._url, experiment_id(self._settings))


def without_secrets(frozen: msgspec.Raw) -> msgspec.Raw:
    """Frozen settings as they may be shown to whoever reads: of headers they have names alone, URLs have no credentials
    and keys are not among them. What is left are the fields of JSON that an upstream is sent, which may be one."""
    try:
        said: Any = orjson.loads(bytes(frozen))
        for upstream in said["upstreams"].values():
            if "json_fields" in upstream:
                upstream["json_fields"] = dict.fromkeys(upstream["json_fields"], _HIDDEN)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Of another version, which may have put a secret anywhere.
        return msgspec.Raw(b"{}")
    return msgspec.Raw(orjson.dumps(said))
