"""One producer's folder in a spool: who owns it, its segments, and the account beside them. Everything here blocks.

    <spool>/<experiment>/<producer>/lock            held (flock) by whoever owns the folder, for as long as it lives
                                    00000001.seg    segments in the order they were written (see `segments`)
                                    account         the producer's account, where the store may not have the latest

The lock ends with the process however it ends: a folder that can be locked is one whose producer is dead. A folder is
made under another name and gets its own when the lock is held, so that nobody takes a living producer's.

Pairs are personal data: folders are 0700, files 0600.

What a process has written outlives it, also where it is killed. What the *machine* had not yet written back is lost
when the machine dies: a segment is synced when it is full or its producer stops in order, and not before, since a sync
per batch would cost more than the spool is worth.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from shadowproxy.model import Accounting
from shadowproxy.pairs.segments import (
    MARKER_BYTES,
    Damage,
    Record,
    Segment,
    record_parts,
    segment_head,
)

log = logging.getLogger(__name__)

_LOCK: Final = "lock"
_ACCOUNT: Final = "account"
_ACCOUNT_NEXT: Final = "account.next"
_SEGMENT_NAME: Final = re.compile(r"\d{8}\.seg")
_PASSING: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN}
"""What keeps a file from being read and says nothing about the file."""


class Note(msgspec.Struct, frozen=True):
    """What stands in the file `account`."""

    account: Accounting
    closed: bool = False
    """Whether the producer stopped in order: what the account has in flight is then what the segments hold."""


class Folder:
    """A producer's folder whose lock we hold. See `made` and `taken_over`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def made(cls, path: Path) -> Folder:
        """Make the folder, and those of its experiment and of the spool. Raises OSError."""
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            _make(draft)
        except FileNotFoundError:
            # The last producer of the experiment has just removed its folder, and that of the experiment with it.
            _make(draft)
        lock = -1
        try:
            lock = os.open(draft / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(path)
        except BaseException:
            if lock >= 0:
                os.close(lock)
            with contextlib.suppress(OSError):
                (draft / _LOCK).unlink()
                draft.rmdir()
            raise
        return cls(path, lock)

    @classmethod
    def taken_over(cls, path: Path) -> Folder | None:
        """The folder of a dead producer; None where it lives, or somebody else was first, or it isn't one of ours."""
        try:
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the two calls the last owner may have removed the folder, and the lock with it.
            if os.path.samestat(os.fstat(lock), (path / _LOCK).stat()):
                return cls(path, lock)
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    @property
    def producer(self) -> str:
        """Whose it is."""
        return self.path.name

    def segments(self) -> list[Path]:
        """Oldest first."""
        return sorted(entry for entry in self.path.iterdir() if _SEGMENT_NAME.fullmatch(entry.name))

    def note(self, note: Note) -> None:
        """Write the account, in place of an older one. Raises OSError."""
        draft = self.path / _ACCOUNT_NEXT
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(note))
            if note.closed:
                file.flush()
                os.fsync(handle)
        draft.rename(self.path / _ACCOUNT)

    def noted(self) -> Note | None:
        """The account that was written last; None where there is none or it can't be read."""
        try:
            return msgspec.json.decode((self.path / _ACCOUNT).read_bytes(), type=Note)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.error("%s can't be read and is done without: %s", self.path / _ACCOUNT, error)
            return None

    def release(self) -> None:
        """Let others take it over."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Delete what is ours in it, and the folder where nothing else is. Raises OSError."""
        for path in (*self.segments(), self.path / _ACCOUNT, self.path / _ACCOUNT_NEXT, self.path / _LOCK):
            path.unlink(missing_ok=True)
        self.release()
        if _removed(self.path):
            _removed(self.path.parent)
        else:
            strangers = ", ".join(sorted(entry.name for entry in self.path.iterdir()))
            log.warning("%s is left where it is: %s in it is not shadowproxy's", self.path, strangers)


def _make(folder: Path) -> None:
    for path in (folder.parent.parent, folder.parent):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)


def _removed(folder: Path) -> bool:
    """Whether the folder was empty; then it is gone. Raises OSError."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


class Backlog:
    """The segments of one folder, read from the oldest on: `peek`, deliver, `pop`.

    One segment at a time is in memory. A segment that has been read to its end is deleted.
    """

    def __init__(
        self, paths: Iterable[Path], through: int | None = None, opening: Callable[[Path], None] | None = None
    ) -> None:
        """`through`: pairs that were written before these segments, None where only the first of them says it.

        `opening` is told of each segment before it is read.
        """
        self._paths = deque(paths)
        self._opening = opening
        self._records: Iterator[Record | Damage] | None = None
        self._peeked: Record | None = None
        self._through = through
        self._claimed = 0
        self._delivered = 0
        self.lost = 0
        """Pairs known to be missing, so far."""
        self.freed = 0
        """Bytes of the segments that were deleted."""

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def through(self) -> int:
        """Pairs of the producer that are delivered or missing."""
        return self._through or 0

    def add(self, path: Path) -> None:
        """One more segment, the newest."""
        self._paths.append(path)

    def delivered(self, sequence: int, through: int) -> None:
        """Batches up to `sequence`, and pairs up to `through`, need no reading any more."""
        self._delivered = max(self._delivered, sequence)
        if self._through is not None:
            self._through = max(self._through, through)

    def peek(self) -> Record | None:
        """The oldest batch that is not delivered; None at the end. Damage is logged, and counted in `lost`.

        Raises NewerFormat, and OSError where a file can't be read now and may be later.
        """
        while self._peeked is None or self._peeked.sequence <= self._delivered:
            if self._peeked is not None:
                self.pop()
            elif self._records is not None:
                self._read(self._records)
            elif self._paths:
                self._records = self._open(self._paths[0])
            else:
                return None
        return self._peeked

    def pop(self) -> None:
        """The batch that `peek` gave is delivered."""
        if self._peeked is not None:
            self.delivered(self._peeked.sequence, self._peeked.through)
            self._peeked = None

    def settle(self, through: int = 0) -> None:
        """Nothing more will come: count what is missing at the end. `through` is what was written in all, if known."""
        self._miss(max(through, self._claimed))

    def _read(self, records: Iterator[Record | Damage]) -> None:
        found = next(records, None)
        if found is None:
            self._records = None
            self._discard(self._paths.popleft())
        elif isinstance(found, Damage):
            self._claimed = max(self._claimed, found.through)
            log.error("%s, offset %d: %s; %d bytes skipped", self._paths[0], found.offset, found.what, found.size)
        else:
            self._miss(found.through - found.pairs)
            self._peeked = found

    def _open(self, path: Path) -> Iterator[Record | Damage]:
        if self._opening is not None:
            self._opening(path)
        try:
            segment = Segment(path.read_bytes())
        except OSError as error:
            if error.errno in _PASSING:
                raise
            return iter([Damage(0, 0, f"can't be read: {error.strerror}")])
        if segment.through is not None:
            self._miss(segment.through)
        return iter(segment)

    def _miss(self, before: int) -> None:
        """What can be read next comes after `before` pairs."""
        if self._through is not None:
            self.lost += max(0, before - self._through)
        self._through = max(self.through, before)

    def _discard(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("%s is done with and can't be deleted: %s", path, error.strerror)
        else:
            self.freed += size


class Writer:
    """Appends batches to segments of a folder of our own."""

    def __init__(self, folder: Folder, segment_bytes: int, number: int = 0) -> None:
        """`number` is that of the segment before the first."""
        self.number = number
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._handle = -1
        self._path: Path | None = None
        self._marker = b""
        self._size = 0

    @property
    def open(self) -> bool:
        """Whether a segment is being written."""
        return self._handle >= 0

    def fits(self, size: int) -> bool:
        """Whether a record of `size` bytes goes into the segment that is being written."""
        return self.open and self._size + size <= self._segment_bytes

    def begin(self, through: int) -> Path:
        """Another segment; `through` as in `segment_head`. Raises OSError."""
        self.number += 1
        path = self._folder.path / f"{self.number:08d}.seg"
        self._marker = secrets.token_bytes(MARKER_BYTES)
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        self._path, self._size = path, 0
        try:
            self._write(segment_head(self._marker, through))
        except BaseException:
            self.end()
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return path

    def append(self, record: Record) -> None:
        """Write a record after the others. Raises OSError; the segment then ends before it, or takes no more."""
        self._write(*record_parts(self._marker, record))

    def yield_to_reader(self, path: Path) -> None:
        """Write no more to the segment at `path`: it is about to be read, and then deleted."""
        if self.open and path == self._path:
            self.end()

    def end(self, *, sync: bool = False) -> None:
        """Close the segment. Raises OSError where it was to be synced and can't be."""
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            try:
                if sync:
                    os.fdatasync(handle)
            finally:
                os.close(handle)

    def _write(self, *parts: bytes | memoryview) -> None:
        left = deque(memoryview(part) for part in parts if part)
        try:
            while left:
                written = os.writev(self._handle, left)
                while left and written >= len(left[0]):
                    written -= len(left.popleft())
                if left:
                    left[0] = left[0][written:]
        except OSError:
            # Half a record would hide those after it from nobody, but cost its room for ever.
            try:
                os.ftruncate(self._handle, self._size)
                os.lseek(self._handle, self._size, os.SEEK_SET)
            except OSError:
                self.end()
            raise
        self._size += sum(map(len, parts))


def bytes_in(spool: Path) -> int:
    """Bytes of all segments of all producers of all experiments."""
    total = 0
    for folder, _, names in os.walk(spool):
        for name in names:
            if _SEGMENT_NAME.fullmatch(name):
                with contextlib.suppress(OSError):
                    total += (Path(folder) / name).stat().st_size
    return total
