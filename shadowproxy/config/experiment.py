"""What must not change while an experiment runs, and the id that follows from it."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from shadowproxy.config.catalogue import CATALOGUE
from shadowproxy.config.settings import Route, Settings, Upstream
from shadowproxy.config.shaping import encode_json

EVIDENCE = 1
"""Raised whenever what workers store comes to mean something else: the e-processes' grids, the losses, the columns."""

# These only hold back a decision that the counted evidence would allow; changing them reinterprets nothing.
_FREE = {"min_recorded", "horizon"}


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
        "verdict": settings.verdict.model_dump(mode="json", exclude=_FREE),
        "catalogue": {
            metric.name: [metric.low, metric.high, metric.ideal, metric.margin, metric.default, *metric.worse]
            for metric in CATALOGUE.values()
        },
    }


def _route(route: Route) -> dict[str, Any]:
    # Left out where it isn't used: an experiment from before there was such a thing goes on under its id.
    return route.model_dump(mode="json", exclude={"labels"} if route.labels is None else None)


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
