"""Protocols of inference servers: how their bodies are read. One file each, and a line in the table.

What is looked for in them by default stands in `config.presets`, under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shadowproxy.compare.extraction.bodies import Decode, decode
from shadowproxy.compare.extraction.extract import Expression
from shadowproxy.compare.extraction.straight import StraightRead, straight_read
from shadowproxy.compare.presets import (
    elasticsearch,
    frameworks,
    open_inference,
    openai,
    predictions,
    sagemaker,
    seldon,
    servers,
    solr,
)
from shadowproxy.compare.presets.sample import Sample
from shadowproxy.compare.presets.tensors import straight_tensors


def _undetected(_sample: Sample) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Preset:
    """How one protocol's bodies are read, and what tells that a sample is of it."""

    request: Decode = decode
    response: Decode = decode
    detect: Callable[[Sample], str | None] = _undetected
    """From a sample to what in it is the protocol's, in a few words; None where nothing is. Never raises."""
    straight: Callable[[Expression | None, Expression | None], StraightRead | None] | None = None
    """From the expressions for ids and scores to how both are read out of most answers at once."""


_JSON = Preset(straight=straight_read)

_base64 = servers.read_json_with_base64
_text = servers.read_json_or_text

PRESETS: Mapping[str, Preset] = {
    "kserve-v1": Preset(_base64, _base64, predictions.detect_kserve_v1),
    "open-inference": Preset(
        open_inference.read_request, open_inference.read_response, open_inference.detect, straight_tensors
    ),
    "seldon": Preset(seldon.read, seldon.read, seldon.detect),
    "tf-serving": Preset(_base64, _base64, predictions.detect_tf_serving),
    "vertex": Preset(_base64, _base64, predictions.detect_vertex),
    "torchserve": Preset(_text, _text, predictions.detect_torchserve),
    "sagemaker": Preset(sagemaker.read, sagemaker.read, sagemaker.detect),
    "ray-serve": Preset(_text, _text),
    "bentoml": Preset(_text, _text, frameworks.detect_bentoml),
    "litserve": Preset(_text, _text, frameworks.detect_litserve),
    "elasticsearch": Preset(detect=elasticsearch.detect, straight=straight_read),
    "solr": Preset(detect=solr.detect, straight=straight_read),
    "openai-chat": Preset(response=openai.response, detect=openai.detect_chat),
    "openai-completions": Preset(response=openai.response, detect=openai.detect_completions),
}


def preset_of(name: str | None) -> Preset:
    """The preset of that name; that of plain JSON for none."""
    return _JSON if name is None else PRESETS[name]
