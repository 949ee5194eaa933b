"""What differs in the rest of the JSON: the two answers' bodies, value by value (route key `fields`).

A body's **leaves** are its strings, numbers, booleans, nulls, empty objects and empty lists (see `leaves`). Each has a
**path**, in which `[*]` stands for whichever item of a list: `items[*].price`. A leaf *differs* where only one answer
has it, or both have it with another type or value. 1 and 1.0 are the same, true and 1 are not; null is a value, so null
against nothing differs; integers are exact as far as they are read (64 bits), strings character by character. Where one
answer has an object or list and the other something else, each one's leaves are there on one side only.

* `fields.changed`: by path, the share of its leaves in either answer that differ; of that the mean over all paths. So a
  list of fifty items doesn't hide that the only `currency` is gone. In [0, 1], 0 exactly where nothing differs, the
  same if the sides change places. Nothing to compare (all is ignored, or nothing extracted is left): 0.
* `fields.excess`, for pairs with a replica's answer A′: ½[changed(A, B) + changed(A′, B)] − changed(A, A′) for baseline
  A and candidate B. In [−1, 1], of mean 0 where the three are exchangeable, whatever noise (times, request ids,
  sampling) they have: the replica takes it out. The two metrics are never one guardrail. STATISTICS §5.

*Failed sides.* `changed` is 1 where either side failed, or both, as rankings agree by 0 then; who failed more is
what `failures.difference` tells. `excess` is not applicable where any of the three failed, and where there is no
replica: such triplets are left out (STATISTICS §1). An answer of more leaves than `fields.max_leaves`, or nested
over 100 deep: undefined.

*Order.* Lists are compared position by position, unless `fields` has them `unordered` or `matched` by a key.

*What the route extracts* (ids, scores, label, text, …) is left out, as it is judged by families of its own, unless
`fields.extracted` is true. A list that holds the ranked ids is matched by them, and only items that both answers have
are compared: that others took their place is what the ranking's metrics say. It works for expressions that are plain
paths (see `extracted`); an index counts as `[*]`.

Table `fields`, by path: pairs in which the path was compared; in which it differed in the candidate, and in which ways
(added, removed, another type, another value; there may be several); in which it could be compared with a replica, and
differed there. A path that differs as often in the replica is noise: fit for `ignore` or `tolerance`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from shadowproxy.compare.extraction.answer import Answer
from shadowproxy.compare.structure.difference import ADDED, REMOVED, TYPE, VALUE, Difference, changed, differences
from shadowproxy.compare.structure.leaves import Contents, Leaves, TooLarge, leaves_of
from shadowproxy.compare.structure.places import Place, Places
from shadowproxy.compare.view import Changes, Counts, Values, View
from shadowproxy.config.catalogue import TABLES
from shadowproxy.model import Side

MOST_PATHS = 1_000
"""Paths of one batch that are told apart in the table; the rest, of those that differ least often, is `other`."""

_COLUMN = {name: at for at, name in enumerate(TABLES["fields"].columns)}
_WAYS = {ADDED: "added", REMOVED: "removed", TYPE: "type", VALUE: "value"}


def fields(view: View) -> Mapping[str, Values]:
    """The family `fields`; nothing where the route doesn't compare them."""
    found = view.changes
    if found is None:
        return {}
    either = view.any_failed
    return {
        "fields.changed": Values(np.where(either, 1.0, found.changed), view.comparable),
        "fields.excess": Values(found.excess, view.comparable & ~either & found.replicated),
    }


def field_table(view: View) -> Iterable[Counts]:
    """The table `fields`."""
    return () if view.changes is None else view.changes.counts


def changes_of(answers: Mapping[Side, Sequence[Answer]], places: Places, most: int) -> Changes:
    """How the documents of n pairs differ. A side without one (it failed) leaves NaN."""
    n = len(answers[Side.BASELINE])
    direct, excess, replicated = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, np.bool_)
    tally = _Tally()
    for at in range(n):
        given = {side: answers[side][at].document for side in Side}
        replicated[at] = given[Side.REPLICA] is not None
        if given[Side.BASELINE] is None or given[Side.CANDIDATE] is None:
            continue
        # One root for the pair: places are compared by identity.
        root, contents = places.root(), Contents()
        a, b, replica = (_leaves(given[side], root, most, contents) for side in Side)
        if a is None or b is None:
            continue
        ours = differences(a, b)
        direct[at] = changed(ours)
        tally.candidate(at, ours)
        if replica is not None:
            noise = differences(a, replica)
            excess[at] = (direct[at] + changed(differences(replica, b))) / 2 - changed(noise)
            tally.replica(at, noise)
    return Changes(direct, excess, replicated, tuple(tally.counts()))


def _leaves(document: Mapping[str, object] | None, root: Place | None, most: int, contents: Contents) -> Leaves | None:
    if document is None:
        return None
    response = document.get("response")
    try:
        return leaves_of(response.get("body") if isinstance(response, dict) else None, root, most, contents)
    except TooLarge:
        return None


class _Tally:
    """The rows of the table, as they come together: by path, (pair, column) of each addition."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        self._differing: Counter[str] = Counter()

    def candidate(self, pair: int, found: Mapping[Place, Difference]) -> None:
        for path, ways in _by_path(found):
            self._add(path, pair, "compared")
            if ways:
                self._differing[path] += 1
                self._add(path, pair, "candidate", *(name for bit, name in _WAYS.items() if ways & bit))

    def replica(self, pair: int, found: Mapping[Place, Difference]) -> None:
        for path, ways in _by_path(found):
            self._add(path, pair, "with_replica", *(("replica",) if ways else ()))

    def counts(self) -> Iterator[Counts]:
        """Those that differ most often first: if there are more paths than are told apart, it is the others' loss."""
        order = sorted(self._rows, key=lambda path: (-self._differing[path], path))
        width = len(_COLUMN)
        for path in order[:MOST_PATHS]:
            pairs, columns = self._rows[path]
            yield Counts("fields", path, np.array(pairs, np.int64), np.array(columns, np.int64), width)
        if rest := order[MOST_PATHS:]:
            # Each pair once in a column, as with a path.
            several = {entry for path in rest for entry in zip(*self._rows[path], strict=True)}
            pairs, columns = map(list, zip(*sorted(several), strict=True))
            yield Counts("fields", "other", np.array(pairs, np.int64), np.array(columns, np.int64), width)

    def _add(self, path: str, pair: int, *columns: str) -> None:
        pairs, places = self._rows[path]
        pairs += [pair] * len(columns)
        places += [_COLUMN[name] for name in columns]


def _by_path(found: Mapping[Place, Difference]) -> Iterator[tuple[str, int]]:
    """Each path once, with the ways in which it differs: of paths that are cut several may read alike."""
    ways: dict[str, int] = {}
    for place, one in found.items():
        path = place.path or "$"
        ways[path] = ways.get(path, 0) | one.ways
    yield from ways.items()
