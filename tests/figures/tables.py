"""The tables of docs/statistics.md, by the mark that they stand between: of what `make figures` found, and computed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from shadowproxy.config.judging import Verdict
from shadowproxy.stats.betting import fewest_pairs

DATA: Final = Path(__file__).parent.parent.parent / "docs" / "figures" / "data.json"


def filled(text: str) -> str:
    """A page with its tables written anew."""
    data = json.loads(DATA.read_text())
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        text = "\n".join([f"{before}{begin}", *table(data), end + rest.partition(end)[2]])
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _peeking(data: Mapping[str, Any]) -> list[str]:
    found = data["peeking"]
    at = [found["looks"].index(looks) for looks in (1, 10, 100, 1000)]
    return _table(
        ["looks", *(f"{found['looks'][one]:,}" for one in at)],
        [
            ["z-test at 5%", *(_share(found["z_test"][one]) for one in at)],
            ["e-process at α = 0.05", *(_share(found["e_process"][one]) for one in at)],
        ],
    )


def _capital(data: Mapping[str, Any]) -> list[str]:
    names = {"at_the_margin": "exactly at the margin", "no_worse": "no worse"}
    rows = [[title, _share(data["capital"]["reached"][name])] for name, title in names.items()]
    return _table(["candidates", "ever reach 20 within 3,000 pairs"], rows)


def _drift(data: Mapping[str, Any]) -> list[str]:
    found = data["drift"]
    at = [found["pairs"].index(pairs) for pairs in (1000, 2000, 4000, 6000)]
    names = (
        ("constant", "constant bets, current value"),
        ("adaptive", "bets that adapt"),
        ("maximum", "running maximum"),
    )
    return _table(
        ["runs that stand as proven after", *(f"{found['pairs'][one]:,} pairs" for one in at)],
        [[title, *(_share(found[name][one]) for one in at)] for name, title in names],
    )


def _sizes(data: Mapping[str, Any]) -> list[str]:
    found = data["sizes"]
    return _table(
        ["margin", "no loss at all", *(f"deviation {deviation:g}" for deviation in found["deviations"])],
        [
            [f"{margin:g}", f"{floor:,}", *(_two(pairs) for pairs in medians)]
            for margin, floor, medians in zip(found["margins"], found["floor"], found["median"], strict=True)
        ],
    )


def _floors(_: Mapping[str, Any]) -> list[str]:
    margins = (0.1, 0.05, 0.02, 0.01, 0.001, 0.0001)
    return _table(
        ["margin", *(f"{margin:g}" for margin in margins)],
        [
            [f"least pairs, α = {alpha:g}", *(f"{fewest_pairs(margin, 1, alpha):,}" for margin in margins)]
            for alpha in (0.1, 0.05, 0.01, 0.001)
        ],
    )


def _harm(data: Mapping[str, Any]) -> list[str]:
    found = data["harm"]
    return _table(
        ["the candidate fails more often by", *(_share(more) for more in found["more"])],
        [
            ["pairs until a rollback, one guardrail", *(_two(pairs) for pairs in found["alone"])],
            ["pairs until a rollback, one of ten", *(_two(pairs) for pairs in found["of_ten"])],
        ],
    )


def _order(data: Mapping[str, Any]) -> list[str]:
    found = data["order"]
    at = [found["seconds"].index(seconds) for seconds in (4, 5, 12, 20, 60)]
    rows = [
        [f"timeouts among the pairs counted, {title}", *(_share(found[name][one]) for one in at)]
        for name, title in (("completed", "as they complete"), ("buckets", "by start time"))
    ]
    rows += [
        [f"runs ever called safe, {title}", *(_share(found[f"{name}_promoted"][one]) for one in at)]
        for name, title in (("completed", "as they complete"), ("buckets", "by start time"))
    ]
    return _table(["after", *(f"{found['seconds'][one]} s" for one in at)], rows)


def _thresholds(_: Mapping[str, Any]) -> list[str]:
    policy = Verdict()
    slots = policy.max_cohorts + 1
    rows = []
    for guardrails in (1, 4, 10):
        overall, cohort = 2 * guardrails / policy.alpha_rollback, 2 * guardrails * slots / policy.alpha_rollback
        rows.append(
            [f"{guardrails}", f"{overall:,.0f}", f"{cohort:,.0f}", f"{math.log(cohort) / math.log(overall):.1f}"]
        )
    return _table(
        [
            "guardrails of equal weight",
            "e-value that alone rolls back, over all",
            "in one cohort",
            "ratio of logarithms",
        ],
        rows,
    )


def _dependence(data: Mapping[str, Any]) -> list[str]:
    found = data["dependence"]
    return _table(
        ["variance inflation", *(f"{one:g}" for one in found["inflation"])],
        [
            ["called safe at the margin, pair by pair", *map(_share, found["pairs"])],
            ["the same, with the check", *map(_share, found["held"])],
            ["the same, and with `min_duration` of 20 s", *map(_share, found["later"])],
            ["the same, by means of long blocks", *map(_share, found["blocks"])],
        ],
    )


def _noise(data: Mapping[str, Any]) -> list[str]:
    rows = data["noise"]["rows"]
    names = {"same": "the same model", "other": "another model"}
    return _table(
        ["noise of an answer", "candidate", "1 − overlap@10, mean", "`ranking.overlap_excess`, mean"],
        [[f"{row['noise']:g}", names[row["candidate"]], f"{row['plain']:.3f}", _signed(row["excess"])] for row in rows],
    )


def _examples(data: Mapping[str, Any]) -> list[str]:
    return _table(
        ["service", "guardrail", "margin", "loss of a pair", "pairs", "at 5 pairs/s", "at 50 pairs/s"],
        [
            [
                row["kind"],
                f"`{row['metric']}`",
                f"{row['margin']:g}",
                row["loss"],
                _two(row["pairs"]),
                _time(row["pairs"] / 5),
                _time(row["pairs"] / 50),
            ]
            for row in data["examples"]["rows"]
        ],
    )


TABLES: Final[Mapping[str, Callable[[Mapping[str, Any]], list[str]]]] = {
    "peeking": _peeking,
    "capital": _capital,
    "drift": _drift,
    "sizes": _sizes,
    "floors": _floors,
    "harm": _harm,
    "order": _order,
    "thresholds": _thresholds,
    "dependence": _dependence,
    "noise": _noise,
    "examples": _examples,
}


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2g}%" if value < 0.995 else f"{100 * value:.0f}%"


def _signed(value: float) -> str:
    return "0.00" if abs(value) < 0.005 else f"{value:.2f}"


def _two(value: float) -> str:
    """Two significant figures."""
    return f"{float(f'{value:.2g}'):,.0f}"


def _time(seconds: float) -> str:
    for unit, size, until in (("s", 1, 120), ("min", 60, 7200)):
        if seconds < until:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{float(f'{seconds / 3600:.2g}'):g} h"
