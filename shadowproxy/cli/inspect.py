"""Looking into one answer: which protocol it is of, what a route finds in it, and which configuration fits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowproxy.cli.common import EXIT_UNREACHABLE, Json, fail, run_loop
from shadowproxy.errors import PayloadError, StartError

if TYPE_CHECKING:
    from shadowproxy.compare.inspecting.inspection import Inspection
    from shadowproxy.config import Route
    from shadowproxy.model import Exchange, Pair, Request, Side

EXIT_NOTHING = 1
_LARGEST = 256 * 1024**2
_MOST_PAIRS = 1000
_STORES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")

app = typer.Typer()


@app.command()
def inspect(
    what: Annotated[
        str, typer.Argument(metavar="FILE|URL", help="A recorded answer, pairs (.jsonl), or where to send a request.")
    ],
    request: Annotated[
        Path | None, typer.Option("--request", metavar="FILE", help="The request that was answered: raw, or its body.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Look with the routes of this configuration.")
    ] = None,
    route: Annotated[
        str | None, typer.Option("--route", metavar="NAME", help="With this one; else the path says which.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="BODY|@FILE", help="To a URL: send this body, by POST.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="To a URL: send this header.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", "-X", help="To a URL: GET, or POST with --data.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, help="To a URL: seconds for the answer.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Look into an answer: the protocol, an outline of it, what a route finds, and a configuration to begin with.

    FILE is a body (JSON, JSON lines, an event stream), a raw HTTP response (as of `curl -i`), or pairs as
    `shadowproxy pairs export` writes them. Exit code 0: there is something to compare; 1: there is nothing.

    [bold]Example[/bold]: shadowproxy inspect http://127.0.0.1:8001/recommend --data '{"user_id": 7}'
    """
    from shadowproxy.compare.inspecting.inspection import inspect as look

    if route is not None and config is None:
        fail("--route needs --config: it names a route of a configuration")
    asked = None if request is None else _read(str(request))
    url = "://" in what
    if url:
        pair, base = _fetched(what, asked, data, header or [], method, timeout)
        answers, seen = [pair], True
    else:
        if data is not None or header or method is not None:
            fail("--data, --header and --method are for a URL; a FILE is an answer already (see --request)")
        answers, seen = _recorded(what, asked)
        base = "http://127.0.0.1:8001"
    chosen = None
    if config is not None:
        chosen, answers = _routed(config, route, answers)
    found = look(answers, chosen)
    proposal = "" if chosen is not None else _proposal(found, base)
    _show(found, proposal, seen=seen, as_json=as_json)
    if not found.found:
        raise SystemExit(EXIT_NOTHING)


def _show(found: Inspection, proposal: str, *, seen: bool, as_json: bool) -> None:
    from shadowproxy.report.inspection import as_line, inspection_json, inspection_view
    from shadowproxy.report.words import plain_json

    if as_json:
        typer.echo(plain_json(as_line(inspection_json(found, proposal=proposal, known_status=seen))))
        return
    from rich.console import Console

    Console(highlight=False).print(inspection_view(found, known_status=seen))
    if proposal:
        # Not through rich: it would break lines that are to be pasted.
        typer.echo(f"\nproposed configuration\n\n{proposal}", nl=False)


def _read(name: str) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(_LARGEST + 1)
    except OSError as error:
        fail(f"{name}: can't be read: {error.strerror or error}")
    if len(data) > _LARGEST:
        fail(f"{name}: is larger than {_LARGEST // 1024**2} MiB; take a part of it (pairs export --limit)")
    return data


def _recorded(name: str, asked: bytes | None) -> tuple[list[tuple[Pair, Side]], bool]:
    """The answers in a file, and whether their status was recorded with them."""
    from shadowproxy.compare.inspecting.captures import capture, pair_of, request_of
    from shadowproxy.model import Side

    found = capture(_read(name))
    if found.form == "pairs":
        if asked is not None:
            fail("--request is for an answer alone; pairs hold their requests")
        return _pairs(name, found.data), True
    request = None if asked is None else request_of(asked)
    return [(pair_of(request, exchange), Side.BASELINE) for exchange in found.exchanges], found.form == "response"


def _pairs(name: str, data: bytes) -> list[tuple[Pair, Side]]:
    from shadowproxy.model import Side
    from shadowproxy.pairs.lines import read_line
    from shadowproxy.report.words import plain

    answers: list[tuple[Pair, Side]] = []
    lines = [line for line in data.split(b"\n") if line.strip()]
    for number, line in enumerate(lines[:_MOST_PAIRS], 1):
        try:
            pair = read_line(line)
        except PayloadError as error:
            fail(f"{name}: line {number}: {plain(str(error))}")
        answers += [(pair, Side.BASELINE), (pair, Side.CANDIDATE)]
    return answers


def _fetched(
    url: str, asked: bytes | None, data: str | None, header: Sequence[str], method: str | None, timeout: float
) -> tuple[tuple[Pair, Side], str]:
    """The pair, and the origin that answered."""
    from shadowproxy.compare.inspecting.captures import pair_of, request_of
    from shadowproxy.model import Side
    from shadowproxy.traffic.ask import ask, origin_of

    if url.partition("://")[0].lower() in _STORES:
        fail(
            "a store holds pairs, not answers: write some into a file with `shadowproxy pairs export`, and inspect that"
        )
    origin = origin_of(url)
    if asked is not None and data is not None:
        fail("--request and --data are two ways to say the same; leave one out")
    body = b"" if data is None else _read(data[1:]) if data.startswith("@") else data.encode()
    if asked is not None:
        sent = request_of(asked)
        body, method = sent.body, method or sent.method
    headers = [_header(line) for line in header]
    method = method or ("POST" if body else "GET")
    if not method.isalpha():
        fail(f"--method: {method!r} is no method, such as GET or POST")

    async def work() -> tuple[Request, Exchange]:
        return await ask(url, method=method.upper(), headers=headers, body=body, patience=timeout)

    try:
        request, exchange = run_loop(work())
    except StartError as error:
        fail(str(error), EXIT_UNREACHABLE)
    return (pair_of(request, exchange), Side.BASELINE), origin


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip() or any(sign in line for sign in "\r\n\0"):
        fail(f"--header: {line!r} is none; write it as 'NAME: VALUE'")
    return name.strip(), value.strip()


def _routed(config: Path, name: str | None, answers: list[tuple[Pair, Side]]) -> tuple[Route, list[tuple[Pair, Side]]]:
    """The route that is named, else that of the first path which has one, else the only one; and the answers of it."""
    from shadowproxy.compare.routes import Router, request_path
    from shadowproxy.config import load

    routes = load(config).routes
    names = ", ".join(route.name for route in routes) or "none"
    if name is not None:
        named = [route for route in routes if route.name == name]
        if not named:
            fail(f"{config}: has no route {name!r}; it has {names}")
        return named[0], answers
    router = Router([route.path for route in routes])
    # The path of an answer that came without its request is not known.
    indexes = [router(request_path(pair.request.target)) if pair.id else -1 for pair, _ in answers]
    known = next((index for index in indexes if index >= 0), None)
    if known is not None:
        return routes[known], [answer for answer, index in zip(answers, indexes, strict=True) if index == known]
    if len(routes) != 1:
        fail(f"{config}: which route the answer is of can't be told from its path; name one with --route: {names}")
    return routes[0], answers


def _proposal(found: Inspection, base: str) -> str:
    from shadowproxy.compare.inspecting.inspection import given_keys
    from shadowproxy.config.written import as_yaml

    if found.route is None:
        return ""
    whole: dict[str, Any] = {
        "baseline": base,
        "candidate": "http://127.0.0.1:8002",
        "routes": [given_keys(found.route)],
    }
    return as_yaml(whole)
