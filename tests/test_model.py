"""The records: accounts add up, captured heads are read back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.model import Accounting, Exchange, Outcome, Request, headers

counts = st.integers(0, 10**9)
reasons = st.dictionaries(st.sampled_from(["a", "b", "c"]), counts)
accounts = st.builds(Accounting, requests=counts, eligible=counts, recorded=counts, skipped=reasons, dropped=reasons)


@given(accounts, accounts, accounts)
def test_accounts_add_in_any_order(a: Accounting, b: Accounting, c: Accounting) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert (a + b).in_flight == a.in_flight + b.in_flight


def test_the_identity() -> None:
    open_ = Accounting(requests=10, eligible=7, recorded=4, skipped={"method": 3}, dropped={"recorder_full": 2})
    assert (open_.in_flight, open_.balanced) == (1, False)
    closed = open_ + Accounting(recorded=1)
    assert (closed.in_flight, closed.balanced) == (0, True)
    assert not (closed + Accounting(requests=1)).balanced


@given(
    st.lists(st.tuples(st.from_regex(r"[A-Za-z-]{1,9}", fullmatch=True), st.from_regex(r"[!-~]{0,9}", fullmatch=True)))
)
def test_heads_are_read_back_in_order(fields: list[tuple[str, str]]) -> None:
    head = b"".join(f"{name}: {value}\r\n".encode() for name, value in fields)
    assert list(headers(head)) == [(name.lower(), value) for name, value in fields]


def test_truncation_and_path() -> None:
    assert Exchange(Outcome.OK, body=b"ab", body_size=3).truncated
    assert not Exchange(Outcome.OK, body=b"ab", body_size=2).truncated
    assert Request("GET", "/a/b?c=/d?e").path == "/a/b"
