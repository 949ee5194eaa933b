"""What real servers sent, and what their documentation says that they send: what routes find in it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from shadowproxy.compare.extraction.bodies import BodyError, Decode
from shadowproxy.compare.presets import PRESETS, preset_of
from shadowproxy.compare.presets.sample import Sample
from shadowproxy.compare.reader import RouteReader
from shadowproxy.config import Route
from shadowproxy.config.presets import PRESETS as EXPRESSIONS
from shadowproxy.model import Exchange, Outcome, Pair, Request, Side, headers

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())
BY_NAME = {case["case"]: case for case in CASES}


def message(name: str) -> tuple[list[str], bytes, bytes]:
    """(first line, head, body)"""
    head, _, body = (GOLDEN / name).read_bytes().partition(b"\r\n\r\n")
    line, _, head = head.partition(b"\r\n")
    return line.decode().split(" "), head + b"\r\n", body


def request(case: str) -> Request:
    (method, target, _), head, body = message(f"{case}.request")
    return Request(method, target, head, body, len(body))


def exchange(case: str) -> Exchange:
    (_, status, *_), head, body = message(f"{case}.response")
    return Exchange(Outcome.OK, int(status), head, body, len(body), ttfb=0.01, total=0.02)


def read(decode: Decode, head: bytes, body: bytes) -> Any:
    try:
        return decode(head, body)
    except BodyError:
        return None


def sample(case: dict[str, Any], preset: str) -> Sample:
    asked, answered = request(case["case"]), exchange(case["case"])
    readers = PRESETS[preset]
    return Sample(
        path=asked.target,
        request_headers=dict(headers(asked.head)),
        request=read(readers.request, asked.head, asked.body),
        response_headers=dict(headers(answered.head)),
        response=read(readers.response, answered.head, answered.body),
        status=answered.status,
    )


def test_every_preset_has_a_golden_body_and_every_body_a_case() -> None:
    files = {path.stem for path in GOLDEN.glob("*.response")} - {"kserve-v2-bf16"}
    assert files == set(BY_NAME)
    assert {case["preset"] for case in CASES} >= {
        "kserve-v1",
        "open-inference",
        "seldon",
        "tf-serving",
        "torchserve",
        "ray-serve",
        "bentoml",
        "litserve",
        "sagemaker",
        "vertex",
    }


def test_both_tables_have_the_same_presets() -> None:
    assert PRESETS.keys() == EXPRESSIONS.keys()


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_found(name: str) -> None:
    case = BY_NAME[name]
    route = Route(name="r", preset=case["preset"], **case["route"])
    answered = exchange(name)
    reading = RouteReader(route).read(Pair("1", 0.0, request(name), answered, answered))
    assert set(reading.failure.values()) == {""}
    for side in (Side.BASELINE, Side.CANDIDATE):
        answer = reading.answers[side]
        found: dict[str, Any] = {"labels": answer.labels, "probabilities": answer.probabilities, "text": answer.text}
        if answer.ranking is not None:
            scores = answer.ranking.scores or []
            found |= {"ids": answer.ranking.ids, "scores": [None if math.isnan(one) else one for one in scores]}
        assert {key: value for key, value in found.items() if value is not None} == case["found"]


# What tells nothing of its protocol: whatever a user's own service may answer too.
UNTOLD = {"ray-serve-ranker", "ray-serve-text"}
# KServe V1 took this form over from TensorFlow Serving.
EITHER = {"tf-serving-rows": "kserve-v1", "tf-serving-nan": "kserve-v1"}


@pytest.mark.parametrize("name", BY_NAME)
def test_its_protocol_is_told_and_no_other(name: str) -> None:
    case = BY_NAME[name]
    told = {preset for preset in EXPRESSIONS if PRESETS[preset].detect(sample(case, preset)) is not None}
    assert told == (set() if name in UNTOLD else {EITHER.get(name, case["preset"])})


def test_a_tensor_of_each_datatype_is_read_as_its_encoder_meant() -> None:
    asked = request("kserve-v2-all")
    document = preset_of("open-inference").request(asked.head, asked.body)
    whole = {"UINT8": 8, "UINT16": 16, "UINT32": 32, "UINT64": 64}
    signed = {f"INT{bits}": bits for bits in (8, 16, 32, 64)}
    assert document["tensors"] == {
        **{name: [0, 1, 2**bits - 1] for name, bits in whole.items()},
        **{name: [-(2 ** (bits - 1)), 1, 2 ** (bits - 1) - 1] for name, bits in signed.items()},
        "FP16": [[0.0999755859375, -2.5], [3, 1000]],
        "FP32": [[0.10000000149011612, -2.5], [3, 1000]],
        "FP64": [[0.1, -2.5], [3, 1000]],
        "BOOL": [True, False],
        "BYTES": ["é", "", "a,b"],
    }


def test_bf16_and_json_tensors_stand_side_by_side() -> None:
    asked = request("kserve-v2-bf16")
    document = preset_of("open-inference").request(asked.head, asked.body)
    assert document["tensors"] == {"BF16": [1.5, -0.0078125, 3.0], "ids": [7, 8, 9]}
    assert document["inputs"][0] == {"name": "BF16", "shape": [3], "datatype": "BF16", "data": [1.5, -0.0078125, 3.0]}


def test_predictions_that_are_no_scores_are_no_agreement() -> None:
    answered = exchange("vertex-classes")
    reading = RouteReader(Route(name="r", preset="vertex")).read(Pair("1", 0.0, request("vertex"), answered, answered))
    assert reading.failure == {Side.BASELINE: "bad_body", Side.CANDIDATE: "bad_body"}
    empty = Exchange(Outcome.OK, 200, b"", b'{"predictions": []}', 19, ttfb=0.01, total=0.02)
    for preset in ("vertex", "tf-serving"):
        reading = RouteReader(Route(name="r", preset=preset)).read(Pair("1", 0.0, request("vertex"), empty, empty))
        assert reading.failure == {Side.BASELINE: "", Side.CANDIDATE: ""}
