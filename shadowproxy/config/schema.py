"""The JSON Schema of a configuration, for editors: completion, descriptions and faults while typing."""

from __future__ import annotations

import orjson

from shadowproxy.config.settings import Settings


def json_schema() -> str:
    """The schema as text, stable from run to run, so that it can be checked in and compared."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Settings.model_json_schema(),
        "title": "shadowproxy configuration",
    }
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n"
