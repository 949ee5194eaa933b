"""What all tests share: uvloop, the real servers of `servers` and the Chromium of `browser`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, settings

pytest_plugins = ["servers", "prometheus", "browser"]

# Without clocks: a busy machine is no reason to fail. CI judges a change by the same examples each time; new ones are
# looked for wherever else the tests run.
settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("unhurried")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Asynchronous tests run on the loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name what isn't text after its argument: gzip writes the time into what it makes, and two processes that share
    the tests have to call each by the same name."""
    return argname if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()) else None
