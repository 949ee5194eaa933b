"""What is frozen of a configuration can be thawed: an experiment stays readable when the configuration has moved on."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.config import Settings, experiment_id, frozen, loads, thawed
from shadowproxy.errors import ConfigError, PayloadError
from shadowproxy.verdict.guardrails.rules import rules

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,12}", fullmatch=True)
HEADERS = st.sampled_from(["x-a", "x-shadow-request", "x-shadow-annotations", "x-shadow-request-", "accept"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("aé€", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.", max_size=3), inner, max_size=3),
    max_leaves=6,
)
SECONDS = st.floats(0.001, 1e6)
UPSTREAMS = st.fixed_dictionaries(
    {"url": st.sampled_from(["http://a", "https://b:8443/v1", "http://127.0.0.1:8080", "http://[::1]:9000/x/"])},
    optional={
        "deadline": SECONDS,
        "host": st.sampled_from(["client", "a.example", "a:81"]),
        "rewrite": st.lists(
            st.sampled_from([{"match": "^/v1/([^/]+)", "to": r"/v2/\1"}, {"match": "a", "to": ""}]), max_size=2
        ),
        "headers": st.fixed_dictionaries(
            {}, optional={"set": st.dictionaries(HEADERS, st.just("secret"), max_size=3), "remove": st.lists(HEADERS)}
        ),
        "credentials": st.sampled_from(["keep", "remove", {"authorization": "Bearer secret"}]),
        "json_fields": st.dictionaries(st.sampled_from(["model", "a.b", '"x.y"', "n"]), JSON, max_size=3),
    },
)
MASKS = st.sampled_from(["drop", "hash", "keep"])
REDACT = st.fixed_dictionaries(
    {"key": st.just("0123456789abcdef")},
    optional={
        "headers": st.dictionaries(st.sampled_from(["cookie", "x-user"]), MASKS)
        | st.just({"x-model-version": "hash", "set-cookie": "keep"}),
        "query": st.dictionaries(st.sampled_from(["token", "user"]), MASKS),
        "json_fields": st.dictionaries(st.sampled_from(["user.email", "items[*].owner"]), MASKS),
        "annotations": st.dictionaries(st.sampled_from(["name"]), MASKS),
    },
)
ROUTES = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES, "ids": st.just("response.body.items[*].id")},
        optional={
            "path": st.sampled_from(["/rank", "/v1/**"]),
            "scores": st.just("response.body.items[*].score"),
            "truth": st.just("annotations.truth"),
            "account": st.just("request.body.user"),
            "cohorts": st.dictionaries(NAMES, st.just("annotations.x"), max_size=2),
            "k": st.integers(1, 100),
            "rbo_p": st.floats(0.01, 0.99),
            "slow": SECONDS,
        },
    ),
    max_size=3,
    unique_by=lambda route: route["name"],
)
SHARES = st.floats(0.001, 0.999)
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "alpha_promote": SHARES,
        "alpha_rollback": SHARES,
        "min_pairs": st.integers(1, 10**6),
        "max_cohorts": st.integers(1, 1000),
        "min_recorded": SHARES,
        "horizon": st.integers(1, 10**9),
        "bucket": st.floats(0.05, 100),
        "settle": SECONDS,
        "version_header": st.sampled_from(["X-Model-Version", "etag"]),
        "guardrails": st.lists(
            st.fixed_dictionaries(
                {"metric": st.just("failures.difference"), "margin": st.floats(1e-6, 0.9)},
                optional={"cohort_margin": st.none() | st.floats(1e-6, 0.9), "worse": st.just("higher")},
            ),
            max_size=2,
        ),
    },
)


@st.composite
def configurations(draw: st.DrawFn) -> Settings:
    given_here: dict[str, Any] = {
        "experiment": draw(NAMES),
        "baseline": draw(UPSTREAMS),
        "candidate": draw(UPSTREAMS),
        "routes": draw(ROUTES),
        "verdict": draw(POLICIES),
        # Out of the way of what the upstreams are called and of the headers that they set.
        "proxy": {
            "listen": "127.0.0.1:0",
            "redact": draw(REDACT),
            "marker_header": "x-elsewhere",
            "annotation_header": "x-elsewhere-too",
        },
        "redis": {"partitions": draw(st.integers(1, 1024))},
    }
    if draw(st.booleans()):
        given_here["replica"] = draw(UPSTREAMS)
    return Settings.model_validate(given_here)


def stored(settings: Settings) -> bytes:
    return orjson.dumps(frozen(settings), option=orjson.OPT_SORT_KEYS)


@given(configurations())
def test_what_is_thawed_is_what_was_frozen(settings: Settings) -> None:
    name = experiment_id(settings)
    back = thawed(stored(settings), name)
    assert frozen(back) == frozen(settings)
    assert experiment_id(back) == name
    assert back.longest_deadline == settings.longest_deadline
    assert back.redis.partitions == settings.redis.partitions


SETTINGS = loads("baseline: http://a\ncandidate: http://b\nredis: {url: 'redis://:geheim@h'}")


def told(**changes: Any) -> bytes:
    return json.dumps({**frozen(SETTINGS), **changes}).encode()


def test_nothing_of_the_store_is_in_it() -> None:
    assert thawed(told(), "e-1").redis.url is None


@pytest.mark.parametrize(
    ("description", "what"),
    [
        (told(evidence=2), "a newer shadowproxy"),
        (told(evidence=0), "an older shadowproxy"),
        (told(evidence="x"), "can't be read"),
        (told(verdict={**frozen(SETTINGS)["verdict"], "quorum": 3}), "1 faults"),
        (told(upstreams={}), "faults"),
        (told(routes=7), "faults"),
        (b"not JSON", "can't be read"),
        (b"[]", "can't be read"),
        (b"{}", "can't be read"),
        (told(catalogue=[]), "can't be read"),
        (told(catalogue={"failures.difference": [-1, 1, 0, 0.5, True, "higher"]}), "difference meant something"),
        (told(catalogue={"failures.new": [-1, 1, 0, 0.5, True, "higher"]}), "new meant something"),
    ],
)
def test_what_another_version_froze_is_said_to_be_so(description: bytes, what: str) -> None:
    with pytest.raises(PayloadError, match=what) as refusal:
        thawed(description, "ranker-1a2b3c4d")
    assert "ranker-1a2b3c4d" in str(refusal.value)
    assert "\n" not in str(refusal.value)


KEYS = st.sampled_from(["evidence", "upstreams", "catalogue", "verdict", "routes", "baseline", "url", "guardrails"])
NONSENSE = st.recursive(JSON, lambda inner: st.dictionaries(KEYS, inner))


@given(st.binary(max_size=60) | NONSENSE.map(lambda value: json.dumps(value).encode()))
def test_any_other_bytes_are_refused_and_nothing_worse(description: bytes) -> None:
    with pytest.raises(PayloadError):
        thawed(description, "e-1")


def test_a_metric_that_nobody_judged_by_may_change() -> None:
    policy = {**frozen(SETTINGS)["verdict"], "guardrails": [{"metric": "failures.difference", "margin": 0.1}]}
    table = frozen(SETTINGS)["catalogue"]
    other = {name: row for name, row in table.items() if name != "ranking.rbo"} | {
        "ranking.top1": [0, 2, 1, 0.1, False]
    }
    assert thawed(told(verdict=policy, catalogue=other), "e-1").verdict.guardrails[0].margin == 0.1
    changed = {**table, "failures.difference": [*table["failures.difference"][:-1], "lower"]}
    with pytest.raises(PayloadError, match=r"failures\.difference meant"):
        thawed(told(verdict=policy, catalogue=changed), "e-1")


def test_a_metric_that_is_judged_by_default_since_is_not_judged_by_then() -> None:
    table = frozen(SETTINGS)["catalogue"]
    defaults = [rule.name for rule in rules(SETTINGS)]
    assert len(defaults) > 1
    for name in defaults:
        without = {key: row for key, row in table.items() if key != name}
        found = rules(thawed(told(catalogue=without), "e-1"))
        assert {rule.name: rule.margin for rule in found} == {
            rule.name: rule.margin for rule in rules(SETTINGS) if rule.name != name
        }


def test_an_experiment_with_a_replica_goes_on_by_what_it_was_judged_by_before_noise_was_taken_out() -> None:
    text = "baseline: http://a\ncandidate: http://b\nreplica: http://c\nroutes: [{name: r, ids: response.body}]"
    description = frozen(loads(text))
    today = {rule.name for rule in rules(thawed(json.dumps(description).encode(), "e-1"))}
    assert "ranking.rbo_excess" in today
    assert "ranking.rbo" not in today
    plain = frozen(loads(text.replace("replica: http://c\n", "")))
    before = plain["catalogue"]
    then = {rule.name for rule in rules(thawed(json.dumps({**description, "catalogue": before}).encode(), "e-1"))}
    assert then == today - {"ranking.rbo_excess"} | {"ranking.rbo"}
    # And one without a replica is as it ever was.
    found = {rule.name for rule in rules(thawed(json.dumps(plain).encode(), "e-1"))}
    assert found == then


def test_a_version_header_is_evidence_and_none_is_not() -> None:
    text = "baseline: http://a\ncandidate: http://b\n"
    plain, with_header = loads(text), loads(f"{text}verdict: {{version_header: X-Model-Version}}")
    assert "version_header" not in frozen(plain)["verdict"]
    assert experiment_id(plain) != experiment_id(with_header)
    assert with_header.verdict.version_header == "x-model-version"
    with pytest.raises(ConfigError, match=r"\$\.verdict\.version_header: set-cookie is dropped by proxy\.redact"):
        loads(f"{text}verdict: {{version_header: Set-Cookie}}")
    with pytest.raises(ConfigError, match="version_header"):
        loads(f"{text}verdict: {{version_header: 'a b'}}")


def test_blocks_are_evidence_and_a_closed_population_is_none() -> None:
    text = "baseline: http://a\ncandidate: http://b\n"
    plain, blocks, closed = (
        loads(text + more)
        for more in ("", "verdict: {blocks: 10s}", "verdict: {closed_population: true, blocks: null}")
    )
    assert not {"blocks", "closed_population"} & frozen(plain)["verdict"].keys()
    assert experiment_id(plain) == experiment_id(closed) != experiment_id(blocks)
    assert thawed(orjson.dumps(frozen(blocks)), experiment_id(blocks)).verdict.blocks == 10


def test_first_pairs_only_are_evidence_and_want_what_they_need() -> None:
    text = """
baseline: http://a
candidate: http://b
routes: [{{name: r, ids: response.body.ids{route}}}]
redis: {{partitions: {partitions}}}
verdict: {{first_per_account: {wanted}}}
"""
    account = ", account: request.body.user"

    def ready(route: str = account, partitions: int = 1, wanted: str = "true") -> Settings:
        return loads(text.format(route=route, partitions=partitions, wanted=wanted))

    assert "first_per_account" not in frozen(ready(wanted="false"))["verdict"]
    assert experiment_id(ready()) != experiment_id(ready(wanted="false"))
    assert thawed(orjson.dumps(frozen(ready())), experiment_id(ready())).verdict.first_per_account
    with pytest.raises(ConfigError, match=r"\$\.verdict\.first_per_account: no route has `account`"):
        ready(route="")
    with pytest.raises(ConfigError, match=r"\$\.verdict\.first_per_account: needs redis\.partitions: 1"):
        ready(partitions=2)
    with pytest.raises(ConfigError, match=r"\$\.routes\[0\]\.labels: labels that come later"):
        ready(route=f"{account}, labels: 1h")
