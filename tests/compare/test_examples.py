"""The examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import shadowproxy.compare

MODULES = [found.name for found in pkgutil.walk_packages(shadowproxy.compare.__path__, "shadowproxy.compare.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
