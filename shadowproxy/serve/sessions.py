"""Who shows which token, in a header or, from a browser, by a session that was begun with one.

A browser gets no token to keep: it shows one once, to /login, and has a cookie from then on that scripts can't read,
that no other site's requests carry, that ends by itself, and that may only read. It is signed with a key that comes
from the token: taking a token out of the configuration ends the sessions that were begun with it; a restart ends none.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import scrypt, sha256
from typing import Final, Literal, NamedTuple

from shadowproxy.config import AccessToken

SESSION: Final = 12 * 3600
"""Seconds that a session lasts."""

May = Literal["read", "control"]

_SALT: Final = b"shadowproxy session 1"
_MEMORY: Final = 64 * 1024**2


class _Known(NamedTuple):
    digest: bytes
    key: bytes
    may: May


class Tokens:
    """The tokens of the configuration, as digests."""

    def __init__(self, tokens: Sequence[AccessToken]) -> None:
        self._known = [
            _Known(_digest(secret), _key(secret), one.may)
            for one in tokens
            if one.token is not None
            for secret in [one.token.get_secret_value()]
        ]

    def __len__(self) -> int:
        return len(self._known)

    def may(self, token: str) -> May | None:
        """What this token allows; None for one that is not known. It takes as long for any that is wrong."""
        digest = _digest(token)
        found: May | None = None
        for known in self._known:
            if hmac.compare_digest(known.digest, digest):
                found = known.may
        return found

    def session(self, token: str, now: float) -> str:
        """A session that `token`, which is known, begins at `now` (Unix seconds)."""
        digest = _digest(token)
        known = next(one for one in self._known if hmac.compare_digest(one.digest, digest))
        ends = str(int(now) + SESSION)
        return f"{ends}.{_signature(known.key, ends)}"

    def holds(self, session: str, now: float) -> bool:
        """Whether it is one of ours, begun with a token that still holds, and not over."""
        ends, _, signature = session.partition(".")
        if not (ends.isascii() and ends.isdigit() and len(ends) < 12 and now < int(ends) <= now + SESSION + 1):
            return False
        given = signature.encode("utf-8", "surrogateescape")
        return any(hmac.compare_digest(_signature(one.key, ends).encode("ascii"), given) for one in self._known)


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def _key(token: str) -> bytes:
    # Slow by intent: who gets hold of a cookie must not find the token by trying.
    return scrypt(token.encode("ascii"), salt=_SALT, n=2**14, r=8, p=1, maxmem=_MEMORY)


def _signature(key: bytes, ends: str) -> str:
    return urlsafe_b64encode(hmac.digest(key, ends.encode("ascii"), "sha256")).decode("ascii").rstrip("=")
