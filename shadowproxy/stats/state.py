"""What a worker has counted: start-time buckets while they are open, their sum once they are closed.

The verdict may only rest on pairs whose being counted does not depend on their outcome. Timeouts finish last, so a
reading over the pairs that happen to be complete flatters a candidate that hangs; a start-time bucket that is counted
as a whole, after everything that began in it must have ended, does not. `State` holds the buckets and closes them.

Everything here is immutable. A commit that is refused is undone by keeping the older object; the arrays of untouched
buckets, and their encoded bytes, are shared between the two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from shadowproxy.errors import PayloadError

_VERSION = 1
_LEVEL = 3
_LARGEST = 1 << 30
"""Most bytes that a stored state may unpack to."""
_FEWEST_FOR_RATE = 3
_DTYPES: Mapping[str, type[np.float64 | np.int64]] = {"f": np.float64, "i": np.int64}


class Tally(Mapping[str, NDArray[Any]]):
    """Named sums: float64 or int64 arrays that nobody writes to again. `+` adds by name.

    A name that only one side has is taken as it is; an array with fewer rows (slots) is padded with zeros, so slots may
    be added as an experiment goes on. Raises ValueError where two arrays differ otherwise: they are not of one plan.

    >>> total = Tally({"pairs": np.array([2, 2])}) + Tally({"pairs": np.array([1, 0, 1])})
    >>> total["pairs"].tolist()
    [3, 2, 1]
    """

    __slots__ = ("__dict__", "_arrays")

    def __init__(self, arrays: Mapping[str, NDArray[Any]] = MappingProxyType({})) -> None:
        self._arrays = dict(arrays)
        for name, array in self._arrays.items():
            if array.dtype.type not in _DTYPES.values() or array.ndim == 0:
                raise ValueError(f"{name}: sums are arrays of float64 or int64, not {array.dtype} of {array.ndim} axes")

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"Tally({', '.join(f'{name}{array.shape}' for name, array in self._arrays.items())})"

    def __add__(self, other: Tally) -> Tally:
        merged = dict(self._arrays)
        for name, array in other.items():
            mine = merged.get(name)
            merged[name] = array if mine is None else _add(name, mine, array)
        return Tally(merged)

    def rows(self, name: str, slots: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """The array of this name with a row of `shape` for each of `slots`, zeros where nothing was counted.

        Raises ValueError where the array has another shape, or more rows: another plan counted it.
        """
        stored = self.get(name)
        rows = np.zeros((slots, *shape), np.float64 if stored is None else stored.dtype)
        if stored is not None:
            if stored.shape[1:] != shape or len(stored) > len(rows):
                raise ValueError(f"{name}: sums of shape {stored.shape} were not counted by this plan")
            rows[: len(stored)] = stored
        return rows

    def same_as(self, other: Tally, rel: float = 1e-9) -> bool:
        """Whether both hold the same sums, rounding (`rel` of the larger, or `rel` itself) and zero rows aside."""
        return all(_same(self.get(name), other.get(name), rel) for name in {*self, *other})

    @functools.cached_property
    def encoded(self) -> bytes:
        """As msgpack. Kept, since most of a state stays as it is from one commit to the next."""
        return msgspec.msgpack.encode({name: _pack(array) for name, array in self._arrays.items()})

    @classmethod
    def decode(cls, data: bytes) -> Tally:
        """The reverse of `encoded`. Raises PayloadError."""
        try:
            packed = msgspec.msgpack.decode(data, type=dict[str, _Array])
            return cls({name: _unpack(array) for name, array in packed.items()})
        except (msgspec.DecodeError, ValueError) as error:
            raise PayloadError(f"a stored tally can't be read: {error}") from None


@dataclass(frozen=True, slots=True, eq=False)
class Bucket:
    """One open start-time bucket."""

    tally: Tally
    pairs: int

    def __add__(self, other: Bucket) -> Bucket:
        return Bucket(self.tally + other.tally, self.pairs + other.pairs)


@dataclass(frozen=True, eq=False)
class State:
    """What one worker has counted, or, merged, what all have.

    Bucket i holds the pairs that started in [i·width, (i + 1)·width), Unix seconds. It is closed by a watermark that is
    `settle` seconds or more behind its end, where `settle` is the longest deadline and a grace.

    No method changes the object; each returns the next one. `==` is identity: see `same_as`.

    >>> state = State(width=1.0, settle=11.0).add(100, Tally({"pairs": np.array([5])}), 5)
    >>> state.open_pairs, state.close(111.9).pairs, state.close(112.0).pairs
    (5, 0, 5)
    >>> late = state.close(112.0).add(100, Tally({"pairs": np.array([1])}), 1)
    >>> late.pairs, late.late, late.total["pairs"].tolist()
    (6, 1, [6])
    """

    width: float
    settle: float
    total: Tally = field(default_factory=Tally)
    """The sum over closed buckets: what a verdict may rest on."""
    open: Mapping[int, Bucket] = field(default_factory=dict)
    pairs: int = 0
    """Pairs in `total`."""
    late: int = 0
    """Those of them that came after their bucket was closed."""
    watermark: float = -math.inf
    """Unix time up to which buckets were closed."""

    def __post_init__(self) -> None:
        if not (0 < self.width < math.inf and 0 <= self.settle < math.inf):
            raise ValueError(f"buckets of {self.width:g} s that settle in {self.settle:g} s can't be kept")

    @property
    def open_pairs(self) -> int:
        """Pairs that are not counted yet."""
        return sum(bucket.pairs for bucket in self.open.values())

    @property
    def rate(self) -> float | None:
        """Pairs a second, over the start times whose buckets are open; None where there are too few of them to say.

        The newest is left out, for it still fills.
        """
        if len(self.open) < _FEWEST_FOR_RATE:
            return None
        first, last = min(self.open), max(self.open)
        return (self.open_pairs - self.open[last].pairs) / ((last - first) * self.width)

    @property
    def names(self) -> frozenset[str]:
        """Of all sums that it holds."""
        return frozenset(self.total).union(*(bucket.tally for bucket in self.open.values()))

    @property
    def most_open(self) -> int:
        """Most buckets that are kept open: several times what a clock that is right ever needs."""
        return 256 + 4 * math.ceil(self.settle / self.width)

    def add(self, bucket: int, tally: Tally, pairs: int) -> State:
        """With `pairs` more pairs, all of one bucket. Where that is closed they are counted at once, and as late."""
        return self.with_added({bucket: (tally, pairs)})

    def with_added(self, batch: Mapping[int, tuple[Tally, int]], *, late: bool = True) -> State:
        """With a whole batch, by bucket, as `verdict.plan.Plan.tally` gives it.

        What is of a closed bucket counts as late, unless it was to wait until that was closed (`late`).
        """
        total, pairs, behind, opened = self.total, self.pairs, self.late, dict(self.open)
        for index, (tally, count) in batch.items():
            if self._closed(index, self.watermark):
                total, pairs, behind = total + tally, pairs + count, behind + count * late
            else:
                fresh, there = Bucket(tally, count), opened.get(index)
                opened[index] = fresh if there is None else there + fresh
        return replace(self, total=total, open=self._bounded(opened), pairs=pairs, late=behind)

    def closed_before(self, watermark: float) -> float:
        """The start (Unix seconds) before which every bucket is closed by a watermark."""
        return (
            math.floor((watermark - self.settle) / self.width) * self.width if math.isfinite(watermark) else watermark
        )

    def close(self, watermark: float) -> State:
        """With every bucket counted whose end and `settle` lie at or before `watermark` (Unix seconds).

        The watermark must be the group's, not this worker's: no worker may still hold an unread or uncommitted entry
        that was written before it. An earlier watermark than the last changes nothing.
        """
        if not watermark > self.watermark:
            return self
        due = sorted(index for index in self.open if self._closed(index, watermark))
        total = sum((self.open[index].tally for index in due), start=self.total)
        return replace(
            self,
            total=total,
            pairs=self.pairs + sum(self.open[index].pairs for index in due),
            open={index: bucket for index, bucket in self.open.items() if index not in set(due)},
            watermark=watermark,
        )

    def merge(self, others: Iterable[State]) -> State:
        """The sum of several workers' states, for reading. Its watermark is the least of those that hold anything.

        Raises ValueError where buckets differ in width or settling time: they are not of one experiment.
        """
        states = [self, *others]
        if any((state.width, state.settle) != (self.width, self.settle) for state in states):
            raise ValueError("states with different buckets can't be merged: they are not of one experiment")
        opened: dict[int, Bucket] = {}
        for state in states:
            for index, bucket in state.open.items():
                opened[index] = opened[index] + bucket if index in opened else bucket
        marks = [state.watermark for state in states if state.pairs or state.open or state.watermark > -math.inf]
        return State(
            self.width,
            self.settle,
            total=sum((state.total for state in states), start=Tally()),
            open=self._bounded(opened),
            pairs=sum(state.pairs for state in states),
            late=sum(state.late for state in states),
            watermark=min(marks, default=-math.inf),
        )

    def same_as(self, other: State, rel: float = 1e-9) -> bool:
        """Whether both say the same, rounding aside."""
        mine, theirs = ({i: b.pairs for i, b in state.open.items()} for state in (self, other))
        return (
            (self.width, self.settle, self.pairs, self.late, self.watermark, mine)
            == (other.width, other.settle, other.pairs, other.late, other.watermark, theirs)
            and self.total.same_as(other.total, rel)
            and all(bucket.tally.same_as(other.open[index].tally, rel) for index, bucket in self.open.items())
        )

    def to_bytes(self) -> bytes:
        """As a versioned, compressed msgpack array."""
        stored = _Stored(
            version=_VERSION,
            width=self.width,
            settle=self.settle,
            total=self.total.encoded,
            open={index: (bucket.tally.encoded, bucket.pairs) for index, bucket in self.open.items()},
            pairs=self.pairs,
            late=self.late,
            watermark=self.watermark,
        )
        return zstandard.ZstdCompressor(level=_LEVEL).compress(msgspec.msgpack.encode(stored))

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """The reverse of `to_bytes`. Raises PayloadError for bytes that can't be read, or of another version."""
        try:
            size = zstandard.frame_content_size(data)
            if not 0 <= size <= _LARGEST:
                raise PayloadError(f"a stored state claims {size} bytes: it is damaged")
            plain = zstandard.ZstdDecompressor().decompress(data)
            version = msgspec.msgpack.decode(plain, type=_Version).version
            if version != _VERSION:
                raise PayloadError(f"a stored state is of version {version}, this program reads {_VERSION}: update it")
            stored = msgspec.msgpack.decode(plain, type=_Stored)
            return cls(
                stored.width,
                stored.settle,
                total=Tally.decode(stored.total),
                open={index: Bucket(Tally.decode(tally), pairs) for index, (tally, pairs) in stored.open.items()},
                pairs=stored.pairs,
                late=stored.late,
                watermark=stored.watermark,
            )
        except (zstandard.ZstdError, msgspec.DecodeError, ValueError) as error:
            raise PayloadError(f"a stored state can't be read: {error}") from None

    def _closed(self, bucket: int, watermark: float) -> bool:
        return (bucket + 1) * self.width + self.settle <= watermark

    def _bounded(self, opened: dict[int, Bucket]) -> dict[int, Bucket]:
        """Past the bound the two latest buckets become one, under the later's index.

        Only a proxy whose clock runs ahead opens so many. Its pairs are then counted later than they need be, and still
        by their start time alone; counting them earlier would depend on how long they took.
        """
        while len(opened) > self.most_open:
            before, last = sorted(opened)[-2:]
            opened[last] = opened[last] + opened.pop(before)
        return opened


class _Array(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    shape: tuple[int, ...]
    values: bytes
    """Little-endian; only those that are not zero where there is an `index`."""
    index: bytes | None = None
    """Flat positions of the values, uint32."""


class _Version(msgspec.Struct, array_like=True):
    version: int


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    version: int
    width: float
    settle: float
    total: bytes
    open: dict[int, tuple[bytes, int]]
    pairs: int
    late: int
    watermark: float


def _pack(array: NDArray[Any]) -> _Array:
    kind = array.dtype.kind
    flat = array.ravel()
    index = np.flatnonzero(flat)
    if 3 * len(index) >= len(flat):
        return _Array(kind, array.shape, flat.astype(f"<{kind}8").tobytes())
    return _Array(kind, array.shape, flat[index].astype(f"<{kind}8").tobytes(), index.astype("<u4").tobytes())


def _unpack(packed: _Array) -> NDArray[Any]:
    dtype = _DTYPES.get(packed.kind)
    if dtype is None:
        raise ValueError(f"there are no sums of kind {packed.kind!r}")
    size = math.prod(packed.shape)
    if not packed.shape or min(packed.shape) < 0 or 8 * size > _LARGEST:
        raise ValueError(f"{packed.shape} is not the shape of sums")
    values = np.frombuffer(packed.values, f"<{packed.kind}8").astype(dtype)
    if packed.index is None:
        return values.reshape(packed.shape)
    index = np.frombuffer(packed.index, "<u4")
    if len(index) != len(values) or (len(index) and index.max() >= size):
        raise ValueError("its index does not fit its values")
    dense = np.zeros(size, dtype)
    dense[index] = values
    return dense.reshape(packed.shape)


def _add(name: str, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    if a.dtype != b.dtype or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"{name}: {a.dtype}{a.shape} and {b.dtype}{b.shape} are not sums of one plan")
    if len(a) < len(b):
        a, b = b, a
    total = a.copy()
    total[: len(b)] += b
    return total


def _same(a: NDArray[Any] | None, b: NDArray[Any] | None, rel: float) -> bool:
    if a is None or b is None:
        only = b if a is None else a
        return only is None or not only.any()
    if a.dtype != b.dtype or a.shape[1:] != b.shape[1:]:
        return False
    rows = max(len(a), len(b))
    a, b = (np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)]) for x in (a, b))
    return bool(np.allclose(a, b, rtol=rel, atol=rel))
