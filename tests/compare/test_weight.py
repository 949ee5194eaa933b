"""How much a pair counts: from the route's expression to the columns, and kept while a pair waits for its truth."""

from __future__ import annotations

import msgspec
import pytest
from compare.samples import LISTS, answer, items, pair

from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.later import labelled
from shadowproxy.compare.unlabelled import from_bytes
from shadowproxy.config import Route, experiment_id, frozen, loads
from shadowproxy.errors import ConfigError

GOOD = answer(items(["a", "b"]))
BASE = """
baseline: http://a:1
candidate: http://b:1
routes:
  - name: r
    ids: response.body.ids
"""


def weighted(**parts: object) -> Route:
    return Route.model_validate({**LISTS.model_dump(), "weight": "annotations.w", **parts})


def made(weight: object, target: str = "/rank"):
    return pair(GOOD, GOOD, annotations={"w": weight}, target=target)


@pytest.mark.parametrize(
    ("said", "weight"),
    [(0, 0), (0.25, 0.25), (1, 1), (-3, 0), (17, 1), (1e308, 1), (None, 1), ("0.5", 1), (True, 1), ([0], 1), ({}, 1)],
)
def test_a_weight_is_a_number_held_to_the_unit_interval(said: object, weight: float) -> None:
    columns = Comparer([weighted()])([made(said), made(0.5)])
    assert columns.weight is not None
    assert columns.weight.tolist() == [weight, 0.5]


def test_where_no_route_weighs_there_are_no_weights() -> None:
    assert Comparer([LISTS])([made(0.5)]).weight is None
    routes = [weighted(name="w", path="/w"), LISTS]
    columns = Comparer(routes)([made(0.5, "/w"), made(0.5), made(0.25, "/w?x")])
    assert columns.weight is not None
    assert columns.weight.tolist() == [0.5, 1, 0.25]
    empty = Comparer(routes)([])
    assert empty.weight is not None
    assert empty.weight.tolist() == []


def test_weights_of_parts_are_put_together_in_order() -> None:
    many = answer(items([f"i{at}" for at in range(9_000)]))
    columns = Comparer([weighted()])([pair(many, many, annotations={"w": at / 10}) for at in range(8)])
    assert columns.weight is not None
    assert columns.weight.tolist() == [at / 10 for at in range(8)]


def test_a_weight_may_need_arithmetic_and_may_fail() -> None:
    route = weighted(weight="to_number(request.query.w)")
    targets = ["/r?w=0.5", "/r?w=x", "/r", "/r?w=0"]
    columns = Comparer([route])([pair(GOOD, GOOD, target=target) for target in targets])
    assert columns.weight is not None
    assert columns.weight.tolist() == [0.5, 1, 1, 0]
    failing = Comparer([weighted(weight="abs(annotations.w)")])([made("x")])
    assert failing.weight is not None
    assert failing.weight.tolist() == [1]


def test_a_weight_is_kept_while_a_pair_waits_for_its_truth() -> None:
    columns = Comparer([weighted(labels=60)])([made(0.25), made(1)])
    kept = [from_bytes(one.to_bytes()) for one in columns.unlabelled]
    assert [one.weight for one in kept] == [0.25, 1]
    found = labelled(kept, [{"a": 1.0}, {"a": 1.0}])
    assert found.weight is not None
    assert found.weight.tolist() == [0.25, 1]
    # Of one that counts as 1 nothing more is written than before there were weights.
    lengths = [len(msgspec.msgpack.decode(one.to_bytes())) for one in columns.unlabelled]
    assert lengths == [13, 12]


def test_a_weight_never_depends_on_the_answer() -> None:
    with pytest.raises(ConfigError, match=r"weight.*reads the response"):
        loads(f"{BASE}    weight: response.body.w\n")


def test_a_weight_starts_another_experiment_and_none_does_not() -> None:
    plain, weighs = loads(BASE), loads(f"{BASE}    weight: annotations.w\n")
    assert "weight" not in frozen(plain)["routes"][0]
    assert frozen(weighs)["routes"][0]["weight"] == "annotations.w"
    assert experiment_id(plain) != experiment_id(weighs)
