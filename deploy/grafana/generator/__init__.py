"""The Grafana dashboards, as code: `make dashboards` writes them to deploy/grafana/dashboards/.

Needs the extra `dashboards`; nothing of it is part of the installed package.
"""

from __future__ import annotations

import json

from generator.traffic import traffic
from grafana_foundation_sdk.cog.encoder import JSONEncoder

DASHBOARDS = {"traffic": traffic}


def written() -> dict[str, str]:
    """The dashboards as files, by name."""
    return {f"{name}.json": _file(dashboard().build()) for name, dashboard in DASHBOARDS.items()}


def _file(dashboard: object) -> str:
    return json.dumps(dashboard, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"
