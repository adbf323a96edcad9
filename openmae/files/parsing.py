"""JSON and TOML that may come from anywhere: what cannot be read is one kind of error, and nothing is nested deeply.
And JSON that anything reads."""

import json
import math
import tomllib
from typing import Any

_DEEPEST = 64  # levels; whoever walks through what was read may recurse


def read_json(text: str | bytes) -> Any:
    """What the text says. Raises ValueError where it is no JSON, no text, or nested too deeply."""
    try:
        return _shallow(json.loads(text))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def to_json(value: Any, indent: int | None = None) -> bytes:
    """JSON of dicts, lists and plain values, null for numbers that are not finite, which Python would write as NaN and
    nothing else reads."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_toml(text: str) -> dict[str, Any]:
    """What the text says. Raises ValueError where it is no TOML, or nested too deeply."""
    try:
        return _shallow(tomllib.loads(text))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _shallow(value: Any) -> Any:
    """The value. Raises ValueError where it is nested too deeply."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [entry for one in level for entry in _entries(one) if isinstance(entry, dict | list)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _entries(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
