"""What `shadowproxy demo` can show: a candidate, what is wrong with it, and the verdict that should come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from shadowproxy.demo.faults import DEGRADED, FAULTS, Fault
from shadowproxy.demo.models import Model
from shadowproxy.verdict.record import State

BASELINE = Model.ITEM_CF
"""The model in service, in every scenario."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One comparison with a known right verdict."""

    name: str
    title: str
    candidate: Model
    fault: Fault
    expected: State
    cohort: str | None = None
    """The cohort that the verdict should name, as `dimension=value`; None where it is everybody's fault."""


_ALL = (
    Scenario("identical", "the same model again", Model.ITEM_CF, FAULTS["none"], State.PROMOTE),
    Scenario("better", "a better model, which ranks differently", Model.EASE, FAULTS["none"], State.PROMOTE),
    Scenario(
        "cohort-regression",
        "the better model, broken for one cohort",
        Model.EASE,
        FAULTS["wrong-user"],
        State.ROLLBACK,
        "=".join(DEGRADED),
    ),
    Scenario("score-shift", "the same ranking, inflated scores", Model.ITEM_CF, FAULTS["score-shift"], State.ROLLBACK),
    Scenario("slow-tail", "the same answers, some much later", Model.ITEM_CF, FAULTS["slow-tail"], State.ROLLBACK),
    Scenario("flaky", "the same answers, some missing", Model.ITEM_CF, FAULTS["flaky"], State.ROLLBACK),
    Scenario("truncated", "the same ranking, half as long", Model.ITEM_CF, FAULTS["truncated"], State.ROLLBACK),
)

SCENARIOS: Mapping[str, Scenario] = MappingProxyType({scenario.name: scenario for scenario in _ALL})
