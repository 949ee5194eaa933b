"""Protocols of inference servers: how their bodies are read. One file each, and a line in the table.

What is looked for in them by default stands in `config.presets`, under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shadowproxy.compare.bodies import Decode, decode


@dataclass(frozen=True, slots=True)
class Preset:
    """How one protocol's bodies are read."""

    request: Decode = decode
    response: Decode = decode


_JSON = Preset()

PRESETS: Mapping[str, Preset] = {}


def preset_of(name: str | None) -> Preset:
    """The preset of that name; that of plain JSON for none."""
    return _JSON if name is None else PRESETS[name]
