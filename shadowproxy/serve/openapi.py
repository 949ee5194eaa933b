"""The OpenAPI document of the API, made from the table of endpoints and the records that they answer with."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, get_args

import msgspec
from aiohttp import web

from shadowproxy import __version__
from shadowproxy.serve.access import COOKIE
from shadowproxy.serve.endpoint import Answer, Endpoint, Parameter
from shadowproxy.serve.problems import CONTENT_TYPE, Problem

_REFERENCE: Final = "#/components/schemas/{name}"

_ALWAYS: Final[Mapping[int, str]] = {
    400: "A parameter that there isn't, that stands twice, or that can't be.",
    414: "Path and query are too long.",
    421: "The API is asked under a name that is not its own (`serve.hosts`).",
}
_READING: Final[Mapping[int, str]] = {
    401: "No token, or one that is not known (`serve.tokens`).",
    429: "More requests a second from one address than `serve.limits.rate`.",
}
_CHANGING: Final[Mapping[int, str]] = {
    403: "The token may only read; without tokens, the request comes from elsewhere; or a web page sent it.",
    408: "The body did not come whole in time.",
    413: "The body is larger than `serve.limits.body`.",
}

_INTRODUCTION: Final = """\
The verdict and all that it rests on. Every answer is JSON; every error is a problem (RFC 9457).

Without `serve.tokens` everybody who reaches the API may read, and who asks from the machine it runs on may also
control. With them every request needs one, as `Authorization: Bearer TOKEN`. A browser shows its token to
`POST /login` once, and has a session from then on that may read.
"""


class OpenApi:
    """Serves the document of a table of endpoints, which is made when it is first asked for."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._endpoints = tuple(endpoints)
        self._encoded = b""

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [web.get("/api/v1/openapi.json", self._show)]

    async def _show(self, _request: web.Request) -> web.Response:
        if not self._encoded:
            self._encoded = msgspec.json.encode(document(self._endpoints))
        return web.Response(body=self._encoded, content_type="application/json")


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The document (OpenAPI 3.1.0) of all that is to be documented."""
    told = [one for one in endpoints if one.documented]
    schemas, components = _schemas(told)
    paths: dict[str, dict[str, Any]] = {}
    for one in told:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas)
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "shadowproxy",
            "version": __version__,
            "summary": "Whether a candidate may replace the baseline.",
            "description": _INTRODUCTION,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "One of `serve.tokens`."},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": "Of a browser, from `POST /login`; it may read.",
                },
            },
        },
    }
    # Defaults of records are tuples and the like: as JSON, all of it is what it will be read as.
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(whole))
    return found


def _schemas(endpoints: Sequence[Endpoint]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """By type, its schema; and by name, those that they refer to."""
    kinds: list[Any] = [Problem]
    for one in endpoints:
        kinds += [answer.kind for answer in one.answers if answer.kind is not None]
        kinds += [] if one.body is None else [kind for kind in one.body.kinds.values() if kind is not None]
        kinds += [parameter.kind for parameter in one.parameters]
    made, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    described = {name: _described(schema, _structs(kinds).get(name)) for name, schema in components.items()}
    return dict(zip(map(repr, kinds), made, strict=True)), dict(sorted(described.items()))


def _structs(kinds: Iterable[Any]) -> dict[str, type]:
    """Every Struct that these types hold, by name."""
    found: dict[str, type] = {}
    left = list(kinds)
    while left:
        kind = left.pop()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if kind.__name__ not in found:
                found[kind.__name__] = kind
                left += [one.type for one in msgspec.structs.fields(kind)]
        else:
            left += get_args(kind)
    return found


def _described(schema: dict[str, Any], kind: type | None) -> dict[str, Any]:
    """With what stands below a field in the code as its description."""
    properties = schema.get("properties")
    if kind is None or properties is None:
        return schema
    about = _field_notes(kind)
    return schema | {
        "properties": {
            name: one | ({"description": about[name]} if name in about else {}) for name, one in properties.items()
        }
    }


def _field_notes(kind: type) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    if not isinstance(tree, ast.ClassDef):
        return {}
    notes = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            notes[before.target.id] = " ".join(after.value.value.split())
    return notes


def _operation(one: Endpoint, schemas: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    said: dict[str, Any] = {"operationId": _name(one), "summary": one.summary, "tags": [_tag(one)]}
    if one.about:
        said["description"] = one.about
    if one.parameters:
        said["parameters"] = [_parameter(parameter, schemas) for parameter in one.parameters]
    if one.body is not None:
        said["requestBody"] = {
            "required": True,
            "description": one.body.about,
            "content": {
                content: _content(kind, schemas, one.body.example, one.body.constraint)
                for content, kind in one.body.kinds.items()
            },
        }
    said["responses"] = {str(answer.status): _answer(answer, schemas) for answer in one.answers}
    for status, when in sorted(_problems(one).items()):
        said["responses"].setdefault(str(status), _refusal(status, when))
    said["security"] = _security(one)
    return said


def _security(one: Endpoint) -> list[dict[str, list[str]]]:
    if one.needs == "nothing":
        return []
    return [{"token": []}] if one.needs == "control" else [{"token": []}, {"session": []}]


def _problems(one: Endpoint) -> dict[int, str]:
    found = dict(_ALWAYS)
    if one.needs != "nothing":
        found |= _READING
    elif not one.quiet:
        found[429] = _READING[429]
    if one.method == "POST":
        found |= _CHANGING
    if one.body is not None:
        found[415] = f"The body is of no content type that is taken: {', '.join(one.body.kinds)}."
    return found | dict(one.problems)


def _name(one: Endpoint) -> str:
    words: list[str] = re.findall(r"[a-z]+", one.path.removeprefix("/api/v1"))
    return one.method.lower() + "".join(word.title() for word in words)


def _tag(one: Endpoint) -> str:
    first, _, rest = one.path.strip("/").partition("/")
    return rest.partition("/")[2].partition("/")[0].partition(".")[0] if first == "api" else "process"


def _parameter(parameter: Parameter, schemas: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    schema = dict(schemas[repr(parameter.kind)])
    if parameter.usual is not None:
        schema["default"] = parameter.usual
    return {
        "name": parameter.name,
        "in": parameter.within,
        "required": parameter.within == "path",
        "description": parameter.about,
        "schema": schema,
        **({} if parameter.example is None else {"example": parameter.example}),
    }


def _content(
    kind: Any, schemas: Mapping[str, dict[str, Any]], example: Any = None, constraint: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"} if kind is None else schemas[repr(kind)]
    if constraint and kind is not None:
        schema = {"allOf": [schema, dict(constraint)]}
    return {"schema": schema, **({} if example is None or kind is None else {"example": example})}


def _answer(answer: Answer, schemas: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    said: dict[str, Any] = {"description": answer.about}
    if answer.content:
        said["content"] = {answer.content: _content(answer.kind, schemas, answer.example)}
    return said


def _refusal(status: int, when: str) -> dict[str, Any]:
    said: dict[str, Any] = {
        "description": when,
        "content": {
            CONTENT_TYPE: {
                "schema": {"$ref": _REFERENCE.format(name="Problem")},
                "example": {
                    "type": "about:blank",
                    "title": HTTPStatus(status).phrase,
                    "status": status,
                    "detail": when,
                },
            }
        },
    }
    header = {401: "WWW-Authenticate", 429: "Retry-After"}.get(status)
    if header is not None:
        said["headers"] = {header: {"schema": {"type": "string"}, "required": True}}
    return said
