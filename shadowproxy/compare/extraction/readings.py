"""From the JSON that an expression gave to what is compared: rankings, truths, labels, accounts.

**Ids** are strings, or integers in their decimal form: 1 and "1" are the same item, since one service writes what the
other quotes. A float that holds an integer exactly (1.0, below 2^53) is that integer. Nothing else is an id: no null,
boolean, fraction, list or object, and no integer beyond 64 bits (JSON has none here; an expression can make one).
Of items with the same id the first counts; later ones are left out, and the list is
shorter by them.

**Scores** are finite numbers. Anything else, booleans included, leaves that item's score undefined (NaN); the item
keeps its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Mapping
from typing import Any, cast

import orjson

from shadowproxy.compare.extraction.answer import Ids, Ranking
from shadowproxy.compare.extraction.bodies import BodyError

LONGEST = 100_000
"""Items that a list may have. No ranking that is served is longer; 16 MiB of JSON could hold eight million."""

_EXACT = 2.0**53
_LEAST, _GREATEST = -(2**63), 2**64 - 1
_LABEL_LENGTH = 64


def ids_of(value: Any) -> list[str]:
    """The canonical ids in a list of ids, duplicates kept. Raises BodyError (`bad_body`) where it is no such list.

    Longer than `LONGEST`: BodyError (`too_large`).
    """
    if not isinstance(value, list):
        raise BodyError("bad_body")
    if len(value) > LONGEST:
        raise BodyError("too_large")
    kinds = set(map(type, value))
    if kinds <= {str}:
        return value
    if kinds == {int}:
        # Refuses an integer beyond 64 bits, and writes all of them in less time than `str` takes.
        with contextlib.suppress(orjson.JSONEncodeError):
            return orjson.dumps(value).decode()[1:-1].split(",")
    names = []
    for inner in value:
        name = canonical(inner)
        if name is None:
            raise BodyError("bad_body")
        names.append(name)
    return names


def scores_of(value: Any, length: int) -> list[float]:
    """The scores in a list of `length` values, NaN where undefined. Raises BodyError (`bad_body`) where it is none."""
    if not isinstance(value, list) or len(value) != length:
        raise BodyError("bad_body")
    with contextlib.suppress(OverflowError):  # of an integer that no float can hold
        # Their sum is finite only where each of them is; where it isn't, though each is, the long way says the same.
        if set(map(type, value)) <= {float, int} and math.isfinite(sum(value)):
            return value
    return [_number(inner) for inner in value]


def _number(value: Any) -> float:
    """`value` as a finite float; NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def ranking_of(ids: Ids, scores: list[float] | None = None, *, by_score: bool = False) -> Ranking:
    """The ranking of items with these ids and, where the route has them, scores.

    `by_score`: order it by score, highest first, undefined last, ties as they come.

    >>> ranking_of(["7", "7", "b"], [0.5, 0.9, 0.7]), ranking_of(["a", "b"], [0.1, 0.2], by_score=True)
    (Ranking(ids=['7', 'b'], scores=[0.5, 0.7]), Ranking(ids=['b', 'a'], scores=[0.2, 0.1]))
    """
    if len(set(ids)) < len(ids):
        first = dict(zip(reversed(ids), reversed(range(len(ids))), strict=True))
        kept = sorted(first.values())
        ids = cast("Ids", [ids[at] for at in kept])
        scores = None if scores is None else [scores[at] for at in kept]
    if by_score and scores is not None:
        descending = [float("inf") if math.isnan(score) else -score for score in scores]
        order = sorted(range(len(ids)), key=descending.__getitem__)
        ids, scores = cast("Ids", [ids[at] for at in order]), [scores[at] for at in order]
    return Ranking(ids, scores)


def canonical(value: Any) -> str | None:
    """The one spelling of an id; None where `value` is none.

    >>> canonical(12), canonical("12"), canonical(12.0), canonical(1.5), canonical(True)
    ('12', '12', '12', None, None)
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value) if _LEAST <= value <= _GREATEST else None
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    return None


def truth_of(value: Any) -> dict[str, float] | None:
    """Gains by id, the largest 1, from a list of ids (gain 1 each), one id, or an object id → gain.

    Entries that are no ids, and gains that are no number above 0, are left out; None where nothing is left.

    >>> truth_of(["a", 2, None]), truth_of({"a": 1, "b": 4, "c": 0}), truth_of([])
    ({'a': 1.0, '2': 1.0}, {'a': 0.25, 'b': 1.0}, None)
    """
    if isinstance(value, dict):
        gains = {name: gain for name, given in value.items() if (gain := _number(given)) > 0}
        if not gains:
            return None
        # NDCG knows no unit of gain; without this the sum of large ones overflows.
        largest = max(gains.values())
        return {name: gain / largest for name, gain in gains.items() if gain / largest > 0}
    entries = value if isinstance(value, list) else [value]
    names = {name: 1.0 for entry in entries if (name := canonical(entry)) is not None}
    return names or None


def labels_of(value: Any) -> list[str | None]:
    """The labels in an answer: one, or a list of them for several instances; None for what is no label.

    A label is a string, an integer (or a float that holds one) or a boolean, in its canonical form.
    Raises BodyError: `bad_body` where there is nothing, `too_large` past `LONGEST`.

    >>> labels_of("spam"), labels_of([1, 2.0, True, None, 0.5])
    (['spam'], ['1', '2', 'true', None, None])
    """
    if value is None:
        raise BodyError("bad_body")
    values = value if isinstance(value, list) else [value]
    if len(values) > LONGEST:
        raise BodyError("too_large")
    return [str(one).lower() if isinstance(one, bool) else canonical(one) for one in values]


def true_labels_of(value: Any) -> list[str | None] | None:
    """As `labels_of`, of a truth; None where it names no label.

    >>> true_labels_of(["a", None]), true_labels_of(1), true_labels_of({"a": 1}), true_labels_of([None])
    (['a', None], ['1'], None, None)
    """
    try:
        labels = labels_of(value)
    except BodyError:
        return None
    return labels if any(label is not None for label in labels) else None


def probabilities_of(value: Any) -> list[dict[str, float]]:
    """The probabilities in an answer, by label, for each instance; what is no finite number is left out.

    An object is by label; a list of numbers by class number (0, 1, …); a list of such is of several instances; one
    number is the probability of class 1 of two. Raises BodyError: `bad_body` for anything else, `too_large` past
    `LONGEST` numbers.

    >>> probabilities_of([0.9, 0.1]), probabilities_of([{"a": 1, "b": None}]), probabilities_of(0.25)
    ([{'0': 0.9, '1': 0.1}], [{'a': 1.0}], [{'0': 0.75, '1': 0.25}])
    """
    several = isinstance(value, list) and bool(value) and all(isinstance(row, list | dict) for row in value)
    rows = value if several else [value]
    if len(rows) > LONGEST or sum(len(row) for row in rows if isinstance(row, list | dict)) > LONGEST:
        raise BodyError("too_large")
    return [_distribution(row) for row in rows]


def _distribution(row: Any) -> dict[str, float]:
    if isinstance(row, list):
        row = dict(zip(map(str, range(len(row))), row, strict=True))
    elif not isinstance(row, dict):
        one = _number(row)
        row = {} if math.isnan(one) else {"0": 1 - one, "1": one}
    found = {name: number for name, given in row.items() if not math.isnan(number := _number(given))}
    if not found:
        raise BodyError("bad_body")
    return found


def text_of(value: Any) -> str | None:
    """The text in an answer; of a list of parts, the strings among them (and their `text`), joined. None for no text.

    >>> text_of("a"), text_of([{"type": "text", "text": "a"}, "b"]), text_of(None), text_of({"a": 1})
    ('a', 'ab', None, None)
    """
    if isinstance(value, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in value)
        found = [part for part in parts if isinstance(part, str)]
        return "".join(found) if found else None
    return value if isinstance(value, str) else None


def weight_of(value: Any) -> float:
    """How much a pair counts: a number, held to [0, 1]; 1 for anything else.

    >>> weight_of(0.25), weight_of(-1), weight_of(7), weight_of("0.5"), weight_of(None), weight_of(False)
    (0.25, 0.0, 1.0, 1.0, 1.0, 1.0)
    """
    number = _number(value)
    return 1.0 if math.isnan(number) else min(max(number, 0.0), 1.0)


def cohorts_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """`dimension=value` where the value is a string, integer or boolean; any other is in no cohort.

    >>> cohorts_of({"region": "us", "new": True, "age": None, "tags": ["a"]})
    ('region=us', 'new=true')
    """
    labels = ((dimension, _label(value)) for dimension, value in values.items())
    return tuple(f"{dimension}={label}" for dimension, label in labels if label)


def _label(value: Any) -> str:
    """Printable, at most 64 characters (it becomes a label and a column heading); empty for no cohort."""
    text = str(value).lower() if isinstance(value, bool) else canonical(value)
    if text is None:
        return ""
    return "".join(character if character.isprintable() else "_" for character in text[:_LABEL_LENGTH])


def account_of(value: Any) -> int:
    """BLAKE2b-64 of an account's canonical id; 0 where it is unknown."""
    name = canonical(value)
    if not name:
        return 0
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # 0 means unknown; one account in 2^64 shares a hash for it.
    return int.from_bytes(digest, "big") or 1
