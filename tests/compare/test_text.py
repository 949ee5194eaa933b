"""Texts: token F1 against SQuAD's own evaluation, everything else by hand."""

from __future__ import annotations

import random
import re
import string
import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import pytest
from compare.samples import answer, failure, pair, value
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.families.text import LONGEST_TEXT, folded, token_f1
from shadowproxy.config import Route

ROUTE = Route(name="r", text="response.body.t", finish="response.body.f")
EXACT, F1, LENGTH, FINISH = NAMES = ("text.exact", "text.token_f1", "text.length", "text.finish")
WORDS = [
    *("cat", "dog", "house", "Paris", "U.S.", "don't", "well-known", "3.14", "(1889)", "tower", "café", "Ünder"),
    *("a", "an", "the", "The", "A", "theme", "...", "!", "“", "$5", "x=1"),
]


def squad_f1(prediction: str, truth: str) -> float:
    """compute_f1 of SQuAD 2.0's evaluate-v2.0.py, re-derived: its normalisation, its bags, its empty answers."""
    bags = []
    for text in (prediction, truth):
        kept = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
        bags.append(re.sub(r"\b(a|an|the)\b", " ", kept, flags=re.UNICODE).split())
    found, gold = bags
    common = sum((Counter(gold) & Counter(found)).values())
    if not gold or not found:
        return float(gold == found)
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def test_token_f1_is_squads() -> None:
    rng = random.Random(8)
    # SQuAD leaves quotation marks beyond ASCII in the words; MLQA doesn't.
    words = [word for word in WORDS if word != "“"]
    texts = [rng.choice([" ", "  ", "\n"]).join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(21_000)]
    # Of two texts without a single token SQuAD says 1, whatever they are.
    made = [(a, b) for a, b in zip(texts[::2], texts[1::2], strict=True) if not squad_f1(a, "") == squad_f1(b, "") == 1]
    assert len(made) > 10_000
    columns = Comparer([ROUTE])([pair(answer({"t": a}), answer({"t": b})) for a, b in made])
    np.testing.assert_allclose(columns.values[F1], [squad_f1(a, b) for a, b in made], atol=1e-12)
    assert len(set(columns.values[F1])) > 30


@pytest.mark.parametrize(
    ("a", "b", "f1"),
    [
        ("", "", 1),
        ("", "x", 0),
        ("the", "x", 0),
        ("the", "THE", 0),
        ("?!", "?!", 1),
        ("?!", " ?!\n", 1),
        ("a b a b", "b", 2 / 3),
        ("cat cat", "cat", 2 / 3),
        ("The cat.", "cat", 1),
        ("“the cat”", "cat", 1),
        ("東京都", "東京", 4 / 5),
        ("東京tower", "tower", 1 / 2),
        ("cafe\u0301", "café", 1),
        ("one two", "three", 0),
    ],
)
def test_token_f1_by_hand(a: str, b: str, f1: float) -> None:
    assert token_f1(folded(a), folded(b)) == token_f1(folded(b), folded(a)) == pytest.approx(f1)
    assert sides((a, None), (b, None))[1] == pytest.approx(f1)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("a b", "a  b", True),
        ("a\n", "a", True),
        ("a\u00a0b", "a b", True),
        ("é", "e\u0301", True),
        ("", " ", True),
        ("A", "a", False),
        ("a.", "a", False),
        ("ab", "a b", False),
        ("ﬁ", "fi", False),
    ],
)
def test_the_same_text(a: str, b: str, expected: bool) -> None:
    assert (folded(a) == folded(b)) == expected
    assert sides((a, None), (b, None))[0] == expected


def sides(a: Any, b: Any) -> list[float | None]:
    made = [pair(*(answer({"t": text, "f": end}) for text, end in pairs)) for pairs in ((a, b), (b, a))]
    columns = Comparer([ROUTE])(made)
    there, back = ([value(columns, name, row) for name in NAMES] for row in (0, 1))
    assert back == [there[0], there[1], None if there[2] is None else -there[2], there[3]]
    return there


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (("x y", "stop"), ("x y", "stop"), [1, 1, 0, 1]),
        (("x y", "stop"), ("x", "length"), [0, 2 / 3, -2 / 3, 0]),
        (("", "stop"), ("", None), [1, 1, 0, 0]),
        (("", "stop"), ("abcd", "stop"), [0, 0, 1, 1]),
        ((None, "tool_calls"), ("abcd", "stop"), [0, 0, 1, 0]),
        ((None, "tool_calls"), ("", "tool_calls"), [1, 1, 0, 1]),
        ((None, "tool_calls"), (None, "tool_calls"), [None, None, None, 1]),
        ((None, None), ({"x": 1}, 3), [None] * 4),
        (("x", None), ("x", 5), [1, 1, 0, None]),
        (("x  y\n", None), ("x y zz", None), [0, 0.8, 0.5, None]),
        ((" ", None), ("", None), [1, 1, 0, None]),
    ],
)
def test_texts_that_are_empty_or_missing(a: Any, b: Any, expected: list[float | None]) -> None:
    assert sides(a, b) == [one if one is None else pytest.approx(one) for one in expected]


def test_a_failed_side_says_nothing_alike() -> None:
    good = answer({"t": "x", "f": "stop"})
    columns = Comparer([ROUTE])([pair(a, b) for a, b in ((good, failure()), (failure(), good), (failure(), failure()))])
    for name in (EXACT, F1, FINISH):
        assert columns.values[name].tolist() == [0, 0, 0]
    assert not columns.applicable[LENGTH].any()


def test_only_the_beginning_of_an_enormous_text_is_split() -> None:
    words = " ".join(f"w{at}" for at in range(LONGEST_TEXT // 4))[:LONGEST_TEXT]
    assert sides((words + " more of it", None), (words + " and other things", None))[:2] == [0, 1]


def test_a_flood_of_marks_is_not_put_in_order() -> None:
    flood = "e" + "\u0301\u0323" * 10_000
    assert folded(flood) == flood
    assert folded("e" + "\u0301\u0323" * 15) != "e" + "\u0301\u0323" * 15
    marks = [chr(at) for at in range(0x110000) if unicodedata.combining(chr(at))]
    for mark in marks:
        assert folded(mark * 31 + "e\u0301").endswith("e\u0301"), hex(ord(mark))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_texts(a: str, b: str) -> None:
    exact, found, longer, _ = sides((a, None), (b, None))
    assert exact in (0, 1)
    assert found is not None
    assert 0 <= found <= 1
    assert not exact or (found, longer) == (1, 0)


def test_a_text_is_no_lone_surrogates_business() -> None:
    raw = b'{"t": "\\ud800 x", "f": "\\udfff"}'
    columns = Comparer([ROUTE])([pair(answer(raw), answer({"t": "x", "f": "stop"}))])
    assert len(columns) == 1
