"""What people say to a running experiment: pause, stop, how much to sample. Kept in the store, watched by proxies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from shadowproxy.errors import PayloadError, Refused, StoreUnavailable
from shadowproxy.tasks import Pauses

log = logging.getLogger(__name__)

EVERY: Final = 0.25
"""Seconds between two looks at the controls: with the time of a reply, well within the second that is promised."""
_RETRY_MOST: Final = 1.0
"""Seconds between two looks while the store is away, at the most: back again, it is heard within the same second."""
REPORT_EVERY: Final = 5.0
"""Seconds after which a proxy says anew that it is there, and what it goes by."""
LIVE: Final = 3 * REPORT_EVERY
"""A proxy that was silent for so long is taken for gone."""
MAX_REASON: Final = 500
_END_OF_TIME: Final = 253402300799
"""The last second that a calendar has."""


class Controls(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force for all proxies of an experiment. Stored as JSON, so that a person can read and write it."""

    paused: bool = False
    """Whether nothing is mirrored."""
    stopped: bool = False
    """Whether the experiment has ended. Nothing is mirrored then either, and no `resume` changes that."""
    sample: float | None = None
    """Share of requests that are mirrored, in place of `proxy.mirror.sample`; None: what the configuration says."""
    version: int = 0
    """Counts the changes."""
    at: float = 0.0
    """Unix time of the last change, by the store's clock."""
    by: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if self.sample is not None and not 0 <= self.sample <= 1:
            raise ValueError(f"`sample` is a share from 0 to 1, not {self.sample}")
        if not 0 <= self.at <= _END_OF_TIME:
            raise ValueError(f"`at` is Unix time in seconds, not {self.at:g}")
        if len(self.reason) > MAX_REASON or len(self.by) > MAX_REASON:
            raise ValueError(f"`reason` and `by` are at most {MAX_REASON} characters")

    @property
    def silent(self) -> bool:
        """Whether nothing is mirrored, for either reason."""
        return self.paused or self.stopped

    @property
    def story(self) -> str:
        """What is in force, since when, by whom and why; in one line."""
        if self == Controls():
            return f"{self}; nobody has said otherwise"
        since = f" since {datetime.fromtimestamp(self.at, UTC).isoformat(' ', 'seconds')}" if self.at > 0 else ""
        told = f"{self},{since} by {self.by or 'unknown'}: {self.reason or 'no reason given'}"
        # People and programs write these; whoever reads them in a terminal must not be controlled by them.
        return "".join(character if character.isprintable() else " " for character in told)

    def __str__(self) -> str:
        what = "mirroring is paused" if self.paused else "mirroring is on"
        if self.stopped:
            what = "the experiment is stopped"
        if self.sample is not None:
            what += f", the sampling share is set to {self.sample:g}"
        return what


class ProxyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a proxy last said of itself."""

    version: int
    """Of the controls that it goes by."""
    age: float
    """Seconds ago."""


class ControlStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of an experiment's controls."""

    experiment: str
    controls: Controls
    proxies: dict[str, ProxyReport]
    """Those that were heard of within LIVE seconds, by name."""
    history: tuple[Controls, ...]
    """What each change put in force, newest first; the oldest are forgotten."""

    @property
    def behind(self) -> tuple[str, ...]:
        """Proxies that have not said yet that they go by the current controls."""
        return tuple(sorted(name for name, seen in self.proxies.items() if seen.version != self.controls.version))

    def describe(self, *, history: bool) -> str:
        """In lines for people; with what was before, if `history`."""
        lines = [f"{self.experiment}: {self.controls.story}"]
        confirmed = len(self.proxies) - len(self.behind)
        if self.proxies:
            lines.append(f"{confirmed} of {len(self.proxies)} proxies of this experiment go by it")
        else:
            lines.append("no proxy of this experiment runs now; one that starts will go by it")
        if history:
            lines += [f"  {change.version}: {change.story}" for change in self.history]
        return "\n".join(lines)


class ControlChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be changed; what is not given stays."""

    paused: bool | msgspec.UnsetType = msgspec.UNSET
    stopped: bool | msgspec.UnsetType = msgspec.UNSET
    sample: float | msgspec.UnsetType | None = msgspec.UNSET
    reason: str = ""
    by: str = ""

    def applied_to(self, controls: Controls, at: float) -> Controls:
        """The controls after the change. Raises ValueError for what can't be, and Refused for what can't be now."""
        stopped = controls.stopped if self.stopped is msgspec.UNSET else self.stopped
        if stopped and self.paused is False:
            raise Refused(
                "the experiment is stopped, and resuming it would count on as if it had not been: "
                "`shadowproxy experiment start` makes it run again"
            )
        return Controls(
            paused=controls.paused if self.paused is msgspec.UNSET else self.paused,
            stopped=stopped,
            sample=controls.sample if self.sample is msgspec.UNSET else self.sample,
            version=controls.version + 1,
            at=at,
            by=self.by,
            reason=self.reason,
        )


def decode(stored: bytes | None) -> Controls:
    """The controls as they are stored; the default where there are none. Raises PayloadError."""
    if stored is None:
        return Controls()
    try:
        return msgspec.json.decode(stored, type=Controls)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PayloadError(f"the controls can't be read: {error}; pause or resume writes them anew") from None


class ControlSource(Protocol):
    """What a watcher needs of a store."""

    async def read_controls(self) -> bytes | None:
        """The controls as they are stored. Raises StoreUnavailable, soon."""

    async def restore_controls(self, stored: bytes) -> None:
        """Store these where there are none. Raises StoreUnavailable."""

    async def report_controls(self, name: str, version: int) -> None:
        """Say that the proxy `name` goes by that version. Raises StoreUnavailable."""

    async def forget_proxy(self, name: str) -> None:
        """The proxy `name` is gone. Raises StoreUnavailable."""


class Watcher:
    """Keeps one proxy to the controls of its experiment: `apply` is called with each that comes into force.

    It asks again and again, since a subscription that has died can't be told from one to which nothing is said. While
    the store can't be reached, what was last known stays in force. So it does where the store has lost it (flushed, or
    failed over to a replica that was behind), and is then stored again: to go on mirroring is a decision of people.
    What is stored and can't be read stops mirroring, for whoever wrote it may have wanted that.
    """

    def __init__(
        self, store: ControlSource, name: str, apply: Callable[[Controls], None], *, every: float = EVERY
    ) -> None:
        self._store = store
        self._name = name
        self._apply = apply
        self._every = every
        self._stored: bytes | None = None
        self._current = Controls()
        self._lost = False
        self._unknown = False

    async def begin(self) -> None:
        """Look for the first time. While a store is away that may hold a pause, nothing is mirrored."""
        try:
            await self.look()
        except StoreUnavailable as error:
            log.warning("nothing is mirrored until the controls can be read: %s", error)
            self._lost = self._unknown = True
            self._apply(Controls(paused=True, reason="the controls have not been read yet"))

    async def look(self) -> bool:
        """Look once, and apply what has changed. Returns whether something has. Raises StoreUnavailable."""
        stored = await self._store.read_controls()
        unknown, self._unknown = self._unknown, False
        if stored == self._stored:
            if unknown:
                self._apply(self._current)
            return unknown
        if stored is None:
            assert self._stored is not None  # noqa: S101  (it differs from None; this is for the type checker)
            log.warning("the store has lost the controls; what was in force stays: %s", self._current)
            await self._store.restore_controls(self._stored)
            return False
        self._stored = stored
        try:
            controls = decode(stored)
        except PayloadError as error:
            log.error("mirroring stops: %s", error)
            controls = Controls(paused=True, version=self._current.version, reason=str(error)[:MAX_REASON])
        else:
            log.warning("%s", controls.story)
        self._current = controls
        self._apply(controls)
        return True

    async def run(self) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        report_at = clock()
        pauses = Pauses(self._every, max(self._every, _RETRY_MOST))
        while True:
            pause = self._every
            try:
                if await self.look() or clock() >= report_at:
                    await self._store.report_controls(self._name, self._current.version)
                    report_at = clock() + REPORT_EVERY
                if self._lost:
                    log.info("the controls can be read again")
                self._lost = False
                pauses.reset()
            except StoreUnavailable as error:
                if not self._lost:
                    log.warning("the controls can't be read, what was in force stays: %s", error)
                self._lost = True
                report_at = clock()
                pause = pauses.after_failure()
            await asyncio.sleep(pause)

    async def leave(self) -> None:
        """Say that this proxy is gone, if anybody listens."""
        try:
            await self._store.forget_proxy(self._name)
        except StoreUnavailable as error:
            log.debug("%s", error)
