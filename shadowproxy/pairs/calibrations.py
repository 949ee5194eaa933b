"""What guardrails took from the first pairs of an experiment, written once. It lives in the home partition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from shadowproxy.errors import PayloadError
from shadowproxy.pairs import scripts
from shadowproxy.pairs.client import Script
from shadowproxy.pairs.store import Store

_CALIBRATE: Final = Script(scripts.CALIBRATE)

Stored = Mapping[str, tuple[float, bytes]]
"""By the guardrail's name: from which start of a pair on it holds (Unix seconds), and what it says."""


async def calibrations(home: Store) -> Stored:
    """All that were written. Raises StoreUnavailable, and PayloadError where one can't be read."""
    return _stored(await home.command("HGETALL", "calibration"))


async def calibrate(home: Store, found: Mapping[str, bytes], *, newest: float, grace: float, resets: int) -> Stored:
    """Write those that aren't there yet, to hold from `grace` seconds after now on, by the store's clock, or after
    `newest` (Unix seconds) if that is later. Returns all that are there then.

    `resets` is that of the snapshot that they rest on: after another reset nothing is written. Raises likewise.
    """
    words = [word for name, payload in sorted(found.items()) for word in (name, payload)]
    return _stored(
        await home.run(_CALIBRATE, ("calibration", "totals"), resets, round(newest * 1000), round(grace * 1000), *words)
    )


def _stored(flat: Sequence[bytes]) -> Stored:
    found = {}
    for name, stored in zip(flat[::2], flat[1::2], strict=True):
        since, _, payload = stored.partition(b" ")
        if not since.isdigit():
            raise PayloadError(
                f"the calibration of {name!r} can't be read; update shadowproxy, or reset the experiment"
            )
        found[name.decode("utf-8", "replace")] = (int(since) / 1000, payload)
    return found
