"""What each protocol's preset looks for where a route doesn't say: expressions by key of the route.

A preset also says how bodies are read (see `compare.presets`); the names of the two tables are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

EXTRACTED = ("ids", "scores", "label", "probabilities", "text", "finish")
"""The keys of a route that say what to find in an answer."""

_PREDICTIONS = MappingProxyType({"scores": "response.body.predictions"})

PRESETS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "kserve-v1": _PREDICTIONS,
        "open-inference": {},
        "seldon": {},
        # By row, by column, and of `:regress`. Not `||`, to which an empty list is none.
        "tf-serving": {"scores": "not_null(response.body.predictions, response.body.outputs, response.body.results)"},
        "vertex": _PREDICTIONS,
        "torchserve": {},
        "sagemaker": {},
        "ray-serve": {},
        "bentoml": {},
        "litserve": {"scores": "to_array(response.body.output)"},
        "elasticsearch": {"ids": "response.body.hits.hits[*]._id", "scores": "response.body.hits.hits[*]._score"},
        "solr": {"ids": "response.body.response.docs[*].id", "scores": "response.body.response.docs[*].score"},
        "openai-chat": {
            # What is called is part of what is said: an answer may be nothing else.
            "text": "response.body.choices[0].message.[content, refusal, tool_calls[].function.[name, arguments][]][]",
            "finish": "response.body.choices[0].finish_reason",
        },
        "openai-completions": {
            "text": "response.body.choices[0].text",
            "finish": "response.body.choices[0].finish_reason",
        },
    }
)
"""By preset: the expressions that its protocol defines, by key among `EXTRACTED`."""


def with_preset(route: Mapping[str, Any]) -> dict[str, Any]:
    """A route as it stands in a configuration, with its preset's expressions where it has none of its own.

    A key that is given wins, `null` included: that switches it off.
    """
    preset = route.get("preset")
    found = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    return {**found, **route}
