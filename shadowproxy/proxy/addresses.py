"""Which addresses an upstream has, and which of them is tried next. Sans-I/O: time is passed in."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

FIRST_REST, LAST_REST = 1.0, 30.0
"""Seconds for which an address that failed is left alone: doubled with each failure in a row, up to the last."""


class Endpoint:
    """One address of an upstream."""

    __slots__ = ("address", "failures", "ill", "ill_checks", "resting")

    def __init__(self, address: str) -> None:
        self.address = address
        self.failures = 0
        """Connections in a row that could not be made."""
        self.resting = False
        """Put aside: since it could not be connected to, until it can be."""
        self.ill_checks = 0
        """Health checks in a row that failed."""
        self.ill = False
        """Put aside: by health checks, until one succeeds."""

    @property
    def good(self) -> bool:
        """Whether nothing is held against it."""
        return not self.resting and not self.ill

    @property
    def rest(self) -> float:
        """Seconds for which it is left alone after its latest failure.

        >>> endpoint = Endpoint("127.0.0.1")
        >>> endpoint.failures = 3
        >>> endpoint.rest
        4.0
        """
        return float(min(LAST_REST, FIRST_REST * 2 ** min(self.failures - 1, 30)))

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}{' resting' if self.resting else ''}{' ill' if self.ill else ''}>"


class Addresses:
    """The addresses of one upstream, in turn.

    None is ever given up: where all are put aside, all are tried.
    """

    def __init__(self) -> None:
        self._endpoints: dict[str, Endpoint] = {}
        self._turn = 0

    def update(self, addresses: Iterable[str]) -> list[Endpoint]:
        """Take over what the name stands for now. Returns the endpoints that are gone; the others keep their state."""
        wanted = dict.fromkeys(map(normal, addresses))
        before = self._endpoints
        self._endpoints = {address: before.get(address) or Endpoint(address) for address in wanted}
        return [endpoint for address, endpoint in before.items() if address not in wanted]

    def order(self) -> list[Endpoint]:
        """For one new connection, in the order in which they are tried: the good ones in turn, then the others."""
        endpoints = list(self._endpoints.values())
        self._turn += 1
        if len(endpoints) == 1:
            return endpoints
        good = [endpoint for endpoint in endpoints if endpoint.good]
        aside = [endpoint for endpoint in endpoints if not endpoint.good]
        return _turned(good, self._turn) + _turned(aside, self._turn)

    def others(self, endpoint: Endpoint) -> bool:
        """Whether any but `endpoint` is good: only then can it be done without."""
        return any(one.good for one in self if one is not endpoint)

    @property
    def good(self) -> int:
        """How many are not put aside."""
        return sum(endpoint.good for endpoint in self)

    def __contains__(self, endpoint: object) -> bool:
        return isinstance(endpoint, Endpoint) and self._endpoints.get(endpoint.address) is endpoint

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(tuple(self._endpoints.values()))

    def __len__(self) -> int:
        return len(self._endpoints)

    def __repr__(self) -> str:
        return f"<Addresses {list(self)}>"


def _turned(endpoints: list[Endpoint], turn: int) -> list[Endpoint]:
    at = turn % len(endpoints) if endpoints else 0
    return endpoints[at:] + endpoints[:at]


def normal(address: str) -> str:
    """`address` in the one way of writing it that sockets report.

    >>> normal("2001:DB8::0:1")
    '2001:db8::1'
    """
    return str(ipaddress.ip_address(address))


def is_literal(host: str) -> bool:
    """Whether `host` is an address already, and nothing has to be looked up.

    >>> is_literal("::1"), is_literal("models")
    (True, False)
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
