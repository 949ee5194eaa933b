"""Headers and parameters masked, on the bytes and the text as they came."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from shadowproxy.proxy.mask import GONE, Mask, drop

URL_HEADERS: Final = (
    b"content-location",
    b"link",
    b"location",
    b"referer",
    b"refresh",
    b"x-forwarded-uri",
    b"x-original-uri",
    b"x-original-url",
    b"x-rewrite-url",
)
"""Headers, in lower case, that hold URLs."""
_CRLF: Final = b"\r\n"
_BEGIN: Final = 12
_SEPARATOR: Final = re.compile(rb"([?&;#])")


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
        self._lines = _lines({*self._masks, *URL_HEADERS})

    def __call__(self, head: bytes) -> bytes:
        """`head` (CRLF-separated lines, without a start line), masked."""
        # One scan for all names: most lines are left after their first letter.
        masked, found = self._lines.subn(self._line, b"\r\n" + head)
        return masked.removeprefix(b"\r\n") if found else head

    def without(self, head: bytes, lines: Sequence[bytes]) -> bytes:
        """The same for a head of which it is known which `lines` hold what may have to be masked."""
        for line in lines:
            at = _find(head, line, 0)
            if at >= 0:
                head = _with(head, line, at, self._masked(line))
        return head

    def _line(self, match: re.Match[bytes]) -> bytes:
        masked = self._masked(match[0][2:])
        return b"\r\n" + masked if masked else b""

    def _masked(self, line: bytes) -> bytes:
        """The line, masked; empty if it goes."""
        written, _, value = line.partition(b":")
        mask = self._masks.get(written.rstrip(b" \t").lower())
        if mask is None:
            return self._parameters.in_url(line)
        if mask is drop:
            return b""
        new = mask(value.strip())
        return b"" if new is GONE else b"%b: %b" % (written, str(new).encode("ascii"))


def _find(head: bytes, line: bytes, at: int) -> int:
    """Where `line` stands in `head` as a whole line, from `at` on; -1 where it doesn't.

    Looked for by how it begins: to search for a long text costs more than what is searched.
    """
    begin = line[:_BEGIN]
    while (at := head.find(begin, at)) >= 0:
        end = at + len(line)
        if (
            head.startswith(line, at)
            and (at == 0 or (at > 1 and head[at - 2 : at] == _CRLF))
            and (end == len(head) or head[end : end + 2] == _CRLF)
        ):
            break
        at += 1
    return at


def _with(head: bytes, line: bytes, at: int, new: bytes) -> bytes:
    """`head` with each `line` replaced, of which the first is at `at`; without it, where `new` is empty."""
    while at >= 0:
        end = at + len(line)
        if new:
            head = head[:at] + new + head[end:]
            at += len(new)
        elif at:
            at -= 2
            head = head[:at] + head[end:]
        else:
            head = head[end:].removeprefix(_CRLF)
        at = _find(head, line, at)
    return head


def _lines(names: Iterable[bytes]) -> re.Pattern[bytes]:
    """Lines of these names, with the CRLF before each and the lines folded under it (RFC 9112, section 5.2).

    The names are put together by their first letters: where that of a line is another, no name is tried.
    """
    by_letter: dict[bytes, list[bytes]] = {}
    for name in sorted(names):
        by_letter.setdefault(name[:1], []).append(re.escape(name[1:]))
    starts = [
        b"[%b](?:%b)" % (re.escape(letter) + re.escape(letter.upper()), b"|".join(rests))
        for letter, rests in by_letter.items()
    ]
    rest = rb"[ \t]*:[^\r]*(?:\r(?!\n(?![ \t]))[^\r]*)*"
    return re.compile(rb"\r\n(?:%b)%b" % (b"|".join(starts), rest), re.IGNORECASE)
