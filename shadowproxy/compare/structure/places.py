"""The paths of a document, as they are met, each with what the route's `fields` say of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson

from shadowproxy.compare.structure.extracted import Steps, body_paths
from shadowproxy.config import Route
from shadowproxy.config.fields import Fields, Tolerance
from shadowproxy.config.paths import Each, Step, parse_field, parse_pattern
from shadowproxy.config.presets import EXTRACTED

_PLAIN = re.compile(r'[^."\[\]*$\s\x00-\x1f\x7f][^."\[\]*\s\x00-\x1f\x7f]*')
_LONGEST = 200
"""Characters after which a name is cut, and a path isn't written out any further."""
_MOST = 10_000
"""Paths that are remembered; they are found anew when more were met, so that no answers make them grow for good."""

_State = frozenset[tuple[int, int]]
"""(rule, step of its pattern) that a path has come to."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """What holds where the path is as `steps`; a rule has one of the others."""

    steps: Steps
    ignore: bool = False
    tolerance: Tolerance | None = None
    unordered: bool = False
    key: tuple[str, ...] = ()
    common: bool = False
    mapped: bool = False


class Place:
    """One path. It has `[*]` for whichever item of a list, `*` for whichever key of an object whose keys are data."""

    __slots__ = (
        "_children",
        "_places",
        "_state",
        "common",
        "key",
        "mapped",
        "path",
        "several",
        "tolerance",
        "tolerated",
        "unordered",
        "within",
    )

    def __init__(
        self,
        places: Places,
        path: str,
        state: _State,
        tolerated: int | None = None,
        several: int = 0,
        within: tuple[tuple[Place, int], ...] = (),
    ) -> None:
        rules = places.rules
        found = sorted(at for at, step in state if step == len(rules[at].steps))
        reached = [rules[at] for at in found]
        lists = next((rule for rule in reached if rule.unordered or rule.key), None)
        self.path = path
        """As it is written in `fields.ignore`; empty for the document itself. What is very long is cut."""
        fitting = [at for at in found if rules[at].tolerance is not None]
        self.tolerated = min([*fitting, *(() if tolerated is None else (tolerated,))], default=None)
        """The rule that says how much: the first of those for this path and for what is above."""
        self.tolerance = None if self.tolerated is None else rules[self.tolerated].tolerance
        self.unordered = lists is not None and lists.unordered
        self.key = lists.key if lists is not None else ()
        """The names that lead from an item of this list to what it is matched by; empty where it isn't."""
        self.common = lists is not None and lists.common
        """Whether only those items of the list count that both sides have."""
        self.mapped = any(rule.mapped for rule in reached)
        """Whether the keys of the object here are data."""
        self.several = several
        """How many steps on the way lead to one of several."""
        self.within = within
        """The lists on the way of which only common items count, each with the `several` of its items."""
        self._places = places
        self._state = state
        self._children: dict[Step, Place | None] = {}

    def __repr__(self) -> str:
        return f"<Place {self.path or '$'}>"

    def child(self, step: Step) -> Place | None:
        """What stands under a name, under all of them (`Each.CHILD`), or in a list (`Each.ITEM`); None: ignored."""
        try:
            return self._children[step]
        except KeyError:
            found = self._children[step] = self._places.below(self, self._state, step)
            return found


class Places:
    """All paths under the rules of one route."""

    def __init__(self, rules: Iterable[_Rule]) -> None:
        self.rules = tuple(rules)
        self._start = self._closed((at, 0) for at in range(len(self.rules)))
        self._root = Place(self, "", self._start)
        self._met = 0

    def root(self) -> Place | None:
        """The place of the whole document; None where that is ignored. Places of two roots are not to be mixed."""
        if self._met > _MOST:
            self._root, self._met = Place(self, "", self._start), 0
        return None if self._ignored(self._start) else self._root

    def below(self, place: Place, state: _State, step: Step) -> Place | None:
        """The place one step below one, made anew; None where it is ignored."""
        reached = self._closed(self._moved(state, step))
        self._met += 1
        if self._ignored(reached):
            return None
        several = place.several + isinstance(step, Each)
        within = (*place.within, (place, several)) if place.common and step is Each.ITEM else place.within
        return Place(self, _written(place.path, step), reached, place.tolerated, several, within)

    def _moved(self, state: _State, step: Step) -> Iterator[tuple[int, int]]:
        for rule, at in state:
            steps = self.rules[rule].steps
            wanted = steps[at] if at < len(steps) else None
            if wanted is Each.DEEP:
                yield rule, at
            elif wanted is not None and (wanted == step or wanted is Each.CHILD):
                yield rule, at + 1

    def _closed(self, state: Iterable[tuple[int, int]]) -> _State:
        """With what is reached too since `**` may stand for no step at all."""
        found: set[tuple[int, int]] = set()
        for rule, at in state:
            rest = self.rules[rule].steps[at:]
            skipped = next((count for count, step in enumerate(rest) if step is not Each.DEEP), len(rest))
            found.update((rule, at + count) for count in range(skipped + 1))
        return frozenset(found)

    def _ignored(self, state: _State) -> bool:
        return any(self.rules[rule].ignore and at == len(self.rules[rule].steps) for rule, at in state)


def places_of(route: Route, fields: Fields) -> Places:
    """The places of a route's documents. What is written goes before what follows from what the route extracts."""
    return Places([*_written_rules(fields), *(() if fields.extracted else _extracted_rules(route))])


def _written_rules(fields: Fields) -> Iterator[_Rule]:
    for path in fields.ignore:
        yield _Rule(parse_pattern(path), ignore=True)
    for path, tolerance in fields.tolerance.items():
        yield _Rule(parse_pattern(path), tolerance=tolerance)
    for path, key in fields.matched.items():
        yield _Rule(parse_pattern(path), key=parse_field(key))
    for path in fields.unordered:
        yield _Rule(parse_pattern(path), unordered=True)
    for path in fields.maps:
        yield _Rule(parse_pattern(path), mapped=True)


def _extracted_rules(route: Route) -> Iterator[_Rule]:
    for key in EXTRACTED:
        for steps in body_paths(getattr(route, key) or "`null`"):
            yield _Rule(steps, ignore=True)
    for steps in body_paths(route.ids or "`null`"):
        names = _last_names(steps)
        if names and len(names) < len(steps):
            yield _Rule(steps[: -len(names) - 1], key=names, common=True)


def _last_names(steps: Steps) -> tuple[str, ...]:
    """The names at the end of a path, after its last step to several."""
    last = max((at for at, step in enumerate(steps) if isinstance(step, Each)), default=-1)
    return tuple(str(step) for step in steps[last + 1 :])


def _written(path: str, step: Step) -> str:
    if len(path) > _LONGEST:
        return path
    if step is Each.ITEM:
        return f"{path}[*]"
    name = step.value if isinstance(step, Each) else _quoted(step)
    return f"{path}.{name}" if path else name


def _quoted(name: str) -> str:
    cut = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    return cut if _PLAIN.fullmatch(cut) else orjson.dumps(cut).decode()
