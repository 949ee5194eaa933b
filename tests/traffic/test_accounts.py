import base64
import itertools
import json

import pytest

from shadowproxy.traffic.accounts import ANNOTATION_HEADER, Account, annotation, draw, request_for, requests

ACCOUNTS = tuple(Account(str(at), {"age": "25-34", "who": "J. Müller"}, (str(at + 1), "9")) for at in range(40))


def test_annotation_holds_cohorts_and_truth_as_base64url_of_json() -> None:
    # 0xfb 0xff bytes appear in the base64 of this name as - and _: the alphabet must be the URL's.
    account = Account("1", {"who": "þÿ~~??>>"}, ("a", "b"))
    value = annotation(account)
    assert json.loads(base64.urlsafe_b64decode(value)) == {"cohort": {"who": "þÿ~~??>>"}, "truth": ["a", "b"]}
    assert "+" not in value
    assert "/" not in value
    assert value.isascii()


def test_request_asks_for_the_account() -> None:
    request = request_for(ACCOUNTS[3], id="r1", path="/recommend", k=20)
    assert (request.id, request.method, request.path) == ("r1", "POST", "/recommend")
    assert json.loads(request.body) == {"user_id": "3", "k": 20}
    assert request.headers[ANNOTATION_HEADER] == annotation(ACCOUNTS[3])


def test_the_same_seed_draws_the_same_requests_and_another_seed_others() -> None:
    def first(seed: int) -> list[tuple[str, bytes]]:
        stream = requests(ACCOUNTS, seed, path="/recommend", k=5)
        return [(request.id, request.body) for request in itertools.islice(stream, 2500)]

    assert first(7) == first(7)
    assert [body for _, body in first(7)] != [body for _, body in first(8)]
    assert len({name for name, _ in first(7)}) == 2500
    assert not {name for name, _ in first(7)} & {name for name, _ in first(8)}


def test_accounts_are_drawn_uniformly() -> None:
    drawn = [account.id for _, account in itertools.islice(draw(ACCOUNTS, 7), 40_000)]
    counts = [drawn.count(account.id) for account in ACCOUNTS]
    # Chi-square with 39 degrees of freedom: 99.99% quantile 81.
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 81


def test_nobody_can_be_drawn_from_nobody() -> None:
    with pytest.raises(ValueError, match="no accounts"):
        next(draw((), 7))
