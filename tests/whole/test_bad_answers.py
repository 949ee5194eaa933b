"""Answers as bad as they come, through real processes: each is one counted observation, and nobody else's problem.

The client gets the baseline's answer whatever the candidate does; the failure is counted under its kind
(`compare/families/failures.py`, `compare/extraction/bodies.py`); pairs that share a batch with it are compared as ever;
no process says a word of a traceback, for `whole.load.command` looks at their standard error.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from proxy.harness import RawUpstream, Received, Response, ask, hang, post, upstream
from whole.load import command, reading, settings, settled

from shadowproxy.config import Address, Settings
from shadowproxy.verdict.record import Verdict

GOOD = json.dumps({"items": [{"id": item, "score": score} for item, score in (("a", 2.0), ("b", 1.0))]}).encode()


def ok(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass(frozen=True)
class Case:
    """What the two sides send, and the kinds of failure that must come of it; a None is never sent."""

    candidate: bytes | None
    kind: str = ""
    baseline: bytes = ok(GOOD, "X-From: baseline")
    baseline_kind: str = ""
    close: bool = False

    @property
    def loss(self) -> int:
        """Of the metric failures.difference."""
        return bool(self.kind) - bool(self.baseline_kind)


NOT_FOUND = ok(b'{"error": "no such user"}', status="404 Not Found")
BROKEN = ok(b"oops", status="500 Internal Server Error")
CASES = {
    "good": Case(ok(GOOD)),
    "not_json": Case(ok(b"<html>busy</html>"), "bad_body"),
    "without_the_path": Case(ok(b'{"results": []}'), "bad_body"),
    "path_of_another_kind": Case(ok(b'{"items": "none today"}'), "bad_body"),
    "nan": Case(ok(b'{"items": [{"id": "a", "score": NaN}]}'), "bad_body"),
    "infinity": Case(ok(b'{"items": [{"id": "a", "score": -Infinity}]}'), "bad_body"),
    "invalid_utf8": Case(ok(b'{"items": [{"id": "\xff\xfe"}]}'), "bad_body"),
    "lone_surrogate": Case(ok(b'{"items": [{"id": "\\ud800"}]}'), "bad_body"),
    "deeply_nested": Case(ok(b"[" * 100_000), "bad_body"),
    "empty": Case(ok(b""), "bad_body"),
    "no_content": Case(b"HTTP/1.1 204 No Content\r\n\r\n", "bad_body"),
    "shorter_than_it_said": Case(ok(GOOD).replace(b"Length: ", b"Length: 9"), "reset", close=True),
    "longer_than_it_said": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + GOOD, "bad_body"),
    "chunks_cut_off": Case(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", "reset", close=True),
    "bad_chunks": Case(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nten\r\n{", "protocol"),
    "two_lengths": Case(ok(GOOD, "Content-Length: 7"), "protocol"),
    "no_http": Case(b"220 mail.test ESMTP\r\n\r\n", "protocol"),
    "nothing": Case(b"", "reset", close=True),
    "never": Case(None, "timeout"),
    "500": Case(BROKEN, "http_5xx"),
    "404": Case(NOT_FOUND, "http_4xx"),
    "404_of_the_baseline": Case(ok(GOOD), "", NOT_FOUND, "http_4xx"),
    "404_of_both": Case(NOT_FOUND, "", NOT_FOUND, ""),
    "500_of_the_baseline": Case(ok(GOOD), "", BROKEN, "http_5xx"),
    "500_of_both": Case(BROKEN, "http_5xx", BROKEN, "http_5xx"),
    "bad_body_of_the_baseline": Case(ok(GOOD), "", ok(b"\x00 not json"), "bad_body"),
    "gzip": Case(ok(gzip.compress(GOOD), "Content-Encoding: gzip")),
    "gzip_garbage": Case(ok(b"\x1f\x8b" + bytes(50), "Content-Encoding: gzip"), "bad_encoding"),
    "gzip_cut_off": Case(ok(gzip.compress(GOOD)[:-12], "Content-Encoding: gzip"), "bad_encoding"),
    "gzip_in_name_only": Case(ok(GOOD, "Content-Encoding: gzip"), "bad_encoding"),
    "bomb": Case(ok(gzip.compress(b"[" + b" " * 32 * 1024**2), "Content-Encoding: gzip"), "too_large"),
    "unknown_coding": Case(ok(GOOD, "Content-Encoding: compress"), "unsupported_encoding"),
    "over_the_capture_cap": Case(ok(json.dumps({"items": ["x" * 3 * 1024**2]}).encode()), "truncated_capture"),
    "both_over_the_cap": Case(
        ok(b" " * 3 * 1024**2 + GOOD), "truncated_capture", ok(b" " * 3 * 1024**2 + GOOD), "truncated_capture"
    ),
}
ROUNDS = 2
NEIGHBOURS = 3
"""Good requests beside every bad one."""


def case_of(request: Received) -> Case:
    return CASES[json.loads(request.body)["case"]]


async def baseline(_raw: RawUpstream, request: Received, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(case_of(request).baseline)
    await writer.drain()
    return True


async def candidate(
    raw: RawUpstream, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    case = case_of(request)
    if case.candidate is None:
        return await hang(raw, request, reader, writer)
    writer.write(case.candidate)
    await writer.drain()
    return not case.close


def configured(folder: Path, baseline_url: str, candidate_url: str, deadline: float = 2.0) -> Settings:
    return settings(
        folder,
        baseline_url,
        candidate_url,
        baseline=f'{{url: "{baseline_url}", deadline: {deadline}s}}',
        candidate=f'{{url: "{candidate_url}", deadline: {deadline}s}}',
        recorder="{batch: 50, linger: 300ms}",
        routes="[{name: rank, path: /rank, ids: 'response.body.items[*].id', scores: 'response.body.items[*].score', "
        "cohorts: {case: request.body.case}}]",
    )


async def send(proxy: Address, case: str) -> Response:
    return await ask(proxy, post(json.dumps({"case": case}).encode(), "/rank", "Connection: close"))


def failures(verdict: Verdict, side: str) -> dict[str, int]:
    return {kind: count for kind, count in verdict.failures[side].items() if count}


def loss(verdict: Verdict, cohort: str, metric: str) -> float | None:
    return next(cell.estimate for cell in verdict.cohorts[cohort].guardrails if cell.metric == metric)


async def test_every_bad_answer_is_one_observation_and_no_more(tmp_path: Path) -> None:
    sent = Counter(dict.fromkeys(CASES, ROUNDS))
    sent["good"] = ROUNDS * NEIGHBOURS * len(CASES)
    async with upstream(baseline) as first, upstream(candidate) as second:
        # Only what never answers may be late, however busy the machine is.
        chosen = configured(tmp_path, first.url, second.url, deadline=4.0)
        with command(tmp_path, chosen, "run") as running:
            await running.ready("experiment")
            for _ in range(ROUNDS):
                # All at once, so that the good share batches with the bad.
                cases = [name for case in CASES for name in (case, *["good"] * NEIGHBOURS)][1:]
                responses = await asyncio.gather(*(send(running.proxy, case) for case in cases))
                for case, response in zip(cases, responses, strict=True):
                    head, _, body = CASES[case].baseline.partition(b"\r\n\r\n")
                    assert (response.status, response.body) == (int(head.split()[1]), body), case
                    assert response.get(b"X-From") == ([b"baseline"] if b"X-From" in head else [])
            running.process.terminate()
            assert await running.ended(within=25) == 0
        async with reading(chosen) as read:
            verdict = await settled(read, lambda verdict: verdict.pairs >= sent.total())

    by_kind: Counter[str] = Counter()
    by_baseline_kind: Counter[str] = Counter()
    for name, case in CASES.items():
        by_kind[case.kind] += sent[name]
        by_baseline_kind[case.baseline_kind] += sent[name]
    del by_kind[""], by_baseline_kind[""]
    assert failures(verdict, "candidate") == by_kind
    assert failures(verdict, "baseline") == by_baseline_kind

    assert {name: report.pairs for name, report in verdict.cohorts.items()} == {
        f"case={name}": count for name, count in sent.items()
    }
    for name, case in CASES.items():
        assert loss(verdict, f"case={name}", "failures.difference") == pytest.approx(case.loss), name
    for equal in ("good", "gzip"):
        assert loss(verdict, f"case={equal}", "ranking.rbo") == pytest.approx(0, abs=1e-12)

    account = verdict.accounting
    assert (account.requests, account.recorded) == (sent.total(), sent.total())
    assert account.balanced
    assert next(check for check in verdict.checks if check.name == "no_dead_letters").passed


@contextmanager
def refused_port() -> Iterator[int]:
    """A port that stays nobody's: bound, and never listened on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.mark.parametrize("absent", ["baseline", "candidate"])
async def test_an_upstream_that_is_not_there_from_the_start(absent: str, tmp_path: Path) -> None:
    asked = 20
    handler = candidate if absent == "baseline" else baseline
    async with upstream(handler) as present:
        with refused_port() as port:
            urls = {"baseline": present.url, "candidate": present.url, absent: f"http://127.0.0.1:{port}"}
            chosen = configured(tmp_path, urls["baseline"], urls["candidate"])
            with command(tmp_path, chosen, "run") as running:
                await running.ready("experiment")
                assert f"{absent} is not reachable: connection refused" in running.errors
                for response in await asyncio.gather(*(send(running.proxy, "good") for _ in range(asked))):
                    if absent == "candidate":
                        assert (response.status, response.body) == (200, GOOD)
                        continue
                    assert response.status == 502
                    said = json.loads(response.body)
                    assert (said["source"], said["status"], said["where"]) == ("shadowproxy", 502, "baseline")
                    assert "connection refused" in said["detail"]
                running.process.terminate()
                assert await running.ended(within=25) == 0
        async with reading(chosen) as read:
            verdict = await settled(read, lambda verdict: verdict.pairs >= asked)
    other = {"baseline": "candidate", "candidate": "baseline"}[absent]
    assert failures(verdict, absent) == {"connect": asked}
    assert failures(verdict, other) == {}
    assert verdict.accounting.recorded == verdict.pairs == asked
    assert verdict.accounting.balanced
