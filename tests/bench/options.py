"""What is chosen on the command line for every benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console


@dataclass(frozen=True)
class Options:
    """`rounds` and `seconds` (for each side in each round): None takes the benchmark's own, or less where `quick`.

    `only` names the sides to measure; empty for all.
    """

    rounds: int | None = None
    seconds: float | None = None
    quick: bool = False
    only: tuple[str, ...] = ()
    console: Console = field(default_factory=Console)

    def progress(self, text: str) -> None:
        """Say what has been done so far; no part of the outcome."""
        self.console.print(text, style="dim", highlight=False, markup=False)
