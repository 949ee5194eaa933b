"""What one expression found in one answer, in words; or why it found nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from shadowproxy.compare.extraction.bodies import BodyError
from shadowproxy.compare.extraction.extract import Expression, ExtractError
from shadowproxy.compare.extraction.readings import (
    LONGEST,
    account_of,
    canonical,
    cohorts_of,
    ids_of,
    labels_of,
    probabilities_of,
    scores_of,
    text_of,
    truth_of,
)
from shadowproxy.compare.inspecting.outline import brief, kind_of

_SHOWN: Final = 3
_PLAIN: Final = re.compile(
    r'(?:[A-Za-z_]\w*|"(?:[^"\\]|\\.)*")(?:\.(?:[A-Za-z_]\w*|"(?:[^"\\]|\\.)*")|\[(?:\*|-?\d+)?\])*'
)
_STEP: Final = re.compile(r'\.?(?:[A-Za-z_]\w*|"(?:[^"\\]|\\.)*")|\[(?:\*|-?\d+)?\]')


class Finding(NamedTuple):
    """One key of a route, on one answer."""

    key: str
    expression: str
    good: bool
    """Whether it found what the key is for."""
    says: str
    """What it found, or why nothing. Holds text of the answer: not to be printed as it is."""


def described(key: str, expression: str, value: Any, document: Mapping[str, Any], ids: Any = None) -> Finding:
    """What an expression gave for a key, in words. `ids`: what that of the ids gave, which scores stand beside."""
    if value is None:
        return Finding(key, expression, False, f"nothing: {_why_nothing(expression, document)}")
    try:
        says = _scores(value, ids) if key == "scores" else _SAY[key.partition(".")[0]](value)
    except BodyError as error:
        return Finding(key, expression, False, _why_bad(key, value, ids, error))
    if says is None:
        return Finding(key, expression, False, f"{kind_of(value)} {brief(value)}, which can't be used")
    return Finding(key, expression, True, says)


def _listed(names: Sequence[Any]) -> str:
    shown = ", ".join(brief(name, 24) for name in names[:_SHOWN])
    return f"{shown}, …" if len(names) > _SHOWN else shown


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _ids(value: Any) -> str:
    names = ids_of(value)
    repeated = len(names) - len(set(names))
    says = f"{_counted(len(names), 'id')}{': ' if names else ''}{_listed(names)}"
    return f"{says}; {repeated:,} repeated, of which the first counts" if repeated else says


def _scores(value: Any, ids: Any) -> str:
    length = len(ids) if isinstance(ids, list) else len(value) if isinstance(value, list) else 0
    numbers = scores_of(value, length)
    known = [number for number in numbers if not math.isnan(number)]
    says = _counted(len(numbers), "number")
    if known:
        says += f": {min(known):.4g} to {max(known):.4g}"
    undefined = len(numbers) - len(known)
    return f"{says}; {undefined:,} undefined" if undefined else says


def _labels(value: Any) -> str | None:
    labels = labels_of(value)
    known = [label for label in labels if label is not None]
    if not known and labels:
        return None
    says = f"{_counted(len(labels), 'label')}{': ' if labels else ''}{_listed(known)}"
    return says if len(known) == len(labels) else f"{says}; {len(labels) - len(known):,} undefined"


def _probabilities(value: Any) -> str | None:
    rows = probabilities_of(value)
    if not any(rows):
        return None
    first = ", ".join(f"{brief(name, 24)} {number:.4g}" for name, number in list(rows[0].items())[:_SHOWN])
    more = ", …" if len(rows[0]) > _SHOWN else ""
    return f"{_counted(len(rows), 'distribution')} over {_counted(len(rows[0]), 'label')}: {first}{more}"


def _text(value: Any) -> str | None:
    text = text_of(value)
    return None if text is None else f"{_counted(len(text), 'character')}: {brief(text, 60)}"


def _finish(value: Any) -> str | None:
    text = text_of(value)
    return None if text is None else brief(text)


def _truth(value: Any) -> str | None:
    gains = truth_of(value)
    return None if gains is None else f"{_counted(len(gains), 'id or label')}: {_listed(list(gains))}"


def _account(value: Any) -> str | None:
    return f"account {brief(value)}" if account_of(value) else None


def _cohort(value: Any) -> str | None:
    found = cohorts_of({"": value})
    return brief(found[0][1:]) if found else None


_SAY: Final[Mapping[str, Callable[[Any], str | None]]] = {
    "ids": _ids,
    "label": _labels,
    "probabilities": _probabilities,
    "text": _text,
    "finish": _finish,
    "truth": _truth,
    "account": _account,
    "cohorts": _cohort,
}


def _why_bad(key: str, value: Any, ids: Any, error: BodyError) -> str:
    if error.kind == "too_large":
        return f"more than {LONGEST:,} values, which is too large"
    if key in ("ids", "scores") and not isinstance(value, list):
        return f"{kind_of(value)} {brief(value)}, where a list belongs"
    if key == "scores" and isinstance(ids, list):
        return f"{_counted(len(value), 'value')} for {_counted(len(ids), 'id')}: they don't stand side by side"
    if key == "ids":
        at = next(at for at, name in enumerate(value) if canonical(name) is None)
        return f"element {at} is {kind_of(value[at])} {brief(value[at])}, which is no id"
    return f"{kind_of(value)} {brief(value)}, which can't be used"


def _why_nothing(expression: str, document: Mapping[str, Any]) -> str:
    """Where on its way an expression finds nothing, if it is a plain path."""
    if not _PLAIN.fullmatch(expression):
        return "the expression gives null"
    way = "".join
    steps = _STEP.findall(expression)
    parent: Any = document
    for at in range(1, len(steps) + 1):
        value = _evaluated(way(steps[:at]), document)
        if value is None:
            there = way(steps[:at])
            if isinstance(parent, dict) and not steps[at - 1].startswith("["):
                key = _key(steps[at - 1])
                if key in parent:
                    return f"`{there}` is null"
                has = _listed(list(parent)) if parent else "nothing"
                return f"`{there}` is not there; there {'are' if len(parent) > 1 else 'is'} {has}"
            return f"`{there}`: `{way(steps[: at - 1])}` is {kind_of(parent)} {brief(parent, 24)}"
        parent = value
    return "it is null"


def _key(step: str) -> str:
    """The key that a step of a path names.

    >>> _key(".id"), _key('."gr\\u00f6\\u00dfe"')
    ('id', 'größe')
    """
    name = step.removeprefix(".")
    return str(json.loads(name)) if name.startswith('"') else name


def _evaluated(expression: str, document: Mapping[str, Any]) -> Any:
    try:
        return Expression(expression)(dict(document))
    except ExtractError:
        return None
