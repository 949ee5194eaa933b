"""What must not change while an experiment runs, and the id that follows from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from shadowproxy.config.catalogue import GUARDABLE, Metric
from shadowproxy.config.judging import Guardrail
from shadowproxy.config.presets import EXTRACTED
from shadowproxy.config.redaction import KEY_LENGTH
from shadowproxy.config.settings import Route, Settings, Upstream
from shadowproxy.config.shaping import encode_json
from shadowproxy.errors import PayloadError

EVIDENCE = 1
"""Raised whenever what workers store comes to mean something else: the e-processes' grids, the losses, the columns."""

# These only hold back a decision that the counted evidence would allow; changing them reinterprets nothing.
_FREE = {"min_recorded", "min_duration", "horizon", "max_inflation", "closed_population"}


def frozen(settings: Settings) -> dict[str, Any]:
    """The settings that the counted evidence rests on: who is compared, how, and by which guardrails."""
    return {
        "evidence": EVIDENCE,
        "upstreams": {
            side: {"url": upstream.url, "deadline": upstream.deadline, **_shape(upstream)}
            for side in ("baseline", "candidate", "replica")
            if (upstream := getattr(settings, side)) is not None
        },
        **({"redact": masks} if (masks := settings.proxy.redact.changes) else {}),
        # A batch that is sent again after a change would go to another partition than at first, and count twice.
        **({"partitions": settings.redis.partitions} if settings.redis.partitions > 1 else {}),
        "routes": [_route(route) for route in settings.routes],
        "verdict": _policy(settings),
        # Of what is judged only: a metric that is new, and no default, leaves every experiment what it is.
        "catalogue": _judged(settings, _catalogue()),
    }


def _policy(settings: Settings) -> dict[str, Any]:
    policy = settings.verdict.model_dump(mode="json", exclude=_FREE)
    # Versions that were not noted from the beginning say nothing; and who doesn't ask for them keeps the id.
    for key in ("version_header", "blocks", "first_per_account"):
        if not policy[key]:
            del policy[key]
    for guardrail in policy["guardrails"]:
        for key, unused in _GUARDRAILS_LATER.items():
            if guardrail[key] == unused:
                del guardrail[key]
    return policy


_GUARDRAILS_LATER: Mapping[str, Any] = {"cohorts": None, "weight": 1.0, "alpha": None}
"""Keys that guardrails have not always had, and what they are where they are not used."""


_MARGIN, _DEFAULT = 3, 4
"""Where a row of the catalogue has the margin, and whether a metric is judged by default: where there is a replica, and
instead of another, it has that one's name."""


def _catalogue() -> dict[str, list[Any]]:
    # JSON has no infinity.
    return {
        metric.name: [
            metric.low if math.isfinite(metric.low) else None,
            metric.high if math.isfinite(metric.high) else None,
            metric.ideal,
            metric.margin,
            metric.in_place_of or metric.default,
            *metric.worse,
        ]
        for metric in GUARDABLE.values()
    }


_LATER = ("labels", "preset", "label", "probabilities", "text", "finish", "weight", "fields", "valid")
"""Keys that routes have not always had."""


def _route(route: Route) -> dict[str, Any]:
    # Left out where it isn't used: an experiment from before there was such a thing goes on under its id.
    # Of a preset's keys null is a word of its own: it switches off.
    unused = {key for key in _LATER if getattr(route, key) is None and not (route.preset and key in EXTRACTED)}
    return route.model_dump(mode="json", exclude=unused)


def _shape(upstream: Upstream) -> dict[str, Any]:
    """What the upstream is asked beside what the client asked. Of headers only their names: a value may be a secret."""
    headers = upstream.headers
    shape = {
        "host": upstream.host,
        "rewrite": [[rule.match, rule.to] for rule in upstream.rewrite],
        "set": sorted(headers.set),
        "remove": sorted(headers.remove),
        "json_fields": {field: encode_json(value) for field, value in upstream.json_fields.items()},
    }
    return {key: value for key, value in shape.items() if value}


def experiment_id(settings: Settings) -> str:
    """`NAME-DIGEST`: evidence gathered under other settings stands under another id, and is never mixed with this."""
    canonical = orjson.dumps(frozen(settings), option=orjson.OPT_SORT_KEYS)
    return f"{settings.experiment}-{hashlib.blake2b(canonical, digest_size=4).hexdigest()}"


def thawed(description: bytes, experiment: str) -> Settings:
    """Settings under which an experiment can be judged anew: `frozen` of them is the stored description.

    `description` is `frozen` as JSON; `experiment` is the id that it stands under. What the evidence does not rest on
    has its defaults, and no secret is there, so nothing can be mirrored by these settings.

    Raises PayloadError where another version of shadowproxy counted in a way that this one can't judge.
    """
    try:
        said = orjson.loads(description)
        evidence, catalogue = said["evidence"], said["catalogue"]
        if evidence != EVIDENCE:
            raise PayloadError(
                f"{experiment} was counted by {'a newer' if evidence > EVIDENCE else 'an older'} shadowproxy (evidence "
                f"{evidence}, this one reads {EVIDENCE}); read it with the version that counted it"
            )
        settings = Settings.model_validate(_settings(said, experiment.rpartition("-")[0]))
        judged = _judged(settings, catalogue)
        today = _catalogue()
        changed = sorted(name for name, row in judged.items() if today.get(name) != row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{error.error_count()} faults" if isinstance(error, ValidationError) else str(error)
        raise PayloadError(
            f"the description of {experiment} can't be read ({' '.join(what.split())[:200]}); read it with the version "
            "of shadowproxy that counted it"
        ) from None
    if changed:
        raise PayloadError(
            f"{experiment} was counted by another shadowproxy, for which {', '.join(changed)} meant something else; "
            "read it with that version"
        )
    return _with_guardrails(settings, judged)


def _settings(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    upstreams = {side: _upstream(shape) for side, shape in said["upstreams"].items()}
    edited = {header for upstream in upstreams.values() for header in upstream["headers"]["set"]}
    edited |= {header for upstream in upstreams.values() for header in upstream["headers"]["remove"]}
    redact = dict(said.get("redact", {}))
    if any("hash" in masks.values() for masks in redact.values()):
        redact["key"] = "?" * KEY_LENGTH
    return {
        **upstreams,
        "experiment": name,
        # Where the proxy listens and what its own headers are called may stand in the way of the upstreams'.
        "proxy": {
            "listen": "127.0.0.1:0",
            "redact": redact,
            "marker_header": _unlike("x-shadow-request", edited),
            "annotation_header": _unlike("x-shadow-annotations", edited),
        },
        "redis": {"partitions": said.get("partitions", 1)},
        "routes": said["routes"],
        "verdict": said["verdict"],
    }


def _upstream(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "url": shape["url"],
        "deadline": shape["deadline"],
        "host": shape.get("host"),
        "rewrite": [{"match": match, "to": to} for match, to in shape.get("rewrite", ())],
        "headers": {"set": dict.fromkeys(shape.get("set", ()), ""), "remove": shape.get("remove", ())},
        "json_fields": {field: json.loads(value) for field, value in shape.get("json_fields", {}).items()},
    }


def _unlike(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "-"
    return name


def _judged(settings: Settings, catalogue: Mapping[str, Any]) -> dict[str, Any]:
    """By metric, the row of the catalogue that the experiment was judged by."""
    if settings.verdict.guardrails:
        return {guardrail.metric: catalogue.get(guardrail.metric) for guardrail in settings.verdict.guardrails}
    found = {
        name: row
        for name, row in catalogue.items()
        if (row[_DEFAULT] is True or (settings.replica is not None and row[_DEFAULT]))
        and (name not in GUARDABLE or _offered(GUARDABLE[name], settings))
    }
    replaced = {row[_DEFAULT] for row in found.values()}
    return {name: row for name, row in found.items() if name not in replaced}


def _offered(metric: Metric, settings: Settings) -> bool:
    return not metric.needs or any(metric.by_default(route.offers) for route in settings.routes)


def _with_guardrails(settings: Settings, judged: Mapping[str, Any]) -> Settings:
    """The same with the guardrails of then, where a metric has become a default one since, or is none any more."""
    if settings.verdict.guardrails or judged.keys() == _judged(settings, _catalogue()).keys():
        return settings
    guardrails = tuple(Guardrail.default(name, row[_MARGIN]) for name, row in judged.items())
    return settings.model_copy(update={"verdict": settings.verdict.model_copy(update={"guardrails": guardrails})})
