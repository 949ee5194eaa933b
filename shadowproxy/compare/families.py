"""The families of metrics, in one table. A new family is a file with a function or two, and a line here for each."""

from __future__ import annotations

from shadowproxy.compare.failures import failures
from shadowproxy.compare.fields import field_table, fields
from shadowproxy.compare.labels import confusions, labels
from shadowproxy.compare.latency import latency
from shadowproxy.compare.quality import quality
from shadowproxy.compare.ranking import ranking
from shadowproxy.compare.scores import scores
from shadowproxy.compare.text import text
from shadowproxy.compare.validity import rule_table, validity
from shadowproxy.compare.view import Family, Tabulate

FAMILIES: tuple[Family, ...] = (failures, latency, ranking, scores, labels, text, fields, validity, quality)

TABLES: tuple[Tabulate, ...] = (confusions, field_table, rule_table)
