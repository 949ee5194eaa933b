"""Compiles the data plane into the wheel where SHADOWPROXY_COMPILE=1 asks for it: `make wheel`.

The same typed source goes through mypyc and becomes C, so that there is one implementation: what is installed without a
compiler is plain Python and does the same, for more CPU. Everything that runs per request is compiled and nothing else.

What mypyc does otherwise than Python, and the compiled modules keep clear of (`make test-compiled` holds them to it):
tuples have no identity; an attribute that was set to None stays None for the rest of the function by its type; a slice
that begins beyond the end is an error; NamedTuple is not understood.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILED = (
    "pairs/batch",
    "pairs/ledger",
    "proxy/admission",
    "proxy/arrivals",
    "proxy/bodies",
    "proxy/breaker",
    "proxy/capture",
    "proxy/exchange",
    "proxy/fields",
    "proxy/flow",
    "proxy/framing",
    "proxy/gate",
    "proxy/listener",
    "proxy/mask",
    "proxy/mirror",
    "proxy/redact",
    "proxy/redact_text",
    "proxy/shaping",
    "proxy/timers",
    "proxy/trace",
    "proxy/turns",
    "proxy/upstream",
)
# Types of other packages are read from them, so they must be there to be read.
TOOLS = ("mypy[mypyc]>=1.14,<3", "setuptools>=75", "types-PyYAML>=6,<7", "types-jmespath>=1,<2")


class Compile(BuildHookInterface):  # type: ignore[type-arg]  # (its parameter is a build configuration: unused here)
    """Adds the compiled modules to a wheel. An editable installation is never compiled: edits would do nothing."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What a build needs beside hatchling."""
        return [*TOOLS, *self.metadata.core.dependencies] if _wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is written."""
        if version != "standard" or not _wanted():
            return
        build = Path(tempfile.mkdtemp(prefix="shadowproxy-build-"))
        for library in _compile(Path(self.root), build):
            build_data["force_include"][str(library)] = str(library.relative_to(build / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _wanted() -> bool:
    return os.environ.get("SHADOWPROXY_COMPILE") == "1"


def _compile(root: Path, build: Path) -> list[Path]:
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    # mypyc names modules by their paths from here.
    os.chdir(root)
    sources = [f"shadowproxy/{module}.py" for module in COMPILED]
    extensions = mypycify(["--config-file", "pyproject.toml", *sources], opt_level="3", target_dir=str(build / "c"))
    command = build_ext(Distribution({"name": "shadowproxy", "ext_modules": extensions}))
    command.build_lib, command.build_temp = str(build / "lib"), str(build / "o")
    command.ensure_finalized()
    command.run()
    return sorted((build / "lib").rglob("*.so"))
