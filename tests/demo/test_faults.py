import math
from statistics import correlation, fmean, median

import pytest

from shadowproxy.demo.configuration import DEADLINE, SLOW
from shadowproxy.demo.faults import DEGRADED, FAULTS, Answer, Asked, Draws
from shadowproxy.demo.service import MEDIAN, SPREAD, service_time

N = 20_000


def recommend(user: int | None) -> Answer:
    base = 0 if user is None else 100 * user
    return Answer(tuple((base + at, 5.0 - at / 10) for at in range(20)))


def served(fault: str, *, user: int | None = 1, occupation: str = "writer") -> list[Answer]:
    serve = FAULTS[fault].serve
    return [serve(Asked(user, {"occupation": occupation}, Draws(7, f"r{at}")), recommend) for at in range(N)]


def test_without_a_fault_every_answer_is_right() -> None:
    assert set(served("none")) == {recommend(1)}


def test_wrong_user_serves_another_list_to_the_one_cohort_only() -> None:
    assert DEGRADED == ("occupation", "educator")
    assert set(served("wrong-user", occupation="educator")) == {recommend(2)}
    assert set(served("wrong-user")) == {recommend(1)}
    assert set(served("wrong-user", user=None, occupation="educator")) == {recommend(None)}


def test_score_shift_multiplies_every_score_and_keeps_the_order() -> None:
    (shifted,) = set(served("score-shift"))
    assert [item for item, _ in shifted.items] == [item for item, _ in recommend(1).items]
    ratios = {
        round(after / before, 9) for (_, after), (_, before) in zip(shifted.items, recommend(1).items, strict=True)
    }
    assert ratios == {1.15}


def test_slow_tail_slows_a_twentieth_tenfold() -> None:
    factors = [answer.slowdown for answer in served("slow-tail")]
    assert set(factors) == {1.0, 10.0}
    assert factors.count(10.0) / N == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / N))


def test_flaky_fails_three_in_a_hundred_half_by_status_half_by_silence() -> None:
    answers = served("flaky")
    noise = 4 * math.sqrt(0.015 / N)
    assert sum(answer.status == 500 for answer in answers) / N == pytest.approx(0.015, abs=noise)
    assert sum(math.isinf(answer.slowdown) for answer in answers) / N == pytest.approx(0.015, abs=noise)
    assert not any(answer.status == 500 and math.isinf(answer.slowdown) for answer in answers)


def test_truncated_keeps_the_better_half() -> None:
    (short,) = set(served("truncated"))
    assert short.items == recommend(1).items[:10]


def test_chances_belong_to_seed_and_request() -> None:
    assert Draws(7, "a").uniform("x") == Draws(7, "a").uniform("x")
    others = {Draws(8, "a").uniform("x"), Draws(7, "b").uniform("x"), Draws(7, "a").uniform("y")}
    assert len({Draws(7, "a").uniform("x"), *others}) == 4
    normals = [Draws(7, f"r{at}").normal("n") for at in range(N)]
    assert fmean(normals) == pytest.approx(0, abs=4 / math.sqrt(N))
    assert fmean(value**2 for value in normals) == pytest.approx(1, abs=4 * math.sqrt(2 / N))


def test_service_times_are_log_normal_and_correlate_between_services() -> None:
    times = {
        name: [math.log(service_time(Draws(7, f"r{at}"), name)) for at in range(N)]
        for name in ("baseline", "candidate")
    }
    assert median(times["baseline"]) == pytest.approx(math.log(MEDIAN), abs=0.02)
    spread = math.sqrt(fmean((value - math.log(MEDIAN)) ** 2 for value in times["candidate"]))
    assert spread == pytest.approx(SPREAD, rel=0.03)
    assert correlation(times["baseline"], times["candidate"]) == pytest.approx(0.9, abs=0.01)
    # What is healthy is never slow, most of the slow tail is, and nothing but a hang reaches the deadline.
    assert math.exp(max(times["baseline"])) < SLOW
    late = sum(10 * math.exp(value) > SLOW for value in times["candidate"]) / N
    assert late > 0.8
    assert 10 * math.exp(max(times["candidate"])) < DEADLINE
