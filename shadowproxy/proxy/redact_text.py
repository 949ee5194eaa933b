"""Headers and parameters masked, on the bytes and the text as they came."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from shadowproxy.proxy.mask import GONE, Mask

_URL_HEADERS = (
    "content-location",
    "link",
    "location",
    "referer",
    "refresh",
    "x-forwarded-uri",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
)
_SEPARATOR: Final = re.compile(rb"([?&;#])")
_MOST_KNOWN: Final = 4096
_LONGEST_KNOWN: Final = 256
_FLEETING: Final = frozenset({b"traceparent", b"x-request-id"})
"""Differ with every request: not worth knowing."""


class Parameters:
    """`name=value` parameters by name, in any case and however it is percent-encoded.

    `;` separates them too, as some servers have it, and a fragment is looked into: too much is masked, not too little.
    """

    def __init__(self, masks: Mapping[str, Mask]) -> None:
        self._masks = {name.lower().encode(): mask for name, mask in masks.items()}
        # What may be one of the names, or a name that is percent-encoded.
        self._likely = re.compile(b"|".join([rb"[%+]", *map(re.escape, sorted(self._masks))]))

    def in_url(self, url: bytes) -> bytes:
        """A target, or text that holds a URL.

        >>> from shadowproxy.proxy.mask import drop
        >>> Parameters({"token": drop}).in_url(b"/a?x=1&%74oken=abc&y=2")
        b'/a?x=1&y=2'
        """
        if (b"?" not in url and b"#" not in url) or self._likely.search(url.lower()) is None:
            return url
        head, *parts = _SEPARATOR.split(url)
        return head + self._masked(parts)

    def in_form(self, form: bytes) -> bytes:
        """A body of application/x-www-form-urlencoded."""
        return self._masked([b"", *_SEPARATOR.split(form)]).removeprefix(b"&") if self._masks else form

    def _masked(self, parts: list[bytes]) -> bytes:
        kept: list[bytes] = []
        wanted = b""
        for separator, part in zip(parts[::2], parts[1::2], strict=True):
            masked = self._one(part)
            if masked is None:
                # What follows takes the place of what is gone, so that a query still begins with its `?`.
                wanted = wanted or separator
                continue
            kept += (separator if separator in (b"?", b"#") else wanted or separator, masked)
            wanted = b""
        return b"".join(kept)

    def _one(self, part: bytes) -> bytes | None:
        name, equals, value = part.partition(b"=")
        if not equals:
            return part
        mask = self._masks.get(_unquoted(name).strip().lower())
        if mask is None:
            return part
        new = mask(_unquoted(value))
        return None if new is GONE else name + equals + str(new).encode("ascii")


def _unquoted(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


class Heads:
    """Header lines by name, in any case; and the parameters of headers that hold URLs.

    >>> from shadowproxy.proxy.mask import drop
    >>> Heads({"cookie": drop}, Parameters({}))(b"Accept: */*\\r\\nCookie: a=1\\r\\nX-A: 1")
    b'Accept: */*\\r\\nX-A: 1'
    """

    def __init__(self, masks: Mapping[str, Mask], parameters: Parameters) -> None:
        self._masks = {name.lower().encode("ascii"): mask for name, mask in masks.items()}
        self._parameters = parameters
        self._urls = frozenset(name.encode("ascii") for name in _URL_HEADERS)
        self._harmless: set[bytes] = set()

    def __call__(self, head: bytes) -> bytes:
        """`head` (CRLF-separated lines, without a start line), masked."""
        harmless = self._harmless
        kept: list[bytes] = []
        changed = gone = False
        for line in head.split(b"\r\n"):
            if line in harmless:
                gone = False
                kept.append(line)
            elif line[:1] in (b" ", b"\t"):
                # A folded line (RFC 9112, section 5.2) goes with the one that it continues, or is not let through.
                changed = True
                if not gone:
                    kept.append(self._parameters.in_url(line))
            else:
                masked = self._line(line)
                gone = not masked
                changed = changed or masked is not line
                if masked:
                    kept.append(masked)
        return b"\r\n".join(kept) if changed else head

    def _line(self, line: bytes) -> bytes:
        """The line, masked; empty if it goes. One that has nothing to hide is known from then on."""
        written, _, value = line.partition(b":")
        name = written.rstrip(b" \t").lower()
        mask = self._masks.get(name)
        if mask is not None:
            new = mask(value.strip())
            return b"" if new is GONE else b"%b: %b" % (written, str(new).encode("ascii"))
        if name in self._urls:
            return self._parameters.in_url(line)
        if len(line) <= _LONGEST_KNOWN and name not in _FLEETING:
            if len(self._harmless) >= _MOST_KNOWN:
                self._harmless.clear()
            self._harmless.add(line)
        return line
