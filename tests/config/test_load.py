"""Configuration from YAML: everything wrong is said at once, with the key's path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.config import Address, Settings, experiment_id, frozen, json_schema, load, loads, risks
from shadowproxy.config.section import Section
from shadowproxy.config.units import parse_address, parse_duration, parse_http_url, parse_size
from shadowproxy.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
TWO = "baseline: http://127.0.0.1:8001\ncandidate: http://127.0.0.1:8002\n"


def faults(text: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        loads(text, environ=environ)
    return {fault.path: fault.message for fault in caught.value.faults}


def test_two_urls_are_enough() -> None:
    settings = loads(TWO)
    assert settings.baseline.url == "http://127.0.0.1:8001"
    assert settings.proxy.listen == Address("127.0.0.1", 8080)


def test_all_faults_are_reported_at_once() -> None:
    found = faults(
        """
baseline: http://127.0.0.1:8080
candidate: {url: ftp://b, deadlin: 3}
proxy: {mirror: {sample: 3}}
serve: {listen: "127.0.0.1:9101"}
redis: {url: "${NOWHERE}"}
routes: [{name: a, ids: "[[["}, {name: a, scores: x}, {name: b, cohorts: {late: response.body.x}}]
verdict: {guardrails: [{metric: nonsense, margin: 3}, {metric: ranking.rbo, margin: 3, worse: higher}]}
""",
        {},
    )
    assert set(found) == {
        "$.candidate.url",
        "$.candidate.deadlin",
        "$.proxy.mirror.sample",
        "$.redis.url",
        "$.routes[0].ids",
        "$.routes[1].scores",
        "$.routes[2].cohorts",
        "$.verdict.guardrails[0].metric",
        "$.verdict.guardrails[1].margin",
        "$.verdict.guardrails[1].worse",
    }
    assert found["$.candidate.deadlin"] == "there is no such key"
    assert "NOWHERE" in found["$.redis.url"]


def test_contradictions_are_found_beside_bad_values() -> None:
    found = faults(
        """
baseline: http://127.0.0.1:8080
candidate: {url: http://b, deadlin: 3}
serve: {listen: "127.0.0.1:9101"}
routes: [{name: a, ids: response.x}, {name: a}]
verdict: {guardrails: [{metric: quality.ndcg, margin: 0.3, routes: [b]}, {metric: scores.relative_delta, margin: 0.3}]}
"""
    )
    assert set(found) == {
        "$.baseline.url",
        "$.candidate.deadlin",
        "$.serve.listen",
        "$.routes[1].name",
        "$.verdict.guardrails[0].routes",
        "$.verdict.guardrails[1].metric",
    }


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (TWO + "routes: [{name: a, ids: request.body.ids}]\n", "$.routes[0].scores", "always agree"),
        ("", "$.baseline", "required"),
        ("- a", "$", "mapping"),
        ("a: [", "line 1", "is not YAML"),
        (TWO + "baseline: http://x\n", "line 3", "twice"),
        (TWO + "experiment: UPPER\n", "$.experiment", "pattern"),
        (TWO + "proxy: {listen: 80}\n", "$.proxy.listen", "host:port"),
        (TWO + "proxy: {grace: 3 parsecs}\n", "$.proxy.grace", "duration"),
        (TWO + "redis: {url: mysql://x}\n", "$.redis.url", "redis://"),
    ],
)
def test_bad_files(text: str, where: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert any(fault.path.startswith(where) and what in fault.message for fault in caught.value.faults), caught.value


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load(tmp_path / "none.yaml")


def test_variables_come_from_the_environment() -> None:
    text = (
        TWO + 'redis: {url: "redis://:${SECRET}@h:1"}\nproxy: {mirror: {sample: "${SHARE}"}, grace: "${GRACE:-3s}"}\n'
    )
    settings = loads(text, environ={"SECRET": "pass:word", "SHARE": "0.25"})
    assert settings.redis.url == "redis://:pass:word@h:1"
    assert settings.proxy.mirror.sample == 0.25
    assert settings.proxy.grace == 3.0


def test_the_image_is_configured_by_its_environment() -> None:
    urls = {"BASELINE_URL": "http://b:1", "CANDIDATE_URL": "http://c:1"}
    path = ROOT / "deploy" / "image.yaml"
    assert load(path, environ=urls).redis.url is None
    assert load(path, environ=urls | {"REDIS_URL": "redis://r:6379"}).redis.url == "redis://r:6379"
    with pytest.raises(ConfigError, match="BASELINE_URL is not set"):
        load(path, environ={})


def test_sections_are_frozen_and_closed() -> None:
    settings = loads(TWO)
    with pytest.raises(ValueError, match="frozen"):
        settings.experiment = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["minimal.yaml", "shadowproxy.yaml"])
def test_the_files_that_ship_are_good(name: str) -> None:
    load(ROOT / "config" / name, environ={})


def keys(section: type[Section], prefix: str = "") -> set[str]:
    found = set()
    for field_name, field in section.model_fields.items():
        name = field.alias or field_name
        found.add(prefix + name)
        # Below a mapping of one's own names, as of paths, these stand for themselves.
        below = f"{prefix}{name}.*." if get_origin(field.annotation) is dict else f"{prefix}{name}."
        for inner in _sections(field.annotation):
            found |= keys(inner, below)
    return found


def _sections(annotation: object) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for inner in getattr(annotation, "__args__", ()) for section in _sections(inner)]


def written(value: object, prefix: str = "") -> set[str]:
    if isinstance(value, dict):
        return {prefix + key for key in value} | {
            key
            for name, inner in value.items()
            for key in written(inner, f"{prefix}{name}.") | written(inner, f"{prefix}*.")
        }
    if isinstance(value, list):
        return {key for inner in value for key in written(inner, prefix)}
    return set()


def test_the_full_file_shows_every_key() -> None:
    import yaml

    full = yaml.safe_load((ROOT / "config" / "shadowproxy.yaml").read_text())
    shown = written(full)
    # What all upstreams have is shown once.
    needed = {key.replace("baseline.", "candidate.").replace("replica.", "candidate.") for key in keys(Settings)}
    assert needed - shown == set()


def test_the_full_file_shows_the_defaults() -> None:
    full = load(ROOT / "config" / "shadowproxy.yaml", environ={})
    bare = loads(TWO)
    examples: dict[str, object] = {"verdict": full.verdict.model_copy(update={"guardrails": ()})}
    mirror = full.proxy.mirror.model_copy(update={"routes": ()})
    examples["proxy"] = full.proxy.model_copy(update={"mirror": mirror})
    examples["candidate"] = full.candidate.model_copy(update={"rewrite": ()})
    assert full.model_copy(update={**examples, "routes": ()}) == bare


def test_the_schema_that_is_checked_in_is_current() -> None:
    assert (ROOT / "config" / "shadowproxy.schema.json").read_text() == json_schema()


def test_every_key_has_a_description() -> None:
    missing = [
        f"{name}.{key}"
        for name, section in json.loads(json_schema())["$defs"].items()
        for key, value in section.get("properties", {}).items()
        if "description" not in value and "$ref" not in value and key not in ("name", "enabled")
    ]
    assert missing == []


def test_another_guardrail_is_another_experiment_and_another_port_is_not() -> None:
    base = experiment_id(loads(TWO))
    assert base.startswith("default-")
    assert experiment_id(loads(TWO + "proxy: {listen: ':1'}\nredis: {data_dir: /tmp/x}\n")) == base
    assert experiment_id(loads(TWO + "verdict: {alpha_promote: 0.01}\n")) != base
    assert experiment_id(loads(TWO.replace("8002", "8003"))) != base


def test_labels_make_another_experiment_and_none_leave_it_as_it_was() -> None:
    route = "routes: [{name: r, ids: response.body.ids%s}]\n"
    plain, waiting = loads(TWO + route % ""), loads(TWO + route % ", labels: 2h")
    assert "labels" not in frozen(plain)["routes"][0]
    assert experiment_id(loads(TWO + route % ", labels: null")) == experiment_id(plain)
    assert experiment_id(waiting) != experiment_id(plain)
    assert (plain.longest_wait, waiting.longest_wait) == (None, 7200.0)
    assert (plain.routes[0].offers, waiting.routes[0].offers) == ({"ids"}, {"ids", "truth"})


def test_labels_need_ids() -> None:
    with pytest.raises(ConfigError, match=r"\$\.routes\[0\]\.labels: `labels` needs `ids`"):
        loads(TWO + "routes: [{name: r, labels: 2h}]\n")


def test_how_an_upstream_is_reached_is_not_what_the_evidence_rests_on() -> None:
    plain = loads("baseline: https://b\ncandidate: https://c\n")
    reached = loads(
        "baseline: {url: https://b, resolve_every: 1s, health: {path: /healthz},"
        " tls: {ca: /ca.pem, certificate: /c.pem, key: /c.key, server_name: b.test}}\n"
        "candidate: {url: https://c, tls: {verify: false}}\n"
        "proxy: {tls: {certificate: /s.pem, key: /s.key, client_ca: /ca.pem, min_version: TLSv1.3}}\n"
    )
    assert frozen(reached) == frozen(plain)
    assert experiment_id(reached) == experiment_id(plain)
    assert experiment_id(loads("baseline: http://b\ncandidate: https://c\n")) != experiment_id(plain)


def test_tls_that_could_not_work_is_a_fault_at_its_key() -> None:
    found = faults(
        "baseline: {url: http://b, tls: {ca: /ca.pem}}\n"
        "candidate: {url: https://c, tls: {key: /c.key, server_name: 'a b'}, health: {path: healthz}}\n"
        "proxy: {tls: {key: /s.key, client_ca: /ca.pem, min_version: 1.2}}\n"
    )
    assert set(found) == {
        "$.baseline.tls",
        "$.candidate.tls.key",
        "$.candidate.tls.server_name",
        "$.candidate.health.path",
        "$.proxy.tls.key",
        "$.proxy.tls.client_ca",
        "$.proxy.tls.min_version",
    }
    assert "write https" in found["$.baseline.tls"]


def test_an_upstream_that_is_not_verified_is_a_risk() -> None:
    text = "baseline: https://b\ncandidate: {url: https://c, tls: {verify: false}}\n"
    assert risks(loads(TWO)) == []
    (risk,) = risks(loads(text))
    assert risk.startswith("candidate.tls.verify is false: whoever answers at https://c is believed")


def test_another_deadline_of_any_upstream_is_another_experiment() -> None:
    """It says which answers are failures; the candidate's may be changed while the baseline's stays the longest."""
    texts = [TWO.replace("http://127.0.0.1:8002", f"{{url: 'http://c', deadline: {seconds}}}") for seconds in (1, 5)]
    assert len({experiment_id(loads(text)) for text in texts}) == 2


@given(st.text(max_size=30))
def test_units_refuse_with_value_error_only(text: str) -> None:
    for parse in (parse_duration, parse_size, parse_address, parse_http_url):
        try:
            parse(text)
        except ValueError:
            continue


@given(st.dictionaries(st.text(max_size=8), st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists)))
def test_any_mapping_gives_faults_and_nothing_else(data: dict[str, object]) -> None:
    import yaml

    with pytest.raises(ConfigError) as caught:
        loads(yaml.safe_dump(data))
    assert caught.value.faults


@pytest.mark.parametrize(
    "text",
    [
        "redis: redis://:SECRET@store\n",
        "redis: {url: [redis://:SECRET@store]}\n",
        "redis: {url: 'redis://:SECRET@store:port'}\n",
        "redis: {url: 'redis://:first/SECRET@store:1'}\n",
        f"redis: redis://:{'x' * 200}SECRET@store\n".replace("x" * 200, "SECRET" * 40),
        "replica: http://user:SECRET@store\n",
        "replica: redis://user:SECRET@store\n",
    ],
)
def test_no_fault_shows_a_password(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loads("baseline: http://a\ncandidate: http://b\n" + text)
    assert "SECRET" not in str(raised.value)
    assert raised.value.faults[0].path.startswith(("$.redis", "$.replica"))


def test_settings_that_are_printed_show_no_password() -> None:
    settings = loads(TWO + "redis: {url: 'redis://:SECRET@store'}\n")
    assert "SECRET" not in f"{settings!r} {settings} {settings.redis}"


@pytest.mark.parametrize(
    "text",
    ["? [a]\n: 1\n", "? {a: 1}\n: 1\n", "experiment: &x {a: *x}\n", "experiment: a\0b\n", "x: " + "[" * 5000],
    ids=["list as key", "mapping as key", "alias in itself", "nul", "deep"],
)
def test_what_is_no_configuration_at_all_is_a_fault_like_any_other(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loads("baseline: http://a\ncandidate: http://b\n" + text, source="here")
    assert "here" in str(raised.value)


@pytest.mark.parametrize("name", ["2026-11-23", "1.2.3"])
def test_a_variable_that_only_looks_like_a_number_stays_text(name: str) -> None:
    text = "baseline: http://a\ncandidate: http://b\nexperiment: ${NAME}\n"
    assert loads(text, environ={"NAME": name}).experiment == name
