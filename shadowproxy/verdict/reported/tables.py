"""What is counted beside the metrics, by key: from a batch's columns to sums, and from sums to rows of a report.

The keys are met as they come (a label, the path of a field). So the state has a bound for them: past it, what is new
counts as `other`. Workers meet them in different orders, hence what one counts by its key another may count there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from shadowproxy.compare.columns import Table
from shadowproxy.compare.view import Counts
from shadowproxy.config.catalogue import TABLES
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.record import OTHER, TableRow

MOST_KEYS = 200
"""Rows of one table of one route that one worker tells apart."""

_PREFIX = "table/"


class Tables:
    """Names of sums for the rows of tables: `table/ROUTE/TABLE/KEY`, without a route `table//TABLE/KEY`."""

    def __init__(self, routes: Sequence[str]) -> None:
        self._routes = (*routes, "")

    def gathered(self, tables: Iterable[Table], counted: Collection[str]) -> Iterator[tuple[str, Counts]]:
        """What a batch adds, by the name of the sum, each once; `counted` are the names that there are already."""
        names = {name for name in counted if name.startswith(_PREFIX)}
        keys: dict[str, int] = defaultdict(int)
        for name in names:
            keys[_table_of(name)] += 1
        found: dict[str, list[Counts]] = defaultdict(list)
        for route, counts in tables:
            table = f"{_PREFIX}{self._routes[route]}/{counts.table}/"
            name = table + counts.key
            if name not in names:
                if keys[table] >= MOST_KEYS:
                    name = table + OTHER
                else:
                    keys[table] += 1
                    names.add(name)
            found[name].append(counts)
        for name, several in found.items():
            first = several[0]
            if len(several) > 1:
                pair, column = (np.concatenate([getattr(one, part) for one in several]) for part in ("pair", "column"))
                first = first._replace(pair=pair, column=column)
            yield name, first

    def rows(self, total: Tally) -> Iterator[TableRow]:
        """All rows of all tables, within a table of a route the largest first."""
        found: list[TableRow] = []
        for name, sums in total.items():
            if not name.startswith(_PREFIX):
                continue
            _, route, table, key = name.split("/", 3)
            if table in TABLES:
                counts = dict(zip(TABLES[table].columns, map(int, sums), strict=False))
                found.append(TableRow(table=table, route=route, key=key, counts=counts))
        yield from sorted(found, key=lambda row: (row.table, row.route, -sum(row.counts.values()), row.key))


def _table_of(name: str) -> str:
    return "/".join(name.split("/", 3)[:3]) + "/"
