"""From a YAML file to `Settings`, with every fault found at once."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from shadowproxy.config.settings import Settings, contradictions
from shadowproxy.config.units import without_passwords
from shadowproxy.errors import ConfigError, Fault

_PLAIN = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)|true|false|null")
"""What a variable may hold to be read as more than text: no dates, and nothing that only looks like a number."""
_CONFIDENTIAL = re.compile(
    r"\$\.(?:(?:baseline|candidate|replica)\.(?:credentials|headers)\b.*|proxy\.redact\.key|serve\.tokens\b.*)",
    re.DOTALL,
)
"""Keys whose value may be a secret: it is never shown, and stays text (a token of digits is no number)."""
_HOLDERS = re.compile(r"\$\.(?:baseline|candidate|replica|proxy(?:\.redact)?|serve)")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's own rule is that keys are unique; PyYAML keeps the last without a word."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.duplicates: list[Fault] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = key.value
            if name in seen:
                where = f"line {key.start_mark.line + 1}"
                self.duplicates.append(Fault(where, f"the key `{name}` stands twice in one mapping; take one out"))
            seen.add(name)
        return super().construct_mapping(node, deep)


def load(path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check a configuration file.

    Raises ConfigError with all faults: unreadable file, bad YAML, unset variables, unknown keys, bad values,
    contradictions.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(str(path), [Fault("$", "there is no such file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Fault("$", f"can't be read: {error}")]) from None
    return loads(text, source=str(path), environ=os.environ if environ is None else environ, folder=path.parent)


def loads(
    text: str,
    *,
    source: str = "configuration",
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """As `load`, from text. `folder` is where the files that it names are looked for; none: the working directory."""
    context = {"folder": folder}
    unset: set[str] = set()
    try:
        data, faults = _parse(text)
        if not isinstance(data, dict):
            raise ConfigError(source, [Fault("$", "must be a mapping of keys, such as `baseline: http://…`")])
        data = _expand(data, "$", {} if environ is None else environ, faults, unset)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "$"
        what = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(source, [Fault(where, f"is not YAML: {what}")]) from None
    except RecursionError:
        raise ConfigError(source, [Fault("$", "is nested too deeply, or holds an alias of itself")]) from None
    try:
        settings = Settings.model_validate(data, context=context)
    except ValidationError as error:
        # Contradictions between sections are looked for apart, so that one bad value doesn't hide them.
        details = [detail for detail in error.errors(include_url=False) if detail["loc"]]
        faults += [fault for fault in map(_fault, details) if fault.path not in unset]
        faults += contradictions(_valid_sections(data, context))
    if faults:
        raise ConfigError(source, sorted(set(faults), key=lambda fault: fault.path))
    return settings


def _parse(text: str) -> tuple[Any, list[Fault]]:
    """The document, an empty mapping where there is none, and its duplicate keys."""
    loader = _UniqueKeyLoader(text)
    try:
        data = loader.get_single_data()
    finally:
        loader.dispose()
    return {} if data is None else data, loader.duplicates


def _valid_sections(data: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    sections = {}
    types = get_type_hints(Settings, include_extras=True)
    for name, field in Settings.model_fields.items():
        if name not in data:
            if not field.is_required():
                sections[name] = field.get_default(call_default_factory=True, validated_data={})
            continue
        with contextlib.suppress(ValidationError):
            sections[name] = TypeAdapter(types[name]).validate_python(data[name], context=dict(context))
    return sections


def _expand(value: Any, path: str, environ: Mapping[str, str], faults: list[Fault], unset: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _expand(inner, f"{path}.{key}", environ, faults, unset) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, f"{path}[{at}]", environ, faults, unset) for at, inner in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name in environ:
            return environ[name]
        if default is not None:
            return default
        faults.append(Fault(path, f"the environment variable {name} is not set"))
        unset.add(path)
        return match[0]

    expanded = _VARIABLE.sub(replace, value)
    # A value that is nothing but a variable takes the type that YAML would read: `sample: ${SHARE}` is a number.
    if expanded != value and _VARIABLE.fullmatch(value) and path not in unset:
        if _CONFIDENTIAL.fullmatch(path):
            return None if expanded == "null" else expanded
        return yaml.safe_load(expanded) if _PLAIN.fullmatch(expanded) else expanded
    return expanded


def _holds_secrets(path: str, detail: Any) -> bool:
    """Whether the value at fault is, or stands for, a section that may hold secrets."""
    return isinstance(detail["input"], dict | list) and _HOLDERS.fullmatch(path) is not None


_PHRASES = {
    "missing": "is required and not there",
    "extra_forbidden": "there is no such key",
}


def _fault(detail: Any) -> Fault:
    path = "$"
    for part in detail["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    message = _PHRASES.get(detail["type"])
    if message is None:
        message = str(detail["msg"]).removeprefix("Value error, ")
        message = message[0].lower() + message[1:] if message[:1].isupper() and message[1:2].islower() else message
        if detail["type"] != "value_error" and not _CONFIDENTIAL.fullmatch(path) and not _holds_secrets(path, detail):
            # Hidden before it is cut: what is left of a cut URL might be nothing but the password.
            message += f", not {without_passwords(repr(detail['input'])):.80}"
    return Fault(path, without_passwords(message))
