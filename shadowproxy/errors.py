"""The errors a user can meet. Every message says what happened, where, and what to do.

Third-party exceptions are turned into one of these at the boundary of the room that owns the dependency; nothing
above that room catches, say, a `redis.RedisError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ShadowproxyError(Exception):
    """Base of every error that is meant for a person to read. The message is one line."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a configuration.

    `path` is where, as `$.proxy.listen` or `$.routes[0].ids`; `message` says what is wrong and what would be right.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ConfigError(ShadowproxyError):
    """The configuration can't be used. Carries *all* its faults, so that one round of mending is enough."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        lines = "\n".join(f"  {fault}" for fault in self.faults)
        noun = "fault" if len(self.faults) == 1 else "faults"
        super().__init__(f"{source}: {len(self.faults)} {noun} in the configuration\n{lines}")


class StartError(ShadowproxyError):
    """A process can't start: a port in use, a file that is missing, an extra that isn't installed."""


class Unfinished(ShadowproxyError):  # noqa: N818  (how a stop ended, read as such at the call site)
    """Processes that were told to stop did not end in order: what they had under way may be lost."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(
            f"stopped, but not in order: {', '.join(self.names)} (killed past its grace, or ended with an error, see "
            "above); what was under way there may be lost"
        )


class StoreUnavailable(ShadowproxyError):  # noqa: N818  (a state of the world, read as such at the call site)
    """Redis can't be reached, or refuses us. Whoever holds data keeps it and tries again."""


class Refused(ShadowproxyError):  # noqa: N818  (what was answered, read as such at the call site)
    """What was asked can't be done as things stand. Nothing was changed; the message says what has to be done first."""


class ApiUnavailable(ShadowproxyError):  # noqa: N818  (a state of the world, as above)
    """The API can't be reached, or has no verdict to give. Whoever asked can't tell what to do."""


class Fenced(ShadowproxyError):  # noqa: N818  (what was done to us, read as such at the call site)
    """A commit was refused because entries in it now belong to another worker; nothing of it was stored.

    `lost` are the entry ids that are no longer ours. The right answer is to forget them and commit the rest.
    """

    def __init__(self, lost: Sequence[str]) -> None:
        self.lost = tuple(lost)
        super().__init__(
            f"{len(self.lost)} stream entries were taken over by another worker: {', '.join(self.lost[:3])}"
        )


class PayloadError(ShadowproxyError):
    """Bytes from the stream, or a stored state, that can't be read. Goes to the dead-letter stream with this reason."""
