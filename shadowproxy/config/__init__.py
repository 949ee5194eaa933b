"""Configuration: typed settings from YAML, one frozen section per room; errors name the key's path."""

from shadowproxy.config.catalogue import CATALOGUE, GUARDABLE, QUANTILES, Direction, Metric, Timing
from shadowproxy.config.experiment import experiment_id, frozen, thawed
from shadowproxy.config.judging import Guardrail, Verdict
from shadowproxy.config.load import load, loads
from shadowproxy.config.redaction import Redact
from shadowproxy.config.schema import json_schema
from shadowproxy.config.serving import AccessToken, Serve, ServeLimits, ServerTls, exposures, is_loopback
from shadowproxy.config.settings import (
    Breaker,
    Comparator,
    Health,
    Limits,
    ListenerTls,
    Mirror,
    MirrorRoute,
    Proxy,
    Recorder,
    Redis,
    Route,
    Settings,
    Tracing,
    Upstream,
    UpstreamTls,
    risks,
)
from shadowproxy.config.units import Address
from shadowproxy.config.workers import worker_count, worker_settings

__all__ = [
    "CATALOGUE",
    "GUARDABLE",
    "QUANTILES",
    "AccessToken",
    "Address",
    "Breaker",
    "Comparator",
    "Direction",
    "Guardrail",
    "Health",
    "Limits",
    "ListenerTls",
    "Metric",
    "Mirror",
    "MirrorRoute",
    "Proxy",
    "Recorder",
    "Redact",
    "Redis",
    "Route",
    "Serve",
    "ServeLimits",
    "ServerTls",
    "Settings",
    "Timing",
    "Tracing",
    "Upstream",
    "UpstreamTls",
    "Verdict",
    "experiment_id",
    "exposures",
    "frozen",
    "is_loopback",
    "json_schema",
    "load",
    "loads",
    "risks",
    "thawed",
    "worker_count",
    "worker_settings",
]
