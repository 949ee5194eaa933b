"""Who answers with predictions in JSON: KServe V1, TensorFlow Serving, Vertex AI, TorchServe; what tells them apart.

KServe V1 took TensorFlow Serving's row form over (`instances`, `predictions`, a path `…:predict`), as did Vertex AI: so
many answers could be either's, and what is looked for in them by default is the same.

Sources: https://kserve.github.io/website, data plane, V1 protocol; tensorflow/serving, g3doc/api_rest.md;
https://cloud.google.com/vertex-ai/docs/reference/rest/v1/PredictResponse; pytorch/serve, docs/inference_api.md.
"""

from __future__ import annotations

import re
from typing import Any

from shadowproxy.compare.presets.sample import Sample

_V1 = re.compile(r"/v1/models/[^/:]+:predict$")
_TF_ALONE = re.compile(
    r"/v1/models/[^/:]+(?:/(?:versions|labels)/[^/:]+:(?:predict|classify|regress)|:(?:classify|regress))$"
)
_VERTEX = re.compile(r"/endpoints/[^/:]+:(?:predict|rawPredict)$")
_TORCHSERVE = re.compile(r"/predictions/[^/]+(?:/[^/]+)?$")


def detect_kserve_v1(sample: Sample) -> str | None:
    """A list of predictions, from /v1/models/…:predict, with no sign that it is TensorFlow Serving."""
    if _V1.search(sample.path) and _has_list(sample.response, "predictions") and detect_tf_serving(sample) is None:
        return "a path /v1/models/…:predict, and `predictions`"
    return None


def detect_tf_serving(sample: Sample) -> str | None:
    """What TensorFlow Serving has and KServe V1 has not: versions in the path, a signature, columns, other verbs."""
    if not isinstance(sample.response, dict):
        return None
    if _TF_ALONE.search(sample.path) and sample.response.keys() & {"predictions", "outputs", "results", "result"}:
        return "a path /v1/models/…, with a version or a verb that are TensorFlow Serving's"
    if not _V1.search(sample.path):
        return None
    if "outputs" in sample.response:
        return "a path /v1/models/…:predict, and `outputs` by column"
    if isinstance(sample.request, dict) and "signature_name" in sample.request and "predictions" in sample.response:
        return "`signature_name` in the request, and `predictions`"
    return None


def detect_vertex(sample: Sample) -> str | None:
    """Predictions, with the model that Vertex AI says they are of, or from an endpoint's path."""
    if not _has_list(sample.response, "predictions"):
        return None
    if isinstance(sample.response, dict) and "deployedModelId" in sample.response:
        return "`predictions` and `deployedModelId`"
    return "a path /endpoints/…:predict, and `predictions`" if _VERTEX.search(sample.path) else None


def detect_torchserve(sample: Sample) -> str | None:
    """The path alone says it: the answer is whatever the model's handler gives."""
    if _TORCHSERVE.search(sample.path) and sample.response is not None:
        return "a path /predictions/…"
    return None


def _has_list(document: Any, key: str) -> bool:
    return isinstance(document, dict) and isinstance(document.get(key), list)
