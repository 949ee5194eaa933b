"""The real proxy with its store, its upstreams and its clients: what the long benchmarks have in common."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.openloop import Clients
from bench.peers import PACKAGE
from bench.procs import Failed, Process, Rack
from bench.upstreams import Upstreams
from bench.wire import BASELINE, CANDIDATE
from prometheus_client.parser import text_string_to_metric_families

from shadowproxy.config import Settings, experiment_id
from shadowproxy.model import Accounting, Outcome
from shadowproxy.pairs import EmbeddedServer
from shadowproxy.pairs.store import Snapshot, Store

MiB = 1024**2
_EVERY = 0.05
_SETTLE = 60.0
_RETRY = 0.05

_HEARD = (Outcome.OK, Outcome.TIMEOUT, Outcome.PROTOCOL)
"""How an exchange ends whose request the upstream has read; after a reset it may have."""


@dataclass(frozen=True)
class Proxied:
    """What the proxy's /metrics says."""

    account: Accounting
    exchanges: Mapping[tuple[str, str], int]
    """By side and outcome."""
    waiting_pairs: int
    waiting_bytes: int
    spooled_pairs: int
    """On disk; likewise bytes of its segments."""
    spooled_bytes: int

    def of(self, side: str) -> dict[str, int]:
        """Exchanges of one side, by outcome."""
        return {outcome: count for (where, outcome), count in self.exchanges.items() if where == side and count}


class Watch:
    """The most memory and descriptors that a process had while this was held, looked at 20 times a second."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch")
        self.rss = process.rss()
        self.descriptors = process.descriptors()

    def _look(self) -> None:
        while not self._over.wait(_EVERY):
            self.rss = max(self.rss, self._process.rss())
            self.descriptors = max(self.descriptors, self._process.descriptors())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Peak:
    """The most memory that a process had while this was held, by the kernel's own mark: no peak is too short for it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.before = 0
        self.most = 0

    def __enter__(self) -> Self:
        # 5 sets the mark back to what is resident now (proc(5)).
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        self.before = self._mark()
        return self

    def __exit__(self, *_: object) -> None:
        self.most = self._mark()

    def _mark(self) -> int:
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


class Rig:
    """Built by `rig`. `proxy` is the process, `clients` ask it."""

    def __init__(
        self, rack: Rack, settings: Settings, valkey: EmbeddedServer, upstreams: Mapping[str, Upstreams]
    ) -> None:
        self.settings = settings
        self.valkey = valkey
        self._rack = rack
        self._upstreams = upstreams
        self._config = rack.folder / "shadowproxy.json"
        # YAML can't tell a duration from JSON, nor need it: JSON is YAML.
        self._config.write_text(settings.model_dump_json(indent=2), encoding="utf-8")
        self.proxy = self._command("proxy", "proxy_admin: ")
        urls = dict(line.split(": ", 1) for line in self.proxy.output().splitlines() if line.startswith("proxy"))
        self.url = urls["proxy"]
        self._admin = urls["proxy_admin"]
        self.clients = Clients(self.url)

    def upstream(self, side: str) -> Upstreams:
        """The process that serves a side."""
        return self._upstreams[side]

    def seed(self, seed: int) -> None:
        """Let all upstreams draw the same service times as at the last time with this seed."""
        for one in {id(one): one for one in self._upstreams.values()}.values():
            one.seed(seed)

    def comparator(self) -> Process:
        """Start one."""
        return self._command("compare", "comparator_admin: ")

    def _command(self, name: str, last: str) -> Process:
        process = self._rack.start(
            name,
            [sys.executable, "-m", "shadowproxy", name, "--config", self._config],
            env={"PYTHONPATH": str(PACKAGE)},
        )
        process.wait_for(lambda: last in process.output(), "announce where it listens", 30)
        return process

    # The store

    def stop_store(self) -> None:
        """SIGSTOP: it takes connections and requests, and answers nothing."""
        os.kill(self._store_pid, signal.SIGSTOP)

    def continue_store(self) -> None:
        """SIGCONT."""
        os.kill(self._store_pid, signal.SIGCONT)

    def kill_store(self) -> None:
        """SIGKILL."""
        os.kill(self._store_pid, signal.SIGKILL)

    def restart_store(self) -> None:
        """Start it again after `kill_store`, with its data and at the same address."""
        self.valkey.stop()
        self.valkey.start()

    @property
    def _store_pid(self) -> int:
        pid = self.valkey.pid
        assert pid is not None
        return pid

    def stored(self) -> Snapshot:
        """What the store holds."""

        async def read() -> Snapshot:
            name, most = experiment_id(self.settings), self.settings.redis.max_entries
            async with await Store.open(self.valkey.url, name, max_entries=most) as store:
                return await store.snapshot()

        return asyncio.run(read())

    # The account

    def proxied(self) -> Proxied:
        """What the proxy says now."""
        with urllib.request.urlopen(f"{self._admin}/metrics", timeout=10) as response:
            text = response.read().decode()
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]

        def total(name: str) -> int:
            return int(next((one.value for one in samples if one.name == name), 0))

        def by_reason(name: str) -> dict[str, int]:
            return {one.labels["reason"]: int(one.value) for one in samples if one.name == name and one.value}

        return Proxied(
            Accounting(
                total("shadowproxy_requests_total"),
                total("shadowproxy_eligible_total"),
                total("shadowproxy_recorded_total"),
                by_reason("shadowproxy_skipped_total"),
                by_reason("shadowproxy_dropped_total"),
            ),
            {
                (one.labels["side"], one.labels["outcome"]): int(one.value)
                for one in samples
                if one.name == "shadowproxy_exchanges_total"
            },
            total("shadowproxy_recorder_waiting_pairs"),
            total("shadowproxy_recorder_waiting_bytes"),
            total("shadowproxy_recorder_spool_pairs"),
            total("shadowproxy_recorder_spool_bytes"),
        )

    def settled(self) -> Proxied:
        """What the proxy says when nothing is under way any more. Raises Failed if that doesn't come."""
        deadline = time.monotonic() + _SETTLE
        while not (found := self.proxied()).account.balanced:
            if time.monotonic() > deadline:
                raise Failed(f"the account does not balance {_SETTLE:g} s after the last request: {found.account}")
            time.sleep(_RETRY)
        return found

    def audit(self, *, live_only: int = 0) -> Audit:
        """Compare the proxy's account with what clients, upstreams and the store counted; nothing may be under way.

        `live_only`: requests that were made beside `clients` and are not mirrored.
        """
        found = self.settled()
        account = found.account
        sent = self.clients.sent + live_only
        candidate = found.of(CANDIDATE)
        heard = sum(candidate.get(outcome, 0) for outcome in _HEARD)
        seen = self.upstream(CANDIDATE).counts(CANDIDATE).requests
        asked = self.upstream(BASELINE).counts(BASELINE).requests
        stored = self.stored()
        lines = [
            ("requests are those that clients sent", account.requests, sent, sent),
            ("the baseline saw each once", asked, sent, sent),
            ("each is skipped or eligible", account.requests, *[sum(account.skipped.values()) + account.eligible] * 2),
            (
                "each eligible is recorded or dropped",
                account.eligible,
                *[account.recorded + sum(account.dropped.values())] * 2,
            ),
            ("each eligible has one candidate exchange", sum(candidate.values()), account.eligible, account.eligible),
            ("the candidate saw what is said to have been sent", seen, heard, heard + candidate.get(Outcome.RESET, 0)),
            ("the store was given what is recorded", stored.pairs, account.recorded, account.recorded),
        ]
        wrong = [
            f"{what}: {value:,} is not {low:,}" + (f" to {high:,}" if high > low else "")
            for what, value, low, high in lines
            if not low <= value <= high
        ]
        return Audit(account, candidate, tuple(wrong))

    def close(self) -> None:
        """End the clients; the rack ends the rest."""
        self.clients.close()


@dataclass(frozen=True)
class Audit:
    """An account and whatever doesn't agree with it."""

    account: Accounting
    candidate: Mapping[str, int]
    """The candidate's exchanges by outcome."""
    wrong: tuple[str, ...]

    @property
    def text(self) -> str:
        """In one line."""
        if self.wrong:
            return "; ".join(self.wrong)
        account = self.account
        parts = [f"{account.requests:,} requests", f"{account.recorded:,} recorded"]
        parts += [f"{count:,} skipped as {reason}" for reason, count in account.skipped.items()]
        parts += [f"{count:,} dropped as {reason}" for reason, count in account.dropped.items()]
        return ", ".join(parts)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, section by section."""
    result = dict(base)
    for key, value in changes.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(value, Mapping) and isinstance(known, Mapping) else value
    return result


@contextlib.contextmanager
def rig(
    sections: Mapping[str, Any] | None = None,
    *,
    same_process: bool = False,
    niceness: int = 5,
    service: float = 0.003,
    spread: float = 0.1,
) -> Iterator[Rig]:
    """A proxy that runs, and all that it needs. `sections` of a configuration replace what is chosen here.

    The candidate's process runs at a low priority (`niceness`): it stands for another machine, and what it does in its
    faults must not take the CPU from the baseline's. With `same_process` it is a second port of the baseline's.
    """
    with contextlib.ExitStack() as stack:
        rack = stack.enter_context(Rack())
        if same_process:
            both = stack.enter_context(Upstreams(BASELINE, CANDIDATE, service=service, spread=spread))
            upstreams = {BASELINE: both, CANDIDATE: both}
        else:
            upstreams = {
                BASELINE: stack.enter_context(Upstreams(BASELINE, service=service, spread=spread)),
                CANDIDATE: stack.enter_context(Upstreams(CANDIDATE, service=service, spread=spread, niceness=niceness)),
            }
        valkey = stack.enter_context(EmbeddedServer(rack.folder / "valkey"))
        base = {
            "baseline": {"url": upstreams[BASELINE].urls[BASELINE]},
            "candidate": {"url": upstreams[CANDIDATE].urls[CANDIDATE]},
            "proxy": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "redis": {"url": valkey.url, "max_entries": 1000},
            # Small, so that its bound is met too.
            "recorder": {"spool": {"dir": str(rack.folder / "spool"), "max_bytes": "1MiB"}},
            "comparator": {"admin": "127.0.0.1:0"},
            "log_level": "warning",
        }
        settings = Settings.model_validate(json.loads(json.dumps(merged(base, sections or {}))))
        made = Rig(rack, settings, valkey, upstreams)
        stack.callback(made.close)
        yield made


def tally(outcomes: Mapping[str, int]) -> str:
    """`ok 12, shed 3`"""
    return ", ".join(f"{name} {count:,}" for name, count in Counter(outcomes).most_common())
