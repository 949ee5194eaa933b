"""The families of metrics, in one table. A new family is a file with a function or two, and a line here for each."""

from __future__ import annotations

from shadowproxy.compare.families.failures import failures
from shadowproxy.compare.families.fields import field_table, fields
from shadowproxy.compare.families.labels import confusions, labels
from shadowproxy.compare.families.latency import latency
from shadowproxy.compare.families.quality import quality
from shadowproxy.compare.families.ranking import ranking
from shadowproxy.compare.families.scores import scores
from shadowproxy.compare.families.text import text
from shadowproxy.compare.families.validity import rule_table, validity
from shadowproxy.compare.view import Family, Tabulate

FAMILIES: tuple[Family, ...] = (failures, latency, ranking, scores, labels, text, fields, validity, quality)

TABLES: tuple[Tabulate, ...] = (confusions, field_table, rule_table)
