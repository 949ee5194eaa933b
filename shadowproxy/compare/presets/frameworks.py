"""Ray Serve, BentoML and LitServe: what they answer is the user's; what tells them is in headers and tutorials.

Sources: https://docs.ray.io/en/latest/serve, https://docs.bentoml.com, https://lightning.ai/docs/litserve.
"""

from __future__ import annotations

from shadowproxy.compare.presets.sample import Sample


def detect_bentoml(sample: Sample) -> str | None:
    """BentoML puts an id of its own on every answer."""
    return "the header X-BentoML-Request-ID" if "x-bentoml-request-id" in sample.response_headers else None


def detect_litserve(sample: Sample) -> str | None:
    """The path, the input and the output are those of LitServe's tutorials; what others chose, nothing tells."""
    request, response = sample.request, sample.response
    if not sample.path.endswith("/predict") or not isinstance(request, dict) or not isinstance(response, dict):
        return None
    theirs = request.keys() == {"input"} and response.keys() == {"output"}
    return "a path /predict, `input` and `output`" if theirs else None
