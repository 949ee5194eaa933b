"""What must hold of any single answer, whoever gave it (route key `valid`; what each rule means stands in `checks`).

`validity.violations` = 1{candidate breaks a rule} − 1{baseline does}, in {−1, 0, 1}: 1 where only the candidate does. A
service in use may break a rule now and then; what counts is whether the candidate does so more often. How many rules
an answer breaks makes no difference.

`validity.candidate` = 1{candidate breaks a rule}, whatever the baseline does: for a rule that must hold.

*Failed sides* break no rule: a failure is counted once, by `failures.difference`. Where both failed, or neither breaks
any, 0. Neither metric is applicable where there is no content to compare (`failures.comparable`), as where both answer
4xx; never undefined. The first changes sign when the sides change places.

Table `validity`, by the rule's name: how many answers of the baseline, candidate and replica break it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from shadowproxy.compare.lists.ragged import Floats
from shadowproxy.compare.view import Counts, Values, View
from shadowproxy.config.catalogue import TABLES
from shadowproxy.model import Side

_COLUMNS = TABLES["validity"].columns


def validity(view: View) -> Mapping[str, Values]:
    """The family `validity`; nothing where the route has no rules."""
    if view.route is None or not view.route.valid:
        return {}
    candidate = _breaks(view, Side.CANDIDATE)
    return {
        "validity.violations": Values(candidate - _breaks(view, Side.BASELINE), view.comparable),
        "validity.candidate": Values(candidate, view.comparable),
    }


def rule_table(view: View) -> Iterable[Counts]:
    """The table `validity`."""
    rows: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, answers in view.answers.items():
        for at, found in enumerate(answers):
            for name in found.broken or ():
                rows[name][0].append(at)
                rows[name][1].append(_COLUMNS.index(side.value))
    for name, (pairs, columns) in sorted(rows.items()):
        yield Counts("validity", name, np.array(pairs, np.int64), np.array(columns, np.int64), len(_COLUMNS))


def _breaks(view: View, side: Side) -> Floats:
    return np.array([float(bool(found.broken)) for found in view.answers[side]], np.float64)
