"""What a preset is."""

from __future__ import annotations

from dataclasses import dataclass

from shadowproxy.compare.bodies import Decode, decode
from shadowproxy.compare.presets.sample import Detect, undetected


@dataclass(frozen=True, slots=True)
class Preset:
    """How one protocol's bodies are read, and what tells them from others."""

    request: Decode = decode
    response: Decode = decode
    detect: Detect = undetected
