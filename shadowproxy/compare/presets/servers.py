"""JSON as inference servers write it: with NaN and Infinity, or as bare text; and values in base64.

NaN, Infinity and -Infinity are no JSON (RFC 8259, section 6), yet TensorFlow Serving says that it writes them
(g3doc/api_rest.md, "JSON conformance"), and so does everything that is made with Python's `json`. A score that is none
shouldn't cost the answer its other scores: each is read as null, which is what the servers that keep to JSON write.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from shadowproxy.compare.extraction.bodies import BodyError, parse, uncoded
from shadowproxy.model import headers

# A string is matched as a whole, so that a NaN in it is none; one without an end is matched to the end of the body,
# or else each of its quotes would begin a search of its own.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|-?Infinity|NaN', re.DOTALL)


def read_json(head: bytes, body: bytes) -> Any:
    """The JSON value in `body`, content codings undone; what isn't finite is null. Raises BodyError."""
    return parsed_json(uncoded(head, body))


def parsed_json(data: bytes) -> Any:
    """The JSON value in `data`; what isn't finite is null. Raises BodyError (`bad_body`).

    >>> parsed_json(b'[NaN, -Infinity, "NaN"]')
    [None, None, 'NaN']
    """
    if b"NaN" in data or b"Infinity" in data:
        data = _TOKEN.sub(lambda found: found[0] if found[0].startswith(b'"') else b"null", data)
    return parse(data)


def read_json_or_text(head: bytes, body: bytes) -> Any:
    """As `read_json`; a string where the body is no JSON, and `Content-Type` is text, or missing. Raises BodyError."""
    data = uncoded(head, body)
    try:
        return parsed_json(data)
    except BodyError:
        if not data or not content_type(head).startswith(("text/", ";")):
            raise
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BodyError("bad_body") from None


def read_json_with_base64(head: bytes, body: bytes) -> Any:
    """As `read_json`; a value `{"b64": …}` is the string that it holds, where that is UTF-8. Raises BodyError.

    So TensorFlow Serving writes outputs whose name ends in `_bytes` (g3doc/api_rest.md, "Encoding binary values").
    """
    data = uncoded(head, body)
    value = parsed_json(data)
    return _without_base64(value) if b'"b64"' in data else value


def _without_base64(value: Any) -> Any:
    root = [value]
    # By a list of what is left to see: JSON may be nested deeper than Python lets functions be.
    waiting: list[list[Any] | dict[str, Any]] = [root]
    while waiting:
        node = waiting.pop()
        # Only values of keys that are there are replaced, which iteration allows.
        entries: Any = node.items() if isinstance(node, dict) else enumerate(node)
        for key, inner in entries:
            if isinstance(inner, dict) and inner.keys() == {"b64"}:
                node[key] = _unwrapped(inner)
            elif isinstance(inner, list | dict):
                waiting.append(inner)
    return root[0]


def _unwrapped(value: dict[str, Any]) -> Any:
    try:
        return base64.b64decode(value["b64"], validate=True).decode()
    except (TypeError, ValueError, binascii.Error):
        return value


def content_type(head: bytes) -> str:
    """The media type that stands in `head`, in lower case, its parameters behind a `;`; a lone `;` where it has none.

    >>> content_type(b"Content-Type: Text/CSV ;header=absent"), content_type(b"")
    ('text/csv;header=absent', ';')
    """
    value = next((value for name, value in headers(head) if name == "content-type"), "")
    media, _, parameters = value.lower().partition(";")
    return f"{media.strip()};{parameters.strip()}"
