"""Waiting for a verdict that decides: looked at again and again, through outages, until a time is up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from shadowproxy.errors import ApiUnavailable, StoreUnavailable
from shadowproxy.verdict.record import State, Verdict


@dataclass(frozen=True, slots=True)
class Look:
    """What is known after one look."""

    verdict: Verdict | None
    """The last that was had, of this look or an earlier one; None if there was none yet."""
    trouble: str
    """Why this look gave none; empty where it did."""
    elapsed: float
    """Seconds since the waiting began."""

    @property
    def decided(self) -> bool:
        """Whether there is nothing more to wait for: promote, rollback, or undecided at the horizon."""
        seen = None if self.trouble else self.verdict
        return seen is not None and (seen.state is not State.CONTINUE or seen.exhausted)


async def follow(
    look: Callable[[], Awaitable[Verdict]],
    *,
    every: float,
    timeout: float,  # noqa: ASYNC109  (of the whole, not of one call)
    stop: asyncio.Event,
) -> AsyncGenerator[Look, None]:
    """Look every so many seconds, until it is decided, `timeout` seconds are over or `stop` is set; once at least.

    Whatever can't be reached is tried again. Raises PayloadError: what is stored will not mend itself.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    verdict: Verdict | None = None
    trouble = "there was no answer before the time was up"
    while True:
        before, trouble = trouble, ""
        try:
            async with asyncio.timeout_at(began + timeout):
                verdict = await look()
        except (ApiUnavailable, StoreUnavailable) as error:
            trouble = str(error)
        except TimeoutError:
            if not before:
                # A look that the end of the time has cut short says nothing of whether it would have been answered.
                return
            trouble = before
        seen = Look(verdict, trouble, clock() - began)
        yield seen
        left = began + timeout - clock()
        if seen.decided or stop.is_set() or left <= 0:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), min(every, left))
        if stop.is_set() or clock() >= began + timeout:
            return
