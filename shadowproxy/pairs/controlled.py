"""What people say to an experiment while it runs (see `controls`), where it is stored."""

from __future__ import annotations

from typing import Final

import msgspec

from shadowproxy.errors import PayloadError
from shadowproxy.pairs import scripts
from shadowproxy.pairs.client import Script, boundary
from shadowproxy.pairs.controls import LIVE, ControlChange, Controls, ControlStatus, ProxyReport
from shadowproxy.pairs.controls import decode as decode_controls
from shadowproxy.pairs.partition import Partition
from shadowproxy.pairs.records import mapping_of

_MAX_HISTORY: Final = 200
_FORGET_PROXY: Final = 3600.0

_CONTROL: Final = Script(scripts.CONTROL)
_REPORT: Final = Script(scripts.REPORT)
_CONTROL_STATUS: Final = Script(scripts.CONTROL_STATUS)


class Controlled(Partition):
    """The controls of an experiment; they live in its home partition. See `Store`."""

    async def read_controls(self) -> bytes | None:
        """The controls as they are stored, None where nobody has said anything. Answers or raises within a second."""
        with boundary(self.url):
            found = await self._watcher.command("GET", self._controls)
        return None if found is None else bytes(found)

    async def restore_controls(self, stored: bytes) -> None:
        """Store these again, unless there are others."""
        with boundary(self.url):
            await self._watcher.command("SET", self._controls, stored, "NX")

    async def report_controls(self, name: str, version: int) -> None:
        """Say that the proxy `name` is there, and goes by that version of the controls."""
        with boundary(self.url):
            await self._watcher.run(_REPORT, (self._watchers,), name, version, round(_FORGET_PROXY * 1000))

    async def forget_proxy(self, name: str) -> None:
        """Forget what the proxy `name` has reported."""
        with boundary(self.url):
            await self._watcher.command("HDEL", self._watchers, name)

    async def change_controls(self, change: ControlChange) -> Controls:
        """Put a change in force and into the history. Returns the controls after it.

        What is there and can't be read is replaced. Raises ValueError for a change that can't be, and Refused for one
        that can't be now.
        """
        with boundary(self.url):
            while True:
                found = await self._client.command("GET", self._controls) or b""
                try:
                    before = decode_controls(found or None)
                except PayloadError:
                    before = Controls()
                seconds, micros = await self._client.command("TIME", near=self._controls)
                after = change.applied_to(before, int(seconds) + int(micros) / 1e6)
                new = msgspec.json.encode(after)
                keys = (self._controls, self._control_history)
                if await self._client.run(_CONTROL, keys, found, new, _MAX_HISTORY):
                    return after

    async def control_status(self) -> ControlStatus:
        """What is in force, who goes by it, and what was before. Raises PayloadError where it can't be read."""
        keys = (self._controls, self._control_history, self._watchers)
        found, history, watchers, now = await self._run(_CONTROL_STATUS, keys)
        milliseconds = int(now[0]) * 1000 + int(now[1]) // 1000
        proxies = {}
        for name, stored in mapping_of(watchers).items():
            version, _, at = stored.partition(b" ")
            age = max(0.0, (milliseconds - int(at)) / 1000)
            if age <= LIVE:
                proxies[name] = ProxyReport(version=int(version), age=age)
        return ControlStatus(
            experiment=self.name,
            controls=decode_controls(found),
            proxies=proxies,
            history=tuple(map(decode_controls, history)),
        )
