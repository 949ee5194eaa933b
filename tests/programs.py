"""What tests need and that does not come from PyPI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def program(name: str) -> str:
    """The path of a program; without it the test is skipped, but fails where CI says that all must be there."""
    found = shutil.which(name)
    return found if found is not None else missing(f"{name} is not on the PATH (make test brings it on Debian)")


def missing(reason: str) -> NoReturn:
    """Skip a test for want of something that `make test` brings; a failure in CI, where it must be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
