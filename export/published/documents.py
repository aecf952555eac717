"""The text of a published config, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sundae_rt.errors import InputError, one_line
from sundae_rt.validation import strict_json


def read_yaml(path: Path) -> Mapping[str, Any]:
    """A yaml file, of nothing but plain values.

    Raises:
        InputError: missing, not such a file, or no mapping.
    """
    return _read(path, "yaml", yaml.safe_load)


def read_json(path: Path) -> Mapping[str, Any]:
    """A json file.

    Raises:
        InputError: missing, not such a file, or no object.
    """
    return _read(path, "json", strict_json)


def _read(path: Path, kind: str, parse: Callable[[str], Any]) -> Mapping[str, Any]:
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no config {path}") from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"cannot read {path} as {kind}: {one_line(error)}") from error
    if not isinstance(values, Mapping):
        raise InputError(f"{path} must hold keys and values, and holds a {type(values).__name__}")
    return values
