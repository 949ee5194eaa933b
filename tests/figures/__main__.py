"""Simulates what the pictures of docs/statistics.md show, and draws them: `make figures`.

`python -m figures` writes docs/figures/data.json and every SVG; with names only these; with `--redraw` from the data
that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from figures.data import DATA, FIGURES, Data
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

FOLDER: Final = Path(__file__).parent.parent.parent / "docs" / "figures"
OURS, OTHER, THIRD, MUTED = "#0060a8", "#c8500a", "#4a8a2c", "#8a8a8a"
_SEED: Final = 20
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and scaled
    "svg.hashsalt": "shadowproxy",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 2.2,
    "figure.facecolor": "white",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "path.simplify_threshold": 0.5,
}


def peeking(data: Data, figure: Figure) -> None:
    """Share of A/A runs ever called different, by the number of looks."""
    axes = figure.subplots()
    axes.plot(data["looks"], data["z_test"], color=OTHER, label="z-test at 5%, looked at each time")
    axes.plot(data["looks"], data["e_process"], color=OURS, label="e-process")
    axes.axhline(0.05, color=MUTED, linestyle="--", linewidth=1.4)
    axes.text(1000, 0.058, "5%, as promised", ha="right", color="#555555", fontsize=10)
    axes.set(xscale="log", xlabel="looks so far (100 pairs between two)", ylabel="A/A runs ever called different")
    axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    _shares(axes, 0.6)
    axes.legend(loc="upper left")


def capital(data: Data, figure: Figure) -> None:
    """Paths of the e-value for being within the margin."""
    axes = figure.subplots()
    for name, colour, width, label in (
        ("at_the_margin", MUTED, 0.9, "candidates exactly at the margin"),
        ("no_worse", OURS, 1.6, "candidates that are no worse"),
    ):
        for at, path in enumerate(data[name]):
            axes.plot(data["pairs"], path, color=colour, linewidth=width, label=label if at == 0 else None)
    axes.axhline(20, color=OTHER, linestyle="--", linewidth=1.6, label="1/α = 20: proven")
    axes.set(yscale="log", ylim=(5e-2, 1e5), xlim=(0, None), xlabel="pairs", ylabel="capital (e-value)")
    axes.minorticks_off()
    _counts(axes.xaxis)
    axes.legend(loc="upper left")


def drift(data: Data, figure: Figure) -> None:
    """Share of runs that stand as proven, on a loss that drifts."""
    axes = figure.subplots()
    last = data["pairs"][-1]
    axes.axvspan(data["wrong_from"], last, color="#f6e9e2", linewidth=0)
    axes.text(1000, 1.05, "mean so far: within", ha="center", fontsize=10, color="#555555")
    axes.text(
        4000, 1.05, "mean so far: at the margin, so a proof is an error", ha="center", fontsize=10, color="#555555"
    )
    for name, colour, style, label in (
        ("maximum", THIRD, ":", "running maximum"),
        ("adaptive", OTHER, "-", "bets that adapt"),
        ("constant", OURS, "-", "constant bets, current value"),
    ):
        axes.plot(data["pairs"], data[name], color=colour, linestyle=style, label=label)
    axes.set(xlabel="pairs", ylabel="runs that stand as proven", xlim=(0, last))
    _shares(axes, 1.12, [0, 0.25, 0.5, 0.75, 1])
    _counts(axes.xaxis)
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.45))


def sizes(data: Data, figure: Figure) -> None:
    """Pairs until a promote, by margin and deviation."""
    axes = figure.subplots()
    colours = ("#9cc4e4", "#5a9bd0", OURS, "#003660")
    for at, (deviation, colour) in enumerate(zip(data["deviations"], colours, strict=True)):
        column = [row[at] for row in data["median"]]
        axes.plot(data["margins"], column, color=colour, marker="o", markersize=4, label=f"deviation {deviation:g}")
    axes.plot(
        data["margins"], data["floor"], color=MUTED, linestyle="--", linewidth=1.6, label="no loss at all (floor)"
    )
    axes.set(xscale="log", yscale="log", xlabel="margin", ylabel="pairs until proven (median)")
    axes.set_xticks(data["margins"], [f"{margin:g}" for margin in data["margins"]])
    axes.minorticks_off()
    _counts(axes.yaxis)
    axes.legend(loc="upper right")


def latency(data: Data, figure: Figure) -> None:
    """Pairs until two equal latencies are proven equal, paired and not."""
    both = figure.subplots(1, 2, sharey=True)
    for axes, correlation in zip(both, (0.0, 0.9), strict=True):
        rows = [row for row in data["rows"] if row["correlation"] == correlation]
        place = np.arange(len(rows))
        for shift, name, colour, label in (
            (-0.2, "separate", MUTED, "two confidence sequences"),
            (0.2, "paired", OURS, "paired"),
        ):
            bars = axes.bar(place + shift, [row[name] for row in rows], 0.38, color=colour, label=label)
            axes.bar_label(bars, [_two_digits(row[name]) for row in rows], fontsize=9, padding=2)
        axes.set(yscale="log", ylim=(300, 120_000), title=f"correlation within a pair: {correlation:g}")
        axes.set_xticks(place, [f"p{100 * row['quantile']:g}" for row in rows])
        axes.grid(visible=False, axis="x")
        _counts(axes.yaxis)
    both[0].set_ylabel("pairs until proven (median)")
    both[0].legend(loc="upper left")


def order(data: Data, figure: Figure) -> None:
    """Counting as pairs complete, and by start-time buckets."""
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ("completed", "buckets")), (right, ("completed_promoted", "buckets_promoted"))):
        for name, colour, label in zip(
            names, (OTHER, OURS), ("as they complete", "by start-time buckets"), strict=True
        ):
            values = [np.nan if value is None else value for value in data[name]]
            axes.plot(data["seconds"], values, color=colour, label=label)
        axes.set(xlabel="seconds since the start", xlim=(0, data["seconds"][-1]))
    left.axhline(data["failing"], color=MUTED, linestyle="--", linewidth=1.4)
    left.text(59, data["failing"] + 0.0035, "what really times out: 5%", ha="right", fontsize=10, color="#555555")
    left.axhline(0.01, color=MUTED, linestyle=":", linewidth=1.4)
    left.text(59, 0.0125, "margin: 1%", ha="right", fontsize=10, color="#555555")
    left.set_title("timeouts among the pairs counted")
    right.set_title("runs in which it was ever called safe")
    _shares(left, 0.075, [0, 0.02, 0.04, 0.06])
    _shares(right, 1.05, [0, 0.25, 0.5, 0.75, 1])
    right.legend(loc="center right")


def dependence(data: Data, figure: Figure) -> None:
    """Share of runs at the margin ever called safe, by the variance inflation."""
    axes = figure.subplots()
    for name, colour, label in (
        ("pairs", OTHER, "pair by pair"),
        ("held", THIRD, "pair by pair, with the check"),
        ("blocks", OURS, "by means of long blocks"),
    ):
        axes.plot(data["inflation"], data[name], color=colour, marker="o", markersize=4, label=label)
    axes.axhline(0.05, color=MUTED, linestyle="--", linewidth=1.4, label="5%, as promised")
    axes.set(xscale="log", xlabel="variance inflation (1: independent pairs)", ylabel="runs at the margin called safe")
    axes.set_xticks(data["inflation"], [f"{value:g}" for value in data["inflation"]])
    axes.minorticks_off()
    _shares(axes, 1.0, [0, 0.25, 0.5, 0.75, 1])
    axes.legend(loc="upper left")


DRAWN: Final[dict[str, Callable[[Data, Figure], None]]] = {
    draw.__name__: draw for draw in (peeking, capital, drift, sizes, latency, order, dependence)
}


def _shares(axes: Axes, top: float, ticks: list[float] | None = None) -> None:
    axes.set_ylim(0, top)
    shown = ticks or [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    axes.set_yticks(shown, [f"{100 * value:g}%" for value in shown])


def _counts(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return {key: _rounded(one) for key, one in value.items()} if isinstance(value, dict) else value


def _simulate(names: list[str]) -> dict[str, Data]:
    found = {}
    for name in names:
        function, runs = DATA[name]
        # A generator by name: what is added later leaves the others as they are.
        found[name] = _rounded(function(np.random.default_rng([_SEED, *name.encode()]), runs))
        print(name)  # noqa: T201
    return found


def _draw(name: str, data: Data) -> None:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        DRAWN[name](data, figure)
        figure.savefig(FOLDER / f"{name}.svg", format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    """Simulate and draw what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m figures", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *DATA], metavar="NAME")
    parser.add_argument("--redraw", action="store_true", help="from the data that are there")
    options = parser.parse_args()
    names = options.names or list(DATA)
    file = FOLDER / "data.json"
    FOLDER.mkdir(exist_ok=True)
    data = json.loads(file.read_text()) if file.exists() else {}
    if not options.redraw:
        data |= _simulate(names)
        lines = ",\n".join(f'"{name}": {json.dumps(data[name])}' for name in DATA if name in data)
        file.write_text(f"{{\n{lines}\n}}\n")
    for name in names:
        if name in FIGURES:
            _draw(name, data[name])


if __name__ == "__main__":
    main()
