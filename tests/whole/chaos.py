"""Chaos by a seed: processes are killed, frozen and restarted under load, and a ledger of all requests is drawn up.

Two proxies, two comparators, the API and a Valkey that syncs each write. In every round the seed picks one to three of
them (never the API, which must live through it all), and what becomes of each: SIGKILL, SIGSTOP for a while, or a stop
in order; then they are brought back. At the end what is left in the spools is delivered and counted, and then:

- every recorded pair was counted once;
- over all producers' accounts `requests = skipped + eligible`, `eligible = recorded + dropped`, and as many pairs are
  recorded as are counted; what a killed proxy had not recorded is dropped as `proxy_crashed` or `recorder_shutdown`;
- a client got its answer whole and right, unless its proxy was killed; the account of a proxy has each request that a
  client was answered, and where it was not killed no other.

How often each request was counted is told by the verdict itself, in one of two ways:

- *exact*: each request is a cohort of its own. That is good for 1000 requests.
- *sketch*: each is in three cohorts, one of 333 in each of three dimensions, by independent hashes of its number. That
  the cohorts' counts are those of the recorded pairs means that each was counted once: a pair too many or too few shows
  in three counts, and one too many hides one too few only where all three hashes of both agree, which has a chance of
  333⁻³ ≈ 3·10⁻⁸. Which pairs were recorded is read from the streams, which keep them here (`redis.keep`).

`python -m whole.chaos --rounds 50 --seed 7` (with `PYTHONPATH=tests`) is the long version; `make soak` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
from servers import until
from whole.load import Command, Load, counted, services, settings, settled

from shadowproxy.config import Settings, experiment_id
from shadowproxy.model import Accounting
from shadowproxy.pairs import EmbeddedServer
from shadowproxy.pairs.codec import decode
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Snapshot
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.verdict.record import Verdict

EXACT: Final = 1000
"""Requests that can each be a cohort: `verdict.max_cohorts` at its most. On a slow machine a run may have used them up
before its last round, and goes on without load."""
_SPARE: Final = 20
"""More than there are clients: each may be about to ask."""
_VALUES: Final = EXACT // 3
_DIMENSIONS: Final = ("a", "b", "c")
_PATIENCE: Final = 60.0
_KEEP: Final = "512MiB"


# What is done, and to whom


class Target(Protocol):
    """Something that can be harmed and brought back."""

    name: str

    async def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""

    async def freeze(self) -> None:
        """SIGSTOP."""

    async def restart(self) -> None:
        """The first half of a restart: end it in order."""

    async def back(self) -> None:
        """Undo either: it is at work when this returns."""


KINDS: Final = ("kill", "freeze", "restart")


@dataclass(frozen=True)
class Harm:
    """What becomes of one target in a round: `after` seconds from its beginning, for `seconds` at least."""

    target: str
    kind: str
    after: float
    seconds: float


def plan(seed: int, rounds: int, targets: Sequence[str]) -> list[tuple[Harm, ...]]:
    """What happens in each round; the same for the same arguments.

    >>> plan(1, 2, ["a", "b", "c"]) == plan(1, 2, ["a", "b", "c"])
    True
    """
    draw = random.Random(seed)
    return [
        tuple(
            Harm(target, draw.choice(KINDS), round(draw.uniform(0, 0.5), 3), round(draw.uniform(0.3, 3.0), 3))
            for target in draw.sample(list(targets), draw.choice((1, 1, 2, 3)))
        )
        for _ in range(rounds)
    ]


class Server:
    """The Valkey."""

    name = "server"

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self._gone = False

    def _send(self, number: signal.Signals) -> None:
        assert self._server.pid is not None
        os.kill(self._server.pid, number)

    async def kill(self) -> None:
        self._send(signal.SIGKILL)
        await self.restart()

    async def freeze(self) -> None:
        self._send(signal.SIGSTOP)

    async def restart(self) -> None:
        self._gone = True
        await asyncio.to_thread(self._server.stop)

    async def back(self) -> None:
        if self._gone:
            await asyncio.to_thread(self._server.start)
        else:
            self._send(signal.SIGCONT)
        self._gone = False


@dataclass
class Life:
    """One process of ours, from its start to its end."""

    command: Command
    load: Load | None = None
    clients: asyncio.Task[None] | None = None
    killed: bool = False
    code: int | None = None

    @property
    def pid(self) -> int:
        return self.command.process.pid

    @property
    def asked(self) -> set[int]:
        """What clients have asked it, answered or not."""
        if self.load is None:
            return set()
        unanswered = itertools.chain.from_iterable(self.load.unanswered.values())
        return {*self.load.answered, *unanswered, *map(_number, self.load.broken)}


class Member:
    """`shadowproxy proxy`, `compare` or `serve`, as often as it is started; a proxy with the clients of each life."""

    def __init__(
        self, name: str, folder: Path, chosen: Settings, words: tuple[str, str], load: Callable[[Command], Load] | None
    ) -> None:
        self.name = name
        self.lives: list[Life] = []
        self._folder = folder
        self._settings = chosen
        self._words = words
        self._load = load
        self._frozen = False

    @property
    def life(self) -> Life:
        """The latest."""
        return self.lives[-1]

    async def start(self) -> None:
        """Begin a life, with clients where it is a proxy's."""
        command, last = self._words
        life = Life(Command(self._folder / self.name / str(len(self.lives)), self._settings, command))
        self.lives.append(life)
        await life.command.ready(last)
        if self._load is not None:
            life.load = self._load(life.command)
            life.clients = asyncio.ensure_future(life.load.run(kept=2, fresh=1))

    async def kill(self) -> None:
        self.life.killed = True
        self.life.command.process.kill()
        self.life.code = await self.life.command.ended(within=10)

    async def freeze(self) -> None:
        self._frozen = True
        os.kill(self.life.pid, signal.SIGSTOP)

    async def restart(self) -> None:
        self.life.command.process.terminate()
        self.life.code = await self.life.command.ended(within=40)

    async def back(self) -> None:
        if self._frozen:
            self._frozen = False
            os.kill(self.life.pid, signal.SIGCONT)
        else:
            await self.start()

    async def rest(self) -> None:
        """Until the clients of all lives have got their last answers."""
        for life in self.lives:
            if life.load is not None and life.clients is not None:
                async with asyncio.timeout(_PATIENCE):
                    await life.clients

    def end(self) -> None:
        """Leave nothing behind."""
        for life in self.lives:
            if life.command.process.poll() is None:
                os.kill(life.pid, signal.SIGCONT)
            life.command.end()
            if life.clients is not None:
                life.clients.cancel()


# The ledger


@dataclass(frozen=True)
class Ledger:
    """All that is known at the end."""

    verdict: Verdict
    served: dict[str, Any]
    """The verdict as the API has it."""
    snapshot: Snapshot
    recorded: Counter[int] | None
    """How often each request's pair was recorded, where the streams kept it."""
    proxies: tuple[Life, ...]
    spooled: tuple[str, ...]
    """What is left in the spools."""
    errors: tuple[str, ...]
    """What our processes said that they must not."""

    @property
    def asked(self) -> set[int]:
        """Every request that a client sent."""
        return set[int]().union(*(life.asked for life in self.proxies))

    @property
    def kept(self) -> set[int]:
        """The requests whose pairs were recorded, as far as it is known from elsewhere than the accounts."""
        return set(counted(self.verdict) if self.recorded is None else self.recorded)

    def wrong(self) -> list[str]:
        """What doesn't agree, in words; empty where all is well."""
        return [
            *self._wrong_counts(),
            *self._wrong_accounts(),
            *(line for life in self.proxies for line in self._wrong_life(life)),
            *(f"left in the spool: {path}" for path in self.spooled),
            *self.errors,
        ]

    def _wrong_counts(self) -> Iterator[str]:
        verdict, snapshot = self.verdict, self.snapshot
        asked = self.asked
        if self.recorded is None:
            counts = counted(verdict)
            yield from _unless(f"counted so often: {_not_once(counts)}", not _not_once(counts))
            yield from _unless("pairs were counted that nobody asked for", counts.keys() <= asked)
            yield from _unless(f"{len(counts)} were counted of {snapshot.pairs}", len(counts) == snapshot.pairs)
        else:
            twice = _not_once(self.recorded)
            yield from _unless(f"recorded so often: {twice}", not twice)
            yield from _unless("pairs were recorded that nobody asked for", self.recorded.keys() <= asked)
            known = f"the streams have {len(self.recorded)} of {snapshot.pairs}"
            yield from _unless(known, len(self.recorded) == snapshot.pairs)
            expected = Counter(name for number in self.recorded for name in _cohorts(number))
            found = {name: report.pairs for name, report in verdict.cohorts.items()}
            differing = {name for name in {*expected, *found} if expected[name] != found.get(name, 0)}
            told = {name: (found.get(name, 0), expected[name]) for name in sorted(differing)[:20]}
            yield from _unless(f"cohorts counted otherwise than recorded: {told}", not differing)
        for what, value in (
            ("pairs lost", snapshot.lost_pairs),
            ("entries lost", snapshot.lost_entries),
            ("pairs missing", snapshot.missing_pairs),
            ("dead letters", snapshot.dead_entries),
            ("pairs open", verdict.open_pairs),
        ):
            yield from _unless(f"{what}: {value}", value == 0)
        yield from _unless(
            f"counted are {verdict.pairs}, committed {snapshot.committed_pairs}, written {snapshot.pairs}",
            verdict.pairs == snapshot.committed_pairs == snapshot.pairs,
        )
        served = {name: report["pairs"] for name, report in self.served.get("cohorts", {}).items()}
        same = (self.served.get("pairs"), served) == (
            verdict.pairs,
            {name: report.pairs for name, report in verdict.cohorts.items()},
        )
        yield from _unless("the API's verdict is another", same)

    def _wrong_accounts(self) -> Iterator[str]:
        for producer, account in self.snapshot.accounts.items():
            yield from _unless(f"the account of {producer} doesn't balance: {account}", account.balanced)
        account = self.verdict.accounting
        yield from _unless(
            f"recorded are {account.recorded}, counted {self.verdict.pairs}", account.recorded == self.verdict.pairs
        )

    def _wrong_life(self, life: Life) -> Iterator[str]:
        load = life.load
        assert load is not None
        account = self._account(life)
        what = f"proxy {life.pid}"
        kept = len(self.kept & life.asked)
        yield from _unless(
            f"{what}: {kept} of its pairs are recorded, its account is {account}", kept == account.recorded
        )
        if life.killed:
            # Whatever a client was answered is in the account; what was cut off may not have reached the proxy.
            cut = ("ConnectionResetError", "IncompleteReadError", "BrokenPipeError")
            strange = [line for line in load.broken if not any(kind in line for kind in cut)]
            yield from _unless(f"{what}, killed: {strange}", not strange)
            told = f"{len(load.answered)} of {len(life.asked)} requests were answered, its account is {account}"
            yield from _unless(f"{what}, killed: {told}", len(load.answered) <= account.requests <= len(life.asked))
            return
        yield from _unless(f"{what}: its clients got {load.broken[:5]}", not load.broken)
        yield from _unless(f"{what}: no answer on a kept connection", not load.unanswered["kept"])
        # Of a fresh connection the handshake may have ended in the instant in which its listener closed.
        yield from _unless(f"{what}: no answer on {load.unanswered['fresh']}", len(load.unanswered["fresh"]) <= 1)
        yield from _unless(
            f"{what}: clients got {len(load.answered)} answers, its account is {account}",
            account.requests == len(load.answered),
        )
        yield from _unless(f"{what} dropped {account.dropped}", not account.dropped)

    def _account(self, life: Life) -> Accounting:
        """A producer's name has its process's id in it."""
        mine = [account for name, account in self.snapshot.accounts.items() if f"-{life.pid}-" in name]
        return sum(mine, Accounting())


def _unless(what: str, holds: bool) -> Iterator[str]:
    if not holds:
        yield what


def _number(broken: str) -> int:
    return int(broken.partition(":")[0])


def _not_once(counts: dict[int, int]) -> dict[int, int]:
    return dict(itertools.islice(((number, count) for number, count in counts.items() if count != 1), 20))


def says(number: int) -> dict[str, object]:
    """Where a request is in each dimension of the sketch."""
    digest = hashlib.blake2b(b"%d" % number, digest_size=12).digest()
    return {name: int.from_bytes(digest[4 * at : 4 * at + 4], "big") % _VALUES for at, name in enumerate(_DIMENSIONS)}


def _cohorts(number: int) -> list[str]:
    return [f"{name}={value}" for name, value in says(number).items()]


# A run


@dataclass
class Chaos:
    """The processes, and what is done to them."""

    chosen: Settings
    server: Server
    proxies: list[Member]
    comparators: list[Member]
    api: Member
    tell: Callable[[str], None]
    over: asyncio.Event
    """Set when no more is to be asked."""

    @property
    def targets(self) -> dict[str, Target]:
        """By name, what may be harmed."""
        return {target.name: target for target in (self.server, *self.proxies, *self.comparators)}

    async def round(self, number: int, harms: Sequence[Harm]) -> None:
        """Harm, hold and bring back; over when every proxy has answered again."""
        words = ", ".join(f"{harm.target}: {harm.kind} {harm.after:g}+{harm.seconds:g} s" for harm in harms)
        self.tell(f"round {number}: {words}")
        # What starts while the server is away is refused, as it should be; what is frozen is thawed when it is due.
        server = asyncio.Event()
        if not any(harm.target == self.server.name for harm in harms):
            server.set()
        async with asyncio.TaskGroup() as group:
            for harm in harms:
                group.create_task(self._harm(harm, server))
        before = [(proxy, len(_load(proxy).answered)) for proxy in self.proxies]
        await until(
            lambda: self.over.is_set() or all(len(_load(proxy).answered) >= at + 5 for proxy, at in before),
            "answers from each proxy",
            within=_PATIENCE,
        )

    async def _harm(self, harm: Harm, server: asyncio.Event) -> None:
        target = self.targets[harm.target]
        await asyncio.sleep(harm.after)
        began = time.monotonic()
        await getattr(target, harm.kind)()
        await asyncio.sleep(harm.seconds)
        if target is not self.server and harm.kind != "freeze":
            await server.wait()
        await target.back()
        if target is self.server:
            server.set()
        self.tell(f"  {harm.target} is back after {time.monotonic() - began:.1f} s")

    async def settle(self, store: Partitions, spool: Path) -> Ledger:
        """Bring all to its end and draw up the ledger."""
        self.over.set()
        for proxy in self.proxies:
            await proxy.rest()
        alive = len(self.proxies)
        await until(
            lambda: len(list(spool.glob("*/*"))) <= alive, "the end of dead producers' accounts", within=_PATIENCE
        )
        for proxy in self.proxies:
            await proxy.restart()

        async def all_counted() -> bool:
            snapshot = await store.snapshot()
            # Less than none where one was committed twice: the ledger says it better.
            return snapshot.undelivered <= 0 and not snapshot.pending

        await until(all_counted, "an empty stream", within=_PATIENCE)
        for comparator in self.comparators:
            await comparator.restart()
        verdict = await settled(VerdictReader(store, self.chosen).read, lambda found: found.open_pairs == 0)
        served = await self._served(verdict)
        await self.api.restart()
        return Ledger(
            verdict,
            served,
            await store.snapshot(),
            await _recorded(store) if self.chosen.redis.keep else None,
            tuple(life for proxy in self.proxies for life in proxy.lives),
            tuple(await asyncio.to_thread(_below, spool)),
            tuple(self._errors()),
        )

    async def _served(self, verdict: Verdict) -> dict[str, Any]:
        found: dict[str, Any] = {}
        async with aiohttp.ClientSession(self.api.life.command.urls["api"]) as session:

            async def caught_up() -> bool:
                async with session.get("/api/v1/verdict") as response:
                    found.update(await response.json())
                return bool(found.get("pairs") == verdict.pairs)

            with contextlib.suppress(Exception):
                await until(caught_up, "the API's verdict")
        return found

    def _errors(self) -> Iterator[str]:
        for member in (*self.proxies, *self.comparators, self.api):
            for number, life in enumerate(member.lives):
                if "Traceback" in life.command.errors:
                    yield f"{member.name}, life {number}, said:\n{life.command.errors}"
                if not life.killed and life.code != 0:
                    yield f"{member.name}, life {number}, ended with code {life.code}:\n{life.command.errors}"


def _load(proxy: Member) -> Load:
    assert proxy.life.load is not None
    return proxy.life.load


def _below(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*")]


async def _recorded(store: Partitions) -> Counter[int]:
    """How often each request's pair is in the streams."""
    found: Counter[int] = Counter()
    for partition in store.stores:
        after = "0"
        while entries := await partition.browse(after, 100):
            after = entries[-1].id
            found.update(_asked(pair.request.body) for entry in entries for pair in decode(entry.payload))
    return found


def _asked(body: bytes) -> int:
    return int(body.partition(b'"id": ')[2].partition(b",")[0])


def _numbers(few: int, over: asyncio.Event) -> Iterator[int]:
    """0, 1, 2, …; after so many it is over, for all who look before they ask."""
    for number in itertools.count():
        if number >= few:
            over.set()
        yield number


@contextlib.asynccontextmanager
async def chaos(
    folder: Path, server: EmbeddedServer, *, exact: bool, partitions: int, deadline: str, tell: Callable[[str], None]
) -> AsyncIterator[Chaos]:
    """Everything at work. Afterwards nothing of it runs."""
    cohorts = "{id: request.body.id}" if exact else "{a: request.body.a, b: request.body.b, c: request.body.c}"
    async with services() as (_, baseline, _, candidate):
        chosen = settings(
            folder,
            baseline,
            candidate,
            # Longer than any proxy is frozen: a client must not be told so. All buckets wait as long to be closed.
            baseline=f'{{url: "{baseline}", deadline: {deadline}}}',
            recorder=f'{{batch: 5, linger: 50ms, max_bytes: 64KiB, spool: {{dir: "{folder}/spool"}}}}',
            redis=f'{{url: "{server.url}", partitions: {partitions}, keep: {0 if exact else _KEEP}}}',
            routes=f"[{{name: rank, path: /rank, ids: 'response.body.items[*].id', cohorts: {cohorts}}}]",
        )
        over = asyncio.Event()
        numbers = _numbers(EXACT - _SPARE if exact else sys.maxsize, over)

        def load(command: Command) -> Load:
            return Load(command.proxy, numbers=numbers, over=over, says=says)

        made = Chaos(
            chosen,
            Server(server),
            [Member(f"proxy {at}", folder, chosen, ("proxy", "proxy_admin"), load) for at in (1, 2)],
            [Member(f"comparator {at}", folder, chosen, ("compare", "comparator_admin"), None) for at in (1, 2)],
            Member("api", folder, chosen, ("serve", "api"), None),
            tell,
            over,
        )
        members = (*made.proxies, *made.comparators, made.api)
        try:
            await asyncio.gather(*(member.start() for member in members))
            yield made
        finally:
            for member in members:
                member.end()


async def run(
    folder: Path,
    server: EmbeddedServer,
    *,
    seed: int,
    rounds: int,
    exact: bool,
    partitions: int,
    deadline: str,
    tell: Callable[[str], None],
) -> Ledger:
    """A whole run of so many rounds. `deadline`: the baseline's; see `chaos`."""
    async with chaos(folder, server, exact=exact, partitions=partitions, deadline=deadline, tell=tell) as running:
        for number, harms in enumerate(plan(seed, rounds, sorted(running.targets)), 1):
            await running.round(number, harms)
        chosen = running.chosen
        async with Partitions.at(
            server.url,
            experiment_id(chosen),
            partitions=chosen.redis.partitions,
            max_entries=chosen.redis.max_entries,
            keep=chosen.redis.keep,
        ) as store:
            return await running.settle(store, folder / "spool")


def main() -> int:
    """The long version. Exit code 1 where something doesn't agree."""
    parser = argparse.ArgumentParser(prog="whole.chaos", description="Kill, freeze and restart by a seed.")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of an earlier run, to have it again")
    parser.add_argument("--partitions", type=int, default=0, help="1 to 3 by the seed where it isn't given")
    chosen = parser.parse_args()
    partitions = chosen.partitions or 1 + chosen.seed % 3
    again = f"--seed {chosen.seed} --rounds {chosen.rounds} --partitions {partitions}"
    _say(f"chaos: {again}")
    wrong = ["it did not come to its end"]
    try:
        with tempfile.TemporaryDirectory(prefix="sp-chaos-") as name:
            folder = Path(name)
            with EmbeddedServer(folder / "valkey") as server:
                ledger = asyncio.run(
                    run(
                        folder,
                        server,
                        seed=chosen.seed,
                        rounds=chosen.rounds,
                        exact=False,
                        partitions=partitions,
                        deadline="20s",
                        tell=_say,
                    )
                )
        _say(summary(ledger))
        wrong = ledger.wrong()
    finally:
        for line in wrong:
            _say(f"WRONG: {line}")
        if wrong:
            _say(f'to see it again: make chaos CHAOS_ARGS="{again}"')
    return 1 if wrong else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def summary(ledger: Ledger) -> str:
    """In a few lines."""
    lives = ledger.proxies
    account = ledger.verdict.accounting
    unseen = len(ledger.asked) - account.requests
    return (
        f"{len(ledger.asked)} requests in {len(lives)} lives of proxies, {sum(life.killed for life in lives)} of which "
        f"were killed; {account}; {ledger.verdict.pairs} counted; {unseen} cut off before a proxy had them"
    )


if __name__ == "__main__":
    sys.exit(main())
