"""One model behind HTTP, in a process of its own: `python -m shadowproxy.demo.service --model item-cf`.

`POST /recommend {"user_id": "42", "k": 20}` answers `{"model": …, "items": [{"id", "title", "score"}, …]}`, and
`GET /healthz` `{"status": "ok", …}`. When it is ready the process prints one JSON line: `{"port": …, "model": …,
"pid": …}`. It ends at SIGTERM, and with `--with-parent` also when its standard input does.

Every list is worked out beforehand, so an answer costs a fraction of a millisecond; the *service time* on top of it
is drawn from a log-normal (median 8 ms, σ 0.4), keyed by request id. Most of it is shared by all services (a long
request is long for either model), so that baseline and candidate correlate as real ones do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import os
import signal
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import orjson
import uvloop
from aiohttp import web

from shadowproxy.config.units import Address, parse_address
from shadowproxy.demo import data
from shadowproxy.demo.faults import FAULTS, Answer, Asked, Draws, Fault
from shadowproxy.demo.models import DEPTH, Model, Trained, read, train_or_load
from shadowproxy.errors import ShadowproxyError

MEDIAN = 0.008
"""Median service time, seconds."""
SPREAD = 0.4
"""Standard deviation of the logarithm of the service time."""
_SHARED = 0.9
_CACHED_BODIES = 4096


def service_time(draws: Draws, service: str) -> float:
    """Seconds that `service` takes over one request. Correlation of the logarithm between two services: 0.9."""
    shared, own = draws.normal("time"), draws.normal(f"time/{service}")
    return MEDIAN * math.exp(SPREAD * (math.sqrt(_SHARED) * shared + math.sqrt(1 - _SHARED) * own))


class Recommender:
    """One model's lists as answers, without the fault and without HTTP."""

    def __init__(self, trained: Trained, model: Model) -> None:
        self.model = model
        self._trained = trained
        self._positions = {user: at for at, user in enumerate(trained.users)}
        self.recommend = lru_cache(maxsize=None)(self._recommend)

    def asked(self, user_id: str, draws: Draws) -> Asked:
        """The request as faults see it."""
        user = self._positions.get(user_id)
        return Asked(user, {} if user is None else self._trained.cohorts[user], draws)

    def _recommend(self, user: int | None) -> Answer:
        """The right answer for a user's position (taken modulo the number of users); None: a stranger."""
        if user is None:
            items, scores = self._trained.cold
        else:
            lists = self._trained.lists[self.model]
            items, scores = lists.items[user % len(lists.items)], lists.scores[user % len(lists.items)]
        return Answer(tuple(zip(items.tolist(), (round(score, 4) for score in scores.tolist()), strict=True)))

    def body(self, answer: Answer, k: int) -> bytes:
        """The JSON of the first k items; of an error where the status is one."""
        if answer.status >= 400:
            return orjson.dumps({"error": "the ranker failed"})
        items, titles = self._trained.items, self._trained.titles
        return orjson.dumps(
            {
                "model": self.model,
                "items": [{"id": items[at], "title": titles[at], "score": score} for at, score in answer.items[:k]],
            }
        )


class Service:
    """The HTTP side. `name` tells two services of one model apart in what is random about them."""

    def __init__(self, recommender: Recommender, fault: Fault, *, seed: int, name: str) -> None:
        self._recommender = recommender
        self._fault = fault
        self._seed = seed
        self._name = name
        self._body = lru_cache(maxsize=_CACHED_BODIES)(recommender.body)
        self._unnamed = itertools.count()

    @property
    def model(self) -> Model:
        """What ranks."""
        return self._recommender.model

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(client_max_size=64 * 1024)
        application.router.add_post("/recommend", self._recommend)
        application.router.add_get("/healthz", self._health)
        return application

    async def _health(self, _: web.Request) -> web.Response:
        return _json(200, {"status": "ok", "model": self._recommender.model, "fault": self._fault.name})

    async def _recommend(self, request: web.Request) -> web.Response:
        wanted = _wanted(await request.read())
        if isinstance(wanted, str):
            return _json(400, {"error": wanted})
        user_id, k = wanted
        draws = Draws(self._seed, request.headers.get("X-Request-Id") or f"unnamed-{next(self._unnamed)}")
        answer = self._fault.serve(self._recommender.asked(user_id, draws), self._recommender.recommend)
        if math.isinf(answer.slowdown):
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(service_time(draws, self._name) * answer.slowdown)
        return web.Response(status=answer.status, body=self._body(answer, k), content_type="application/json")


def _json(status: int, value: Mapping[str, object]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")


def _wanted(body: bytes) -> tuple[str, int] | str:
    """(user id, k) of a request's body, or what is wrong with it."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return f"the body is not JSON: {error}"
    user_id = value.get("user_id") if isinstance(value, dict) else None
    if not isinstance(user_id, str):
        return 'write {"user_id": "42", "k": 20}: user_id is a string'
    k = value.get("k", DEPTH)
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= DEPTH:
        return f"k is a whole number from 1 to {DEPTH}"
    return user_id, k


async def serve(service: Service, listen: Address, *, with_parent: bool) -> None:
    """Serve until SIGTERM or SIGINT, or until standard input ends where `with_parent`."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # An answer that never comes is cancelled when the proxy gives up on it, and must not hold up the end.
    runner = web.AppRunner(service.application(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, listen.host or "127.0.0.1", listen.port)
        await site.start()
        ready = {"port": runner.addresses[0][1], "model": service.model, "pid": os.getpid()}
        sys.stdout.write(orjson.dumps(ready).decode() + "\n")
        sys.stdout.flush()
        if with_parent:
            await loop.connect_read_pipe(lambda: _UntilEnd(stop), sys.stdin)
        await stop.wait()
    finally:
        await runner.cleanup()


class _UntilEnd(asyncio.Protocol):
    """Sets an event when the pipe's other end is gone."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def connection_lost(self, error: Exception | None) -> None:
        self._ended.set()


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m shadowproxy.demo.service", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Model, choices=list(Model), required=True)
    parser.add_argument("--listen", type=parse_address, default=Address("127.0.0.1", 0), help="host:port; port 0: any")
    parser.add_argument("--seed", type=int, default=7, help="of service times and of the fault's chances")
    parser.add_argument("--fault", choices=list(FAULTS), default="none", help="what is wrong with the answers")
    parser.add_argument("--name", default="service", help="tells two services of one model apart in their chances")
    parser.add_argument("--models", type=Path, help="file of trained models; without it they are trained")
    parser.add_argument("--data", type=Path, help="directory or recbole wheel with MovieLens 100k, to train on")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the service. Returns the exit code: 0, or 2 with a line on standard error."""
    given = _arguments(arguments)
    try:
        if given.models is not None:
            trained = read(given.models)
        else:
            _, trained = train_or_load(data.load(given.data, seed=given.seed))
        service = Service(Recommender(trained, given.model), FAULTS[given.fault], seed=given.seed, name=given.name)
        uvloop.run(serve(service, given.listen, with_parent=given.with_parent))
    except (ShadowproxyError, OSError) as error:
        sys.stderr.write(f"shadowproxy.demo.service: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
