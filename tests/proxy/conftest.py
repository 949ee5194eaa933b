from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The proxy runs on uvloop; so do its tests."""
    return {"uvloop": uvloop.new_event_loop}
