"""What never leaves the proxy's process with a pair, or only as a keyed hash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from shadowproxy.config.headers import CREDENTIALS, HeaderName, Secret
from shadowproxy.config.paths import JsonPath
from shadowproxy.config.section import Section

Mask = Literal["drop", "hash", "keep"]

HEADERS: Final[Mapping[str, Mask]] = dict.fromkeys((*CREDENTIALS, "set-cookie"), "drop")
QUERY: Final[Mapping[str, Mask]] = dict.fromkeys(
    (
        "access_token",
        "api_key",
        "apikey",
        "client_secret",
        "id_token",
        "password",
        "refresh_token",
        "sig",
        "signature",
        "token",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-signature",
    ),
    "drop",
)
KEY_LENGTH: Final = 16


def _over(defaults: Mapping[str, Mask]) -> BeforeValidator:
    """What is configured is added to the defaults: nobody unmasks a cookie by naming another header."""

    def merge(given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {**defaults, **{name.lower() if isinstance(name, str) else name: mask for name, mask in given.items()}}

    return BeforeValidator(merge)


class Redact(Section):
    """Each entry is dropped or hashed with the key: the same value gives the same hash, so accounts stay distinct."""

    headers: Annotated[dict[HeaderName, Mask], _over(HEADERS)] = Field(
        default_factory=lambda: dict(HEADERS),
        description="of requests and responses; added to the defaults, of which `keep` takes one out",
    )
    query: Annotated[dict[str, Mask], _over(QUERY)] = Field(
        default_factory=lambda: dict(QUERY),
        description="parameters in the target, in headers that hold URLs, and in form bodies; added to the defaults",
    )
    json_fields: dict[JsonPath, Mask] = Field(
        default_factory=dict,
        description="in bodies: user.email, items[*].owner; a body that can't be read as JSON is left out",
    )
    annotations: dict[JsonPath, Mask] = Field(default_factory=dict, description="likewise, in the client's annotations")
    key: Secret | None = Field(
        None, repr=False, description="of the hashes, 16 characters or more: `${VAR}` keeps it out of the file"
    )

    @field_validator("key")
    @classmethod
    def _long_enough(cls, key: Secret | None, info: ValidationInfo) -> Secret | None:
        if key is not None and len(key.get_secret_value()) < KEY_LENGTH:
            raise ValueError(f"is shorter than {KEY_LENGTH} characters: hashes under it could be undone by trying")
        masks = [mask for scope in info.data.values() for mask in scope.values()]
        if key is None and "hash" in masks:
            raise ValueError("is needed where something is hashed; the same for all proxies of an experiment")
        return key

    @property
    def changes(self) -> dict[str, dict[str, str]]:
        """By scope, what differs from the defaults: a route may read what is masked."""
        defaults: dict[str, Mapping[str, Mask]] = {"headers": HEADERS, "query": QUERY}
        scopes = {
            scope: {
                name: mask
                for name, mask in getattr(self, scope).items()
                if mask != defaults.get(scope, {}).get(name, "keep")
            }
            for scope in ("headers", "query", "json_fields", "annotations")
        }
        return {scope: entries for scope, entries in scopes.items() if entries}
