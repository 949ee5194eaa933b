"""Section `valid` of a route: what must hold of any single answer, whoever gave it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from shadowproxy.config.expressions import Expression, expression
from shadowproxy.config.headers import HeaderName
from shadowproxy.config.section import Section

RuleName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
Status = Annotated[int, Field(ge=200, le=599)]


def _own_or_expression(value: Any) -> Any:
    if value is not True and not isinstance(value, str):
        raise ValueError("write true, for what the route extracts, or a JMESPath expression")
    return value if value is True else expression(value)


def _ids_or_expression(value: Any) -> Any:
    if isinstance(value, list | tuple):
        if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in value):
            raise ValueError("ids are strings or integers")
        return tuple(value)
    return expression(value)


# One validator for both forms: with a union each fault would be told once for every form, under made-up keys.
Own = Annotated[bool | str, PlainValidator(_own_or_expression, json_schema_input_type=Literal[True] | str)]
Ids = Annotated[
    tuple[str | int, ...] | str, PlainValidator(_ids_or_expression, json_schema_input_type=list[str | int] | str)
]


class Bounds(Section):
    """Between which numbers something must be, both included."""

    of: Expression | None = Field(None, description="of what; none: of the route's own `ids` or `scores`")
    min: float | None = Field(None, description="none: no lower bound")
    max: float | None = Field(None, description="none: no upper bound")

    @model_validator(mode="after")
    def _a_range(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("bounds nothing: give `min` or `max`")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"nothing is at least {self.min:g} and at most {self.max:g}")
        return self


class Rule(Section):
    """One thing that must hold: exactly one of the keys, and maybe a name for the report.

    Expressions are JMESPath over `{request, response, annotations}`, as the route's own.
    """

    # `schema` is a method of pydantic's models, hence the underscore; it is `schema` in a configuration.
    model_config = ConfigDict(populate_by_name=True)

    name: RuleName | None = Field(None, description="in reports; none: the kind, with a number where it is taken")
    schema_: dict[str, Any] | bool | None = Field(
        None,
        alias="schema",
        description="the body is valid by this JSON Schema (2020-12 unless `$schema` says otherwise), or by that in a "
        "file of JSON, named from the configuration's folder; other resources are never fetched",
        json_schema_extra={"anyOf": [{"type": "object"}, {"type": "boolean"}, {"type": "string"}, {"type": "null"}]},
    )
    length: Bounds | None = Field(None, description="how many ids there are, or items, names or characters in `of`")
    unique: Own | None = Field(
        None, description="true: no id stands twice, as sent; or an expression for a list in which nothing does"
    )
    range: Bounds | None = Field(None, description="each score, or number in `of`, is within; what is no number isn't")
    descending: Own | None = Field(
        None, description="true: no score is above the one before, as sent; or an expression for a list of numbers"
    )
    forbidden: Ids | None = Field(
        None, description="ids that must not be among the answer's, or an expression that gives them"
    )
    required: Ids | None = Field(
        None, description="ids that must all be among the answer's, or an expression that gives them"
    )
    holds: Expression | None = Field(
        None, description="an expression that must be true: not null, false, or an empty string, list or object"
    )
    status: tuple[Status, ...] | None = Field(None, min_length=1, description="the statuses there may be")
    header: dict[HeaderName, str] | None = Field(
        None, min_length=1, description="header: what its value is, `*` for any characters"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            said = [kind for kind in KINDS if given.get(kind) is not None]
            if len(said) != 1:
                what = f"not {' and '.join(said)} at once" if said else "here is none"
                raise ValueError(f"a rule is one of {', '.join(KINDS)}; {what}")
        return given

    @field_validator("schema_", mode="before")
    @classmethod
    def _compiles(cls, schema: Any, info: ValidationInfo) -> Any:
        if isinstance(schema, str):
            schema = _read(schema, (info.context or {}).get("folder"))
        if isinstance(schema, dict | bool):
            _compile(schema)
        return schema

    @model_serializer
    def _compact(self) -> dict[str, Any]:
        """Only what is said: a kind of rule that comes later changes no experiment that doesn't have it."""
        said = {"name": self.name, self.kind: getattr(self, "schema_" if self.kind == "schema" else self.kind)}
        return {key: value for key, value in said.items() if value is not None}

    @property
    def kind(self) -> str:
        """Which of the keys is given."""
        return next(kind for kind in KINDS if getattr(self, "schema_" if kind == "schema" else kind) is not None)

    @property
    def needs(self) -> str | None:
        """The key of the route without which the rule means nothing; it has no expression of its own."""
        if self.kind in ("forbidden", "required") or self.unique is True or (self.length and self.length.of is None):
            return "ids"
        return "scores" if self.descending is True or (self.range and self.range.of is None) else None


KINDS = (
    "schema",
    "length",
    "unique",
    "range",
    "descending",
    "forbidden",
    "required",
    "holds",
    "status",
    "header",
)
"""The kinds of rules, by their key."""


def named(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The same, each with a name of its own. Raises ValueError where two are given the same.

    >>> [rule.name for rule in named([Rule(unique=True), Rule(status=[200]), Rule(unique="response.body.a")])]
    ['unique', 'status', 'unique_2']
    """
    given = Counter(rule.name for rule in rules if rule.name is not None)
    if twice := [name for name, times in given.items() if times > 1]:
        raise ValueError(f"the name {twice[0]!r} stands twice: a broken rule is reported by its name")
    taken, found = set(given), []
    for rule in rules:
        name, number = rule.name or rule.kind, 1
        while rule.name is None and name in taken:
            number += 1
            name = f"{rule.kind}_{number}"
        taken.add(name)
        found.append(rule if rule.name else rule.model_copy(update={"name": name}))
    return tuple(found)


def refuse(uri: str) -> Any:
    """Retrieves nothing: what a schema refers to stands in it. Raises ValueError."""
    raise ValueError(f"{uri} is not fetched: put it under `$defs`")


def _read(file: str, folder: Path | None) -> Any:
    path = (folder or Path()) / file
    try:
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror or error}") from None
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict | bool):
        raise ValueError(f"{path} is no JSON Schema: it holds neither an object nor true or false")
    return found


def _compile(schema: dict[str, Any] | bool) -> None:
    # Imported where a route has a schema: the proxy starts without.
    import jsonschema_rs

    try:
        jsonschema_rs.validator_for(schema, retriever=refuse)
    except (ValueError, TypeError, jsonschema_rs.ReferencingError) as error:
        said = re.sub(r"\s+", " ", str(error).partition("\n\n")[0])
        raise ValueError(f"is no JSON Schema: {said:.300}") from None
