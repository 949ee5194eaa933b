"""`shadowproxy plan`, as a user runs it."""

from __future__ import annotations

import html
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from msgspec.structs import replace
from test_cli_judge import CONFIG, pair
from typer.testing import CliRunner

from shadowproxy.cli import app
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import loads
from shadowproxy.errors import StartError
from shadowproxy.model import Exchange, Pair, Side
from shadowproxy.pairs.lines import line_of
from shadowproxy.verdict.plan import Plan

ALONE = ("--margin", "0.02", "--sd", "0.15")
SMALL = """
baseline: http://a
candidate: http://b
routes: [{name: rank, ids: response.body.ids, cohorts: {region: request.body.region}}]
verdict:
  horizon: 2000
  guardrails: [{metric: failures.difference, margin: 0.01}, {metric: ranking.rbo, margin: 0.3}]
"""


def plan(*words: str) -> Result:
    return CliRunner().invoke(app, ["plan", *words], env={"COLUMNS": "80"})


def planned(*words: str) -> dict[str, Any]:
    done = plan(*words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "shadowproxy.yaml"
    path.write_text(SMALL)
    return str(path)


def test_a_margin_and_a_deviation_are_enough() -> None:
    found = planned(*ALONE, "--rate", "20")
    (row,) = found["guardrails"]
    assert row["safe"]["median"] == pytest.approx(380, rel=0.25)  # STATISTICS, §2
    assert row["fewest"] == 193
    assert row["harm_mean"] == 0.04
    assert found["promote"]["median_seconds"] == pytest.approx(row["safe"]["median"] / 20)
    text = " ".join(plan(*ALONE, "--rate", "1200/m").stdout.split())
    assert "A promote takes typically 340 pairs (17 s), in nine of ten experiments at most 8" in text


def test_bounds_mean_and_harm_can_be_said() -> None:
    (usual,) = planned(*ALONE)["guardrails"]
    (better,) = planned(*ALONE, "--mean", "-0.02")["guardrails"]
    (worse,) = planned(*ALONE, "--worse", "4")["guardrails"]
    (narrow,) = planned(*ALONE, "--lo", "-0.5", "--hi", "0.5")["guardrails"]
    (sure,) = planned(*ALONE, "--alpha", "0.001")["guardrails"]
    assert better["safe"]["median"] < usual["safe"]["median"] < sure["safe"]["median"]
    assert worse["harm"]["median"] < usual["harm"]["median"]
    assert narrow["fewest"] < usual["fewest"]


def test_a_configuration_is_planned_guardrail_by_guardrail(config: str) -> None:
    done = plan("--config", config, "--rate", "50/s")
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    text = " ".join(done.stdout.split())
    assert "failures." in text
    assert "ranking.rbo" in text
    assert "0 ±0.1?" in text
    assert "It waits longest for failures.difference." in text
    assert "by verdict.horizon, 2,000 pairs, it is most likely not decided" in text
    assert "of all pairs, until it is proven in a cohort that has 10% of them" in text
    rows = planned("--config", config, "--noise", "failures.difference=0.02", "--cohort-share", "0.5")["guardrails"]
    assert [row["noise"] for row in rows] == ["given", "assumed"]
    assert rows[0]["sd"] == 0.02
    assert rows[0]["cohort"]["median"] < planned("--config", config)["guardrails"][0]["cohort"]["median"]


def test_blocks_of_time_have_their_own_floor(config: str) -> None:
    Path(config).write_text(SMALL.replace("horizon: 2000", "blocks: 10s"))
    text = " ".join(plan("--config", config).stdout.split())
    assert "judged by blocks of 10 s" in text
    assert "failures.difference takes at least 387 of them, which is 64 min" in text


def test_accounts_that_count_once_are_what_is_planned(config: str) -> None:
    text = SMALL.replace("horizon: 2000", "first_per_account: true").replace(
        "cohorts:", "account: request.body.user, cohorts:"
    )
    Path(config).write_text(text)
    assert "read accounts where it says pairs" in " ".join(plan("--config", config).stdout.split())
    Path(config).write_text(SMALL)
    assert "read accounts" not in plan("--config", config).stdout


def recorded_pair(at: int) -> Pair:
    found = pair(at)
    ours = 0.02 * math.exp(0.5 * math.sin(7 * at))
    theirs = found.candidate.total * 50 * ours * math.exp(0.3 * math.sin(at))
    return replace(
        found, baseline=replace(found.baseline, total=ours), candidate=replace(found.candidate, total=theirs)
    )


def test_noise_is_learnt_from_recorded_pairs(tmp_path: Path) -> None:
    text = CONFIG.format(name="plan", url="redis://localhost").replace(
        "    - {metric: ranking.rbo, margin: 0.4}",
        "    - {metric: ranking.rbo, margin: 0.4}\n    - {metric: latency.total_p50, margin: 0.5}",
    )
    config, file = tmp_path / "shadowproxy.yaml", tmp_path / "pairs.jsonl"
    config.write_text(text)
    pairs = [recorded_pair(at) for at in range(1200)]
    lines = [line_of(one, partition=0, entry="1-1", position=at, undo=lambda *_: None) for at, one in enumerate(pairs)]
    # A line that is repeated counts once, and one that is none is said.
    file.write_bytes(b"\n".join([*lines, lines[5], b"nothing"]) + b"\n")
    done = plan("--config", str(config), "--from", str(file), "--json")
    assert done.exit_code == 0, done.output
    assert "line 1,202" in done.stderr
    rows = {row["guardrail"]: row for row in json.loads(done.stdout)["guardrails"]}
    settings = loads(text)
    columns = Comparer(settings.routes)(pairs)
    for rule, _, losses in Plan(settings).losses(columns):
        if rule.metric.quantile is None:
            assert rows[rule.name]["mean"] == pytest.approx(np.nanmean(losses))
            assert rows[rule.name]["sd"] == pytest.approx(np.nanstd(losses))
            assert rows[rule.name]["noise"] == "recorded"
    slow = rows["latency.total_p50"]
    answered = [one for one, failed in zip(pairs, columns.failed[Side.CANDIDATE], strict=True) if not failed]
    ours, theirs = (np.log([one.total for one in side]) for side in zip(*map(_sides, answered), strict=True))
    assert slow["mean"] == pytest.approx(math.expm1((theirs - ours).mean()))
    assert slow["sd"] == pytest.approx(ours.std())
    assert slow["correlation"] == pytest.approx(np.corrcoef(ours, theirs)[0, 1])


def _sides(found: Pair) -> tuple[Exchange, Exchange]:
    return found.baseline, found.candidate


def test_the_figure_needs_no_network_and_marks_the_margin(config: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.html"
    done = plan("--config", config, "--rate", "50/s", "--html", str(path))
    assert done.exit_code == 0, done.output
    page = path.read_text()
    assert not re.findall(r"<(?:script|link)[^>]*\b(?:src|href)=", page)
    data, layout = re.findall(
        r'Plotly\.newPlot\(\s*"plan",\s*(\[.*?\]),\s*(\{.*\}),\s*\{"responsive"', page, re.DOTALL
    )[-1]
    traces, shape = json.loads(html.unescape(data)), json.loads(html.unescape(layout))
    curves = {trace["name"]: trace for trace in traces if trace.get("mode") == "lines"}
    marks = {trace["legendgroup"]: trace for trace in traces if trace.get("mode") == "markers"}
    assert curves.keys() == marks.keys() == {"failures.difference", "ranking.rbo"}
    assert marks["failures.difference"]["x"] == [0.01]
    assert marks["failures.difference"]["y"][0] == planned("--config", config)["guardrails"][0]["safe"]["median"]
    low, high = shape["yaxis"]["range"]
    assert shape["yaxis2"]["range"] == pytest.approx([low - math.log10(50), high - math.log10(50)])
    assert "horizon, 2,000 pairs" in json.dumps(shape)


def test_without_plotly_the_extra_is_named(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    monkeypatch.delitem(sys.modules, "shadowproxy.report.figures", raising=False)
    done = plan("--config", config, "--html", str(tmp_path / "plan.html"))
    assert isinstance(done.exception, StartError)
    assert "pip install 'shadowproxy[plots]'" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--config FILE, or --margin and --sd"),
        (("--margin", "0.02"), "--config FILE, or --margin and --sd"),
        (("--margin", "2", "--sd", "0.1"), "between --lo -1 and --hi 1"),
        (("--margin", "0.02", "--sd", "2"), "at most by 1"),
        ((*ALONE, "--rate", "often"), "--rate: 'often' is not a rate"),
        ((*ALONE, "--noise", "a=1"), "say --mean and --sd"),
        (("--config", "CONFIG", *ALONE), "say --noise METRIC=SD"),
        (("--config", "CONFIG", "--noise", "ranking.rbo"), "write METRIC=SD"),
        (("--config", "CONFIG", "--noise", "ranking.rbo=-1"), "write METRIC=SD"),
        (("--config", "CONFIG", "--noise", "ranking.kendall=1"), "there is no guardrail ranking.kendall"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_a_usage_error(config: str, words: tuple[str, ...], said: str) -> None:
    done = plan(*(config if word == "CONFIG" else word for word in words))
    assert done.exit_code == 2
    assert said in done.stderr
