import pytest
from demo.simulation import Simulation

from shadowproxy.demo import data
from shadowproxy.demo.models import Trained, train
from shadowproxy.demo.scenarios import BASELINE, SCENARIOS
from shadowproxy.verdict.record import State

PROMISED = 3000
"""Pairs within which every scenario decides: 10 s at 300 requests a second."""


@pytest.fixture(scope="module")
def simulation(generated: data.Dataset, trained: Trained) -> Simulation:
    return Simulation(generated, trained)


def check(simulation: Simulation, name: str, seed: int) -> None:
    scenario = SCENARIOS[name]
    ended = simulation.run(scenario, seed, PROMISED)
    assert ended.state is scenario.expected
    if scenario.cohort is not None:
        # The cohort is what is found: nothing is proven of everybody.
        assert {cohort for _, cohort in ended.blamed} == {scenario.cohort}
    elif ended.state is State.ROLLBACK:
        assert ended.blamed[0][1] == "all"


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_reaches_what_it_promises(simulation: Simulation, name: str) -> None:
    check(simulation, name, 1)


@pytest.fixture(scope="module")
def on_movielens(movielens: data.Dataset) -> Simulation:
    return Simulation(movielens, train(movielens))


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_reaches_what_it_promises_on_movielens(on_movielens: Simulation, name: str) -> None:
    check(on_movielens, name, 7)


def test_the_same_seed_gives_the_same_pairs(simulation: Simulation) -> None:
    ended = [simulation.run(SCENARIOS["flaky"], seed, 1500) for seed in (5, 5)]
    assert ended[0] == ended[1]


def test_the_table_covers_every_state_but_continue_and_plants_only_in_the_candidate() -> None:
    assert {scenario.expected for scenario in SCENARIOS.values()} == {State.PROMOTE, State.ROLLBACK}
    assert SCENARIOS["identical"].candidate is BASELINE
    assert SCENARIOS["better"].candidate is not BASELINE
    for scenario in SCENARIOS.values():
        assert (scenario.fault.name == "none") == (scenario.expected is State.PROMOTE)
