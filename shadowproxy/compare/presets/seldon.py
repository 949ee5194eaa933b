"""Seldon Core 1's protocol: a SeldonMessage, whose `data` is an ndarray or a tensor.

What expressions see is the message as sent, and in `data` also

* `ndarray`, where a `tensor` was sent: its values, nested as its shape says (flat where it gives none);
* `rows`, where `names` are given, and each row has as many values: the rows as objects, by name.

`strData`, `jsonData`, `binData` and `tftensor` are as sent. Values and a shape that don't add up are a bad body.

Source: https://docs.seldon.ai/seldon-core-1, prediction.proto and the external prediction API.
"""

from __future__ import annotations

import math
import re
from typing import Any

from shadowproxy.compare.extraction.bodies import BodyError
from shadowproxy.compare.presets.open_inference import is_shape, shaped
from shadowproxy.compare.presets.sample import Sample
from shadowproxy.compare.presets.servers import read_json

_PATH = re.compile(r"/api/v[01]\.\d/predictions$")
_FORMS = {"ndarray", "tensor", "tftensor"}
_PAYLOADS = {"strData", "jsonData", "binData", "customData"}


def read(head: bytes, body: bytes) -> Any:
    """The document of a request or an answer. Raises BodyError."""
    document = read_json(head, body)
    data = document.get("data") if isinstance(document, dict) else None
    if isinstance(data, dict):
        if "ndarray" not in data and isinstance(data.get("tensor"), dict):
            data["ndarray"] = _nested(data["tensor"])
        rows = _rows(data.get("names"), data.get("ndarray"))
        if rows is not None:
            data["rows"] = rows
    return document


def detect(sample: Sample) -> str | None:
    """The answer has the data of a SeldonMessage; one without is told by the path, for its keys may be anyone's."""
    if not isinstance(sample.response, dict):
        return None
    data = sample.response.get("data")
    if isinstance(data, dict) and _FORMS & data.keys():
        return f"`data` with {' and '.join(f'`{form}`' for form in sorted(_FORMS & data.keys()))}"
    if _PATH.search(sample.path) and (found := sorted(_PAYLOADS & sample.response.keys())):
        return f"a path /api/v1.0/predictions, and `{found[0]}`"
    return None


def _nested(tensor: dict[str, Any]) -> Any:
    # Protocol buffers leave out what is empty.
    values, shape = tensor.get("values", []), tensor.get("shape", [])
    if not isinstance(values, list) or not is_shape(shape):
        raise BodyError("bad_body")
    if not shape:
        return values
    if math.prod(shape) != len(values):
        raise BodyError("bad_body")
    return shaped(values, shape)


def _rows(names: Any, ndarray: Any) -> list[dict[str, Any]] | None:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    if not isinstance(ndarray, list):
        return None
    if not all(isinstance(row, list) and len(row) == len(names) for row in ndarray):
        return None
    return [dict(zip(names, row, strict=True)) for row in ndarray]
