"""Which requests are copied. Decided synchronously, from what is known before any upstream sees the request."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from shadowproxy.config import Mirror, MirrorRoute
from shadowproxy.config.globs import glob_pattern
from shadowproxy.pairs.controls import Controls

DISABLED: Final = "disabled"
PAUSED: Final = "paused"
STOPPED: Final = "stopped"
ROUTE: Final = "route"
METHOD: Final = "method"
NOT_SAMPLED: Final = "not_sampled"
TOO_LARGE: Final = "request_too_large"
SLOW_UPLOAD: Final = "slow_upload"
UPGRADE: Final = "upgrade"

_KNOWN_PATHS: Final = 1024
"""Paths whose policy is remembered: most services have few, and a client that makes up new ones gains nothing."""


class _Key:
    """What is hashed of a request: `request_id`, `header:NAME`, `cookie:NAME` or `query:NAME`."""

    __slots__ = ("_in_target", "_pattern")

    def __init__(self, sample_by: str) -> None:
        kind, _, name = sample_by.partition(":")
        escaped = re.escape(name.encode("ascii"))
        patterns = {
            "header": rb"\r\n(?i:%b)[ \t]*:[ \t]*([^\r]*)" % escaped,
            # The names of cookies and of query parameters are case-sensitive (RFC 6265, section 4.1.1).
            "cookie": rb"\r\n(?i:cookie)[ \t]*:(?:[^\r;]*;)*?[ \t]*%b=([^;\r]*)" % escaped,
            "query": rb"\A[^?]*\?(?:[^&]*&)*?%b=([^&]*)" % escaped,
        }
        self._in_target = kind == "query"
        self._pattern = re.compile(patterns[kind]) if kind in patterns else None

    def __call__(self, target: bytes, fields: bytes) -> bytes:
        """The value, as it stands there; empty where there is none, and where the request id is meant."""
        if self._pattern is None:
            return b""
        match = self._pattern.search(target if self._in_target else fields)
        return b"" if match is None else match[1].strip(b" \t")


class _Policy:
    """What holds for the requests of one route.

    `off` is the reason why none of them is mirrored, or empty. Keys that hash below `below` are mirrored; None: all.
    """

    __slots__ = ("below", "key", "methods", "off")

    def __init__(self, off: str, methods: frozenset[bytes], below: int | None, key: _Key) -> None:
        self.off = off
        self.methods = methods
        self.below = below
        self.key = key


class Admission:
    """A pure decision: no state but the settings and the controls.

    Sampling hashes a key (BLAKE2b, keyed by the experiment's name) to a number that is uniform in [0, 2^64): the same
    key is always in or always out, in every process, and two experiments sample independently of each other. What is
    in at one share is in at every larger one, so that a share changed at run time keeps as many accounts as it can.
    """

    def __init__(
        self, mirror: Mirror, experiment: str, *, slow_upload: float, controls: Controls | None = None
    ) -> None:
        self._settings = (mirror, experiment, slow_upload)
        self._controls = controls or Controls()
        self._max_body = mirror.max_body
        self._slow_upload = slow_upload
        self._secret = experiment.encode()[:64]
        self._silent = self._controls.silent
        self._default = self._policy(MirrorRoute(path="/"))
        self._routes = _Routes(mirror.routes, [self._policy(route) for route in mirror.routes], self._default)
        self._routed = bool(mirror.routes)

    def under(self, controls: Controls) -> Admission:
        """The same under other controls."""
        mirror, experiment, slow_upload = self._settings
        return Admission(mirror, experiment, slow_upload=slow_upload, controls=controls)

    @property
    def controls(self) -> Controls:
        """What was said at run time."""
        return self._controls

    @property
    def sample(self) -> float:
        """The share of requests that is mirrored where no route says otherwise; 0 while nothing is."""
        if self._silent or self._default.off:
            return 0.0
        return self._share(MirrorRoute(path="/"))

    def refusal(
        self, method: bytes, target: bytes, fields: bytes, request_id: bytes, size: int | None, upload: float
    ) -> str:
        """The reason to leave a request live-only, or "" if it is to be mirrored.

        `target` is in origin form; `fields` are the request's header lines, each with a CRLF before it. `size` is that
        of the buffered body, None if it is streamed for being over the cap. `upload` is how long (seconds) the body
        took to come after the head.
        """
        if self._silent:
            return STOPPED if self._controls.stopped else PAUSED
        policy = self._routes(target) if self._routed else self._default
        if policy.off:
            return policy.off
        if method not in policy.methods:
            return METHOD
        below = policy.below
        if below is not None and not self._sampled(policy.key(target, fields) or request_id, below):
            return NOT_SAMPLED
        if size is None or size > self._max_body:
            return TOO_LARGE
        return SLOW_UPLOAD if upload > self._slow_upload else ""

    def _sampled(self, key: bytes, below: int) -> bool:
        return int.from_bytes(blake2b(key, digest_size=8, key=self._secret).digest(), "big") < below

    def _policy(self, route: MirrorRoute) -> _Policy:
        mirror = self._settings[0]
        off = ""
        if route.enabled is None:
            off = "" if mirror.enabled else DISABLED
        elif not route.enabled:
            off = ROUTE
        share = self._share(route)
        return _Policy(
            off=off,
            methods=frozenset(method.encode() for method in route.methods or mirror.methods),
            below=None if share >= 1 else int(share * 2**64),
            key=_Key(route.sample_by or mirror.sample_by),
        )

    def _share(self, route: MirrorRoute) -> float:
        """A share set at run time replaces the configured one, but never raises what a route allows."""
        mirror, said = self._settings[0], self._controls.sample
        if route.sample is None:
            return mirror.sample if said is None else said
        return route.sample if said is None else min(route.sample, said)


class _Routes:
    """The policy of a request: that of the first route whose glob matches its path."""

    def __init__(self, routes: tuple[MirrorRoute, ...], policies: list[_Policy], default: _Policy) -> None:
        alternatives = "|".join(f"({glob_pattern(route.path)})" for route in routes)
        self._pattern = re.compile(alternatives, re.DOTALL)
        self._policies = policies
        self._default = default
        self._known: dict[bytes, _Policy] = {}

    def __call__(self, target: bytes) -> _Policy:
        path = target.partition(b"?")[0]
        policy = self._known.get(path)
        if policy is None:
            match = self._pattern.fullmatch(path.decode("latin-1"))
            policy = self._default if match is None else self._policies[(match.lastindex or 1) - 1]
            if len(self._known) >= _KNOWN_PATHS:
                self._known.clear()
            self._known[path] = policy
        return policy
