"""The accounts that producers publish: which of two is the later, and what came since a reset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from shadowproxy.errors import PayloadError
from shadowproxy.model import Accounting
from shadowproxy.pairs.records import mapping_of


def weight(account: Accounting) -> int:
    """Grows with every change of one producer's account: of two accounts, the heavier is the later."""
    return (
        account.requests
        + account.eligible
        + account.recorded
        + sum(account.skipped.values())
        + sum(account.dropped.values())
    )


def since(account: Accounting, base: Accounting) -> Accounting:
    """What an account has gained over an earlier state of it.

    >>> since(Accounting(5, 4, 3, {"method": 1}), Accounting(2, 2, 2))
    Accounting(requests=3, eligible=2, recorded=1, skipped={'method': 1}, dropped={})
    """
    return Accounting(
        max(0, account.requests - base.requests),
        max(0, account.eligible - base.eligible),
        max(0, account.recorded - base.recorded),
        _less(account.skipped, base.skipped),
        _less(account.dropped, base.dropped),
    )


def _less(counts: Mapping[str, int], base: Mapping[str, int]) -> dict[str, int]:
    return {key: more for key, count in counts.items() if (more := count - base.get(key, 0)) > 0}


def since_reset(accounts: Mapping[str, Accounting], bases: Mapping[str, Accounting]) -> dict[str, Accounting]:
    """By producer, what it has accounted for since the last reset; those that have nothing are left out."""
    found = {name: since(account, bases[name]) if name in bases else account for name, account in accounts.items()}
    return {name: account for name, account in found.items() if name not in bases or account != Accounting()}


def accounts_of(flat: Sequence[bytes]) -> dict[str, Accounting]:
    """By producer, from the reply to HGETALL. Raises PayloadError."""
    return {name: account_of(stored) for name, stored in mapping_of(flat).items()}


def account_of(stored: bytes) -> Accounting:
    """An account as it is stored, behind its weight. Raises PayloadError."""
    try:
        return msgspec.json.decode(stored.partition(b" ")[2], type=Accounting)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"a producer's account can't be read: {error}; is a newer shadowproxy writing?") from None
