"""Back-pressure: reading from one side is paused for as long as there is any reason to."""

from __future__ import annotations

import asyncio


def hold_reading(transport: asyncio.Transport, holds: int, reason: int, hold: bool) -> int:
    """Add the bit `reason` to `holds`, or take it back, and pause or resume reading with the first or the last of them.

    Returns the reasons that are left.
    """
    now = holds | reason if hold else holds & ~reason
    if not transport.is_closing():
        if now and not holds:
            transport.pause_reading()
        elif holds and not now:
            transport.resume_reading()
    return now
