from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.model import Accounting
from shadowproxy.pairs import Ledger

_REASONS = st.sampled_from(["method", "sample", "recorder_full"])
_EVENTS = st.lists(
    st.tuples(st.just("skip"), _REASONS)
    | st.tuples(st.just("record"), st.none())
    | st.tuples(st.just("drop"), _REASONS)
)


@given(_EVENTS, st.integers(0, 5))
def test_every_request_is_somewhere(events: list[tuple[str, str | None]], in_flight: int) -> None:
    ledger = Ledger()
    for kind, reason in events:
        if kind == "skip":
            ledger.skip(str(reason))
            continue
        ledger.admit()
        if kind == "drop":
            ledger.drop(str(reason))
        else:
            ledger.record(1)
    for _ in range(in_flight):
        ledger.admit()
    account = ledger.snapshot()
    assert account.requests == len(events) + in_flight
    assert account.skipped == Counter(reason for kind, reason in events if kind == "skip")
    assert account.dropped == Counter(reason for kind, reason in events if kind == "drop")
    assert account.recorded == sum(kind == "record" for kind, _ in events)
    assert account.in_flight == in_flight
    assert account.balanced == (in_flight == 0)


def test_a_snapshot_does_not_follow_the_ledger() -> None:
    ledger = Ledger()
    ledger.skip("method")
    before = ledger.snapshot()
    ledger.skip("method")
    ledger.drop("recorder_full", 3)
    assert before == Accounting(requests=1, skipped={"method": 1})
    assert ledger.snapshot().dropped == {"recorder_full": 3}
