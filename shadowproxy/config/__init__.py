"""Configuration: typed settings from YAML, one frozen section per room; errors name the key's path."""

from shadowproxy.config.catalogue import CATALOGUE, Direction, Metric
from shadowproxy.config.experiment import experiment_id, frozen
from shadowproxy.config.load import load, loads
from shadowproxy.config.redaction import Redact
from shadowproxy.config.schema import json_schema
from shadowproxy.config.settings import (
    Comparator,
    Guardrail,
    Limits,
    Mirror,
    Proxy,
    Recorder,
    Redis,
    Route,
    Serve,
    Settings,
    Upstream,
    Verdict,
)
from shadowproxy.config.units import Address

__all__ = [
    "CATALOGUE",
    "Address",
    "Comparator",
    "Direction",
    "Guardrail",
    "Limits",
    "Metric",
    "Mirror",
    "Proxy",
    "Recorder",
    "Redact",
    "Redis",
    "Route",
    "Serve",
    "Settings",
    "Upstream",
    "Verdict",
    "experiment_id",
    "frozen",
    "json_schema",
    "load",
    "loads",
]
