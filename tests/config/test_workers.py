"""How many workers, and what each of them may use."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.config import Address, experiment_id, loads, worker_count, worker_settings
from shadowproxy.config.settings import Settings
from shadowproxy.config.workers import SHARED
from shadowproxy.errors import ConfigError

UPSTREAMS = "baseline: http://127.0.0.1:1\ncandidate: http://127.0.0.1:2\nreplica: http://127.0.0.1:3\n"


def chosen(workers: object, text: str = "") -> Settings:
    return loads(f"{UPSTREAMS}proxy: {{listen: '127.0.0.1:8080', workers: {workers}}}\n{text}")


def value(settings: Settings, key: str) -> int:
    found: object = settings
    for name in key.split("."):
        found = getattr(found, name)
    assert isinstance(found, int)
    return found


def test_one_unless_said_otherwise() -> None:
    assert worker_count(loads(UPSTREAMS)) == 1


def test_auto_is_one_for_each_cpu_that_may_be_used() -> None:
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usable)})
        assert worker_count(chosen("auto")) == 1
    finally:
        os.sched_setaffinity(0, usable)
    assert worker_count(chosen("auto")) == len(usable)


@pytest.mark.parametrize("workers", [0, -1, 257, 1.5, "true", "many", '"2"'])
def test_what_is_no_number_of_workers_is_a_fault_that_names_its_key(workers: object) -> None:
    with pytest.raises(ConfigError) as raised:
        chosen(workers)
    (fault,) = raised.value.faults
    assert fault.path == "$.proxy.workers"
    assert "write 1 to 256, or auto" in fault.message


@given(st.integers(1, 256))
def test_the_shares_of_the_workers_make_up_each_limit(count: int) -> None:
    whole = chosen(count)
    share = worker_settings(whole, count, 4711)
    for key in SHARED:
        # All of it is there, and not more than rounding adds; no worker is left with nothing.
        assert value(whole, key) <= count * value(share, key) < value(whole, key) + count
        assert value(share, key) >= 1


def test_a_worker_listens_where_it_is_told_to_and_gathers_the_same_evidence() -> None:
    whole = chosen(4)
    share = worker_settings(whole, 4, 4711)
    assert share.proxy.listen == Address("127.0.0.1", 4711)
    assert share.proxy.admin == Address("127.0.0.1", 0)
    assert experiment_id(share) == experiment_id(whole)
    # What bounds one request or one connection is every worker's own.
    assert share.proxy.limits.body == whole.proxy.limits.body
    assert share.proxy.mirror.max_body == whole.proxy.mirror.max_body


def test_a_side_that_is_not_there_has_no_share() -> None:
    whole = loads("baseline: http://127.0.0.1:1\ncandidate: http://127.0.0.1:2\n")
    assert worker_settings(whole, 2, 1).replica is None
