"""Accounts and what they ask: a seeded stream of requests, each with what a test account knows of itself."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

ANNOTATION_HEADER = "x-shadow-annotations"
"""The default of `proxy.annotation_header`."""
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Account:
    """Someone who asks. `attributes` are its cohorts (dimension → value), `truth` the ids that a right answer holds."""

    id: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    truth: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrafficRequest:
    """One request to send. `path` begins with a slash and may carry a query."""

    id: str
    """Sent as X-Request-Id."""
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def annotation(account: Account) -> str:
    """The annotation header's value: base64url of `{"cohort": {…}, "truth": […]}`.

    >>> annotation(Account("7", {"age": "25-34"}, ("1", "2")))
    'eyJjb2hvcnQiOnsiYWdlIjoiMjUtMzQifSwidHJ1dGgiOlsiMSIsIjIiXX0='
    """
    known = {"cohort": dict(account.attributes), "truth": list(account.truth)}
    return base64.urlsafe_b64encode(orjson.dumps(known)).decode("ascii")


def request_id(seed: int, at: int) -> str:
    """The id of the request number `at` of a run: the same for the same seed."""
    return f"{seed}-{at:08d}"


def request_for(account: Account, *, id: str, path: str, k: int) -> TrafficRequest:  # noqa: A002  (the field's own name)
    """Ask for the account's k best items: POST `{"user_id": …, "k": …}`, annotated."""
    return TrafficRequest(
        id,
        "POST",
        path,
        orjson.dumps({"user_id": account.id, "k": k}),
        {"Content-Type": "application/json", ANNOTATION_HEADER: annotation(account)},
    )


def draw(accounts: Sequence[Account], seed: int) -> Iterator[tuple[str, Account]]:
    """An endless stream of (request id, account), the accounts drawn independently and uniformly.

    Raises ValueError if there are no accounts.
    """
    if not accounts:
        raise ValueError("there are no accounts to draw from")
    generator = np.random.default_rng(seed)
    at = 0
    while True:
        for chosen in generator.integers(len(accounts), size=_BLOCK).tolist():
            yield request_id(seed, at), accounts[chosen]
            at += 1


def requests(accounts: Sequence[Account], seed: int, *, path: str, k: int) -> Iterator[TrafficRequest]:
    """An endless stream of requests by accounts drawn as by `draw`."""
    for drawn, account in draw(accounts, seed):
        yield request_for(account, id=drawn, path=path, k=k)
