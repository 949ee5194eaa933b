"""The other readers: what is near JSON, text, base64, SeldonMessages, JSON Lines and CSV."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.compare.extraction.bodies import BodyError
from shadowproxy.compare.presets import PRESETS, sagemaker, seldon
from shadowproxy.compare.presets.sample import Sample
from shadowproxy.compare.presets.servers import read_json, read_json_or_text, read_json_with_base64

SERVERS = (
    "kserve-v1",
    "open-inference",
    "seldon",
    "tf-serving",
    "vertex",
    "torchserve",
    "sagemaker",
    "ray-serve",
    "bentoml",
    "litserve",
)
CSV = b"Content-Type: text/csv\r\n"
LINES = b"Content-Type: application/jsonlines\r\n"
TEXT = b"Content-Type: text/plain; charset=utf-8\r\n"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["NaN", "b", 'q"\\']), inner),
    max_leaves=10,
)


def finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return {name: finite(inner) for name, inner in value.items()} if isinstance(value, dict) else value


@given(VALUES, st.booleans())
def test_what_python_writes_is_read_and_what_is_not_finite_is_null(value: Any, ascii_: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_).encode()
    assert read_json(b"", text) == finite(value)


@pytest.mark.parametrize("body", [b"nan", b"[1NaN]", b"[-NaN]", b"NaN NaN", b'{"a: NaN}', b'"\\', b"[Infinityy]", b""])
def test_other_tokens_are_still_bad(body: bytes) -> None:
    with pytest.raises(BodyError):
        read_json(b"", body)


def test_a_string_without_end_is_searched_once() -> None:
    # Tried anew from each of its quotes, this takes minutes.
    with pytest.raises(BodyError):
        read_json(b"", b'[NaN, "' + b'\\"' * 500_000)


@given(st.sampled_from(sorted(PRESETS)), st.binary(), st.sampled_from([b"", CSV, LINES, TEXT]))
def test_any_bytes_are_a_document_or_a_bad_body_of_every_preset(name: str, body: bytes, head: bytes) -> None:
    for decode in (PRESETS[name].request, PRESETS[name].response):
        with suppress(BodyError):
            decode(head, body)


@given(VALUES, VALUES, st.sampled_from(["/v2/models/a/infer", "/v1/models/a:predict", "/predict", "/invocations", ""]))
def test_detection_never_raises(request: Any, response: Any, path: str) -> None:
    for value in (response, {"outputs": response, "predictions": response, "data": response}):
        for preset in PRESETS.values():
            told = preset.detect(Sample(path, {}, request, {}, value, 200))
            assert told is None or told


def test_text_is_a_string_where_it_says_that_it_is_text() -> None:
    assert read_json_or_text(TEXT, b"spam") == "spam"
    assert read_json_or_text(b"", b"spam") == "spam"
    assert read_json_or_text(TEXT, b"2") == 2
    for head, body in ((b"Content-Type: application/json\r\n", b"spam"), (TEXT, b""), (TEXT, b"\xff")):
        with pytest.raises(BodyError):
            read_json_or_text(head, body)


@given(st.text(st.characters(codec="utf-8")))
def test_base64_of_text_is_that_text(text: str) -> None:
    coded = {"b64": base64.b64encode(text.encode()).decode()}
    body = json.dumps({"predictions": [coded, {"x": [coded]}, {"b64": 1}, {"b64": "", "other": 1}]}).encode()
    wanted = {"predictions": [text, {"x": [text]}, {"b64": 1}, {"b64": "", "other": 1}]}
    assert read_json_with_base64(b"", body) == wanted


def test_base64_of_anything_else_stays_however_deep() -> None:
    image = {"b64": base64.b64encode(b"\xff\xd8").decode()}
    assert read_json_with_base64(b"", json.dumps(image).encode()) == image
    assert read_json_with_base64(b"", b'{"b64": "%%%%"}') == {"b64": "%%%%"}
    assert read_json_with_base64(b"", b'{"b64": "YQ=="}') == "a"
    value = read_json_with_base64(b"", b"[" * 1000 + b'{"b64": "YQ=="}' + b"]" * 1000)
    for _ in range(1000):
        (value,) = value
    assert value == "a"


@pytest.mark.parametrize(
    ("data", "added"),
    [
        ({"tensor": {"shape": [2, 2], "values": [1, 2, 3, 4]}}, {"ndarray": [[1, 2], [3, 4]]}),
        ({"tensor": {"values": [1, 2]}}, {"ndarray": [1, 2]}),
        ({"tensor": {}}, {"ndarray": []}),
        ({"names": ["a", "b"], "ndarray": [[1, 2], [3, None]]}, {"rows": [{"a": 1, "b": 2}, {"a": 3, "b": None}]}),
        ({"names": ["a"], "ndarray": [[1, 2]]}, {}),
        ({"names": ["a"], "ndarray": [1]}, {}),
        ({"names": [], "ndarray": [[1]]}, {}),
        ({"ndarray": [["x", 1]]}, {}),
        ({"tftensor": {"dtype": "DT_DOUBLE"}}, {}),
    ],
)
def test_what_a_seldon_message_is_given(data: dict[str, Any], added: dict[str, Any]) -> None:
    assert seldon.read(b"", json.dumps({"data": data}).encode()) == {"data": {**data, **added}}


@pytest.mark.parametrize("tensor", [{"shape": [2], "values": [1]}, {"shape": [-1], "values": []}, {"values": 1}])
def test_a_seldon_tensor_that_does_not_add_up_is_a_bad_body(tensor: dict[str, Any]) -> None:
    with pytest.raises(BodyError):
        seldon.read(b"", json.dumps({"data": {"tensor": tensor}}).encode())


FIELDS = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False) | st.none() | st.just('a,"b')


@given(st.lists(st.lists(FIELDS, min_size=2, max_size=4), min_size=1), st.sampled_from(["\n", "\r\n"]))
def test_csv_is_rows_of_what_was_written(rows: list[list[Any]], end: str) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows(rows)
    assert sagemaker.read(CSV, text.getvalue().encode()) == rows


def test_fields_of_csv() -> None:
    head = b"content-type: TEXT/CSV;header=absent\r\n"
    body = '\ufeff007,-0, 1.5,1e3,nan,-Inf,,NaN ,1e999,"x\ny",0x1F,1_000\n\n'.encode()
    row = ["007", 0, 1.5, 1000.0, None, None, None, None, None, "x\ny", "0x1F", "1_000"]
    assert sagemaker.read(head, body) == [row]


@pytest.mark.parametrize(
    ("head", "body", "kind"),
    [
        (CSV, b"", "bad_body"),
        (CSV, b"\n\n", "bad_body"),
        (CSV, b'"a', "bad_body"),
        (CSV, b'"a"b,1', "bad_body"),
        (CSV, b"\xff", "bad_body"),
        (CSV, b"1\n" * 100_001, "too_large"),
        (CSV, b"," * 1_000_001, "too_large"),
        (LINES, b"", "bad_body"),
        (LINES, b"1,2\n", "bad_body"),
        (LINES, b'{"a": 1}\n{"a"', "bad_body"),
        (LINES, b"1\n" * 100_001, "too_large"),
        (b"", b"0.6,0.3", "bad_body"),
        (b"Content-Type: application/x-recordio-protobuf\r\n", b"\n#\xd7\xce", "bad_body"),
    ],
)
def test_what_sagemaker_can_not_have_meant(head: bytes, body: bytes, kind: str) -> None:
    with pytest.raises(BodyError) as caught:
        sagemaker.read(head, body)
    assert caught.value.kind == kind


def test_json_lines() -> None:
    assert sagemaker.read(LINES, b'\xef\xbb\xbf{"s": NaN}\r\n\n[1]') == [{"s": None}, [1]]


@pytest.mark.parametrize(
    ("told", "path", "request_", "response"),
    [
        ({"kserve-v1"}, "/v1/models/a:predict", {"instances": [1]}, {"predictions": [1]}),
        ({"kserve-v1"}, "/behind/a/prefix/v1/models/a:predict", None, {"predictions": []}),
        ({"tf-serving"}, "/v1/models/a:predict", {"instances": [1], "signature_name": "s"}, {"predictions": [1]}),
        ({"tf-serving"}, "/v1/models/a/versions/2:predict", {"instances": [1]}, {"predictions": [1]}),
        ({"tf-serving"}, "/v1/models/a/labels/stable:classify", {"examples": [1]}, {"results": [[["x", 1]]]}),
        ({"vertex"}, "/predict", {"instances": [1]}, {"predictions": [1], "deployedModelId": "1"}),
        ({"vertex"}, "/v1/projects/p/locations/l/endpoints/7:predict", {"instances": [1]}, {"predictions": [1]}),
        ({"litserve"}, "/predict", {"input": 1}, {"output": 1}),
        (set(), "/predict", {"image": 1}, {"output": 1}),
        (set(), "/predict", {"instances": [1]}, {"predictions": [1]}),
        ({"torchserve"}, "/predictions/a/2.0", None, "tabby"),
        (set(), "/predictions/a", None, None),
        (set(), "/v2/models/a/infer", {"inputs": []}, {"error": "no such model"}),
        (set(), "/", {}, {"data": {"items": [1]}}),
    ],
)
def test_what_tells_a_protocol(told: set[str], path: str, request_: Any, response: Any) -> None:
    sample = Sample(path, {}, request_, {}, response, 200)
    assert {name for name in SERVERS if PRESETS[name].detect(sample) is not None} == told
