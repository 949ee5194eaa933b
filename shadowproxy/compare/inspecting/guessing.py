"""What a route might look for in JSON of no known protocol: by the names of keys and by what stands under them.

A guess is a proposal to a person, who sees what it finds; nothing is compared by it unless it is written into a
configuration. Of several candidates the one with the better name is taken, then the one that stands less deep.

* **ids and scores**: a list of objects of which one key is an id (a name of `_IDS`, or one that ends in id; all there,
  and all different) and another a score (a name of `_SCORES`; or, failing that, fractions in descending order). Or
  two lists side by side, `ids` and `scores`. Or a list of numbers alone, of the same length as a list of ids in the
  request: a service that scores what it is sent.
* **label**, **probabilities**, **text**: by name, where an object (not in a list) has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from shadowproxy.compare.extraction.readings import canonical
from shadowproxy.compare.inspecting.outline import step

_IDS: Final = (
    "id", "_id", "item_id", "itemid", "product_id", "productid", "doc_id", "docid", "document_id", "documentid", "uuid",
    "uid", "key", "sku", "asin", "gtin", "isbn", "item", "product", "document", "index", "url", "slug", "code", "name",
    "title", "label", "class", "category", "token",
)  # fmt: skip
_ID_LISTS: Final = (
    "ids", "item_ids", "itemids", "product_ids", "doc_ids", "document_ids", "items", "recommendations", "recommended",
    "ranking", "ranked", "candidates", "results", "documents", "products",
)  # fmt: skip
_SCORES: Final = (
    "score", "_score", "relevance_score", "relevance", "similarity", "rank_score", "confidence", "probability",
    "prob", "likelihood", "certainty", "weight", "rating", "prediction", "predicted", "value", "logit", "ctr",
)  # fmt: skip
_SCORE_LISTS: Final = ("scores", "predictions", "similarities", "relevance", "ratings", "logits", "outputs", "values")
_LABELS: Final = (
    "label", "predicted_label", "predicted_class", "prediction", "predicted", "class", "class_name", "category",
    "intent", "sentiment", "decision", "verdict", "labels", "predictions", "classes", "species",
)  # fmt: skip
_PROBABILITIES: Final = (
    "probabilities", "probability", "probs", "proba", "predict_proba", "class_probabilities", "distribution", "scores",
    "confidences",
)  # fmt: skip
_TEXTS: Final = (
    "text", "generated_text", "output_text", "completion", "answer", "content", "response", "output", "summary",
    "summary_text", "translation", "translation_text", "reply", "generation",
)  # fmt: skip
_DEEPEST: Final = 8
_MOST_NODES: Final = 10_000
_LOOKED_AT: Final = 1000
"""Elements of a list that are looked at."""


class Guess(NamedTuple):
    """An expression, and how well it fits: the smaller, the better."""

    rank: tuple[int, ...]
    found: Mapping[str, str]


def guess(response: Any, request: Any = None) -> dict[str, str]:
    """Expressions by key of a route, for bodies as expressions see them; empty where nothing is recognized.

    >>> guess({"hits": [{"sku": "a", "points": 0.9}, {"sku": "b", "points": 0.5}]})
    {'ids': 'response.body.hits[*].sku', 'scores': 'response.body.hits[*].points'}
    """
    places = list(_places(response, "response.body"))
    rankings = [found for place in places for found in _rankings(*place)]
    rankings += [found for place in places for found in _scored(*place, list(_places(request, "request.body")))]
    best: dict[str, str] = {}
    if rankings:
        best |= min(rankings, key=lambda one: one.rank).found
    taken = set(best.values())
    for key, names, fits in (
        ("label", _LABELS, _is_label),
        ("probabilities", _PROBABILITIES, _is_distribution),
        ("text", _TEXTS, _is_text),
    ):
        named = [one for place in places for one in _named(*place, key, names, fits)]
        named = [one for one in named if not taken & set(one.found.values())]
        if named:
            best |= min(named, key=lambda one: one.rank).found
    if "label" in best or "probabilities" in best:
        return {key: text for key, text in best.items() if key != "text"}
    # A list of items is a better guess than a text that stands beside it, such as a message.
    return {key: text for key, text in best.items() if key != "text"} if "ids" in best else best


class _Place(NamedTuple):
    path: str
    value: Any
    depth: int


def _places(document: Any, root: str) -> Iterator[_Place]:
    """Objects and lists, the outer before the inner; of a list of one element that element too."""
    level = [_Place(root, document, 0)]
    seen = 0
    while level and seen < _MOST_NODES:
        inner: list[_Place] = []
        for place in level:
            seen += 1
            yield place
            if place.depth == _DEEPEST:
                continue
            if isinstance(place.value, dict):
                members = [(step(place.path, key), value) for key, value in place.value.items()]
            elif isinstance(place.value, list) and len(place.value) == 1:
                members = [(f"{place.path}[0]", place.value[0])]
            else:
                continue
            inner += [_Place(path, value, place.depth + 1) for path, value in members if isinstance(value, dict | list)]
        level = inner


def _rankings(path: str, value: Any, depth: int) -> Iterator[Guess]:
    if isinstance(value, list) and value and all(isinstance(element, dict) for element in value[:_LOOKED_AT]):
        yield from _of_objects(path, value[:_LOOKED_AT], depth)
    elif isinstance(value, dict):
        yield from _side_by_side(path, value, depth)


def _of_objects(path: str, elements: Sequence[dict[str, Any]], depth: int) -> Iterator[Guess]:
    keys = list(elements[0])
    ids = [
        (rank, key) for key in keys if (rank := _id_rank(key)) is not None and _unique([e.get(key) for e in elements])
    ]
    if not ids:
        return
    rank, name = min(ids, key=lambda one: one[0])
    found = {"ids": step(f"{path}[*]", name)}
    score = _score_key(elements, [key for key in keys if key != name])
    if score is None and rank >= _IDS.index("index"):
        return  # A list of names alone may be anything.
    if score is not None:
        found["scores"] = step(f"{path}[*]", score)
    # A list of one is rarely the ranking where there is a longer one.
    yield Guess((len(elements) < 2, score is None, rank, depth), found)


def _id_rank(key: str) -> int | None:
    name = key.lower()
    if name in _IDS:
        return _IDS.index(name)
    return 10 if re.search(r"(_|\b)ids?$|[a-z]Id$|ID$", key) else None


def _unique(values: Sequence[Any]) -> bool:
    names = [canonical(value) for value in values]
    return None not in names and len(set(names)) == len(names)


def _score_key(elements: Sequence[dict[str, Any]], keys: Sequence[str]) -> str | None:
    columns = {key: [element.get(key) for element in elements] for key in keys}
    named = [key for key in keys if _name_rank(key, _SCORES) is not None and _mostly_numbers(columns[key])]
    if named:
        return min(named, key=lambda key: _name_rank(key, _SCORES) or 0)
    falling = [key for key in keys if _falling_fractions(columns[key])]
    return falling[0] if falling else None


def _name_rank(key: str, names: Sequence[str]) -> int | None:
    name = key.lower()
    if name in names:
        return names.index(name)
    ends = [at for at, known in enumerate(names) if name.endswith(f"_{known}")]
    return len(names) + ends[0] if ends else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mostly_numbers(values: Sequence[Any]) -> bool:
    numbers = sum(map(_is_number, values))
    return all(value is None or _is_number(value) for value in values) and numbers * 2 >= len(values)


def _falling_fractions(values: Sequence[Any]) -> bool:
    if len(values) < 2 or not all(map(_is_number, values)) or all(isinstance(value, int) for value in values):
        return False
    return values[0] > values[-1] and all(left >= right for left, right in pairwise(values))


def _side_by_side(path: str, value: Mapping[str, Any], depth: int) -> Iterator[Guess]:
    """Lists of an object: ids, maybe with scores beside them; or scores alone."""
    lists = {key: inner[:_LOOKED_AT] for key, inner in value.items() if isinstance(inner, list) and inner}
    scores = {
        key: (rank, inner) for key, inner in lists.items()
        if (rank := _name_rank(key, _SCORE_LISTS)) is not None and _mostly_numbers(inner)
    }  # fmt: skip
    for key, inner in lists.items():
        rank = _name_rank(key, _ID_LISTS)
        if rank is None or not _unique(inner) or (len(inner) > 1 and any(isinstance(one, float) for one in inner)):
            continue
        beside = [(one, name) for name, (one, numbers) in scores.items() if len(numbers) == len(inner) and name != key]
        found = {"ids": step(path, key)}
        if beside:
            found["scores"] = step(path, min(beside)[1])
        yield Guess((len(inner) < 2, not beside, rank + 10, depth), found)
    for key, (rank, inner) in scores.items():
        if not _is_distribution(inner):
            yield Guess((2, rank, depth), {"scores": step(path, key)})


def _scored(path: str, value: Any, depth: int, asked: Sequence[_Place]) -> Iterator[Guess]:
    """A list of numbers in the answer, and one of as many ids in the request."""
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if not isinstance(inner, list) or len(inner) < 2 or not _mostly_numbers(inner[:_LOOKED_AT]):
            continue
        for place in asked:
            sent = place.value
            if not isinstance(sent, list) or len(sent) != len(inner):
                continue
            found = {"scores": step(path, key)}
            if _unique(sent):
                yield Guess((0, 0, 20, depth), {"ids": place.path, **found})
            elif all(isinstance(element, dict) for element in sent):
                for ids in _of_objects(place.path, sent, place.depth):
                    yield Guess((0, 0, 20, depth), {"ids": ids.found["ids"], **found})


def _named(path: str, value: Any, depth: int, key: str, names: Sequence[str], fits: Any) -> Iterator[Guess]:
    if isinstance(value, dict):
        for name, inner in value.items():
            rank = _name_rank(name, names)
            if rank is not None and fits(inner):
                yield Guess((depth, rank), {key: step(path, name)})


def _is_label(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(not isinstance(one, list) and _is_label(one) for one in value[:_LOOKED_AT])
    return isinstance(value, bool) or (canonical(value) not in (None, "") and not isinstance(value, float))


def _is_distribution(value: Any) -> bool:
    """Numbers that sum to about 1, by label or by class number; or a list of such."""
    if isinstance(value, list) and value and all(isinstance(row, list | dict) for row in value):
        return all(not _nested(row) and _is_distribution(row) for row in value[:_LOOKED_AT])
    numbers = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(numbers, list) or len(numbers) < 2 or not all(map(_is_number, numbers)):
        return False
    return all(0 <= number <= 1 for number in numbers) and abs(sum(numbers) - 1) < 0.02


def _nested(row: Any) -> bool:
    return isinstance(row, list) and any(isinstance(inner, list | dict) for inner in row)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
