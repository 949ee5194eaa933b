"""A proxy's account where it outlives the process whenever that is killed: in memory that the kernel keeps.

What a proxy publishes and what it leaves in its spool is up to a second old. Here every count stands at once, so that
whoever takes over a killed proxy's spool can account for each request that it had admitted (see `adoption`).

It is a file of shared memory (tmpfs) and not one beside the spool: a disk that hangs must not hold up a client, and a
disk that fails must not end the proxy. It is gone with the machine, and with a container that does not share
/dev/shm with its successor; the account is then as old as it was published.

The file: four bytes, the length of what follows; JSON, naming the counts (`_Head`); and, from the next multiple of
eight on, the counts, 8 bytes each in the machine's order.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from shadowproxy.model import Accounting
from shadowproxy.pairs.ledger import DROPPED, SKIPPED, Ledger

log = logging.getLogger(__name__)

PLACE: Final = Path("/dev/shm")  # noqa: S108  (shared memory is what it is for)
_VERSION: Final = 1
_MOST_BYTES: Final = 1 << 16


class _Head(msgspec.Struct, frozen=True):
    """What the counts are: of eligible requests, of recorded pairs, and of these reasons, in this order."""

    v: int
    skipped: tuple[str, ...]
    dropped: tuple[str, ...]


class Journal:
    """The account of one living process."""

    def __init__(self, path: Path, memory: mmap.mmap) -> None:
        self._path = path
        self._memory = memory

    @classmethod
    def of(cls, producer: str, ledger: Ledger, place: Path = PLACE) -> Journal | None:
        """Keep that producer's ledger from here on. None where there is no shared memory to be had."""
        head = msgspec.json.encode(_Head(_VERSION, tuple(SKIPPED), tuple(DROPPED)))
        begin = _begin(len(head))
        size = begin + 8 * (2 + len(SKIPPED) + len(DROPPED))
        path = _path(place, producer)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                # All of it now: memory that turns out to be missing when it is written to ends a process.
                os.posix_fallocate(handle, 0, size)
                memory = mmap.mmap(handle, size)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            finally:
                os.close(handle)
        except OSError as error:
            log.info("no account is kept in %s: %s", place, error.strerror)
            return None
        memory[: 4 + len(head)] = len(head).to_bytes(4, "little") + head
        ledger.keep_in(memoryview(memory)[begin:].cast("Q"))
        return cls(path, memory)

    def remove(self) -> None:
        """The process stops in order, and has said its last word elsewhere."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def read(producer: str, place: Path = PLACE) -> Accounting | None:
    """The account that a dead process kept; None where it kept none here, or it can't be read."""
    path = _path(place, producer)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            # Anybody may write to that folder.
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                log.error("%s is not ours and is done without", path)
                return None
            stored = file.read(_MOST_BYTES)
        return _account(stored)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, struct.error, msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.error("%s can't be read and is done without: %s", path, error)
        return None


def forget(producer: str, place: Path = PLACE) -> None:
    """Its account is closed."""
    with contextlib.suppress(OSError):
        _path(place, producer).unlink()


def _account(stored: bytes) -> Accounting:
    length = int.from_bytes(stored[:4], "little")
    head = msgspec.json.decode(stored[4 : 4 + length], type=_Head)
    if head.v != _VERSION:
        raise ValueError(f"it is of version {head.v}, this program reads {_VERSION}")
    begin, many = _begin(length), 2 + len(head.skipped) + len(head.dropped)
    eligible, recorded, *counts = struct.unpack_from(f"{many}Q", stored, begin)
    skipped = _counted(head.skipped, counts)
    dropped = _counted(head.dropped, counts[len(head.skipped) :])
    # Requests are what they came to: the process may have been killed between two counts.
    return Accounting(eligible + sum(skipped.values()), eligible, recorded, skipped, dropped)


def _counted(reasons: Sequence[str], counts: Sequence[int]) -> dict[str, int]:
    return {reason: count for reason, count in zip(reasons, counts, strict=False) if count}


def _begin(length: int) -> int:
    return (4 + length + 7) // 8 * 8


def _path(place: Path, producer: str) -> Path:
    return place / f"shadowproxy-{producer.replace('/', '_')}"
