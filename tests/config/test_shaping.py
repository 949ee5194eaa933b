"""Settings of shaping and redaction: what they refuse, what they never show, and what is evidence."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.config import Settings, experiment_id, frozen, loads
from shadowproxy.config.paths import Each, parse_field, parse_path
from shadowproxy.errors import ConfigError
from shadowproxy.report.configuration import configuration_table

SECRET = "SECRET-0123456789-value"  # noqa: S105


def config(candidate: dict[str, Any] | None = None, redact: dict[str, Any] | None = None) -> str:
    """JSON is YAML."""
    return json.dumps(
        {
            "baseline": "http://a",
            "candidate": {"url": "http://b", **(candidate or {})},
            "proxy": {"redact": redact or {}},
        }
    )


def faults(text: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        loads(text, environ=environ or {})
    assert SECRET not in str(caught.value)
    return {fault.path: fault.message for fault in caught.value.faults}


@pytest.mark.parametrize(
    ("candidate", "path", "what"),
    [
        ({"host": "a b"}, "host", "not a host"),
        ({"host": "a\r\nX: 1"}, "host", "not a host"),
        ({"host": ""}, "host", "not a host"),
        ({"headers": {"set": {"Content-Length": "1"}}}, "headers.set.Content-Length.[key]", "frames the message"),
        ({"headers": {"remove": ["Transfer-Encoding"]}}, "headers.remove[0]", "frames the message"),
        ({"headers": {"set": {"Host": "x"}}}, "headers.set.Host.[key]", "can't be set"),
        ({"headers": {"set": {"a b": SECRET}}}, "headers.set.a b.[key]", "letters"),
        ({"headers": {"set": {"x-a": f"{SECRET}\r\nX: 1"}}}, "headers.set.x-a", "one line"),
        ({"headers": {"set": {"x-a": f"{SECRET}\0"}}}, "headers.set.x-a", "one line"),
        ({"headers": {"set": {"x-a": f"{SECRET}€"}}}, "headers.set.x-a", "one line"),
        ({"headers": {"set": {"x-a": [SECRET]}}}, "headers.set.x-a", "text"),
        ({"headers": {"set": {"x-a": 17}}}, "headers.set.x-a", "text"),
        ({"headers": {"set": {"x-a": "1", "X-A": "2"}}}, "headers.set", "twice"),
        ({"headers": {"set": SECRET}}, "headers.set", "dictionary"),
        ({"headers": {"set": {"x-shadow-request": "1"}}}, "headers", "the proxy's own"),
        ({"headers": {"remove": ["X-Shadow-Annotations"]}}, "headers", "the proxy's own"),
        ({"credentials": SECRET}, "credentials", "keep, remove"),
        ({"credentials": [SECRET]}, "credentials", "keep, remove"),
        ({"credentials": {"authorization": [SECRET]}}, "credentials.authorization", "text"),
        ({"credentials": {"authorization": f"{SECRET}\n"}}, "credentials.authorization", "one line"),
        ({"credentials": {"client": SECRET}}, "credentials.client", "keep"),
        ({"credentials": {"token": SECRET}}, "credentials.token", "no such key"),
        ({"rewrite": [{"match": "(", "to": "/"}]}, "rewrite[0].to", "not a pattern"),
        ({"rewrite": [{"match": "(?=a)", "to": "/"}]}, "rewrite[0].to", "no lookaround"),
        ({"rewrite": [{"match": "é", "to": "/"}]}, "rewrite[0].to", "percent-encoded"),
        ({"rewrite": [{"match": "a", "to": "/a b"}]}, "rewrite[0].to", "visible ASCII"),
        ({"rewrite": [{"match": "a", "to": "/a?b=1"}]}, "rewrite[0].to", "no `?`"),
        ({"rewrite": [{"match": "a", "to": "/\r\nX: 1"}]}, "rewrite[0].to", "visible ASCII"),
        ({"rewrite": [{"match": "(a)", "to": "\\2"}]}, "rewrite[0].to", "no such group"),
        ({"rewrite": [{"match": "(a)", "to": "\\g<x>"}]}, "rewrite[0].to", "no such group"),
        ({"rewrite": [{"match": "(a)", "to": "\\n"}]}, "rewrite[0].to", "no group"),
        ({"rewrite": [{"match": "", "to": "/"}]}, "rewrite[0].match", "at least 1"),
        ({"json_fields": {"a": 1, "a.b": 2}}, "json_fields", "same field"),
        ({"json_fields": {"a[*].b": 2}}, "json_fields.a[*].b.[key]", "one field"),
        ({"json_fields": {"a..b": 2}}, "json_fields.a..b.[key]", "not a path"),
        ({"json_fields": [1]}, "json_fields", "dictionary"),
    ],
)
def test_shaping_that_is_refused(candidate: dict[str, Any], path: str, what: str) -> None:
    found = faults(config(candidate))
    assert list(found) == [f"$.candidate.{path}"]
    assert what in found[f"$.candidate.{path}"]


@pytest.mark.parametrize(
    "value", [".nan", "-.inf", "2026-01-01", "!!binary aGk=", "{1: 2}", "[{a: .inf}]", "!!set {a}"]
)
def test_an_override_is_a_value_of_json(value: str) -> None:
    found = faults(f"baseline: http://a\ncandidate: {{url: http://b, json_fields: {{a: {value}}}}}\n")
    assert list(found) == ["$.candidate.json_fields"]


@pytest.mark.parametrize(
    ("redact", "path", "what"),
    [
        ({"key": SECRET[:9]}, "key", "shorter"),
        ({"key": [SECRET]}, "key", "text"),
        ({"json_fields": {"a": "hash"}}, "key", "needed"),
        ({"headers": {"x-a": "hash"}}, "key", "needed"),
        ({"headers": {"x a": "drop"}}, "headers.x a.[key]", "letters"),
        ({"json_fields": {"$.a": "drop"}}, "json_fields.$.a.[key]", "leave out"),
        ({"json_fields": {"a": "mask"}}, "json_fields.a", "drop"),
        ({"query": ["a"]}, "query", "dictionary"),
        ([SECRET], "", "dictionary"),
    ],
)
def test_redaction_that_is_refused(redact: Any, path: str, what: str) -> None:
    found = faults(config(redact=redact))
    where = "$.proxy.redact" + (f".{path}" if path else "")
    assert list(found) == [where]
    assert what in found[where]


def test_whole_sections_in_the_wrong_place_are_not_shown() -> None:
    for text in (f"candidate: [{SECRET}]", f"candidate: {{url: http://b, headers: {SECRET}}}", f"proxy: [{SECRET}]"):
        faults("baseline: http://a\n" + text)


SECRETIVE = {
    "credentials": {"authorization": "Bearer ${TOKEN}"},
    "headers": {"set": {"x-tenant": "${TOKEN}", "x-number": "${DIGITS}"}},
}
ENVIRON = {"TOKEN": SECRET, "DIGITS": "0123", "NOTHING": "null"}


def secretive() -> Settings:
    return loads(config(SECRETIVE, {"key": "${TOKEN}"}), environ=ENVIRON)


def test_no_secret_is_ever_shown() -> None:
    from rich.console import Console

    settings = secretive()
    console = Console(record=True, width=300)
    console.print(configuration_table(settings, ()))
    shown = [
        repr(settings),
        str(settings),
        repr(settings.candidate.headers),
        repr(settings.candidate.headers.set),
        repr(settings.candidate.credentials),
        repr(settings.proxy.redact.key),
        console.export_text(),
        orjson.dumps(frozen(settings)).decode(),
        settings.model_dump_json(),
        experiment_id(settings),
    ]
    assert all(SECRET not in text for text in shown)


def test_secrets_from_the_environment_stay_text() -> None:
    settings = secretive()
    values = {name: value.get_secret_value() for name, value in settings.candidate.headers.set.items()}
    assert values == {"x-tenant": SECRET, "x-number": "0123"}
    empty = loads(config({"credentials": {"authorization": "${NOTHING}"}}), environ=ENVIRON)
    assert empty.candidate.credentials.authorization is None


def test_short_forms_of_credentials() -> None:
    def client(credentials: Any) -> str:
        return loads(config({"credentials": credentials})).candidate.credentials.client

    assert [client("keep"), client("remove"), client({}), client({"authorization": "x"})] == [
        "keep",
        "remove",
        "keep",
        "remove",
    ]
    assert client({"authorization": "x", "client": "keep"}) == "keep"


def test_what_changes_the_question_is_another_experiment_and_who_asks_is_not() -> None:
    plain = experiment_id(loads(config()))
    asked: list[dict[str, Any]] = [
        {"host": "c"},
        {"rewrite": [{"match": "a", "to": "/b"}]},
        {"rewrite": [{"match": "a", "to": "/c"}]},
        {"headers": {"set": {"x-a": "1"}}},
        {"headers": {"remove": ["x-a"]}},
        {"json_fields": {"model": "v2"}},
        {"json_fields": {"model": "v3"}},
        {"json_fields": {"model": 10**40}},
    ]
    assert len({plain, *(experiment_id(loads(config(candidate))) for candidate in asked)}) == len(asked) + 1
    assert experiment_id(loads(config({"headers": {"set": {"x-a": "2"}}}))) == experiment_id(loads(config(asked[3])))
    assert experiment_id(loads(config({"credentials": {"authorization": "x"}}))) == plain


def test_other_redaction_is_another_experiment_and_another_key_is_not() -> None:
    plain = experiment_id(loads(config()))
    assert experiment_id(loads(config(redact={"headers": {"cookie": "drop"}, "key": SECRET}))) == plain
    for change in ({"json_fields": {"a": "drop"}}, {"headers": {"cookie": "keep"}}, {"annotations": {"a": "drop"}}):
        assert experiment_id(loads(config(redact=change))) != plain


def test_the_id_of_a_plain_experiment_is_what_it_was_before_there_was_shaping() -> None:
    given_ = frozen(loads(config()))
    assert given_["upstreams"]["candidate"] == {"url": "http://b", "deadline": 10.0}
    assert "redact" not in given_


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a", ("a",)),
        ("user.e-mail", ("user", "e-mail")),
        ("items[*].owner", ("items", Each.ITEM, "owner")),
        ("[*][*].a", (Each.ITEM, Each.ITEM, "a")),
        ("*.a", (Each.CHILD, "a")),
        ("a.*", ("a", Each.CHILD)),
        ('"a.b"."c\\"d".é', ("a.b", 'c"d', "é")),
    ],
)
def test_paths(text: str, steps: tuple[object, ...]) -> None:
    assert parse_path(text) == steps


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a..b", "a[0]", "a[*]b", "a.[*]", '"a', 'a"b"', "a]", "**", "$.a", 3]
)
def test_what_is_no_path(text: object) -> None:
    with pytest.raises(ValueError, match="path"):
        parse_path(text)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_any_name_can_be_quoted(names: list[str]) -> None:
    assert parse_field(".".join(json.dumps(name, ensure_ascii=False) for name in names)) == tuple(names)
