"""SageMaker's endpoints: JSON, JSON Lines or CSV, as `Content-Type` says; JSON where it says none of them.

* JSON Lines (`application/jsonlines`, and what else it is called) is a list with a value per line;
* CSV (`text/csv`, RFC 4180) is a list of rows, each a list; a field is a number where JSON would take it for one, null
  where it is empty, NaN or infinite, and else a string. A header line is a row like any other.

Empty lines count for nothing. Past `LONGEST` lines, or a million fields, a body is `too_large`.

Sources: https://docs.aws.amazon.com/sagemaker/latest/dg/cdf-inference.html and each algorithm's page of formats.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from shadowproxy.compare.extraction.bodies import BodyError, uncoded
from shadowproxy.compare.extraction.readings import LONGEST
from shadowproxy.compare.presets.sample import Sample
from shadowproxy.compare.presets.servers import content_type, parsed_json

_LINES = {
    "application/jsonlines",
    "application/x-jsonlines",
    "application/jsonl",
    "application/x-jsonl",
    "application/json-lines",
    "application/x-ndjson",
    "application/ndjson",
}
_FIELDS = 1_000_000
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NO_NUMBER = {"", "nan", "inf", "infinity"}
_PATH = re.compile(r"/invocations$")


def read(head: bytes, body: bytes) -> Any:
    """The document of a request or an answer. Raises BodyError."""
    data = uncoded(head, body)
    media = content_type(head).partition(";")[0]
    if media == "text/csv":
        return _rows(data)
    return _values(data) if media in _LINES else parsed_json(data)


def detect(sample: Sample) -> str | None:
    """The path says it, or the headers that SageMaker adds."""
    if sample.response is None:
        return None
    if _PATH.search(sample.path):
        return "a path /invocations"
    if "x-amzn-invoked-production-variant" in sample.response_headers:
        return "the header x-amzn-Invoked-Production-Variant"
    return None


def _values(data: bytes) -> list[Any]:
    if data.count(b"\n") > LONGEST:
        raise BodyError("too_large")
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    if not lines:
        raise BodyError("bad_body")
    return list(map(parsed_json, lines))


def _rows(data: bytes) -> list[list[Any]]:
    if data.count(b"\n") > LONGEST or data.count(b",") > _FIELDS:
        raise BodyError("too_large")
    try:
        text = data.decode("utf-8-sig")
        rows = [list(map(_field, row)) for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error):
        raise BodyError("bad_body") from None
    if not rows:
        raise BodyError("bad_body")
    return rows


def _field(text: str) -> Any:
    stripped = text.strip()
    if _INTEGER.fullmatch(stripped):
        return int(stripped)
    if _NUMBER.fullmatch(stripped):
        number = float(stripped)
        return number if abs(number) != float("inf") else None
    return None if stripped.lower().lstrip("+-") in _NO_NUMBER else text
