"""From settings to rules."""

from __future__ import annotations

import pytest
from verdict.synthetic import settings

from shadowproxy.config import GUARDABLE
from shadowproxy.errors import ConfigError
from shadowproxy.verdict.guardrails.rules import rules, warnings

LISTS = {"name": "search", "ids": "response.body.ids", "scores": "response.body.scores"}


def names(**parts: object) -> list[str]:
    return [rule.name for rule in rules(settings(**parts))]


def guarded(*guardrails: dict[str, object], **policy: object) -> dict[str, object]:
    routes = [LISTS, {**LISTS, "name": "home", "path": "/home"}]
    return {"routes": routes, "verdict": {"guardrails": guardrails, **policy}}


def test_without_guardrails_there_is_one_per_default_metric_that_a_route_offers() -> None:
    assert names() == ["failures.difference", "latency.total_p50", "latency.total_p99"]
    assert names(routes=[LISTS]) == [
        "failures.difference",
        "latency.total_p50",
        "latency.total_p99",
        "ranking.rbo",
        "ranking.length.lower",
        "ranking.length.higher",
        "scores.relative_delta.lower",
        "scores.relative_delta.higher",
    ]
    assert "latency.total_slow" in names(routes=[{"name": "a", "slow": 0.3}])


def test_with_a_replica_what_is_beyond_the_noise_is_judged_instead() -> None:
    routes = [LISTS, {**LABEL, **CHAT, "probabilities": "response.body.p"}]
    without, with_replica = names(routes=routes), names(routes=routes, replica="http://c:1")
    corrected = {
        name
        for name in ("ranking.rbo", "labels.agreement", "labels.probability_shift", "text.token_f1", "text.finish")
        if name in without
    }
    assert len(corrected) == 5
    assert set(with_replica) == {*without} - corrected | {f"{name}_excess" for name in corrected}
    assert "ranking.rbo_excess" not in names(replica="http://c:1")
    found = {
        rule.name: (rule.margin, rule.lo, rule.hi) for rule in rules(settings(routes=routes, replica="http://c:1"))
    }
    assert found["ranking.rbo_excess"] == (0.05, -1, 1)


def test_guardrails_that_are_given_are_the_only_ones() -> None:
    assert names(**guarded({"metric": "ranking.top1", "margin": 0.3})) == ["ranking.top1"]


def test_one_direction_may_be_asked_for() -> None:
    one = {"metric": "scores.relative_delta", "margin": 0.02, "worse": "higher"}
    assert names(**guarded(one)) == ["scores.relative_delta.higher"]


def test_routes_tell_two_guardrails_on_one_metric_apart() -> None:
    both = [{"metric": "ranking.rbo", "margin": m, "routes": [r]} for m, r in ((0.1, "search"), (0.3, "home"))]
    assert names(**guarded(*both)) == ["ranking.rbo@search", "ranking.rbo@home"]
    assert names(**guarded(both[0])) == ["ranking.rbo"]


def test_two_that_are_the_same_but_for_the_margin_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\$\.verdict\.guardrails\[1\].*by guardrail 0"):
        names(**guarded({"metric": "ranking.rbo", "margin": 0.1}, {"metric": "ranking.rbo", "margin": 0.2}))


@pytest.mark.parametrize("most", [1, 32])
def test_the_error_budget_is_spent_once(most) -> None:
    found = rules(settings(routes=[LISTS], verdict={"max_cohorts": most}))
    assert sum(rule.weight for rule in found) == pytest.approx(0.5)
    assert sum(rule.weight + (most + 1) * rule.cohort_weight for rule in found) == pytest.approx(1)


def test_weights_part_the_budget_and_alpha_is_a_guardrails_own() -> None:
    heavy = {"metric": "ranking.top1", "margin": 0.3, "weight": 3, "alpha": 0.01}
    first, second = rules(settings(**guarded(heavy, {"metric": "ranking.rbo", "margin": 0.3}, alpha_promote=0.02)))
    assert (first.weight, second.weight) == pytest.approx((0.375, 0.125))
    assert first.cohort_weight == pytest.approx(3 * second.cohort_weight)
    assert (first.alpha, second.alpha) == (0.01, 0.02)


@pytest.mark.parametrize(
    ("cohorts", "concerned"),
    [(None, "FEW"), ([], ""), (["gender"], "F"), (["gender=F", "region=eu"], "FE"), (["region=us"], "")],
)
def test_a_guardrail_is_looked_at_for_the_cohorts_that_it_names(cohorts, concerned) -> None:
    (rule,) = rules(settings(**guarded({"metric": "ranking.top1", "margin": 0.3, "cohorts": cohorts})))
    names = {"gender=F": "F", "region=eu": "E", "other": "W"}
    assert "".join(letter for name, letter in names.items() if rule.concerns(name)) == concerned
    assert rule.concerns("all")


def test_a_tail_is_judged_over_all_pairs_only_unless_told_otherwise() -> None:
    found = {rule.name: rule.cohorts for rule in rules(settings())}
    assert found["latency.total_p99"] == frozenset()
    assert found["latency.total_p50"] is None
    (given,) = rules(settings(**guarded({"metric": "latency.total_p99", "margin": 0.2})))
    assert given.cohorts is None


LABEL = {"name": "class", "label": "response.body.label", "truth": "annotations.truth"}
ROWS = {"name": "rows", "probabilities": "response.body.p", "truth": "annotations.truth"}
CHAT = {"name": "chat", "text": "response.body.text", "finish": "response.body.finish"}


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        (LABEL, ["labels.agreement", "quality.accuracy"]),
        (ROWS, ["labels.probability_shift", "quality.brier"]),
        (CHAT, ["text.token_f1", "text.length.lower", "text.length.higher", "text.finish"]),
        ({**CHAT, "finish": None}, ["text.token_f1", "text.length.lower", "text.length.higher"]),
    ],
)
def test_a_classifier_and_a_text_model_are_judged_without_a_word(route, expected) -> None:
    assert names(routes=[route])[3:] == expected


def test_a_truth_beside_labels_is_theirs_so_a_promote_waits_for_no_ndcg() -> None:
    both = {**LISTS, **LABEL}
    assert [name for name in names(routes=[both]) if name.startswith("quality.")] == ["quality.accuracy"]
    elsewhere = {**LISTS, "name": "lists", "truth": "annotations.truth"}
    found = names(routes=[both, elsewhere])
    assert [name for name in found if name.startswith("quality.")] == ["quality.ndcg", "quality.accuracy"]


@pytest.mark.parametrize(
    ("margin", "given", "expected"), [(0.1, None, 0.2), (0.1, 0.15, 0.15), (0.45, None, 0.9), (0.9, None, 0.99)]
)
def test_a_cohorts_margin_is_twice_the_margin_but_inside_the_range(margin, given, expected) -> None:
    (rule,) = rules(settings(**guarded({"metric": "ranking.rbo", "margin": margin, "cohort_margin": given})))
    assert rule.cohort_margin == pytest.approx(expected)
    assert rule.margin < rule.cohort_margin < rule.hi


@pytest.mark.parametrize("metric", sorted(GUARDABLE))
def test_every_metrics_losses_are_larger_where_it_is_worse(metric) -> None:
    expressions = {key: f"response.body.{key}" for key in ("label", "probabilities", "text", "finish")}
    whole = {"fields": {}, "valid": [{"status": [200]}]}
    needs = {**LISTS, **expressions, **whole, "truth": "annotations.truth", "slow": 1}
    policy = {"guardrails": [{"metric": metric, "margin": 0.01}]}
    found = rules(settings(replica="http://c:1", routes=[needs], verdict=policy))
    assert len(found) == len(GUARDABLE[metric].worse)
    for rule in found:
        one = GUARDABLE[metric]
        ideal, worst = one.ideal, one.low if rule.direction == "lower" else one.high
        assert rule.losses(ideal) == 0
        assert rule.losses(worst) == rule.hi > 0


def test_warns_of_a_margin_that_the_horizon_can_not_prove() -> None:
    narrow = {"metric": "ranking.rbo", "margin": 0.001}
    (warning,) = warnings(settings(**guarded(narrow, {"metric": "ranking.top1", "margin": 0.3}, horizon=1000)))
    assert "ranking.rbo" in warning
    assert "3,881 pairs" in warning
    assert warnings(settings(**guarded(narrow))) == []


def test_warns_of_more_pairs_than_the_horizon_has() -> None:
    (warning,) = warnings(settings(**guarded({"metric": "ranking.top1", "margin": 0.3}, horizon=50)))
    assert "verdict.min_pairs (100)" in warning
