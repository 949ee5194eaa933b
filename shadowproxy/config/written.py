"""Settings written down for people to paste."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def as_yaml(data: Mapping[str, Any]) -> str:
    """Block YAML, keys in their order; ASCII, so that nothing in it can steer a terminal."""
    text: str = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=False, width=10_000, default_flow_style=False)
    return text
