"""Programs that tests run and that do not come from PyPI."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str) -> str:
    """The path of a program; without it the test is skipped, but fails where CI says that all must be there."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not on the PATH (make test brings it on Debian)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found
