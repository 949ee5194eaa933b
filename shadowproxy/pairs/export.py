"""Pairs into files: JSON lines, Parquet, and tables of Delta Lake.

A file is written under another name beside its own and gets that when it is complete, so nobody ever reads half of one.
A Delta table is appended to, commit by commit; each commit says how far it goes, so that the next export goes on there
and nothing is in the table twice, whatever ended the last one.

Recorded bodies are personal data: files are made for their owner's eyes only (0600).
"""

from __future__ import annotations

import asyncio
import enum
import gzip
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, aclosing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import zstandard

from shadowproxy.errors import StartError
from shadowproxy.pairs.lines import Undo, line_of
from shadowproxy.pairs.reading import Batch, Position, Reading

if TYPE_CHECKING:
    from shadowproxy.pairs.tables import Rows


_SUFFIXES: Final = {".jsonl": "jsonl", ".jsonl.gz": "jsonl", ".jsonl.zst": "jsonl", ".parquet": "parquet"}


class Format(enum.StrEnum):
    """What pairs are written as."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    DELTA = "delta"


class Sink(Protocol):
    """Where pairs go. Its methods block; they may run in any thread, one at a time."""

    def positions(self, partitions: int) -> Mapping[int, Position]:
        """For each of so many partitions, where reading should go on; empty to begin at the beginning."""

    def write(self, batch: Batch) -> None:
        """Take the pairs of a batch. Raises StartError where they can't be written."""

    def finish(self) -> None:
        """Complete what was begun. Raises StartError."""

    def discard(self) -> None:
        """Leave nothing of what isn't complete."""


def format_of(target: str) -> Format:
    """The format that a name stands for. Raises StartError where it stands for none.

    >>> format_of("a/pairs.jsonl.gz"), format_of("s3://bucket/pairs.delta/")
    (<Format.JSONL: 'jsonl'>, <Format.DELTA: 'delta'>)
    """
    for suffix, name in _SUFFIXES.items():
        if target.endswith(suffix):
            return Format(name)
    if target.rstrip("/").endswith(".delta") or Path(target, "_delta_log").is_dir():
        return Format.DELTA
    raise StartError(
        f"{target}: what to write can't be told from the name; end it with {', '.join(_SUFFIXES)} or .delta (a "
        "directory), or say --format"
    )


def sink_for(target: str, form: Format, experiment: str, undo: Undo, *, overwrite: bool = False) -> Sink:
    """The sink for a file's name, or a directory's or URL's for Delta.

    Raises StartError where it can't be written, or the extra that it needs isn't installed.
    """
    if form is Format.DELTA:
        from shadowproxy.pairs.delta import DeltaSink

        return DeltaSink(target, experiment, undo)
    if "://" in target:
        raise StartError(f"{target}: only Delta tables are written to URLs; name a file")
    path = Path(target)
    if path.is_dir():
        raise StartError(f"{path}: is a directory; name a file in it")
    if path.exists() and not overwrite:
        raise StartError(f"{path}: exists already; name another file, or say --overwrite")
    return ParquetSink(path, undo) if form is Format.PARQUET else LinesSink(path, undo)


class _File:
    """A file that has its name only when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            self.file = os.fdopen(os.open(self._partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "wb")
        except OSError as error:
            raise StartError(f"{path}: can't be written: {error.strerror}; choose another place") from None

    def finish(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._partial.replace(self.path)

    def discard(self) -> None:
        with suppress(OSError):
            self.file.close()
        self._partial.unlink(missing_ok=True)


class LinesSink:
    """JSON lines, one for each pair; gzip or zstd by the name's end."""

    def __init__(self, path: Path, undo: Undo) -> None:
        self._file = _File(path)
        self._undo = undo
        self._stack = ExitStack()
        self._out: Any = self._file.file
        if path.suffix == ".gz":
            self._out = self._stack.enter_context(gzip.GzipFile("", "wb", 6, self._file.file))
        elif path.suffix == ".zst":
            compressor = zstandard.ZstdCompressor(level=3)
            self._out = self._stack.enter_context(compressor.stream_writer(self._file.file, closefd=False))

    def positions(self, partitions: int) -> Mapping[int, Position]:
        """A file begins at the beginning."""
        return {}

    def write(self, batch: Batch) -> None:
        """One line for each pair."""
        with _writing(self._file.path):
            for number, pair in enumerate(batch.pairs, batch.first):
                line = line_of(pair, partition=batch.partition, entry=batch.entry, position=number, undo=self._undo)
                self._out.write(line + b"\n")

    def finish(self) -> None:
        """Complete the file and give it its name."""
        with _writing(self._file.path):
            self._stack.close()
            self._file.finish()

    def discard(self) -> None:
        """Remove it."""
        with suppress(OSError):
            self._stack.close()
        self._file.discard()


class ParquetSink:
    """A Parquet file of the schema in `tables`, in row groups of bounded size."""

    def __init__(self, path: Path, undo: Undo) -> None:
        from shadowproxy.pairs import tables

        self._rows: Rows = tables.Rows(undo)
        self._file = _File(path)
        self._writer = tables.parquet_writer(self._file.file)

    def positions(self, partitions: int) -> Mapping[int, Position]:
        """A file begins at the beginning."""
        return {}

    def write(self, batch: Batch) -> None:
        """A row for each pair."""
        self._rows.add(batch)
        if self._rows.full:
            self._flush()

    def finish(self) -> None:
        """Complete the file and give it its name."""
        self._flush()
        with _writing(self._file.path):
            self._writer.close()
            self._file.finish()

    def discard(self) -> None:
        """Remove it."""
        # The writer would write its foot into a file that is closed, whenever it is collected.
        with suppress(OSError):
            self._writer.close()
        self._file.discard()

    def _flush(self) -> None:
        if len(self._rows):
            with _writing(self._file.path):
                self._writer.write_table(self._rows.take())


async def export(
    reading: Reading,
    sink: Sink,
    *,
    stop: asyncio.Event,
    follow: bool = False,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda written: None,
) -> int:
    """Write what is stored, and with `follow` what comes after it, until `stop` is set or `limit` pairs are written.

    `progress` is told how many pairs are written, batch by batch. Returns how many are, when the sink has completed
    them. Raises StoreUnavailable and StartError; what the sink has not completed is then discarded.
    """
    written = 0
    try:
        for source in (reading.stored, partial(reading.followed, stop))[: 2 if follow else 1]:
            async with aclosing(source()) as batches:
                async for batch in batches:
                    taken = batch if limit is None else batch.head(limit - written)
                    await asyncio.to_thread(sink.write, taken)
                    written += len(taken.pairs)
                    progress(written)
                    if written == limit:
                        break
                    if stop.is_set():
                        await reading.count_unread()
                        break
            if stop.is_set() or written == limit:
                break
        await asyncio.to_thread(sink.finish)
    except BaseException:
        sink.discard()
        raise
    return written


class _writing:  # noqa: N801  (reads as a verb where it is used)
    """Says which file it is that can't be written, and why."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            what = error.strerror or str(error)
            raise StartError(f"{self._path}: can't be written: {what}; free some room or choose another place")
