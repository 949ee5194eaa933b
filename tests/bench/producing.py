"""A producer in a process of its own: `python -m bench.producing CONFIG PAIRS` writes so many pairs to the store.

It does with them what the proxy does once both answers are there: a `Recorder` with the redaction and the batches that
the configuration asks for. The pairs are made before and are all there is to do, so that the process's CPU is theirs
alone. They are offered in bursts that wait for each other, as a recorder with megabytes behind it is no usual one.

Prints one line of JSON: pairs, bytes (of a pair's content, on average), cpu and seconds of the bursts, account.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from bench import messages
from bench.procs import cpu

from shadowproxy.config import Settings, load
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs import Ledger, Recorder
from shadowproxy.processes import open_store
from shadowproxy.proxy.redact import Redactor
from shadowproxy.tasks import Tasks

DIFFERENT: Final = 2000
"""Pairs that differ; after them the same bodies come again, with other start times."""
_BURST: Final = 500
_ITEMS: Final = 44


@dataclass(frozen=True)
class Offered:
    """A pair as the proxy hands it over, with the lines of its heads that may have to be masked."""

    pair: Pair
    guarded: list[bytes]


def offers(count: int = DIFFERENT, *, seed: int = 7) -> list[Offered]:
    """Pairs of about 5 KB: a request of 0.9 KB, and two rankings of 44 items each that agree for the most part."""
    draw = random.Random(seed)
    return [_offered(draw, request, number) for number, request in enumerate(messages.requests(count, seed=seed))]


def _offered(draw: random.Random, request: bytes, number: int) -> Offered:
    head, _, body = request.partition(b"\r\n\r\n")
    _, _, lines = head.partition(b"\r\n")
    guarded = [line for line in lines.split(b"\r\n") if line.lower().startswith(b"authorization:")]
    items = [(draw.randrange(10**5, 10**6), draw.random()) for _ in range(_ITEMS)]
    other = [(name, score + draw.gauss(0, 0.05)) for name, score in items]
    return Offered(
        Pair(
            f"{number:032x}",
            0.0,
            Request("POST", "/recommend", lines + b"\r\n", body, len(body)),
            _exchange(draw, items),
            _exchange(draw, other),
        ),
        guarded,
    )


def _exchange(draw: random.Random, items: list[tuple[int, float]]) -> Exchange:
    ranked = sorted(items, key=lambda item: -item[1])
    body = json.dumps(
        {"model": "ranker", "items": [{"id": name, "score": round(score, 12)} for name, score in ranked]}
    ).encode()
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    took = draw.uniform(0.01, 0.03)
    return Exchange(Outcome.OK, 200, head, body, len(body), b"", took, took + 0.001)


def content(pair: Pair) -> int:
    """Bytes that were captured: heads and bodies of the request and both answers."""
    captured = sum(len(side.head) + len(side.body) for side in (pair.baseline, pair.candidate))
    return len(pair.request.head) + len(pair.request.body) + captured


async def produce(settings: Settings, pairs: int) -> dict[str, Any]:
    """Write so many pairs, and return when the store has them all."""
    tasks, ledger = Tasks(), Ledger()
    redactor = Redactor(settings.proxy.redact)
    made = offers(min(pairs, DIFFERENT))
    size = sum(content(one.pair) for one in made) / len(made)
    replace = msgspec.structs.replace
    async with open_store(settings) as store:
        recorder = Recorder(store, settings.recorder, ledger, "bench", tasks, scrub=redactor, at_once=redactor.light)
        recorder.start()
        _as_the_proxy()
        began, used = time.perf_counter(), cpu("self")
        written = 0
        while written < pairs:
            now = time.time()
            for one in made[: min(_BURST, pairs - written)]:
                ledger.admit()
                recorder.offer(replace(one.pair, started=now), one.guarded)
                written += 1
            made = made[_BURST:] + made[:_BURST]
            # Nobody else waits for a recorder, so it tells nobody.
            while recorder.waiting_pairs >= _BURST:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await recorder.drain(60)
        used, seconds = cpu("self") - used, time.perf_counter() - began
    account: Accounting = ledger.snapshot()
    return {
        "pairs": written,
        "bytes": round(size),
        "cpu": used,
        "seconds": seconds,
        "account": msgspec.to_builtins(account),
    }


def _as_the_proxy() -> None:
    """What is loaded by now stays, and cycles are looked for less often (see `processes`)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("pairs", type=int)
    chosen = parser.parse_args()
    sys.stdout.write(json.dumps(uvloop.run(produce(load(chosen.config), chosen.pairs))) + "\n")


if __name__ == "__main__":
    main()
