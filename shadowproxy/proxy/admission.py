"""Which requests are copied. Decided synchronously, from what is known before any upstream sees the request."""

from __future__ import annotations

import re
from hashlib import blake2b

from shadowproxy.config import Mirror

DISABLED = "disabled"
METHOD = "method"
NOT_SAMPLED = "not_sampled"
TOO_LARGE = "request_too_large"
SLOW_UPLOAD = "slow_upload"
UPGRADE = "upgrade"


class Admission:
    """A pure decision: no state but the settings.

    Sampling hashes a key (BLAKE2b, keyed by the experiment's name) to a number that is uniform in [0, 2^64): the same
    key is always in or always out, in every process, and two experiments sample independently of each other.
    """

    def __init__(self, mirror: Mirror, experiment: str, *, slow_upload: float) -> None:
        self._enabled = mirror.enabled
        self._methods = frozenset(method.encode() for method in mirror.methods)
        self._max_body = mirror.max_body
        self._slow_upload = slow_upload
        self._below = None if mirror.sample >= 1 else int(mirror.sample * 2**64)
        self._secret = experiment.encode()[:64]
        kind, _, name = mirror.sample_by.partition(":")
        self._header = (
            re.compile(rb"\r\n%b[ \t]*:[ \t]*([^\r]*)" % re.escape(name.encode("ascii")), re.IGNORECASE)
            if kind == "header"
            else None
        )

    def key(self, fields: bytes, request_id: bytes) -> bytes:
        """What is hashed: the configured header's value; without such a header, the request id.

        `fields` are the request's header lines, each with a CRLF before it.
        """
        match = None if self._header is None else self._header.search(fields)
        return request_id if match is None else match[1].strip(b" \t")

    def refusal(self, method: bytes, fields: bytes, request_id: bytes, size: int | None, upload: float) -> str:
        """The reason to leave a request live-only, or "" if it is to be mirrored.

        `size` is that of the buffered body, None if it is streamed for being over the cap. `upload` is how long
        (seconds) the body took to come after the head.
        """
        if not self._enabled:
            return DISABLED
        if method not in self._methods:
            return METHOD
        if self._below is not None and not self._sampled(self.key(fields, request_id), self._below):
            return NOT_SAMPLED
        if size is None or size > self._max_body:
            return TOO_LARGE
        return SLOW_UPLOAD if upload > self._slow_upload else ""

    def _sampled(self, key: bytes, below: int) -> bool:
        return int.from_bytes(blake2b(key, digest_size=8, key=self._secret).digest(), "big") < below
