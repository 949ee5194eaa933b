"""A proxy of several processes: all of them serve, one that dies takes nobody along, and they stop as one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from programs import program
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from proxy.harness import closed, hang, post, read_response, upstream
from servers import until
from whole.load import (
    PATIENCE,
    Command,
    answer,
    busy,
    command,
    counted,
    gone,
    nothing_was_lost,
    once,
    reading,
    services,
    settings,
    settled,
    under_load,
)

from shadowproxy.config import Address, Settings
from shadowproxy.metrics import OPENMETRICS
from shadowproxy.pairs import EmbeddedServer

TWO = '{listen: "127.0.0.1:0", admin: "127.0.0.1:0", grace: 8s, workers: 2}'

Samples = dict[str, Counter[str]]
"""By name of a sample, the sum over its labels by worker."""


async def scraped(admin: str) -> Samples:
    """What the parent tells of its workers; the samples that are of no worker stand under the empty name."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{admin}/metrics", headers={"Accept": OPENMETRICS}) as response,
    ):
        assert response.status == 200
        page = await response.text()
    found: Samples = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            state = sample.labels.get("state", "")
            sums = found.setdefault(f"{sample.name}{state and ':' + state}", Counter())
            sums[sample.labels.get("worker", "")] += sample.value  # type: ignore[assignment]
    return found


async def workers_up(running: Command) -> float:
    return (await scraped(running.urls["proxy_admin"]))["shadowproxy_workers:up"][""]


async def asked(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status


def children(pid: int) -> dict[int, list[str]]:
    """By process id, the command lines of what a process has started."""
    found = {}
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    for child in itertools.chain.from_iterable(path.read_text().split() for path in lists):
        with contextlib.suppress(FileNotFoundError):
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
    return found


def workers(pid: int) -> dict[str, int]:
    """By number, the process ids of the workers of the parent `pid`."""
    return {words[words.index("--worker") + 1]: child for child, words in children(pid).items() if "--worker" in words}


ESTABLISHED = "01"


def servers(clients: list[Client], pids: dict[str, int]) -> list[str]:
    """For each client, the number of the worker that holds the other end of its connection.

    To be called in a thread: where there are many sockets it takes its time, and the upstreams are in our loop.
    """
    owners = {}
    for number, pid in pids.items():
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                owners[str(handle.readlink())] = number
    inodes = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, state, *_, inode = line.split()[:10]
        if state == ESTABLISHED:
            inodes[here, there] = f"socket:[{inode}]"
    return [
        owners[inodes[f"0100007F:{client.address.port:04X}", f"0100007F:{client.local[1]:04X}"]] for client in clients
    ]


@dataclass
class Client:
    """Asks on one connection until told or until something goes wrong, which is written down."""

    address: Address
    numbers: Iterator[int]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    answered: list[int] = field(default_factory=list)
    local: tuple[str, int] = ("", 0)
    wrong: str = ""

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection(*self.address)
        self.local = writer.get_extra_info("sockname")
        try:
            while not self.over.is_set():
                number = next(self.numbers)
                writer.write(post(json.dumps({"id": number}).encode(), "/rank"))
                response = await read_response(reader)
                if (response.status, response.body) != (200, answer(number)):
                    self.wrong = repr(response)
                    return
                self.answered.append(number)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.wrong = repr(error)
        finally:
            await closed(writer)


@contextlib.asynccontextmanager
async def clients(address: Address, count: int) -> AsyncIterator[list[Client]]:
    """At work; afterwards they have ended."""
    numbers = itertools.count()
    made = [Client(address, numbers) for _ in range(count)]
    running = asyncio.gather(*(client.run() for client in made))
    try:
        yield made
    finally:
        for client in made:
            client.over.set()
        async with asyncio.timeout(PATIENCE):
            await running


def chosen(
    folder: Path, first: str, second: str, store: EmbeddedServer | None = None, proxy: str = TWO, **changes: str
) -> Settings:
    if store is not None:
        changes["redis"] = f'{{url: "{store.url}"}}'
    return settings(folder, first, second, proxy=proxy, **changes)


async def test_a_worker_killed_under_load_takes_only_its_own_clients_along(
    own_valkey: EmbeddedServer, tmp_path: Path
) -> None:
    async with services() as (_, first, _, second):
        # On a machine that stands still for a while, no client may be told so.
        configuration = chosen(tmp_path, first, second, own_valkey, baseline=f'{{url: "{first}", deadline: 30s}}')
        with command(tmp_path, configuration, "proxy") as running:
            await running.ready("proxy_admin")
            admin = running.urls["proxy_admin"]
            before = workers(running.process.pid)
            assert before.keys() == {"0", "1"}
            async with clients(running.proxy, 24) as made:
                await until(lambda: all(client.answered for client in made), "an answer for each")
                assert not [client.wrong for client in made if client.wrong]
                found = await asyncio.to_thread(servers, made, before)
                served = {client.local: number for client, number in zip(made, found, strict=True)}
                assert set(served.values()) == {"0", "1"}
                earlier = await scraped(admin)
                assert not [client.wrong for client in made if client.wrong]
                assert earlier["shadowproxy_client_connections"] == Counter(served.values())
                os.kill(before["1"], signal.SIGKILL)
                hit = [client for client in made if served[client.local] == "1"]
                others = [client for client in made if served[client.local] == "0"]
                await until(lambda: all(client.wrong for client in hit), "the end of its clients")
                # While it is away, the port is that of the other.
                async with clients(running.proxy, 8) as more:
                    await until(lambda: all(client.answered for client in more), "an answer for each", within=60)
                assert not any(client.wrong for client in more)

                async def back() -> bool:
                    now = workers(running.process.pid)
                    return now.get("1", before["1"]) != before["1"] and await workers_up(running) == 2

                await until(back, "another worker 1", within=60)
                progress = [len(client.answered) for client in others]
                await until(
                    lambda: all(len(client.answered) > at for client, at in zip(others, progress, strict=True)),
                    "another answer for each",
                )
            assert not [client.wrong for client in others if client.wrong]

            async def settled_metrics() -> bool:
                now = await scraped(admin)
                return now["shadowproxy_eligible_total"]["0"] == now["shadowproxy_recorded_total"]["0"] > 0

            # The one that came in its place serves too.
            async with clients(running.proxy, 24) as fresh:
                await until(lambda: all(client.answered for client in fresh), "an answer for each")
                again = workers(running.process.pid)
                assert again["0"] == before["0"]
                assert set(await asyncio.to_thread(servers, fresh, again)) == {"0", "1"}
            await until(settled_metrics, "the account of who survived")
            later = await scraped(admin)
            assert later["shadowproxy_worker_restarts_total"][""] == 1
            assert later["shadowproxy_workers:configured"][""] == 2
            for name, sums in later.items():
                # The survivor has counted on; the other anew.
                if name.endswith(("_total", "_count", "_bucket")):
                    assert sums["0"] >= earlier[name]["0"], name
            assert later["shadowproxy_requests_total"]["0"] == later["shadowproxy_eligible_total"]["0"]
            assert not later.get("shadowproxy_dropped_total")
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended(within=8 + 7) == 0
        assert "worker 1 ended with code -9; starting it again" in running.errors


async def test_a_stop_drains_all_workers_at_once_and_loses_nothing(tmp_path: Path) -> None:
    async with services() as (baseline, first, candidate, second):
        configuration = chosen(tmp_path, first, second)
        with command(tmp_path, configuration, "run") as running:
            await running.ready("experiment")
            parent = running.children()["proxy"]
            assert workers(parent).keys() == {"0", "1"}
            async with under_load(running.proxy) as load:
                await busy(load)
                told = await scraped(running.urls["proxy_admin"])
                assert min(told["shadowproxy_requests_total"][number] for number in ("0", "1")) > 0
                running.process.send_signal(signal.SIGTERM)
                assert await running.ended(within=3 * 8) == 0
            assert load.told_to_close >= 10
        async with reading(configuration) as read:
            verdict = await settled(read, lambda verdict: verdict.pairs >= len(load.answered))
        nothing_was_lost(load, baseline, candidate, verdict, listeners=2)


async def test_workers_whose_parent_is_killed_drain_and_end(own_valkey: EmbeddedServer, tmp_path: Path) -> None:
    async with services() as (baseline, first, candidate, second):
        configuration = chosen(tmp_path, first, second, own_valkey)
        with command(tmp_path, configuration, "proxy") as running:
            await running.ready("proxy_admin")
            left = workers(running.process.pid)
            async with under_load(running.proxy) as load:
                await busy(load)
                running.process.kill()
                assert await gone(list(left.values()), within=20)
            assert not load.broken
            assert not load.unanswered["kept"]
            assert len(load.unanswered["fresh"]) <= 2
        asked = once(load.answered)
        assert baseline.seen == candidate.seen == asked
        async with reading(configuration) as read:
            account = (await read()).verdict.accounting
        assert account.balanced
        assert account.recorded == len(asked)


async def test_a_port_in_use_is_said_once(own_valkey: EmbeddedServer, tmp_path: Path) -> None:
    async with services() as (_, first, _, second):
        with command(tmp_path / "one", chosen(tmp_path, first, second, own_valkey), "proxy") as one:
            await one.ready("proxy_admin")
            for workers_wanted in (1, 2):
                proxy = TWO.replace("127.0.0.1:0", str(one.proxy), 1).replace(
                    "workers: 2", f"workers: {workers_wanted}"
                )
                folder = tmp_path / f"with {workers_wanted}"
                with command(folder, chosen(tmp_path, first, second, own_valkey, proxy), "proxy") as two:
                    assert await two.ended(within=30) == 2
                (said,) = (line for line in two.errors.splitlines() if "in use" in line)
                assert said.startswith(f"shadowproxy: port {one.proxy.port} is in use: proxy.listen is {one.proxy};")


async def test_what_no_worker_can_do_is_said_by_one(tmp_path: Path) -> None:
    """Here: reach the store."""
    async with services() as (_, first, _, second):
        configuration = settings(tmp_path, first, second, proxy=TWO, redis="{url: 'redis://127.0.0.1:9'}")
        with command(tmp_path, configuration, "proxy") as running:
            assert await running.ended(within=30) == 2
        assert len([line for line in running.errors.splitlines() if line.startswith("shadowproxy: ")]) == 1


async def test_a_worker_that_hangs_is_left_out_of_metrics_and_readiness(
    own_valkey: EmbeddedServer, tmp_path: Path
) -> None:
    async with services() as (_, first, _, second):
        with command(tmp_path, chosen(tmp_path, first, second, own_valkey), "proxy") as running:
            await running.ready("proxy_admin")
            admin = running.urls["proxy_admin"]
            pids = workers(running.process.pid)
            os.kill(pids["0"], signal.SIGSTOP)
            try:
                told = await scraped(admin)
                assert told["shadowproxy_workers:up"][""] == 1
                assert told["shadowproxy_requests_total"].keys() == {"1"}
                assert await asked(f"{admin}/readyz") == 200
                os.kill(pids["1"], signal.SIGSTOP)
                assert await asked(f"{admin}/readyz") == 503
                assert await asked(f"{admin}/healthz") == 200
            finally:
                for pid in pids.values():
                    os.kill(pid, signal.SIGCONT)
            assert await workers_up(running) == 2
            assert await asked(f"{admin}/readyz") == 200
            async with aiohttp.ClientSession() as session, session.get(f"{admin}/metrics") as response:
                page = await response.read()
    check = [program("promtool"), "check", "metrics"]
    done = await asyncio.to_thread(subprocess.run, check, input=page, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


async def test_a_stop_in_which_a_part_is_killed_says_so(tmp_path: Path) -> None:
    async with services() as (_, first, _, second):
        configuration = settings(
            tmp_path,
            first,
            second,
            proxy='{listen: "127.0.0.1:0", admin: "127.0.0.1:0", grace: 100ms, workers: 2}',
            comparator='{admin: "127.0.0.1:0", grace: 100ms}',
        )
        with command(tmp_path, configuration, "run") as running:
            await running.ready("experiment")
            parent = running.children()["proxy"]
            hanging = workers(parent)["0"]
            os.kill(hanging, signal.SIGSTOP)
            running.process.send_signal(signal.SIGTERM)
            # The parent outlives the worker's grace, and is not killed for it.
            assert await running.ended(within=30) == 5
            assert await gone([hanging], within=0)
        assert "worker 0 did not end within its grace of 5 s and is killed" in running.errors
        assert "proxy ended with code 5 when it was stopped" in running.errors
        assert "shadowproxy: stopped, but not in order: proxy (" in running.errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_a_second_ctrl_c_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    async with services() as (_, first, _, _), upstream(hang) as hung:
        configuration = settings(
            tmp_path, first, hung.url, proxy=TWO, candidate=f'{{url: "{hung.url}", deadline: 60s}}', log_level="info"
        )
        with command(tmp_path, configuration, "run") as running:
            await running.ready("experiment")
            parts = running.children()
            left = [*parts.values(), *workers(parts["proxy"]).values()]
            assert len(left) == 6
            async with clients(running.proxy, 1) as (client,):
                await until(lambda: bool(client.answered and hung.requests))
            running.process.send_signal(signal.SIGINT)

            await until(lambda: running.errors.count("draining, for 8 s") == 2, "the drain of both workers")
            running.process.send_signal(number)
            assert await running.ended(within=2) == 130
            # What was sent to the candidate would have been waited for.
            assert await gone(left, within=5)


async def test_a_second_sigterm_cuts_nothing_short(own_valkey: EmbeddedServer, tmp_path: Path) -> None:
    """An init system sends one to each process of a service, and a supervisor then another."""
    async with services() as (baseline, first, candidate, second):
        configuration = chosen(tmp_path, first, second, own_valkey)
        with command(tmp_path, configuration, "proxy") as running:
            await running.ready("proxy_admin")
            everything = [running.process.pid, *workers(running.process.pid).values()]
            async with under_load(running.proxy) as load:
                await busy(load)
                for pid in everything:
                    os.kill(pid, signal.SIGTERM)
                assert await running.ended(within=8 + 7) == 0
        asked = once(load.answered)
        assert not load.broken
        assert baseline.seen == candidate.seen == asked
        async with reading(configuration) as read:
            verdict = (await read()).verdict
        assert verdict.accounting.recorded == len(asked)
        assert verdict.accounting.balanced
        assert counted(verdict) == {}
