"""The real upstreams, one process of each for the whole run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from conformance import upstreams


@dataclass(frozen=True)
class Services:
    """URLs. `nginx` has `app` behind it; `short` is an nginx that keeps a connection for three requests."""

    app: str
    nginx: str
    short: str
    uvicorn: str
    aiohttp: str


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(upstreams.uvicorn("httptools"))
        h11 = stack.enter_context(upstreams.uvicorn("h11"))
        aiohttp = stack.enter_context(upstreams.aiohttp())
        nginx, short = stack.enter_context(upstreams.nginx(app))
        yield Services(app, nginx, short, h11, aiohttp)
