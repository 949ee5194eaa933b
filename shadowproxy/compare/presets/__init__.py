"""Protocols of inference servers: how their bodies are read. One file each, and a line in the table.

What is looked for in them by default stands in `config.presets`, under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping

from shadowproxy.compare.presets import elasticsearch, openai, solr
from shadowproxy.compare.presets.preset import Preset

_JSON = Preset()

PRESETS: Mapping[str, Preset] = {
    "elasticsearch": elasticsearch.PRESET,
    "solr": solr.PRESET,
    "openai-chat": openai.CHAT,
    "openai-completions": openai.COMPLETIONS,
}


def preset_of(name: str | None) -> Preset:
    """The preset of that name; that of plain JSON for none."""
    return _JSON if name is None else PRESETS[name]
