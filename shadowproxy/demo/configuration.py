"""The one configuration under which every scenario is judged."""

from __future__ import annotations

from shadowproxy.config import (
    Address,
    Comparator,
    Guardrail,
    Proxy,
    Recorder,
    Redis,
    Route,
    Serve,
    Settings,
    Upstream,
    Verdict,
)

LIST_LENGTH = 20
"""Items asked for."""
SLOW = 0.05
"""Seconds. The services' median is 8 ms and their 99.9th percentile about 28 ms, so nothing healthy is slow."""
DEADLINE = 1.0
"""Seconds. Far above anything healthy, and short, since a bucket of pairs is only counted when it has passed."""
HORIZON = 10_000
"""Pairs. About five times what the slowest scenario needs at the 95th percentile (`tests/demo/simulation.py`)."""

GUARDRAILS = (
    # One more failure in a hundred is what a retry hides from the user.
    Guardrail(metric="failures.difference", margin=0.01, cohort_margin=0.02),
    Guardrail(metric="latency.total_slow", margin=0.01, cohort_margin=0.02),
    # 10% slower in the typical case; 20% for a cohort, whose smaller numbers are noisier.
    Guardrail(metric="latency.total_p50", margin=0.1, cohort_margin=0.2),
    # Of the slowest hundredth a demonstration sees a dozen, so the margin is wide, and no cohort has enough of them.
    Guardrail(metric="latency.total_p99", margin=0.5, cohorts=()),
    # A better model is meant to rank differently; the two families here share a little under 60% by weight of rank. A
    # candidate that agrees on less than half is a different product and should be looked at by a person.
    Guardrail(metric="ranking.rbo", margin=0.5, cohort_margin=0.6),
    Guardrail(metric="ranking.length", margin=0.05, cohort_margin=0.1),
    # 0.02 is a 4% difference of two scores: 0.16 of a star at the usual four. Thresholds downstream stay right.
    Guardrail(metric="scores.relative_delta", margin=0.02, cohort_margin=0.04),
    # About a tenth of the baseline's NDCG@10 of 0.17, which is close to what separates the two models.
    Guardrail(metric="quality.ndcg", margin=0.02, cohort_margin=0.04),
)


def route() -> Route:
    """Where ids, scores, truth and cohorts stand in the demo's requests and answers."""
    return Route(
        name="recommend",
        path="/recommend",
        ids="response.body.items[*].id",
        scores="response.body.items[*].score",
        truth="annotations.truth",
        account="request.body.user_id",
        cohorts={name: f"annotations.cohort.{name}" for name in ("gender", "age", "occupation")},
        k=10,
        slow=SLOW,
    )


def settings(
    baseline: str, candidate: str, *, experiment: str, data_dir: str, redis_url: str | None = None
) -> Settings:
    """The whole configuration for two running services; everything listens on free loopback ports.

    `data_dir` is where the embedded server keeps its data; unused where `redis_url` is given.
    """
    anywhere = Address("127.0.0.1", 0)
    return Settings(
        experiment=experiment,
        baseline=Upstream(url=baseline, deadline=DEADLINE),
        candidate=Upstream(url=candidate, deadline=DEADLINE),
        proxy=Proxy(listen=anywhere, admin=anywhere, grace=2.0),
        recorder=Recorder(batch=50, linger=0.1),
        redis=Redis(url=redis_url, data_dir=data_dir),
        routes=(route(),),
        comparator=Comparator(admin=anywhere, grace=2.0),
        verdict=Verdict(
            bucket=0.5,
            settle=0.5,
            min_pairs=500,
            min_duration=3.0,
            horizon=HORIZON,
            guardrails=GUARDRAILS,
            closed_population=True,
        ),
        serve=Serve(listen=anywhere, refresh=0.5),
        log_level="warning",
    )
