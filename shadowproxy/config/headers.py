"""Names and values of headers as they stand in a configuration, and secrets."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, SecretStr, WithJsonSchema

TOKEN: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # noqa: S105  (the grammar of a name, RFC 9110, section 5.6.2)

CREDENTIALS: Final = (
    "authorization",
    "proxy-authorization",
    "cookie",
    "api-key",
    "apikey",
    "cf-access-jwt-assertion",
    "ocp-apim-subscription-key",
    "private-token",
    "x-access-token",
    "x-amz-security-token",
    "x-amzn-oidc-accesstoken",
    "x-amzn-oidc-data",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
    "x-forwarded-access-token",
    "x-functions-key",
    "x-goog-api-key",
    "x-goog-iap-jwt-assertion",
    "x-vault-token",
    "x-xsrf-token",
)
"""Request headers that say who asks, or prove it, in common services, gateways and clouds."""

_OURS: Final = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def _name(text: Any) -> str:
    # Not quoted: a value that slipped into the place of a name may be a secret.
    if not isinstance(text, str) or not re.fullmatch(TOKEN, text):
        raise ValueError("a header's name has letters, digits and - only")
    return text.lower()


def _editable(text: Any) -> str:
    name = _name(text)
    if name in _OURS:
        raise ValueError(f"{name} belongs to the connection or frames the message, and can't be set or removed")
    return name


def _secret(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text: put it in quotes")
    return value


def _value(value: Any) -> Any:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        raise ValueError("must be text: put it in quotes")
    # RFC 9110, section 5.5, without what would need another encoding than latin-1.
    if not re.fullmatch(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?", text):
        raise ValueError("a header's value is one line, without control characters and spaces around it")
    return value


HeaderName = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": TOKEN})]
EditableHeader = Annotated[str, BeforeValidator(_editable), WithJsonSchema({"type": "string", "pattern": TOKEN})]
Secret = Annotated[SecretStr, BeforeValidator(_secret)]
HeaderValue = Annotated[SecretStr, BeforeValidator(_value)]
