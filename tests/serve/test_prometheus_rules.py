"""The rules that are deployed: promtool finds no fault, their tests hold, and would not if a rule were another."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from exposed import families, filled
from programs import program

ROOT = Path(__file__).parent.parent.parent
DEPLOYED = ROOT / "deploy" / "prometheus"
FILES = ("recording.yml", "alerts.yml")
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOYED / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
RECORDED: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOYED / "recording.yml").read_text())["groups"] for rule in group["rules"]
]


def promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], cwd=folder, capture_output=True, text=True)


def unit_tests(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in (folder / "tests").glob("*.yml"))


def test_promtool_finds_no_fault() -> None:
    for arguments in (("rules", *FILES), ("config", "prometheus.yml")):
        done = promtool(DEPLOYED, "check", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAILED" not in done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_is_silent_when_it_should_be() -> None:
    done = promtool(DEPLOYED, "test", "rules", *unit_tests(DEPLOYED))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("expression", ["vector(1) > 1", "vector(1)"], ids=["never", "always"])
def test_the_tests_notice_each_alert_that_never_fires_or_always_does(expression: str, tmp_path: Path) -> None:
    """What promtool complains of are the alerts that it misses, or the alerts that it finds where all is well."""
    folder = tmp_path / "prometheus"
    shutil.copytree(DEPLOYED, folder)
    rules = yaml.safe_load((DEPLOYED / "alerts.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule["expr"] = expression
    (folder / "alerts.yml").write_text(yaml.safe_dump(rules))
    done = promtool(folder, "test", "rules", "tests/alerts.yml")
    assert done.returncode == 1
    well, _, others = (done.stdout + done.stderr).partition("name: a rollback says for whom and why")
    missed = [
        alert["alert"] for alert in ALERTS if alert["alert"] not in (well if expression == "vector(1)" else others)
    ]
    assert not missed


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do_and_where_that_is_written(alert: dict[str, Any]) -> None:
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    said = alert["annotations"]
    assert said.keys() == {"summary", "description", "action", "runbook"}
    assert all(said.values())
    page, _, anchor = said["runbook"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == alert["alert"].lower()
    assert alert["alert"] in headings
    # What it says to run, there is (tests of the README's commands are elsewhere).
    for command in re.findall(r"`shadowproxy ([a-z -]+?)(?: --?[a-z]|`)", said["action"]):
        assert command in ("pairs worst", "pairs dead-letters", "experiment reset", "experiment stop")


def test_rules_ask_for_metrics_that_there_are() -> None:
    known = {"shadowproxy_verdict_age_seconds"}
    for registry in filled().values():
        known |= {sample.name for family in families(registry) for sample in family.samples}
    known |= {rule["record"] for rule in RECORDED}
    for rule in [*ALERTS, *RECORDED]:
        words = re.sub(r"\{[^}]*\}|(?:without|by|ignoring|on) ?\([^)]*\)", " ", rule["expr"])
        asked = re.findall(r"\bshadowproxy[a-z0-9_:]+", words)
        assert asked or "up{" in rule["expr"], rule
        assert set(asked) <= known, rule
