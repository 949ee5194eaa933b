"""Figures as the page shows them: the rules of web/js/dom.js, for where no script runs. A test holds the two together.

Beside `words`, which a terminal and Markdown use: a page has room for a unit and a sign of its own.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

NONE = "–"


def count(value: float | None) -> str:
    """A count.

    >>> count(12345), count(None)
    ('12,345', '–')
    """
    return NONE if value is None else f"{int(_fixed(value, 0)):,}"


def many(value: int, one: str) -> str:
    """A count with what is counted.

    >>> many(1, "pair"), many(2, "pair")
    ('1 pair', '2 pairs')
    """
    return f"{count(value)} {one if value == 1 else f'{one}s'}"


def figure(value: float | None, *, signed: bool = False) -> str:
    """Three significant digits, no finer than 1e-4.

    >>> figure(0.01234, signed=True), figure(-1.125), figure(0.00004), figure(12.0), figure(2.5e7)
    ('+0.0123', '−1.13', '0', '12', '2.5e+7')
    """
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    if size < 5e-5:
        return "0"
    digits = max(0, min(4, 2 - math.floor(math.log10(size))))
    said = _trimmed(_fixed(size, digits)) if size < 1e6 else _exponential(size)
    return ("−" if value < 0 else "+" if signed else "") + said


def percent(share: float | None, *, signed: bool = False) -> str:
    """A share.

    >>> percent(0.0421, signed=True), percent(None)
    ('+4.21%', '–')
    """
    said = figure(None if share is None else 100 * share, signed=signed)
    return said if said == NONE else f"{said}%"


def amount(value: float | None, unit: str, *, signed: bool = False) -> str:
    """A loss or a margin in its metric's unit; shares, and doublings of time, in per cent.

    >>> amount(0.01, "share of pairs"), amount(1.0, "doublings", signed=True), amount(-0.25, "overlap")
    ('1%', '+100%', '−0.25')
    """
    if value is None or not math.isfinite(value):
        return NONE
    if unit.startswith("share of "):
        return percent(value, signed=signed)
    if unit == "doublings":
        # Beyond that no float is.
        return percent(2**value - 1 if value < 1000 else math.inf, signed=signed)
    return figure(value, signed=signed)


def amounts(bounds: tuple[float, float] | None, unit: str) -> str:
    """Both ends of an interval, where there is one.

    >>> amounts((-0.01, 0.02), "share of pairs")
    '−1% to +2%'
    """
    return NONE if bounds is None else " to ".join(amount(bound, unit, signed=True) for bound in bounds)


def unit_of(unit: str) -> str:
    """The unit that goes with `amount`.

    >>> unit_of("share of pairs"), unit_of("doublings"), unit_of("NDCG")
    ('% of pairs', "% of the baseline's", 'NDCG')
    """
    if unit.startswith("share of "):
        return f"% of {unit.removeprefix('share of ')}"
    return "% of the baseline's" if unit == "doublings" else unit


def evidence(value: float | None) -> str:
    """An e-value: three digits where it matters, a power of ten or a bound where it doesn't.

    >>> [evidence(value) for value in (0.0001, 0.5, 12.34, 4321.9, 3e9)]
    ['<0.001', '0.5', '12.3', '4,321', '10⁹']
    """
    if value is None or math.isnan(value):
        return NONE
    if value < 1e-3:
        return "<0.001"
    if value < 1000:
        return figure(value)
    if value < 1e6:
        return count(math.floor(value))
    return "∞" if math.isinf(value) else f"10{str(math.floor(math.log10(value))).translate(_SUPERSCRIPT)}"


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def duration(seconds: float | None) -> str:
    """A time that was measured; ∞ for None, which lies among the failures.

    >>> [duration(value) for value in (0.0000123, 0.0042345, 0.1234, 12.3456, None)]
    ['12.3 µs', '4.23 ms', '123 ms', '12.3 s', '∞']
    """
    if seconds is None:
        return "∞"
    if not math.isfinite(seconds):
        return NONE
    size = abs(seconds)
    if size < 9.995e-4:
        micro = seconds * 1e6
        places = 2 if micro == 0 else max(0, 2 - math.floor(math.log10(abs(micro))))
        return f"{_trimmed(_fixed(micro, places))} µs"
    return f"{_digits(seconds * 1000)} ms" if size < 0.9995 else f"{_digits(seconds)} s"


def rough(value: float) -> str:
    """A forecast: two significant digits, rounded up.

    >>> rough(0.2), rough(421.0), rough(12_001.0)
    ('1', '430', '13,000')
    """
    size = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return count(math.ceil(max(value, 1) / size) * size)


def _digits(value: float) -> str:
    size = abs(value)
    return _fixed(value, 0 if size >= 99.95 else 1 if size >= 9.995 else 2)


def _fixed(value: float, digits: int) -> str:
    # Scripts round a half away from zero, Python's formats to the even digit.
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def _exponential(value: float) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent):+d}"


def _trimmed(digits: str) -> str:
    return digits.rstrip("0").rstrip(".") if "." in digits else digits
