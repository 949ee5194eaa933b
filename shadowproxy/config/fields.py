"""Section `fields` of a route: how the rest of the two answers' JSON is compared."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from shadowproxy.config.paths import JsonField, JsonPattern
from shadowproxy.config.section import Section


class Tolerance(Section):
    """By how much two numbers may differ and count as the same. Where both are given, either is enough."""

    absolute: float = Field(0.0, ge=0, description="|a − b| up to this")
    relative: float = Field(0.0, ge=0, lt=1, description="|a − b| up to this share of the larger of |a| and |b|")

    @model_validator(mode="after")
    def _some(self) -> Tolerance:
        if not (self.absolute or self.relative):
            raise ValueError("tolerates nothing: give `absolute` or `relative`")
        return self


class Fields(Section):
    """How the JSON of the two answers is compared, value by value.

    Paths are as `items[*].price`, from the body on: names with dots between, `[*]` for the items of a list, `*` for all
    of an object or list, `**` for any number of steps; a name with special characters stands in quotes; `$` is
    the body itself. What is ignored or tolerated at a path is so everywhere beneath it.
    """

    ignore: tuple[JsonPattern, ...] = Field((), description="paths that are not compared")
    tolerance: dict[JsonPattern, Tolerance] = Field(
        default_factory=dict,
        description="path: {absolute, relative}; by how much numbers there may differ. The first that fits is taken",
    )
    unordered: tuple[JsonPattern, ...] = Field(
        (),
        description="lists whose order says nothing: what differs are items that only one side has; `**`: all lists",
    )
    matched: dict[JsonPattern, JsonField] = Field(
        default_factory=dict,
        description="list: field; its items are compared by the value of that field, wherever they stand",
    )
    maps: tuple[JsonPattern, ...] = Field(
        (), description="objects whose keys are data, such as prices by item: reported as `prices.*`, not key by key"
    )
    extracted: bool = Field(
        False,
        description="whether what the route extracts (ids, scores, text, …) is compared here too; else it is left out, "
        "and the lists that hold the ids are compared item by item, on the items that both sides have",
    )
    max_leaves: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        10_000,
        description="values of an answer; a pair in which one has more (or is nested over 100 deep) is undefined",
    )
