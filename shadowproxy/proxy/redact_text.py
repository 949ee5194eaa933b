"""Headers and parameters masked, on the bytes and the text as they came."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
_SEPARATOR = re.compile(rb"([?&;#])")


class Parameters:
    """`name=value` parameters by name, in any case and however it is percent-encoded.

    `;` separates them too, as some servers have it, and a fragment is looked into: too much is masked, not too little.
    """

    def __init__(self, masks: Mapping[str, Mask]) -> None:
        self._masks = {name.lower().encode(): mask for name, mask in masks.items()}

    def in_url(self, url: bytes) -> bytes:
        """A target, or text that holds a URL.

        >>> from shadowproxy.proxy.mask import drop
        >>> Parameters({"token": drop}).in_url(b"/a?x=1&%74oken=abc&y=2")
        b'/a?x=1&y=2'
        """
        if not self._masks or (b"?" not in url and b"#" not in url):
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
        names = b"|".join(re.escape(name) for name in {*self._masks, *(name.encode() for name in _URL_HEADERS)})
        # A folded line (RFC 9112, section 5.2) goes with the line that it continues.
        self._pattern = re.compile(rb"\r\n(%b)[ \t]*:(.*?)(?=\r\n(?![ \t])|\Z)" % names, re.IGNORECASE | re.DOTALL)

    def __call__(self, head: bytes) -> bytes:
        """`head` (CRLF-separated lines, without a start line), masked."""
        return self._pattern.sub(self._line, b"\r\n" + head)[2:] if head else head

    def _line(self, match: re.Match[bytes]) -> bytes:
        mask = self._masks.get(match[1].lower())
        if mask is None:
            return b"\r\n%b:%b" % (match[1], self._parameters.in_url(match[2]))
        new = mask(match[2].strip())
        return b"" if new is GONE else b"\r\n%b: %b" % (match[1], str(new).encode("ascii"))
