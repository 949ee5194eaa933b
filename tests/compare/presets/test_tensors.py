"""Binary tensors and JSON ones: the same document; what doesn't add up: a bad body, and nothing else."""

from __future__ import annotations

import base64
import gzip
import json
import math
import struct
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from compare.samples import A, B, answer, pair
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowproxy.compare.extraction.answer import spelled
from shadowproxy.compare.extraction.bodies import BodyError
from shadowproxy.compare.extraction.extract import Expression
from shadowproxy.compare.lists.align import Aligner
from shadowproxy.compare.presets import open_inference
from shadowproxy.compare.presets.tensors import straight_tensors
from shadowproxy.compare.reader import RouteReader
from shadowproxy.config import Route

PACKED = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""By datatype: the letter of `struct`, which packs and knows nothing of numpy."""


def packed(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        elements = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(element)) + element for element in elements)
    if datatype == "BF16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return struct.pack(f"<{len(values)}{PACKED[datatype]}", *values)


def message(document: Any, *parts: bytes, size: int | None = None) -> tuple[bytes, bytes]:
    text = json.dumps(document).encode()
    head = f"Inference-Header-Content-Length: {len(text) if size is None else size}\r\n".encode()
    return head, text + b"".join(parts)


def tensor(shape: Any, datatype: Any = "FP32", size: Any = None, **more: Any) -> dict[str, Any]:
    parameters = {} if size is None else {"parameters": {"binary_data_size": size}}
    return {"name": "x", "shape": shape, "datatype": datatype, **parameters, **more}


def read(*outputs: Any, parts: tuple[bytes, ...] = (), **more: Any) -> Any:
    return open_inference.read_response(*message({"outputs": list(outputs)}, *parts, **more))


INTEGERS = {
    **{f"UINT{bits}": st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **INTEGERS,
    "BOOL": st.booleans(),
    **{f"FP{width}": st.floats(width=width) for width in (16, 32, 64)},
    # Those of which the lower half is empty.
    "BF16": st.integers(0, 2**16 - 1).map(lambda half: struct.unpack("<f", struct.pack("<I", half << 16))[0]),
    "BYTES": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
}


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, list[int], list[Any]]:
    datatype = draw(st.sampled_from(sorted(VALUES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape)
    return datatype, shape, draw(st.lists(VALUES[datatype], min_size=size, max_size=size))


def as_json(values: list[Any]) -> list[Any]:
    return [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]


@given(st.lists(st.tuples(tensors(), st.booleans(), st.booleans()), max_size=4))
def test_whichever_form_was_sent_the_document_is_the_same(given_: list[Any]) -> None:
    plain, mixed, parts = [], [], []
    for at, ((datatype, shape, values), binary, nested) in enumerate(given_):
        named = {"name": f"t{at}", "shape": shape, "datatype": datatype}
        flat = as_json(values)
        plain.append({**named, "data": flat})
        if binary:
            parts.append(packed(datatype, values))
            mixed.append({**named, "parameters": {"binary_data_size": len(parts[-1])}})
        elif nested and shape:
            mixed.append({**named, "data": np.array(flat, object).reshape(shape).tolist()})
        else:
            mixed.append({**named, "data": flat})
    wanted = open_inference.read_response(b"", json.dumps({"id": "7", "outputs": plain}).encode())
    found = open_inference.read_response(*message({"id": "7", "outputs": mixed}, *parts))
    assert found == wanted
    assert [one["data"] for one in found["outputs"]] == [as_json(values) for (_, _, values), *_ in given_]


@given(tensors())
def test_a_tensor_by_name_has_its_shape(given_: tuple[str, list[int], list[Any]]) -> None:
    datatype, shape, values = given_
    data = packed(datatype, values)
    found = read(tensor(shape, datatype, len(data)), parts=(data,))["tensors"]["x"]
    wanted = np.array([*as_json(values), None], object)[:-1].reshape(shape).tolist() if values else []
    assert found == wanted


@given(st.binary(), st.sampled_from([b"", b"Inference-Header-Content-Length: 5\r\n", b"Content-Encoding: gzip\r\n"]))
def test_any_bytes_are_a_document_or_a_bad_body(body: bytes, head: bytes) -> None:
    for decode in (open_inference.read_request, open_inference.read_response):
        with suppress(BodyError):
            decode(head, body)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 70) | st.just(2**63) | st.sampled_from(["FP32", "BYTES", "x", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "binary_data_size"]), inner),
    max_leaves=6,
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["name", "shape", "datatype", "parameters", "data"]), ANYTHING) | ANYTHING,
        max_size=3,
    ),
    st.binary(max_size=40),
)
def test_any_tensors_are_a_document_or_a_bad_body(outputs: list[Any], rest: bytes) -> None:
    with suppress(BodyError):
        read(*outputs, parts=(rest,))


@pytest.mark.parametrize(
    ("outputs", "rest"),
    [
        pytest.param([tensor([2], size=8)], bytes(7), id="cut short"),
        pytest.param([tensor([2], size=8)], bytes(9), id="something left over"),
        pytest.param([tensor([3], size=8)], bytes(8), id="a shape of more"),
        pytest.param([tensor([1], size=8)], bytes(8), id="a shape of less"),
        pytest.param([tensor([2], size=7)], bytes(7), id="half an element"),
        pytest.param([tensor([2], size=-8)], bytes(8), id="a negative size"),
        pytest.param([tensor([2], size="8")], bytes(8), id="a size in words"),
        pytest.param([tensor([True], "BOOL", size=1)], bytes(1), id="a dimension that is no number"),
        pytest.param([tensor([-2, -1], size=8)], bytes(8), id="negative dimensions"),
        pytest.param([tensor([2.0], size=8)], bytes(8), id="a fractional dimension"),
        pytest.param([tensor([2**62, 2**62, 4], size=0)], b"", id="dimensions that overflow to zero"),
        pytest.param([tensor([1] * 65, size=4)], bytes(4), id="too many dimensions"),
        pytest.param([tensor(2, size=8)], bytes(8), id="a shape that is no list"),
        pytest.param([tensor([2], "FP8", size=8)], bytes(8), id="an unknown datatype"),
        pytest.param([tensor([2], ["FP32"], size=8)], bytes(8), id="a datatype that is no word"),
        pytest.param([tensor([1], "BYTES", size=3)], bytes(3), id="a length cut short"),
        pytest.param([tensor([1], "BYTES", size=6)], b"\x03\0\0\0ab", id="an element cut short"),
        pytest.param([tensor([1], "BYTES", size=6)], b"\xff\xff\xff\xffab", id="an element of four gigabytes"),
        pytest.param([tensor([2], size=8, data=[1, 2])], bytes(8), id="data in both forms"),
        pytest.param([tensor([2], data=[1])], b"", id="less data than the shape says"),
        pytest.param([tensor([2], data=[1, [2]])], b"", id="ragged data"),
        pytest.param([tensor([2], data="ab")], b"", id="data that is no list"),
        pytest.param([tensor([2], name=7, data=[1, 2])], b"", id="a name that is none"),
        pytest.param(["x"], b"", id="a tensor that is none"),
        pytest.param([], b"x", id="no tensor, and bytes"),
    ],
)
def test_what_does_not_add_up_is_a_bad_body(outputs: list[Any], rest: bytes) -> None:
    with pytest.raises(BodyError) as caught:
        read(*outputs, parts=(rest,))
    assert caught.value.kind == "bad_body"


@pytest.mark.parametrize("size", ["-1", "", "1e2", "99999", "９", "1" * 30])
def test_a_json_part_of_no_right_size_is_a_bad_body(size: str) -> None:
    head = f"Inference-Header-Content-Length: {size}\r\n".encode()
    with pytest.raises(BodyError):
        open_inference.read_response(head, b'{"outputs": []}')


def test_a_long_run_of_dimensions_of_one_does_not_multiply_memory() -> None:
    with pytest.raises(BodyError) as caught:
        read(tensor([200_000, *[1] * 60], "INT8", 200_000), parts=(bytes(200_000),))
    assert caught.value.kind == "too_large"
    assert read(tensor([10**18, 0], size=0))["tensors"] == {"x": []}


def test_codings_are_undone_before_sizes_are_counted() -> None:
    head, body = message({"outputs": [tensor([2], size=8)]}, packed("FP32", [1, 2]))
    document = open_inference.read_response(head + b"Content-Encoding: gzip\r\n", gzip.compress(body))
    assert document["tensors"] == {"x": [1, 2]}


@pytest.mark.parametrize("vendor", ["vnd.sagemaker-triton", "vnd.vertex-ai-triton"])
def test_the_media_type_may_say_the_size_of_the_json_part(vendor: str) -> None:
    _, body = message({"outputs": [tensor([1], size=4)]}, packed("FP32", [3]))
    head = f"Content-Type: application/{vendor}.binary+json;json-header-size={len(body) - 4}\r\n".encode()
    assert open_inference.read_response(head, body)["tensors"] == {"x": [3]}


def test_an_element_that_is_no_text_is_in_base64() -> None:
    image = bytes(range(250, 256))
    data = struct.pack("<I", 1) + b"a" + struct.pack("<I", len(image)) + image
    found = read(tensor([2], "BYTES", len(data)), parts=(data,))["tensors"]["x"]
    assert found == ["a", {"b64": base64.b64encode(image).decode()}]


def test_other_parameters_stay_and_tensors_without_data_too() -> None:
    given_ = tensor([1], size=4, parameters={"binary_data_size": 4, "content_type": "np"})
    shared = {"name": "y", "shape": [1], "datatype": "FP32", "parameters": {"shared_memory_region": "r"}}
    document = read(given_, shared, parts=(packed("FP32", [3]),))
    assert document["outputs"][0]["parameters"] == {"content_type": "np"}
    assert document["outputs"][1] == shared
    assert document["tensors"] == {"x": [3], "y": None}


def test_an_error_and_other_bodies_are_as_sent() -> None:
    for document in ({"error": "no such model"}, [1], {"outputs": {"a": [1]}}, 7):
        assert open_inference.read_response(b"", json.dumps(document).encode()) == document
    # The outputs that a request asks for are no tensors.
    asked = {"inputs": [tensor([1], data=[1])], "outputs": [{"name": "scores", "parameters": {"binary_data": True}}]}
    assert open_inference.read_request(b"", json.dumps(asked).encode()) == {**asked, "tensors": {"x": [1]}}


@pytest.mark.parametrize("shape", [[3], [1, 3], [3, 1]])
def test_ways_to_name_a_tensor(shape: list[int]) -> None:
    data = packed("FP32", [3, math.nan, 1])
    document = {"response": {"body": read(tensor(shape, size=12), parts=(data,))}}
    for text in ("response.body.outputs[?name=='x'].data | [0]", "response.body.tensors.x[]"):
        assert Expression(text, aligned=True)(document) == [3, None, 1]


# Read straight out of the bytes

TENSORS = "response.body.tensors"
STRAIGHT = (
    Route(name="named", preset="open-inference", ids=f"{TENSORS}.a", scores=f"{TENSORS}.b"),
    Route(name="joined", preset="open-inference", ids=f"{TENSORS}.a[]", scores=f"{TENSORS}.b[]"),
    Route(name="of-a-batch", preset="open-inference", ids=f"{TENSORS}.a[0]", scores=f"{TENSORS}.b[0]"),
    Route(
        name="at-places",
        preset="open-inference",
        ids="response.body.outputs[1].data",
        scores="response.body.outputs[0].data",
    ),
    Route(name="scores-alone", preset="open-inference", ids=None, scores=f"{TENSORS}.b"),
    Route(name="ids-in-request", preset="open-inference", ids="request.body.ids", scores=f"{TENSORS}.b"),
    Route(
        name="with-truth", preset="open-inference", ids=f"{TENSORS}.a", scores=f"{TENSORS}.b", truth="annotations.truth"
    ),
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two tensors or so, most of them as they should be."""
    length = draw(st.integers(1, 3))
    outputs, parts = [], []
    for name in draw(st.sampled_from([["a", "b"], ["b", "a"], ["a", "b", "b"], ["a", "c", "b"], ["b"]])):
        kinds = ["INT64", "BYTES"] if name == "a" else ["FP32", "FP64", "INT32"]
        datatype = draw(st.sampled_from(kinds) | st.sampled_from(sorted(VALUES)))
        count = draw(st.sampled_from([length, length, length, length, length + 1]))
        values = draw(st.lists(VALUES[datatype], min_size=count, max_size=count))
        data = packed(datatype, values)
        shape: Any = draw(st.sampled_from([[count], [count], [1, count], [count, 1], [], [count + 1], [float(count)]]))
        size: Any = draw(st.sampled_from([len(data)] * 8 + [len(data) - 1, len(data) + 1, float(len(data)), -1, None]))
        more = {"data": [1.0] * count} if size is None and draw(st.booleans()) else {}
        parameters = {} if size is None else {"parameters": {"binary_data_size": size}}
        outputs.append({"name": name, "shape": shape, "datatype": datatype, **parameters, **more})
        parts.append(b"" if size is None else data)
    document = {"outputs": outputs, **draw(st.sampled_from([{}, {}, {"id": "x"}, {"tensors": {"a": [1], "b": [2.0]}}]))}
    return message(document, *parts, draw(st.sampled_from([b"", b"", b"", b"x"])))


@settings(max_examples=400, deadline=None)
@given(st.lists(answers(), min_size=2, max_size=4))
def test_what_is_read_straight_is_what_the_document_holds(several: list[tuple[bytes, bytes]]) -> None:
    for route in STRAIGHT:
        short, long = RouteReader(route), RouteReader(route)
        assert short._straight is not None
        long._straight = None
        for (head, body), (other_head, other_body) in pairwise(several):
            one = pair(
                answer(body, head=head),
                answer(other_body, head=other_head),
                body={"ids": ["x", 1]},
                annotations={"truth": ["1"]},
            )
            found, expected = short.read(one), long.read(one)
            assert found.failure == expected.failure
            for side in (A, B):
                assert plain(found.answers[side].ranking) == plain(expected.answers[side].ranking)


def plain(ranking: Any) -> Any:
    return ranking and repr((spelled(ranking.ids), ranking.scores and list(map(float, ranking.scores))))


@pytest.mark.parametrize(
    ("datatype", "shape", "route"),
    [
        ("INT64", [2], STRAIGHT[0]),
        ("BYTES", [2], STRAIGHT[0]),
        ("INT64", [1, 2], STRAIGHT[1]),
        ("INT64", [1, 2], STRAIGHT[2]),
    ],
)
def test_plain_tensors_are_read_straight(datatype: str, shape: list[int], route: Route) -> None:
    ids: list[Any] = [7, 8] if datatype == "INT64" else ["é", "b"]
    data = packed(datatype, ids), packed("FP32", [0.5, 0.25])
    outputs = [
        {**tensor(shape, datatype, len(data[0])), "name": "a"},
        {**tensor(shape, "FP32", len(data[1])), "name": "b"},
    ]
    straight = RouteReader(route)._straight
    assert straight is not None
    assert straight(*message({"outputs": outputs}, *data)) == (ids, [0.5, 0.25])


@pytest.mark.parametrize(
    "text",
    [
        f"{TENSORS}.a[1]",
        f"{TENSORS}.a[*]",
        f"{TENSORS}.a[][]",
        f"{TENSORS}.a[:1]",
        f"{TENSORS}",
        "response.body.outputs[-1].data",
        "response.status",
    ],
)
def test_what_looks_elsewhere_is_not_read_straight(text: str) -> None:
    assert straight_tensors(Expression(text, aligned=True), None) is None


def test_integers_meet_strings() -> None:
    """One model's tensor of integers beside another's of BYTES: the same items."""
    sides = []
    for datatype, ids in (("INT64", [7, 8, 9]), ("BYTES", ["9", "8", "1"])):
        data = packed(datatype, ids), packed("FP32", [3.0, 2.0, 1.0])
        outputs = [
            {**tensor([3], datatype, len(data[0])), "name": "a"},
            {**tensor([3], "FP32", len(data[1])), "name": "b"},
        ]
        head, body = message({"outputs": outputs}, *data)
        sides.append(answer(body, head=head))
    reading = RouteReader(STRAIGHT[0]).read(pair(*sides))
    aligner = Aligner()
    aligner.add(reading.answers[A].ranking, reading.answers[B].ranking)
    lists = aligner.lists()
    assert lists.place[A].tolist() == [2, 1]
    assert lists.place[B].tolist() == [0, 1]
