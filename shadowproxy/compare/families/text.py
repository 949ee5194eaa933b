"""Agreement of two generated texts, and of why they end. Baseline text A, candidate text B.

| metric | definition | both empty | one empty |
| --- | --- | --- | --- |
| `text.exact` | 1 where the texts are the same, else 0 | 1 | 0 |
| `text.token_f1` | F1 of the two bags of tokens: 2 · common / (tokens of A + tokens of B) | 1 | 0 |
| `text.length` | (characters of B − characters of A) / the longer | 0 | ±1 |
| `text.finish` | 1 where both say the same of why they end, else 0 | 1 | 0 |

*The same*: after Unicode normalisation (NFC: é is é, in one code point or two) and with every run of white space as one
space, none at the ends; so are texts measured, too. Case and punctuation count.

*Tokens* are those of SQuAD's evaluation (Rajpurkar et al. 2016), so that figures can be compared: lower case, without
punctuation, split at white space, without the articles a, an, the. As in MLQA's (Lewis et al. 2020), which is the same
for more languages, punctuation is Unicode's (category P) as well as ASCII's, and a Chinese character is a token of its
own; here Japanese kana are, too. Articles are whole tokens. Where only one side has any token: 0. Where neither has: 1
if the texts are the same, else 0 (SQuAD says 1 of any two).

*Bounds.* Tokens are of the first 100,000 characters of either text. A text with more than 30 combining marks in a row
(normalising is quadratic in them; a stream-safe text, UAX #15, has no more) is not normalised. Everything else is
linear in the text.

*No text.* An answer without one (null, as where a model calls a tool) has an empty text. Where neither has one, nothing
is applicable; the same for `text.finish` where neither says why.

`text.token_f1_excess` and `text.finish_excess` are what A and B disagree in beyond A's own noise, for pairs that the
replica answered too (see `excess`); not applicable where none of the three has a text, or says why it ends.

*Failed sides.* Where either side failed, or both, the agreements are 0, as with rankings, and `text.length` is not
applicable.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from shadowproxy.compare.extraction.answer import Answer
from shadowproxy.compare.families.excess import excess_of_answers
from shadowproxy.compare.lists.align import SIDES
from shadowproxy.compare.lists.ragged import Bools, Floats
from shadowproxy.compare.view import Values, View
from shadowproxy.model import Side

LONGEST_TEXT = 100_000
"""Characters of a text that are split into tokens."""

_ARTICLES = ("a", "an", "the")
# All combining marks are among what is neither a letter, a digit nor white space.
_MARKS = re.compile(r"[^\w\s\x00-\x7f]{31}")
# Han with its extensions and compatibility forms, and kana: written without spaces.
_ALONE = re.compile("([\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
_PUNCTUATION: Mapping[int, None] = dict.fromkeys(
    [*map(ord, string.punctuation), *(at for at in range(0x10000) if unicodedata.category(chr(at)).startswith("P"))]
)


def text(view: View) -> Mapping[str, Values]:
    """The family `text`; nothing where the route has no text."""
    if view.route is None or view.route.text is None:
        return {}
    baseline, candidate = ([answer.text for answer in view.answers[side]] for side in SIDES)
    texts = [(a or "", b or "") for a, b in zip(baseline, candidate, strict=True)]
    there = view.comparable & (view.any_failed | _either(baseline, candidate))
    exact, f1, longer = np.array([_compared(a, b) for a, b in texts], np.float64).T
    found = {
        "text.exact": _agreement(view, exact, there),
        "text.token_f1": _agreement(view, f1, there),
        "text.length": Values(longer, there & ~view.any_failed),
    }
    if view.replicated is not None:
        said = _either(baseline, candidate, [answer.text for answer in view.answers[Side.REPLICA]])
        excess = excess_of_answers(view, f1, _token_f1)
        found["text.token_f1_excess"] = Values(excess.values, excess.applicable & said)
    if view.route.finish is not None:
        ends = [[answer.finish for answer in view.answers[side]] for side in SIDES]
        equal = _same_end(*(view.answers[side] for side in SIDES))
        found["text.finish"] = _agreement(view, equal, view.comparable & (view.any_failed | _either(*ends)))
        if view.replicated is not None:
            said = _either(*ends, [answer.finish for answer in view.answers[Side.REPLICA]])
            excess = excess_of_answers(view, equal, _same_end)
            found["text.finish_excess"] = Values(excess.values, excess.applicable & said)
    return found


def folded(text: str) -> str:
    """A text in the form in which it is compared.

    >>> folded(" caf\u00e9 \\n") == folded("cafe\u0301"), folded("a \\t b")
    (True, 'a b')
    """
    one = " ".join(text.split())
    return one if one.isascii() or _MARKS.search(one) else unicodedata.normalize("NFC", one)


def token_f1(a: str, b: str) -> float:
    """F1 of the bags of tokens of two folded texts.

    >>> token_f1("The cat sat.", "a cat, SAT down")
    0.8
    """
    if a == b:
        return 1.0
    in_a, in_b = tokens(a), tokens(b)
    common = sum(min(in_a[token], in_b[token]) for token in in_a.keys() & in_b.keys())
    return 2 * common / max(1, in_a.total() + in_b.total())


def tokens(text: str) -> Counter[str]:
    """The bag of tokens of a folded text.

    >>> sorted(tokens("The “cat” saw 東京.").elements())
    ['cat', 'saw', '京', '東']
    """
    plain = text[:LONGEST_TEXT].lower().translate(_PUNCTUATION)
    if not plain.isascii():
        plain = _ALONE.sub(r" \1 ", plain)
    found = Counter(plain.split())
    for article in _ARTICLES:
        del found[article]
    return found


def _compared(a: str, b: str) -> tuple[bool, float, float]:
    """(whether they are the same, token F1, relative difference of the lengths) of two texts."""
    if a == b:
        return True, 1.0, 0.0
    a, b = folded(a), folded(b)
    return a == b, token_f1(a, b), (len(b) - len(a)) / max(len(a), len(b), 1)


def _agreement(view: View, agreement: Floats, applicable: Bools) -> Values:
    return Values(np.where(view.any_failed, 0.0, agreement), applicable)


def _token_f1(baseline: Sequence[Answer], candidate: Sequence[Answer]) -> Floats:
    return np.array([_compared(a.text or "", b.text or "")[1] for a, b in zip(baseline, candidate, strict=True)])


def _same_end(baseline: Sequence[Answer], candidate: Sequence[Answer]) -> Floats:
    return np.array([a.finish == b.finish for a, b in zip(baseline, candidate, strict=True)], np.float64)


def _either(*sides: list[str | None]) -> Bools:
    return np.array([any(one is not None for one in some) for some in zip(*sides, strict=True)], np.bool_)
