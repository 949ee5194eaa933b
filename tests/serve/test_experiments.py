"""Experiments over HTTP: all of a store, and one with everything that is known of it but secrets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
from serve.test_guardrails import served
from serve.test_reader import BROKEN, SETTINGS, Counted, pair
from servers import unique

from shadowproxy.config import frozen, loads
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.store import Store
from shadowproxy.serve.api.experiments import ExperimentApi, without_secrets
from shadowproxy.serve.experiments import Report


@pytest.fixture
async def counted(valkey: EmbeddedServer) -> AsyncIterator[Counted]:
    async with await Store.open(valkey.url, unique("experiments"), max_entries=1000) as store:
        yield Counted(store)


async def test_experiments_are_listed_and_shown(counted: Counted) -> None:
    await counted.store.experiment(msgspec.json.encode(frozen(SETTINGS)))
    await counted.count("one", [pair(at, BROKEN) for at in range(200)])
    async with served(ExperimentApi(counted.store.url, SETTINGS)) as get:
        [row] = [row for row in (await get("experiments"))["experiments"] if row["experiment"] == counted.store.name]
        assert (row["counted"], row["state"], row["configured"], row["problem"]) == (200, "idle", False, "")
        shown = await get(f"experiments/{counted.store.name}")
        assert shown["verdict"]["state"] == "rollback"
        assert shown["verdict"]["pairs"] == 200
        assert shown["settings"]["verdict"]["guardrails"][1]["margin"] == 0.2
        msgspec.json.decode(msgspec.json.encode(shown), type=Report)
        problem = await get("experiments/%3Cb%3Enobody", 404)
        assert "no experiment '<b>nobody'" in problem["detail"]
    # Whoever looks at it changes nothing.
    assert (await counted.store.snapshot()).latch is None


async def test_a_damaged_experiment_is_a_problem_and_does_not_hide_the_others(counted: Counted) -> None:
    await counted.store.experiment(msgspec.json.encode(frozen(SETTINGS)))
    await counted.store.command("HSET", "slots", "region=us", "first")
    async with served(ExperimentApi(counted.store.url, SETTINGS)) as get:
        assert "damaged" in (await get(f"experiments/{counted.store.name}", 503))["detail"]
        [row] = [row for row in (await get("experiments"))["experiments"] if row["experiment"] == counted.store.name]
        assert "damaged" in row["problem"]


def test_what_may_be_a_secret_is_not_shown() -> None:
    said = loads(
        """
baseline: http://a:1
candidate: {url: "http://b:1", json_fields: {model: s3cret}, headers: {set: {Authorization: s3cret}}}
proxy: {redact: {key: s3cret-s3cret-s3cret-s3cret-s3cret, headers: {x-user: hash}}}
"""
    )
    shown = bytes(without_secrets(msgspec.Raw(msgspec.json.encode(frozen(said)))))
    assert b"s3cret" not in shown
    fields = msgspec.json.decode(shown)["upstreams"]["candidate"]
    assert (fields["json_fields"], fields["set"]) == ({"model": "***"}, ["authorization"])
    for other in (b"[]", b"{", b'{"upstreams": 1}', b'{"key": "s3cret"}'):
        assert bytes(without_secrets(msgspec.Raw(other))) == b"{}"
