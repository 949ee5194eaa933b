"""Where pairs wait on disk while the store doesn't take them, and what becomes of them when their process dies.

Each batch has its producer and sequence from the moment it is packed, and keeps them through the spool and every
attempt to deliver it: the store takes it once, however often it is sent (see `store.append`).

**What the account says.** A spooled pair is neither recorded nor dropped: in the account of its producer it is in
flight, until the store has it. That account is always some process's to bring to balance:

- while the producer lives, its own;
- when it has stopped in order with pairs in its spool, it leaves its account beside them, marked as closed. Whoever
  starts next with this directory takes the folder over, delivers the batches under the *dead* producer's name and
  sequence, and publishes the account with them recorded. Its own account is not touched: it never admitted them;
- when it was killed, the heir knows several states of its account: the one in the store (written with the last batch,
  or a second ago), the one beside the segments (written once a second while the store doesn't answer), the one in the
  newest batch of the spool, and the one in shared memory (see `journal`), which has every request, but is gone where
  the machine or its container is. All counts only grow, so the largest of each is the latest. What is eligible then
  and, when everything in the spool is delivered, neither recorded nor dropped, was in the memory of the dead process,
  and is dropped as `proxy_crashed`. What it admitted after the last of these states is in no account at all.

A batch that the dead process had sent and the store takes only after its heir has closed the account is stored, and
counted as dropped as well: an account may say that more was lost than was, never less.

**What is bounded.** `max_bytes` holds for all segments below the directory, whoever wrote them. Whatever is wrong with
the disk (full, read-only, failing) puts the spool out of service with one line in the log, and pairs wait in memory
alone, as they would without it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

from shadowproxy.config.settings import Spool as Settings
from shadowproxy.model import Accounting
from shadowproxy.pairs.folder import Backlog, Folder, Note, Writer, bytes_in
from shadowproxy.pairs.segments import SEGMENT_HEAD, Record, record_size

log = logging.getLogger(__name__)

_SEGMENT_LEAST: Final = 64 * 1024
_SEGMENT_MOST: Final = 8 * 1024**2
_RETRY: Final = 10.0
_COMPLAIN_EVERY: Final = 60.0

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def spool_of(settings: Settings, data_dir: str, experiment: str) -> Spool | None:
    """The spool that is configured, None where it is turned off. Touches nothing yet."""
    if not settings.max_bytes:
        return None
    directory = Path(data_dir) / "spool" if settings.dir is None else Path(settings.dir)
    return Spool(directory.absolute(), experiment, settings.max_bytes)


class Spool:
    """One producer's spool, and its way to those that dead producers left. Belongs to one event loop.

    All access to the disk is in one thread of its own, so that a disk that hangs holds up nothing else.
    """

    def __init__(
        self,
        directory: Path,
        experiment: str,
        max_bytes: int,
        *,
        retry: float = _RETRY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = directory
        self._experiment = experiment
        self._max_bytes = max_bytes
        self._segment_bytes = min(max(max_bytes // 16, _SEGMENT_LEAST), _SEGMENT_MOST)
        self._retry = retry
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._producer = ""
        self._folder: Folder | None = None
        self._writer: Writer | None = None
        self._backlog = Backlog([], 0, self._opening)
        self._end = 0
        self._used = 0
        self._written = 0
        self._retry_at = 0.0
        self._trouble = ""
        self._complained: dict[str, float] = {}
        self._praised = -math.inf
        self.room = asyncio.Event()
        """Set when there is more room than before."""

    def __repr__(self) -> str:
        return f"<Spool {self.directory} {self.pairs} pairs, {self.bytes} bytes>"

    @property
    def pending(self) -> bool:
        """Whether there may be batches to deliver."""
        return len(self._backlog) > 0

    @property
    def pairs(self) -> int:
        """Pairs that wait on disk."""
        return max(0, self._end - self._backlog.through) if self.pending else 0

    @property
    def bytes(self) -> int:
        """Bytes of this producer's segments."""
        return self._written - self._backlog.freed

    def has_producers(self) -> bool:
        """Whether a producer of this experiment, dead or alive, has a folder here. Blocks for a moment."""
        try:
            return any((self.directory / self._experiment).iterdir())
        except OSError:
            return False

    async def open(self, producer: str) -> None:
        """Claim the producer's folder. Where that can't be done the spool is out of service, and tried again later."""
        self._producer = producer
        await self._attempt(self._claim)

    async def append(self, record: Record) -> bool:
        """Keep a batch. False where there is no room, or the spool is out of service."""
        taken = await self._attempt(self._append, record)
        if taken:
            self._praise()
        elif taken is False:
            self._complain(
                "full",
                f"the spool in {self.directory} is full ({self._max_bytes} bytes); "
                "pairs wait in memory, and past recorder.max_bytes the newest are dropped",
            )
        return bool(taken)

    async def peek(self) -> tuple[Record | None, int]:
        """The oldest batch that is not delivered, and how many pairs before it are found to be missing.

        None at the end. Raises OSError where it can't be read now and may be later.
        """
        freed, lost = self._backlog.freed, self._backlog.lost
        record = await self._run(self._peek)
        if self._backlog.freed > freed:
            self.room.set()
        return record, self._backlog.lost - lost

    def delivered(self, sequence: int, through: int) -> None:
        """The store has this batch: one that `peek` gave, or one that may be on its way into the spool."""
        self._backlog.delivered(sequence, through)

    async def note(self, account: Accounting) -> None:
        """Keep the account for an heir."""
        await self._attempt(self._note, account)

    async def close(self, account: Accounting, *, complete: bool) -> None:
        """Leave the folder to an heir with the final account, or remove it where all is `complete`."""
        self._retry_at = 0.0
        if self._producer:
            await self._attempt(self._close, account, complete)
        self._thread.shutdown(wait=False)

    async def abandoned(self, passed: Collection[str]) -> Estate | None:
        """Take over what a dead producer of this experiment left, one that is not among those `passed`."""
        return await self._attempt(self._take_over, passed)

    async def strangers(self) -> dict[str, int]:
        """By name, the other experiments that have segments here, and their bytes."""
        return await self._attempt(self._others) or {}

    # Below: in the loop

    async def _run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _attempt(self, work: Callable[[*Ts], T], *args: *Ts) -> T | None:
        """None where the spool is out of service, or is so from now on."""
        if self._clock() < self._retry_at:
            return None
        try:
            return await self._run(work, *args)
        except OSError as error:
            self._retry_at = self._clock() + self._retry
            self._complain(
                "out of service",
                f"the spool in {self.directory} is out of service ({error.strerror or error}); pairs wait in memory "
                f"only, and are lost with the process; it is tried again every {self._retry:g} s",
            )
            return None

    def _complain(self, trouble: str, what: str) -> None:
        """Once, until it has taken pairs again; and seldom where that changes all the time."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        now = self._clock()
        if now - self._complained.get(trouble, -math.inf) > _COMPLAIN_EVERY:
            self._complained[trouble] = now
            log.warning("%s", what)

    def _praise(self) -> None:
        if self._trouble:
            log.log(
                logging.INFO if self._complained[self._trouble] > self._praised else logging.DEBUG,
                "the spool in %s takes pairs again",
                self.directory,
            )
            self._trouble, self._praised = "", self._clock()

    # Below: in the thread

    def _claim(self) -> Folder:
        if self._folder is None or not self._folder.path.exists():
            if self._folder is not None:
                self._folder.release()
            self._folder = Folder.made(self.directory / self._experiment / self._producer)
            # Where the folder was deleted under us its segments are still to be missed: no name is used twice.
            self._writer = Writer(self._folder, self._segment_bytes, self._writer.number if self._writer else 0)
        return self._folder

    def _append(self, record: Record) -> bool:
        writer, size = self._writer, record_size(record)
        begins = writer is None or not writer.fits(size)
        size += SEGMENT_HEAD * begins
        if begins or self._used + size > self._max_bytes:
            # Others write below this directory too, and what was delivered is gone by now.
            self._used = bytes_in(self.directory)
        if self._used + size > self._max_bytes:
            return False
        if writer is None or begins:
            writer = self._begin(record.through - record.pairs)
        writer.append(record)
        self._used += size
        self._written += size
        self._end = record.through
        return True

    def _begin(self, through: int) -> Writer:
        if self._writer is not None:
            self._writer.end(sync=True)
        self._claim()
        writer = self._writer
        assert writer is not None  # noqa: S101  (claimed; this is for the type checker)
        self._backlog.add(writer.begin(through))
        return writer

    def _peek(self) -> Record | None:
        record = self._backlog.peek()
        if record is None:
            self._backlog.settle(self._end)
        return record

    def _opening(self, path: Path) -> None:
        if self._writer is not None:
            self._writer.yield_to_reader(path)

    def _note(self, account: Accounting) -> None:
        self._claim().note(Note(account))

    def _close(self, account: Accounting, complete: bool) -> None:
        if complete and not self.pending:
            if self._folder is not None:
                self._folder.remove()
            return
        folder = self._claim()
        if self._writer is not None:
            self._writer.end(sync=True)
        folder.note(Note(account, closed=True))
        folder.release()

    def _take_over(self, passed: Collection[str]) -> Estate | None:
        home = self.directory / self._experiment
        if not home.exists():
            return None
        for path in sorted(home.iterdir()):
            if path.name in passed or path.name.startswith(".") or path.name == self._producer:
                continue
            folder = Folder.taken_over(path)
            if folder is not None:
                return Estate(self._thread, folder)
        return None

    def _others(self) -> dict[str, int]:
        if not self.directory.exists():
            return {}
        found = {
            entry.name: bytes_in(entry)
            for entry in self.directory.iterdir()
            if entry.is_dir() and entry.name != self._experiment
        }
        return {name: size for name, size in found.items() if size}


class Estate:
    """What one dead producer left: its segments and its account. Ours alone until it is removed or released."""

    def __init__(self, thread: Executor, folder: Folder) -> None:
        self._thread = thread
        self._folder = folder
        self._backlog = Backlog(folder.segments())

    def __repr__(self) -> str:
        return f"<Estate {self._folder.path}>"

    @property
    def producer(self) -> str:
        """Under whose name it is delivered."""
        return self._folder.producer

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self._folder.path

    @property
    def lost(self) -> int:
        """Pairs known to have been in it that can't be read, so far."""
        return self._backlog.lost

    @property
    def size(self) -> int:
        """How many segments are left."""
        return len(self._backlog)

    async def noted(self) -> Note | None:
        """The account that its producer left beside the segments."""
        return await self._run(self._folder.noted)

    async def peek(self) -> Record | None:
        """The oldest batch that is not delivered; None at the end. Raises OSError, and NewerFormat."""
        return await self._run(self._peek)

    def _peek(self) -> Record | None:
        record = self._backlog.peek()
        if record is None:
            self._backlog.settle()
        return record

    def delivered(self, sequence: int) -> None:
        """The store has the batches up to this one."""
        self._backlog.delivered(sequence, 0)

    def pop(self) -> None:
        """The store has the batch that `peek` gave."""
        self._backlog.pop()

    async def remove(self) -> None:
        """All is delivered: delete it. Raises OSError."""
        await self._run(self._folder.remove)

    def release(self) -> None:
        """Leave what is left to another heir, or to a later attempt."""
        self._folder.release()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
