"""Protocols of inference servers: how their bodies are read. One file each, and a line in the table.

What is looked for in them by default stands in `config.presets`, under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shadowproxy.compare.bodies import Decode, decode
from shadowproxy.compare.presets import elasticsearch, openai, solr
from shadowproxy.compare.presets.sample import Sample


def _undetected(_sample: Sample) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Preset:
    """How one protocol's bodies are read, and what tells them from others."""

    request: Decode = decode
    response: Decode = decode
    detect: Callable[[Sample], str | None] = _undetected
    """A short reason why a sample is of the protocol, in words; None where it is not."""


_JSON = Preset()

PRESETS: Mapping[str, Preset] = {
    "elasticsearch": Preset(detect=elasticsearch.detect),
    "solr": Preset(detect=solr.detect),
    "openai-chat": Preset(response=openai.response, detect=openai.detect_chat),
    "openai-completions": Preset(response=openai.response, detect=openai.detect_completions),
}


def preset_of(name: str | None) -> Preset:
    """The preset of that name; that of plain JSON for none."""
    return _JSON if name is None else PRESETS[name]
