"""Pairs read back from files that `shadowproxy pairs export` wrote, in bounded memory.

What a file is shows in its first bytes and not in its name: Parquet, or lines of JSON, by gzip or zstd or as they are.
Several files are read at once, in the order in which their pairs were written, and a pair that stands in several of
them (or several times in one) counts once.
"""

from __future__ import annotations

import gzip
import heapq
import io
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import zstandard

from shadowproxy.errors import PayloadError, StartError
from shadowproxy.pairs.lines import Recorded, read_recorded
from shadowproxy.pairs.scripts.common import MAX_PAIRS

LONGEST: Final = 256 * 1024**2
"""Bytes of the longest line that is read."""
_END_OF_TIME: Final = 1e11
"""Unix seconds; the year 5138."""
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_MOST_POSITION: Final = 1 << 32
_MOST_SEQUENCE: Final = 1 << 64

Place = tuple[int, int, int, int]
"""(milliseconds of the entry, partition, the entry's number, position in it): in this order pairs were written."""


class Unreadable(NamedTuple):
    """A line or row that holds no pair."""

    file: str
    number: int
    """From 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.number:,}: {self.reason}"


class Missing(NamedTuple):
    """What stood in the stream, and is not in a recording of it."""

    entries: int
    """Whole entries between the first and the last of each partition; of those beyond nothing is known."""
    pairs: int
    """Pairs of entries of which it has others."""


class Source:
    """One file, `-` for standard input. Iterating gives what it holds, once; `done` of its `size` bytes are read then.

    Raises StartError where it can't be opened or is of another kind.
    """

    def __init__(self, name: str, stdin: IO[bytes]) -> None:
        self.name = name
        self.size: int | None = None
        """None where that isn't known."""
        try:
            self._file = _buffered(stdin) if name == "-" else Path(name).open("rb")  # noqa: SIM115  (read until it ends)
            if name != "-":
                self.size = Path(name).stat().st_size
            begin = self._file.peek(4)[:4]
        except OSError as error:
            raise StartError(f"{name}: can't be read: {error.strerror or error}") from None
        self._rows: Any = None
        self._row = 0
        if begin.startswith(_PARQUET):
            if self.size is None:
                raise StartError("Parquet can't be read from standard input: name the file")
            from shadowproxy.pairs.tables import ParquetReader

            try:
                self._rows = ParquetReader(self._file, name)
            except StartError:
                self._file.close()
                raise
        self._lines = self._opened(begin)

    def __repr__(self) -> str:
        return f"<Source {self.name}>"

    @property
    def done(self) -> int:
        """Bytes of it that are read, of a compressed file those of the file."""
        if self._rows is not None:
            return int((self.size or 0) * self._row / max(1, self._rows.rows))
        if self._file.closed:
            return self.size or 0
        try:
            return self._file.tell()
        except OSError:  # standard input, as a pipe
            return 0

    def __iter__(self) -> Iterator[Recorded | Unreadable]:
        with self._file:
            yield from self._of_rows() if self._rows is not None else self._of_lines()

    def _opened(self, begin: bytes) -> io.BufferedIOBase:
        if begin.startswith(_GZIP):
            return gzip.GzipFile(fileobj=self._file)
        if begin.startswith(_ZSTD):
            return io.BufferedReader(
                zstandard.ZstdDecompressor().stream_reader(self._file, read_across_frames=True, closefd=False)
            )
        return self._file

    def _of_rows(self) -> Iterator[Recorded | Unreadable]:
        for found in self._rows:
            self._row += 1
            yield Unreadable(self.name, self._row, str(found)) if isinstance(found, PayloadError) else found

    def _of_lines(self) -> Iterator[Recorded | Unreadable]:
        number = 0
        try:
            while line := self._lines.readline(LONGEST):
                number += 1
                if len(line) == LONGEST and not line.endswith(b"\n"):
                    while (rest := self._lines.readline(LONGEST)) and not rest.endswith(b"\n"):
                        pass
                    yield Unreadable(self.name, number, f"longer than {LONGEST // 1024**2} MiB")
                elif line.strip():
                    yield self._read(number, line)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            # What came before it is sound; that something is missing must be known.
            yield Unreadable(self.name, number + 1, f"the file is cut or damaged from here on: {error}")

    def _read(self, number: int, line: bytes) -> Recorded | Unreadable:
        try:
            return read_recorded(line)
        except PayloadError as error:
            return Unreadable(self.name, number, str(error))


def _buffered(stream: IO[bytes]) -> io.BufferedReader:
    raw: Any = stream
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)


class Recording:
    """Everything in some files, as one: in the order in which it was written, and nothing twice.

    The order holds as far as each file has it, as one export does; where a file was put together otherwise its pairs
    come as they stand. `duplicates` counts those that were left out.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._seen = Seen()
        self.duplicates = 0

    @property
    def size(self) -> int | None:
        """Bytes of all files; None where that isn't known."""
        sizes = [source.size for source in self._sources]
        return None if None in sizes else sum(filter(None, sizes))

    @property
    def done(self) -> int:
        """Bytes of them that are read."""
        return sum(source.done for source in self._sources)

    @property
    def missing(self) -> Missing:
        """What is known to have been written and is in no file."""
        return self._seen.missing

    def __iter__(self) -> Iterator[Recorded | Unreadable]:
        for place, found in heapq.merge(*map(_placed, self._sources), key=itemgetter(0)):
            if isinstance(found, Unreadable) or self._seen.add(place):
                yield found
            else:
                self.duplicates += 1


def _placed(source: Source) -> Iterator[tuple[Place, Recorded | Unreadable]]:
    last: Place = (0, 0, 0, 0)
    for number, found in enumerate(source, 1):
        if isinstance(found, Unreadable):
            yield last, found
            continue
        try:
            last = place_of(found)
        except PayloadError as error:
            yield last, Unreadable(source.name, number, str(error))
        else:
            yield last, found


def place_of(found: Recorded) -> Place:
    """Where a pair stood. Raises PayloadError where that is no place, or its start is no time.

    >>> from shadowproxy.model import Exchange, Outcome, Pair, Request
    >>> answer = Exchange(Outcome.OK, 200)
    >>> place_of(Recorded(1, "1700000000250-7", 3, Pair("a", 1.7e9, Request("GET", "/"), answer, answer)))
    (1700000000250, 1, 7, 3)
    """
    milliseconds, _, sequence = found.entry.partition("-")
    if not (milliseconds.isascii() and milliseconds.isdigit() and sequence.isascii() and sequence.isdigit()):
        raise PayloadError(f"{found.entry!r} is not the id of an entry")
    place = int(milliseconds), found.partition, int(sequence), found.position
    if not (place[1] >= 0 and place[2] < _MOST_SEQUENCE and 0 <= place[3] < _MOST_POSITION):
        raise PayloadError(f"partition {place[1]}, entry {found.entry}, position {place[3]} is no place in a stream")
    if not 0 <= found.pair.started < _END_OF_TIME:
        raise PayloadError(f"pair {found.pair.id!r} starts at {found.pair.started}, which is no Unix time")
    return place


class Seen:
    """Places, each once. What comes in the order in which it was written takes two numbers for each entry.

    >>> seen = Seen()
    >>> [seen.add(place) for place in ((5, 0, 1, 0), (5, 0, 1, 1), (9, 0, 2, 0), (5, 0, 1, 1))]
    [True, True, True, False]
    """

    def __init__(self) -> None:
        self._runs: dict[int, tuple[list[int], list[int]]] = {}
        self._strays: set[tuple[int, int]] = set()

    @property
    def missing(self) -> Missing:
        """What is not among them, as far as entry ids tell: these number a partition's entries and say how many pairs
        each has. Where the store was emptied the numbers begin anew; what is missing there is not known."""
        entries = pairs = 0
        for counted in self._counted().values():
            known = sorted(counted)
            for entry in known:
                pairs += max(0, entry % _MOST_SEQUENCE % (MAX_PAIRS + 1) - counted[entry])
            numbers = [entry % _MOST_SEQUENCE // (MAX_PAIRS + 1) for entry in known]
            entries += sum(max(0, after - before - 1) for before, after in pairwise(numbers))
        return Missing(entries, pairs)

    def _counted(self) -> dict[int, dict[int, int]]:
        """By partition and entry, how many of its pairs are among them."""
        found: dict[int, dict[int, int]] = {}
        for partition, (starts, lengths) in self._runs.items():
            counted = found[partition] = {}
            for key, length in zip(starts, lengths, strict=True):
                entry = key // _MOST_POSITION
                counted[entry] = counted.get(entry, 0) + length
        for partition, key in self._strays:
            counted, entry = found[partition], key // _MOST_POSITION
            counted[entry] = counted.get(entry, 0) + 1
        return found

    def add(self, place: Place) -> bool:
        """Whether it is new."""
        milliseconds, partition, sequence, position = place
        key = (milliseconds * _MOST_SEQUENCE + sequence) * _MOST_POSITION + position
        starts, lengths = self._runs.setdefault(partition, ([], []))
        at = bisect_right(starts, key) - 1
        if at >= 0 and key < starts[at] + lengths[at]:
            return False
        if at == len(starts) - 1:
            if starts and key == starts[at] + lengths[at]:
                lengths[at] += 1
            else:
                starts.append(key)
                lengths.append(1)
            return True
        stray = (partition, key)
        if stray in self._strays:
            return False
        self._strays.add(stray)
        return True


def open_recording(names: Iterable[str], stdin: IO[bytes]) -> Recording:
    """The recording in these files, `-` for standard input. Raises StartError where one can't be opened."""
    return Recording([Source(name, stdin) for name in names])
