"""Which pairs are worth a look: the worst of each guardrail, over all pairs and in each cohort, and some at random.

A *board* holds the pairs of one guardrail in one slot that have the greatest loss, and one more board holds a uniform
sample of all pairs. A board of size k keeps the k greatest (loss, key). The key is a number that is each pair's own and
looks random, so that among equals (all failures have a loss of 1) chance decides and not who was first; and where all
are equals, as on the board of the sample, what is kept is a sample without replacement (bottom-k sampling: Cohen and
Kaplan, "Summarizing data using bottom-k sketches", PODC 2007). Being the k greatest of a set, boards merge: any order
and any parts of the batches give the same.

A pair without harm (a loss of 0 or less) stands on no board but the sample's, nor does one whose loss is undefined.
Boards are for people to look at. No verdict rests on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns
from shadowproxy.errors import PayloadError
from shadowproxy.stats.additive import FloatArray, IntArray
from shadowproxy.verdict.plan import Plan

UIntArray = NDArray[np.uint64]

SAMPLE: Final = ""
"""In place of a guardrail's name: the board of the uniform sample. Its slot is 0."""
MOST_ORDINAL: Final = 1 << 39
"""Ordinals of entries below it have keys of their own; likewise partitions below 2048 and positions below 16384."""

_VERSION: Final = 1
_ALIKE: Final = 1.0
"""The loss that stands for all pairs of the sample."""
_NOTHING: Final = (0.0, (1 << 64) - 1)
"""What must be exceeded where nothing else is: any loss above 0 does."""


class Board(NamedTuple):
    """Which board."""

    guardrail: str
    """The rule's name, or SAMPLE."""
    slot: int
    """0 for all pairs, else the cohort's."""


class Found(NamedTuple):
    """A pair on a board."""

    loss: float
    key: int
    value: float
    """The metric's, before it was made a loss. NaN on the sample's board."""


class Limits(NamedTuple):
    """How much is kept."""

    worst: int
    """Pairs of each guardrail and slot."""
    sample: int
    size: int
    """Bytes of all records together."""

    def of(self, board: Board) -> int:
        """Pairs that the board holds."""
        return self.sample if board.guardrail == SAMPLE else self.worst


_UNBOUNDED: Final = Limits(1 << 62, 1 << 62, 1 << 62)


class _Stored(msgspec.Struct, array_like=True, frozen=True):
    """What `Boards.to_bytes` writes."""

    v: int
    boards: list[tuple[str, int, tuple[float, int], list[tuple[float, int, float]]]]
    sizes: dict[int, int]


class Boards:
    """All boards of a worker. A value: what changes it gives another.

    Past `limits.size` bytes every board is cut to the same number of its worst, or less, until the rest fits. What was
    cut stays out (a `floor`), else it would come and go with every batch.
    """

    def __init__(
        self,
        limits: Limits,
        found: Mapping[Board, Sequence[Found]] | None = None,
        sizes: Mapping[int, int] | None = None,
        floors: Mapping[Board, tuple[float, int]] | None = None,
    ) -> None:
        """`found` need not be in order nor within the limits; `sizes` are the bytes of each key's record."""
        ranked = {board: _ranked(several)[: limits.of(board)] for board, several in (found or {}).items()}
        self._set(limits, ranked, sizes or {}, dict(floors or {}))

    def _set(
        self,
        limits: Limits,
        found: Mapping[Board, list[Found]],
        sizes: Mapping[int, int],
        floors: dict[Board, tuple[float, int]],
    ) -> None:
        self.limits = limits
        self._floors = floors
        self._found = {board: kept for board, kept in found.items() if kept}
        self.sizes = {key: sizes.get(key, 0) for key in self._keys()}
        if sum(self.sizes.values()) > limits.size:
            self._cut(sizes)
            self.sizes = {key: sizes.get(key, 0) for key in self._keys()}
        self._bars: dict[str, tuple[FloatArray, UIntArray]] = {}

    def __repr__(self) -> str:
        return f"<Boards {len(self._found)} with {len(self.sizes)} pairs of {sum(self.sizes.values()):,} bytes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Boards):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]  # (how Python says that something has none)

    @property
    def boards(self) -> Mapping[Board, Sequence[Found]]:
        """The pairs of each board that has some, worst first."""
        return self._found

    def merge(self, others: Iterable[Boards]) -> Boards:
        """These and the others as one, within the limits of this one."""
        sizes, floors = dict(self.sizes), dict(self._floors)
        gained: dict[Board, list[Found]] = {}
        for other in others:
            sizes |= other.sizes
            for board, floor in other._floors.items():
                floors[board] = max(floor, floors.get(board, _NOTHING))
                gained.setdefault(board, [])
            for board, several in other._found.items():
                gained.setdefault(board, []).extend(several)
        found = dict(self._found)
        for board, several in gained.items():
            floor = floors.get(board, _NOTHING)
            above = (one for one in [*self._found.get(board, ()), *several] if (one.loss, one.key) > floor)
            found[board] = _ranked(above)[: self.limits.of(board)]
        merged = Boards.__new__(Boards)
        merged._set(self.limits, found, sizes, floors)
        return merged

    def with_found(self, found: Mapping[Board, Sequence[Found]], sizes: Mapping[int, int]) -> Boards:
        """With what `select` has found; `sizes` are the bytes of each key's record."""
        return self.merge([Boards(_UNBOUNDED, found, sizes)])

    def bars(self, guardrail: str, slots: int) -> tuple[FloatArray, UIntArray]:
        """By slot, the loss and the key that a pair must exceed to get onto the board: (slots,), (slots,)."""
        known = self._bars.get(guardrail)
        if known is None or len(known[0]) < slots:
            bars = [self._bar(Board(guardrail, slot)) for slot in range(slots)]
            known = np.array([loss for loss, _ in bars]), np.array([key for _, key in bars], np.uint64)
            self._bars[guardrail] = known
        return known

    def _bar(self, board: Board) -> tuple[float, int]:
        most, kept = self.limits.of(board), self._found.get(board, [])
        if not most:
            return np.inf, 0
        floor = self._floors.get(board, _NOTHING)
        return max(floor, (kept[-1].loss, kept[-1].key)) if len(kept) == most else floor

    def _keys(self) -> set[int]:
        return {key for several in self._found.values() for _, key, _ in several}

    def _cut(self, sizes: Mapping[int, int]) -> None:
        """The worst of every board first, then the second of each, …; of these over all pairs before cohorts."""
        order = sorted(
            (at, board.slot, board.guardrail) for board, kept in self._found.items() for at in range(len(kept))
        )
        kept: dict[Board, list[Found]] = {}
        taken: set[int] = set()
        room = self.limits.size
        full: set[Board] = set()
        for at, slot, guardrail in order:
            board = Board(guardrail, slot)
            if board in full:
                continue
            one = self._found[board][at]
            need = 0 if one.key in taken else sizes.get(one.key, 0)
            if need > room:
                full.add(board)
                self._floors[board] = max((one.loss, one.key), self._floors.get(board, _NOTHING))
                continue
            room -= need
            taken.add(one.key)
            kept.setdefault(board, []).append(one)
        self._found = kept

    def to_bytes(self) -> bytes:
        """For the store: msgpack."""
        boards = sorted(self._found.keys() | self._floors.keys())
        return msgspec.msgpack.encode(
            (
                _VERSION,
                [(*board, self._floors.get(board, _NOTHING), self._found.get(board, [])) for board in boards],
                dict(sorted(self.sizes.items())),
            )
        )

    @classmethod
    def from_bytes(cls, stored: bytes) -> Boards:
        """What `to_bytes` has written, without limits. Raises PayloadError for anything else."""
        try:
            read = msgspec.msgpack.decode(stored, type=_Stored)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise PayloadError(f"the exemplars can't be read: {error}; is a newer shadowproxy writing?") from None
        if read.v > _VERSION:
            raise PayloadError("the exemplars were written by a newer shadowproxy; update this one")
        found = {Board(name, slot): [Found(*one) for one in several] for name, slot, _, several in read.boards}
        floors = {Board(name, slot): floor for name, slot, floor, _ in read.boards if floor != _NOTHING}
        return cls(_UNBOUNDED, found, read.sizes, floors)


def _ranked(several: Iterable[Found]) -> list[Found]:
    return sorted({one.key: one for one in several}.values(), key=lambda one: (one.loss, one.key), reverse=True)


def seed_of(experiment: str) -> int:
    """What sets an experiment's keys apart from another's: 64 bits."""
    return int.from_bytes(hashlib.blake2b(experiment.encode(), digest_size=8).digest())


def keys(seed: int, partition: int, ordinal: IntArray, position: IntArray) -> UIntArray:
    """A key for each pair, by where it stands in the stream: (n,), (n,) → (n,). No two pairs have the same.

    By its place and not by its request id, since clients choose ids, and may choose one twice. The mixing is the
    finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014),
    done twice; it is a bijection of 64 bits.
    """
    place = (ordinal.astype(np.uint64) << np.uint64(14)) | position.astype(np.uint64)
    place |= np.uint64(partition << 53)
    return _mixed(_mixed(place ^ np.uint64(seed)) + np.uint64(0x9E3779B97F4A7C15))


def _mixed(x: UIntArray) -> UIntArray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def select(
    boards: Boards, plan: Plan, columns: Columns, slots: Mapping[str, int], key: UIntArray
) -> dict[Board, list[tuple[int, Found]]]:
    """The pairs of a batch that get onto a board, each with its row; once the boards are full that is hardly any.

    `key` (n,) are the `keys` of the batch; `slots` as `Plan.tally` has them.
    """
    chosen: dict[Board, list[tuple[int, Found]]] = {}
    n = len(columns)
    if boards.limits.worst and n:
        pairs, slot = plan.memberships(columns, slots)
        pairs, slot = np.concatenate([np.arange(n), pairs]), np.concatenate([np.zeros(n, np.int64), slot])
        for rule, values, losses in plan.losses(columns):
            # Most pairs are without harm: what remains is little.
            harmed = losses[pairs] > 0
            members = pairs[harmed], slot[harmed]
            bars = boards.bars(rule.name, plan.other_slot + 1)
            _choose(chosen, rule.name, bars, members, losses, values, key, boards.limits.worst)
    if boards.limits.sample and n:
        alike = np.full(n, _ALIKE)
        every = np.arange(n), np.zeros(n, np.int64)
        unknown = np.full(n, np.nan)
        _choose(chosen, SAMPLE, boards.bars(SAMPLE, 1), every, alike, unknown, key, boards.limits.sample)
    return chosen


def _choose(
    chosen: dict[Board, list[tuple[int, Found]]],
    name: str,
    bars: tuple[FloatArray, UIntArray],
    members: tuple[IntArray, IntArray],
    losses: FloatArray,
    values: FloatArray,
    key: UIntArray,
    most: int,
) -> None:
    pairs, slot = members
    loss, bar = losses[pairs], bars[0][slot]
    above = np.flatnonzero((loss > bar) | ((loss == bar) & (key[pairs] > bars[1][slot])))
    if not len(above):
        return
    pairs, slot, loss = pairs[above], slot[above], loss[above]
    # Slot by slot, worst first; of each slot the first `most`.
    order = np.lexsort((~key[pairs], -loss, slot))
    pairs, slot, loss = pairs[order], slot[order], loss[order]
    place = np.arange(len(slot)) - np.searchsorted(slot, slot)
    for at in np.flatnonzero(place < most).tolist():
        row = int(pairs[at])
        found = Found(float(loss[at]), int(key[row]), float(values[row]))
        chosen.setdefault(Board(name, int(slot[at])), []).append((row, found))
