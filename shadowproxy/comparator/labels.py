"""Labels to pairs that wait for them: look, decide, compare, and store all of it in one step.

What a label is worth is decided on what the store said a moment ago, and stored only if that still holds; else it is
looked at again. So it makes no difference who was first, a pair or its label, or how many workers deal with either.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from shadowproxy.compare.columns import Columns
from shadowproxy.compare.extraction.readings import true_labels_of, truth_of
from shadowproxy.compare.later import labelled
from shadowproxy.compare.unlabelled import Unlabelled, from_bytes
from shadowproxy.errors import Fenced, PayloadError
from shadowproxy.metrics import ComparatorMetrics
from shadowproxy.pairs.labels import Fate, Label, Waiting
from shadowproxy.pairs.store import Gone, Store, Superseded
from shadowproxy.stats.state import State
from shadowproxy.verdict.plan import Plan

log = logging.getLogger(__name__)

_AT_ONCE = 200
"""Labels that are looked at together."""
_EXPIRED_AT_ONCE = 1000
_EXPIRE_EVERY = 1.0
_MOST_DELIVERIES = 8

PlacesFor = Callable[[Columns], Awaitable[tuple[Mapping[str, int], float | None]]]
"""Of a batch, the cohorts' slots and when the experiment began."""


class Joiner:
    """What a worker does about labels, one turn at a time. The state is the worker's, and handed back."""

    def __init__(
        self,
        store: Store,
        plan: Plan,
        metrics: ComparatorMetrics,
        places_for: PlacesFor,
        *,
        name: str,
        wait: float,
        monotonic: Callable[[], float],
    ) -> None:
        """`wait` is how long a label waits for its pair, seconds: as long as any pair waits for its label."""
        self._store = store
        self._plan = plan
        self._metrics = metrics
        self._places_for = places_for
        self._name = name
        self._wait = wait
        self._monotonic = monotonic
        self._expire_at = monotonic()

    async def recover(self, state: State) -> State:
        """Finish what this worker was given before."""
        while labels := await self._store.labels.own_pending(self._name, _AT_ONCE):
            state = await self._deal_with(labels, state)
        return state

    async def take_over(self, state: State, idle: float) -> State:
        """Deal with what workers that were silent for `idle` seconds were given."""
        while labels := await self._store.labels.claim(self._name, idle, _AT_ONCE):
            log.info("took over %d labels of a silent worker", len(labels))
            state = await self._deal_with(labels, state)
        return state

    async def turn(self, state: State) -> tuple[State, bool]:
        """Deal with some labels, if there are any, and with what waited for long enough. Says whether there is more."""
        labels = await self._store.labels.read(self._name, _AT_ONCE)
        state = await self._deal_with(labels, state)
        more = len(labels) == _AT_ONCE
        if self._monotonic() >= self._expire_at:
            expired = await self._store.labels.expire(_EXPIRED_AT_ONCE)
            # One that has many to forget comes back to it at once, and not before it has read pairs again.
            if expired < _EXPIRED_AT_ONCE:
                self._expire_at = self._monotonic() + _EXPIRE_EVERY
            else:
                more = True
        return state, more

    async def _deal_with(self, labels: Sequence[Label], state: State) -> State:
        while labels:
            found = await self._store.labels.find(sorted({label.id for label in labels}))
            fates, pairs, truths = _decide(labels, found)
            after = state
            if pairs:
                columns = labelled(pairs, truths)
                after = state.with_added(self._plan.tally_labelled(columns, *await self._places_for(columns)))
            stored = after.to_bytes() if pairs else None
            try:
                again = set(await self._store.join(self._name, fates, stored, wait=self._wait))
            except Superseded:
                raise
            except Fenced as fenced:
                self._metrics.fenced.inc()
                labels = [label for label in labels if label.entry not in fenced.lost]
            except Gone:
                continue
            else:
                state = after
                self._metrics.joined.inc(len(pairs))
                labels = [label for label in labels if label.entry in again]
        return state


def _decide(
    labels: Sequence[Label], found: Mapping[str, Waiting]
) -> tuple[list[tuple[Label, Fate]], list[Unlabelled], list[Any]]:
    """What is to be done with each label, and the pairs that are joined, each with its truth."""
    fates: list[tuple[Label, Fate]] = []
    pairs: list[Unlabelled] = []
    truths: list[Any] = []
    joined: set[str] = set()
    for label in labels:
        waiting = found.get(label.id)
        try:
            truth = _readable(label)
            if waiting is None or label.id in joined:
                fate = Fate.KEEP
            elif label.arrived > waiting.expires:
                fate = Fate.LATE
            else:
                pairs.append(from_bytes(waiting.record))
                truths.append(truth)
                joined.add(label.id)
                fate = Fate.JOIN
        except PayloadError as error:
            log.warning("a label is left out: %s", error)
            fate = Fate.INVALID
        fates.append((label, fate))
    return fates, pairs, truths


def _readable(label: Label) -> Any:
    if label.deliveries > _MOST_DELIVERIES:
        raise PayloadError(f"it was given to workers {label.deliveries - 1} times and none of them was done with it")
    try:
        value: Any = msgspec.json.decode(label.truth)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"the truth for request {label.id!r} is no JSON: {error}") from None
    if truth_of(value) is None and true_labels_of(value) is None:
        raise PayloadError(f"the truth for request {label.id!r} holds no label, and no id with a gain above 0")
    return value
