"""Several proxy processes under one configuration: how many, and each one's share of what is bounded for all."""

from __future__ import annotations

import os
from typing import Any, Final, TypeVar

from shadowproxy.config.section import Section
from shadowproxy.config.settings import Settings
from shadowproxy.config.units import Address

_S = TypeVar("_S", bound=Section)

SHARED: Final = (
    "baseline.max_idle",
    "candidate.max_idle",
    "replica.max_idle",
    "proxy.mirror.max_in_flight",
    "proxy.mirror.max_in_flight_bytes",
    "proxy.limits.connections",
    "recorder.max_bytes",
    "tracing.rate",
)
"""Keys that bound the proxy as a whole. What a configuration allows (memory of the container, load on the candidate)
must not grow with the number of cores, so each worker has an equal share, rounded up. The price: connections are spread
by a hash and not evenly, so that one worker may come to the end of its share a little before all of them would."""


def worker_count(settings: Settings) -> int:
    """Proxy processes that `proxy.workers` asks for; `auto` is one per CPU that this process may use."""
    wanted = settings.proxy.workers
    return len(os.sched_getaffinity(0)) if wanted == "auto" else wanted


def worker_settings(settings: Settings, count: int, port: int) -> Settings:
    """The settings of one of `count` workers that listen together on `port`; the evidence rests on the same ones.

    Its admin address is a free port of the loopback interface: the parent answers at the configured one.
    """
    changed = settings
    for key in SHARED:
        value = _get(settings, key)
        if value is not None:
            changed = _replaced(changed, key, -(-value // count))
    listen = Address(settings.proxy.listen.host, port)
    changed = _replaced(changed, "proxy.listen", listen)
    return _replaced(changed, "proxy.admin", Address("127.0.0.1", 0))


def _get(section: Section, key: str) -> Any:
    value: Any = section
    for name in key.split("."):
        value = getattr(value, name, None)
    return value


def _replaced(section: _S, key: str, value: Any) -> _S:
    name, _, rest = key.partition(".")
    return section.model_copy(update={name: _replaced(getattr(section, name), rest, value) if rest else value})
