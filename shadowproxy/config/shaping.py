"""How the request that one upstream gets differs from the client's."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from shadowproxy.config.headers import CREDENTIALS, EditableHeader, HeaderValue
from shadowproxy.config.paths import JsonField, parse_field
from shadowproxy.config.rewriting import compile_rewrite
from shadowproxy.config.section import Section

_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{1,5})?")


def _host(value: Any) -> Any:
    if isinstance(value, str) and not _AUTHORITY.fullmatch(value):
        raise ValueError(f"{value!r} is not a host: write name, name:port, or `client` for the client's own Host")
    return value


Host = Annotated[str, BeforeValidator(_host)]


class Rewrite(Section):
    """A rule for the path. Of several rules, the first that matches is applied, and no other."""

    match: str = Field(min_length=1, description="pattern (RE2) that is looked for in the path, without the query")
    to: str = Field(description="what stands in its place; \\1 and \\g<name> are groups")

    @field_validator("to")
    @classmethod
    def _possible(cls, to: str, info: ValidationInfo) -> str:
        if "match" in info.data:
            compile_rewrite(info.data["match"], to)
        return to


def _distinct(headers: Any) -> Any:
    if isinstance(headers, Mapping):
        names = [name.lower() for name in headers if isinstance(name, str)]
        for name in names:
            if names.count(name) > 1 and re.fullmatch(r"[a-z0-9-]+", name):
                raise ValueError(f"{name} stands there twice, written differently")
    return headers


class HeaderEdits(Section):
    """Headers of the request that are set and removed."""

    set: Annotated[dict[EditableHeader, HeaderValue], BeforeValidator(_distinct)] = Field(
        default_factory=dict, repr=False, description="name: value, in place of what the client sent under that name"
    )
    remove: tuple[EditableHeader, ...] = Field((), description="names")

    @property
    def edited(self) -> frozenset[str]:
        """Every name that is set or removed."""
        return frozenset(self.set) | frozenset(self.remove)


class Credentials(Section):
    """What an upstream gets of the client's credentials. `keep` and `remove` stand for `{client: ...}`."""

    client: Literal["keep", "remove"] = Field(
        "keep", description="whether `headers` are passed on; remove, unless given, where `authorization` is set"
    )
    headers: tuple[EditableHeader, ...] = Field(CREDENTIALS, description="the headers that are credentials")
    authorization: HeaderValue | None = Field(
        None, repr=False, description="sent as Authorization in place of the client's: `Bearer ${TOKEN}`"
    )


def _credentials(value: Any) -> Any:
    if isinstance(value, Credentials):
        return value
    if value in ("keep", "remove"):
        return {"client": value}
    # Not quoted: what stands there may be a credential.
    if not isinstance(value, Mapping):
        raise ValueError("write keep, remove, or {authorization: ...}")
    if value.get("authorization") is not None and "client" not in value:
        return {**value, "client": "remove"}
    return value


CredentialsOrWord = Annotated[
    Credentials,
    BeforeValidator(_credentials, json_schema_input_type=Literal["keep", "remove"] | Credentials),
]


def encode_json(value: Any) -> str:
    """`value` as JSON, integers of any size kept. Raises ValueError for what JSON doesn't have."""
    _check_json(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _check_json(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the name {key!r} must be text: put it in quotes")
            _check_json(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_json(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("JSON has no infinity and no NaN")
    elif isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("the text has half of a surrogate pair")
    elif value is not None and not isinstance(value, bool | int | float):
        raise ValueError(f"JSON has no {type(value).__name__}: put it in quotes")


def _independent(fields: dict[str, Any]) -> dict[str, Any]:
    paths = {field: parse_field(field) for field in fields}
    for field, path in paths.items():
        encode_json(fields[field])
        for other, longer in paths.items():
            if other != field and longer[: len(path)] == path:
                raise ValueError(f"{field} and {other} override the same field")
    return fields


JsonFields = Annotated[dict[JsonField, Any], AfterValidator(_independent)]


def secret_text(value: SecretStr) -> bytes:
    """A header's value as it goes over the wire."""
    return value.get_secret_value().encode("latin-1")
