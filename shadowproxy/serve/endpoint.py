"""What is said of an endpoint: one record, from which follow who may ask it and how, and its documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from shadowproxy.errors import ShadowproxyError
from shadowproxy.serve.problems import Unfit

Needs = Literal["nothing", "read", "control"]
"""What one must be allowed to: nothing where the answer says nothing of the experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """Something that an endpoint can be asked with, in the query or the path."""

    name: str
    about: str
    kind: Any = str
    """A type that msgspec converts text to, with its bounds: `Annotated[int, Meta(ge=1, le=100)]`."""
    usual: Any = None
    """What it is where it isn't given; None: its absence means something of its own."""
    example: Any = None
    within: Literal["query", "path"] = "query"

    def check(self, said: str) -> None:
        """Raises Unfit for what can't be."""
        try:
            msgspec.convert(said, self.kind, strict=False)
        except (msgspec.ValidationError, ValueError) as error:
            raise Unfit(f"{self.name}: {str(error)[:1].lower()}{str(error)[1:]}, not {said[:80]!r}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an endpoint answers with."""

    about: str
    kind: Any = None
    """A type of msgspec; None for what is no JSON."""
    status: int = 200
    content: str = "application/json"
    """Empty where there is no body."""
    example: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What is sent to an endpoint."""

    about: str
    kinds: Mapping[str, Any]
    """By content type, of what type of msgspec."""
    example: Any = None
    constraint: Mapping[str, Any] = field(default_factory=dict)
    """Of JSON Schema, for what the types can't say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A method at a path."""

    path: str
    summary: str
    answers: Sequence[Answer] = ()
    method: Literal["GET", "POST"] = "GET"
    about: str = ""
    needs: Needs = "read"
    parameters: Sequence[Parameter] = ()
    body: Body | None = None
    problems: Mapping[int, str] = field(default_factory=dict)
    """By status, when; beside those that any endpoint may answer with."""
    of_page: bool = False
    """Whether the page itself may send it where it changes something."""
    documented: bool = True

    @property
    def key(self) -> tuple[str, str]:
        """(method, path): what it is found by."""
        return self.method, self.path

    @property
    def quiet(self) -> bool:
        """Whether it is asked by machines of the house at their own pace, and counts towards no rate."""
        return self.path in ("/healthz", "/readyz", "/metrics")

    def check_query(self, asked: Mapping[str, Sequence[str]]) -> None:
        """`asked` is by name all that was said. Raises Unfit for a parameter that there isn't, stands twice, or can't
        be: a slip in its name would else choose everything."""
        known = {one.name: one for one in self.parameters if one.within == "query"}
        for name, said in asked.items():
            if name not in known:
                there = f"there are {', '.join(known)}" if known else "there are none here"
                raise Unfit(f"there is no parameter {name[:80]!r}; {there}")
            if len(said) > 1:
                raise Unfit(f"{name} is given {len(said)} times; give it once")
            known[name].check(said[0])


class Undocumented(ShadowproxyError):  # noqa: N818  (what an endpoint is, read as such at the call site)
    """Routes and the table of endpoints differ: a mistake in the code, found before anything is served."""


def table(endpoints: Sequence[Endpoint], served: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Endpoint]:
    """The endpoints by key. Raises Undocumented where what is `served`, as (method, path), is not the same."""
    found = {one.key: one for one in endpoints}
    if missing := sorted(set(served) - found.keys()):
        raise Undocumented(f"served and not in serve/endpoints.py: {missing}; describe what it is and who may ask it")
    if idle := sorted(found.keys() - set(served)):
        raise Undocumented(f"in serve/endpoints.py and not served: {idle}; take it out there, or serve it")
    return found
