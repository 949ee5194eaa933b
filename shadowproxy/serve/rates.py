"""How often each client may ask: a token bucket for each, of which only so many are remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address


class Rates:
    """A bucket of `burst` requests for each client, refilled with `rate` a second.

    The `most` clients that asked last are remembered. Who is forgotten begins with a full bucket, so whoever has more
    addresses than that is not held back by this.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float], *, most: int = 4096) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._most = most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By client: requests that were left, and when."""

    def take(self, client: str) -> float:
        """0.0 where the client may ask now, which is then counted; else the seconds after which it may again."""
        now = self._clock()
        left, at = self._buckets.pop(client, (float(self._burst), now))
        left = min(left + (now - at) * self._rate, self._burst)
        allowed = left >= 1
        self._buckets[client] = (left - allowed, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate

    def __len__(self) -> int:
        return len(self._buckets)


def client_of(address: str | None) -> str:
    """Whom an address counts for: of IPv6 a whole /64, since a single customer has as much (RFC 6177).

    >>> client_of("192.0.2.7"), client_of("2001:db8:1:2:aaaa::1"), client_of("::ffff:192.0.2.7"), client_of(None)
    ('192.0.2.7', '2001:db8:1:2::', '192.0.2.7', '')
    """
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> 64 << 64))
