"""Durations, sizes, addresses and URLs as people write them, and the numbers and names that sections share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, GetPydanticSchema, WithJsonSchema
from pydantic_core import core_schema

MOST_WORKERS: Final = 256
"""More than one machine has use for; a slip of the finger should not start thousands of processes."""

_DURATIONS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}


def parse_duration(text: Any) -> float:
    """Seconds from a number (of seconds) or a string such as `250ms`, `10s`, `30m`.

    Raises ValueError on anything else.

    >>> parse_duration("250ms"), parse_duration("1.5h"), parse_duration(3)
    (0.25, 5400.0, 3.0)
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        seconds = float(text)
    else:
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(us|ms|s|m|h|d)\s*", text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"{text!r} is not a duration: write seconds, or a number with us, ms, s, m, h or d")
        seconds = float(match[1]) * _DURATIONS[match[2]]
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"a duration can't be {text!r}: it must be finite and not negative")
    return seconds


def parse_rate(text: Any) -> float:
    """How often a second, from a number or a string such as `50/s`, `3000/m`, `1e6/d`.

    Raises ValueError on anything else, and for what is not above 0.

    >>> parse_rate("50/s"), parse_rate("3000/m"), parse_rate("20")
    (50.0, 50.0, 20.0)
    """
    number, slash, unit = str(text).partition("/")
    try:
        each = float(number) / (_DURATIONS[unit.strip()] if slash else 1.0)
    except (ValueError, KeyError):
        raise ValueError(f"{text!r} is not a rate: write so many a second, or a number with /s, /m, /h or /d") from None
    if not 0 < each < float("inf"):
        raise ValueError(f"a rate can't be {text!r}: it must be above 0 and finite")
    return each


def parse_size(text: Any) -> int:
    """Bytes from a number (of bytes) or a string such as `64KiB`, `1MiB`, `2GB`.

    Raises ValueError on anything else.

    >>> parse_size("1MiB"), parse_size("2 kB"), parse_size(17)
    (1048576, 2000, 17)
    """
    if isinstance(text, int) and not isinstance(text, bool):
        size = text
    else:
        match = (
            re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmg]?i?b)?\s*", text, re.IGNORECASE)
            if isinstance(text, str)
            else None
        )
        if match is None:
            raise ValueError(f"{text!r} is not a size: write bytes, or a number with kB, KiB, MB, MiB, GB or GiB")
        size = int(float(match[1]) * _SIZES[(match[2] or "").lower()])
    if size < 0:
        raise ValueError(f"a size can't be negative: {text!r}")
    return size


class Address(NamedTuple):
    """Where to listen: a host (empty for all interfaces) and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: Any) -> Address:
    """An address to listen on from `host:port`, `[v6]:port` or `:port`.

    >>> parse_address("127.0.0.1:80"), parse_address(":8080")
    (Address(host='127.0.0.1', port=80), Address(host='', port=8080))
    """
    if isinstance(text, Address):
        return text
    match = (
        re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]/\s]*)):([0-9]{1,5})", text) if isinstance(text, str) else None
    )
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{text!r} is not an address to listen on: write host:port, such as 127.0.0.1:8080")
    return Address(match[1] or match[2] or "", int(match[3]))


def parse_http_url(text: Any) -> str:
    """An absolute http or https URL without query, fragment or credentials; a trailing slash is taken off.

    >>> parse_http_url("http://models:8001/v1/")
    'http://models:8001/v1'
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not a URL: write http://host:port or https://host:port")
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r} is not a URL of an upstream: write http://host:port or https://host:port")
    if port == 0:
        raise ValueError(f"{text!r}: port 0 can't be connected to")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{text!r}: an upstream URL has no query, fragment or credentials")
    if re.search(r"[\x00-\x20\x7f]", text.strip()):
        raise ValueError(f"{text!r}: a URL has no spaces or control characters")
    return text.strip().rstrip("/")


def without_passwords(text: str) -> str:
    """`text` as it may be shown: without the credentials of URLs in it.

    >>> without_passwords("not 'redis://:pa@ss@host/0?password=pass&db=1'")
    "not 'redis://***@host/0?password=***&db=1'"
    """
    text = re.sub(r"://\S*@", "://***@", text)
    return re.sub(r"(password=)[^&\s'\"]*", r"\1***", text)


def parse_workers(text: Any) -> int | Literal["auto"]:
    """How many processes: a number from 1 to 256, or `auto`.

    >>> parse_workers(4), parse_workers("auto")
    (4, 'auto')
    """
    if text == "auto":
        return "auto"
    if not isinstance(text, int) or isinstance(text, bool) or not 1 <= text <= MOST_WORKERS:
        raise ValueError(f"{text!r} is not a number of processes: write 1 to {MOST_WORKERS}, or auto")
    return text


Share = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": r"^\s*[0-9]*\.?[0-9]+\s*(us|ms|s|m|h|d)\s*$"},
            ],
            "description": "seconds, or a number with us, ms, s, m, h or d",
        }
    ),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^\s*[0-9]*\.?[0-9]+\s*([kKmMgG]?i?[bB])?\s*$"},
            ],
            "description": "bytes, or a number with kB, KiB, MB, MiB, GB or GiB",
        }
    ),
]
Listen = Annotated[
    Address,
    GetPydanticSchema(
        lambda _source, _handler: core_schema.no_info_plain_validator_function(
            parse_address, serialization=core_schema.to_string_ser_schema()
        )
    ),
    WithJsonSchema({"type": "string", "description": "host:port to listen on; port 0 takes a free one"}),
]
Workers = Annotated[
    int | Literal["auto"],
    BeforeValidator(parse_workers),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 1, "maximum": MOST_WORKERS}, {"const": "auto"}],
            "description": "a number of processes, or auto: one per CPU that may be used",
        }
    ),
]
HttpUrl = Annotated[
    str,
    BeforeValidator(parse_http_url),
    WithJsonSchema({"type": "string", "format": "uri", "pattern": "^https?://"}),
]
