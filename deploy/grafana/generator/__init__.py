"""The Grafana dashboards, as code: `make dashboards` writes them to deploy/grafana/dashboards/.

Needs the extra `dashboards`; nothing of it is part of the installed package.
"""

from __future__ import annotations

import itertools
import json

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard, RowPanel

from generator.comparator import comparator
from generator.latency import latency
from generator.overview import overview
from generator.traffic import traffic

DASHBOARDS = {"overview": overview, "latency": latency, "traffic": traffic, "comparator": comparator}


def written() -> dict[str, str]:
    """The dashboards as files, by name."""
    return {f"{name}.json": _file(make().build()) for name, make in DASHBOARDS.items()}


def _file(dashboard: Dashboard) -> str:
    number = itertools.count(1)
    for panel in dashboard.panels or ():
        panel.id_val = next(number)
        for inner in panel.panels if isinstance(panel, RowPanel) else ():
            inner.id_val = next(number)
    return json.dumps(dashboard, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"
