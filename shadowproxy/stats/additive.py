"""What every statistic of this room is: rows that are summed.

A statistic turns each value into a row of numbers; its state is the sum of rows, for one slot or many. Nothing else is
ever done to a state, so merging workers, folding start-time buckets and growing a batch are all `+`, in any order.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
State = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which of n values are summed into which of `groups` sums. A value may enter several groups, or none.

    `members` and `group` are aligned: value `members[i]` enters group `group[i]`, and any one group once at most.
    """

    members: IntArray
    group: IntArray
    values: int
    groups: int
    _matrix: sparse.csr_array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ones = np.ones(len(self.members))
        matrix = sparse.csr_array((ones, (self.group, self.members)), shape=(self.groups, self.values))
        object.__setattr__(self, "_matrix", matrix)

    @classmethod
    def single(cls, values: int) -> Grouping:
        """All values into one group."""
        return cls(np.arange(values), np.zeros(values, np.int64), values, 1)

    def sum(self, rows: FloatArray) -> FloatArray:
        """Sums by group: (n, w) → (groups, w)."""
        return np.asarray(self._matrix @ rows, dtype=np.float64)

    def count(self, index: IntArray, width: int) -> IntArray:
        """How often each index in [0, width) occurs by group: (n,) → (groups, width). Negative indices are left out."""
        chosen = index[self.members]
        counted = chosen >= 0
        flat = self.group[counted] * width + chosen[counted]
        return np.bincount(flat, minlength=self.groups * width).reshape(self.groups, width).astype(np.int64, copy=False)

    def table(self, value: IntArray, column: IntArray, width: int) -> IntArray:
        """By group, how often each column in [0, width) occurs: entry i is of the value `value[i]`; of any one value
        there may be several entries, or none. (m,), (m,) → (groups, width)."""
        ones = np.ones(len(value), np.int64)
        entries = sparse.csr_array((ones, (value, column)), shape=(self.values, width))
        return np.asarray((self._matrix @ entries).todense(), np.int64)


class Additive(abc.ABC):
    """One statistic. Its state for s slots is an array (s, width) of `dtype`, the sum of what `fold` gave."""

    dtype: ClassVar[type[np.float64 | np.int64]] = np.float64

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Length of one slot's state."""

    @abc.abstractmethod
    def fold(self, values: FloatArray, grouping: Grouping) -> State:
        """The state of each group over its members of `values` (n,): an array (groups, width)."""

    @abc.abstractmethod
    def get(self, state: State) -> Sequence[FloatArray]:
        """What the statistic says, by slot, of a state (..., width)."""

    def empty(self, slots: int = 1) -> State:
        """The state of no values."""
        return np.zeros((slots, self.width), self.dtype)
