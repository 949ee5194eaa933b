"""The Open Inference Protocol, V2 of KServe's: tensors with names, datatypes and shapes, as JSON or binary.

What expressions see is the JSON form, whichever was sent: `inputs` of a request, `outputs` of an answer, where

* `data` is flat, row-major, also where it was nested: the protocol lets either be sent;
* a binary tensor has its `data` like any other, and no `binary_data_size`;
* what isn't finite is null, as JSON has no word for it;
* an element of BYTES is a string; where it isn't UTF-8 (an image), `{"b64": …}`;
* a tensor without data (in shared memory, or a requested output) stays without.

Beside them stands `tensors`: by name, each tensor's values nested as its shape says (the first of a name counts; an
empty tensor is `[]`, whatever its dimensions). A ranker's scores of shape [1, 50] are `outputs[0].data` or
`tensors.scores[0]`; a classifier's probabilities of shape [n, 3] are `tensors.probabilities`.

Bad bodies are: sizes that don't add up (of the JSON part, of the binary tensors together, of one tensor and its
shape), an element of BYTES that is cut short, a datatype that isn't known where the tensor is binary, dimensions that
are no counts or more than 64 of them. A datatype that isn't known, of data in JSON, hinders nobody from reading it.

Sources: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; the binary tensor
data extension of Triton, docs/protocol/extension_binary_data.md; for SageMaker and Vertex AI Triton says the size of
the JSON part in the media type (`application/vnd.sagemaker-triton.binary+json;json-header-size=N`).
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np

from shadowproxy.compare.extraction.bodies import BodyError, uncoded
from shadowproxy.compare.extraction.readings import LONGEST
from shadowproxy.compare.presets.sample import Sample
from shadowproxy.compare.presets.servers import content_type, parsed_json

DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype("?"),
        "UINT8": np.dtype("<u1"),
        "UINT16": np.dtype("<u2"),
        "UINT32": np.dtype("<u4"),
        "UINT64": np.dtype("<u8"),
        "INT8": np.dtype("<i1"),
        "INT16": np.dtype("<i2"),
        "INT32": np.dtype("<i4"),
        "INT64": np.dtype("<i8"),
        "FP16": np.dtype("<f2"),
        "FP32": np.dtype("<f4"),
        "FP64": np.dtype("<f8"),
        "BF16": np.dtype("<u2"),
    }
)
"""By datatype of fixed size: numpy's. numpy has no BF16; it is the upper half of an FP32."""

_DIMENSIONS = 64
_HEADER = b"inference-header-content-length:"
_SIZE = re.compile(rb"[0-9]{1,18}")
_LENGTH = struct.Struct("<I")
_JSON_SIZE = re.compile(r";\s*json-header-size=(\d{1,18})\s*(?:;|$)")
_INFER = re.compile(r"/v2/models/[^/]+(?:/versions/[^/]+)?/infer$")


def read_request(head: bytes, body: bytes) -> Any:
    """The request's document. Raises BodyError."""
    return _read(head, body, "inputs")


def read_response(head: bytes, body: bytes) -> Any:
    """The answer's document. Raises BodyError."""
    return _read(head, body, "outputs")


def detect(sample: Sample) -> str | None:
    """The answer has tensors, or the request has them and goes to where they are asked for."""
    if _are_tensors(sample.response, "outputs"):
        return "`outputs` with names, datatypes and shapes"
    if _INFER.search(sample.path) and _are_tensors(sample.request, "inputs"):
        return "a path /v2/models/…/infer, and `inputs` with names, datatypes and shapes"
    return None


def _are_tensors(document: Any, key: str) -> bool:
    tensors = document.get(key) if isinstance(document, dict) else None
    return isinstance(tensors, list) and bool(tensors) and all(map(_is_tensor, tensors))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, dict) and {"name", "datatype", "shape"} <= value.keys()


def _read(head: bytes, body: bytes, key: str) -> Any:
    data = uncoded(head, body)
    size = json_size(head)
    if size is None:
        size = len(data)
    document = parsed_json(data[:size])
    binary = _Rest(data, size)
    tensors = document.get(key) if isinstance(document, dict) else None
    if isinstance(tensors, list):
        named = [_filled(tensor, binary) for tensor in tensors]
        document.setdefault("tensors", dict(reversed(named)))
    if binary.at != len(data):
        raise BodyError("bad_body")
    return document


def json_size(head: bytes) -> int | None:
    """Bytes of the JSON part; None where the head doesn't say it, and all is JSON. Raises BodyError."""
    lower = head.lower()
    # A search is a fraction of the price of parsing all headers.
    at = 0 if lower.startswith(_HEADER) else lower.find(b"\r\n" + _HEADER) + 2
    if at != 1:
        value = head[at + len(_HEADER) :].partition(b"\r\n")[0].strip(b" \t")
        if not _SIZE.fullmatch(value):
            raise BodyError("bad_body")
        return int(value)
    if b"json-header-size" in lower:
        found = _JSON_SIZE.search(content_type(head))
        return None if found is None else int(found[1])
    return None


class _Rest:
    """The binary part of a body, of which each tensor takes its own."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def take(self, size: int) -> memoryview:
        part = memoryview(self._data)[self.at : self.at + size]
        if len(part) != size:
            raise BodyError("bad_body")
        self.at += size
        return part


def _filled(tensor: Any, binary: _Rest) -> tuple[str, Any]:
    """(name, values in their shape), after its `data` was put into the tensor."""
    name = tensor.get("name") if isinstance(tensor, dict) else None
    if not isinstance(name, str):
        raise BodyError("bad_body")
    size = _binary_size(tensor)
    if size is None and "data" not in tensor:
        return name, None
    shape = tensor.get("shape")
    if not is_shape(shape):
        raise BodyError("bad_body")
    if size is None:
        values = _flat(tensor["data"])
    elif "data" in tensor:
        raise BodyError("bad_body")
    else:
        values = _values(tensor.get("datatype"), binary.take(size))
    if len(values) != math.prod(shape):
        raise BodyError("bad_body")
    tensor["data"] = values
    return name, shaped(values, shape)


def _binary_size(tensor: dict[str, Any]) -> int | None:
    parameters = tensor.get("parameters")
    if not isinstance(parameters, dict) or "binary_data_size" not in parameters:
        return None
    size = parameters.pop("binary_data_size")
    if not _is_count(size):
        raise BodyError("bad_body")
    if not parameters:
        del tensor["parameters"]
    return int(size)


def is_shape(shape: Any) -> bool:
    """Whether it is a list of at most 64 counts."""
    return isinstance(shape, list) and len(shape) <= _DIMENSIONS and all(map(_is_count, shape))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _flat(data: Any) -> list[Any]:
    """The elements of `data`, nested or not. Raises BodyError where some are deeper than others."""
    if not isinstance(data, list):
        raise BodyError("bad_body")
    flat: list[Any] = data
    while (kinds := set(map(type, flat))) == {list}:
        flat = list(chain.from_iterable(flat))
    if list in kinds:
        raise BodyError("bad_body")
    return flat


def _values(datatype: Any, data: memoryview) -> list[Any]:
    if datatype == "BYTES":
        return elements(data)
    dtype = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None or len(data) % dtype.itemsize:
        raise BodyError("bad_body")
    array = np.frombuffer(data, dtype)
    if datatype == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    values: list[Any] = array.tolist()
    # A sum is finite only if all is, and is quicker; where it merely overflows, each is looked at.
    if array.dtype.kind == "f" and not math.isfinite(sum(values)):
        for at in np.flatnonzero(~np.isfinite(array)).tolist():
            values[at] = None
    return values


def elements(data: memoryview) -> list[Any]:
    """The elements of a binary tensor of BYTES. Raises BodyError where one is cut short."""
    raw = bytes(data)
    # The lengths of short elements are ASCII too, so that one decoding serves for all.
    text = raw.decode() if raw.isascii() else None
    length = _LENGTH.unpack_from
    found: list[Any] = []
    at, end = 0, len(raw)
    try:
        while at < end:
            start = at + 4
            at = start + length(raw, at)[0]
            found.append(_text(raw[start:at]) if text is None else text[start:at])
    except struct.error:  # a length that is cut short
        raise BodyError("bad_body") from None
    if at != end:
        raise BodyError("bad_body")
    return found


def _text(element: bytes) -> Any:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(element).decode()}


def shaped(values: list[Any], shape: list[int]) -> Any:
    """Flat values, nested as `shape` says; a scalar for no dimensions, `[]` where there are no values.

    Raises BodyError (`too_large`) past `LONGEST` inner lists: a long run of dimensions of 1 multiplies them.

    >>> shaped([1, 2, 3, 4], [2, 2]), shaped([1, 2], [2]), shaped([7], []), shaped([], [3, 0])
    ([[1, 2], [3, 4]], [1, 2], 7, [])
    """
    if not shape:
        return values[0]
    if not values:
        return []
    lists = 0
    for size in reversed(shape[1:]):
        lists += len(values) // size
        if lists > LONGEST:
            raise BodyError("too_large")
        values = [values[at : at + size] for at in range(0, len(values), size)]
    return values
