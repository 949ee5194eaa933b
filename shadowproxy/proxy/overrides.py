"""Fields of a JSON body set to configured values; every other value stays as it came, byte for byte.

Only the objects on the way to a field are taken apart. So numbers keep their digits, and what is beside a field keeps
its spelling; in those objects white space goes, and of names that stand twice the last stays, as parsers read them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import msgspec

from shadowproxy.config.paths import parse_field
from shadowproxy.config.shaping import encode_json
from shadowproxy.encodings import EncodingError, codings, decoded

LIMIT: Final = 4 * 1024**2
"""Bytes of a body once its content codings are undone: a bomb must not hold up the clients' answers."""

Obstacle = Literal["streamed", "media_type", "encoding", "not_json", "not_an_object"]
OBSTACLES: Final[tuple[str, ...]] = get_args(Obstacle)

_TYPE = re.compile(rb"\r\ncontent-type:[ \t]*([^\r;]*)", re.IGNORECASE)
_JSON = re.compile(rb"(?:application|text)/json|[^/]+/[^/]+\+json", re.IGNORECASE)
# Digests of the body as it came (RFC 9530 and what came before it) would be wrong.
_STALE = re.compile(rb"\r\n(?:content-encoding|content-md5|digest|content-digest|repr-digest):[^\r]*", re.IGNORECASE)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class OverrideError(Exception):
    """A body in which the fields can't be set.

    `streamed`: it is passed on while it comes. `media_type`: not JSON by its Content-Type. `encoding`: a content coding
    that can't be undone. `not_json`: not what its Content-Type says. `not_an_object`: something that is no object
    stands where one is needed.
    """

    def __init__(self, obstacle: Obstacle) -> None:
        self.obstacle: Obstacle = obstacle
        super().__init__(obstacle)


class Overrides:
    """Fields to be set, by their paths (see `config.paths`), with values of JSON."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._tree: dict[str, Any] = {}
        for path, value in fields.items():
            *parents, name = parse_field(path)
            at = self._tree
            for parent in parents:
                at = at.setdefault(parent, {})
            at[name] = encode_json(value).encode()

    def apply(self, fields: bytes, body: bytes) -> tuple[bytes, bytes]:
        """(header lines, body) as they are to be sent. `fields` are the lines but for the framing, a CRLF before each.

        A body with a content coding is sent without. Raises OverrideError.
        """
        media_type = _TYPE.search(fields)
        if media_type is None or not _JSON.fullmatch(media_type[1].rstrip(b" \t")):
            raise OverrideError("media_type")
        body = self.set_in(_plain(fields, body))
        return _STALE.sub(b"", fields), body

    def set_in(self, document: bytes) -> bytes:
        """The document with the fields set. Raises OverrideError.

        >>> Overrides({"model": "v2", "parameters.top_k": 5}).set_in(b'{"model": "v1", "p": 0.10}')
        b'{"model":"v2","p":0.10,"parameters":{"top_k":5}}'
        """
        try:
            return _set(document, self._tree)
        except msgspec.ValidationError:
            raise OverrideError("not_an_object") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise OverrideError("not_json") from None


def _plain(fields: bytes, body: bytes) -> bytes:
    if codings(fields):
        try:
            body, complete = decoded(fields, body, limit=LIMIT)
        except EncodingError:
            raise OverrideError("encoding") from None
        if not complete:
            raise OverrideError("encoding")
    return body.removeprefix(b"\xef\xbb\xbf")


def _set(document: bytes, tree: Mapping[str, Any]) -> bytes:
    members = _OBJECT.decode(document)
    for name, branch in tree.items():
        if isinstance(branch, bytes):
            members[name] = msgspec.Raw(branch)
            continue
        present = bytes(members.get(name, b"null"))
        members[name] = msgspec.Raw(_set(b"{}" if present == b"null" else present, branch))
    return msgspec.json.encode(members)
