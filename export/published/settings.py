"""A published model's config: values by section and key, which must not contradict the weights."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from sundae_rt.errors import InputError, shown
from sundae_rt.training.config import tuples


class Settings:
    """The values of a toml config beside a checkpoint.

    ``config`` and ``path``: config and checkpoint, as messages name them; ``values``: what the config holds.

    Raises:
        InputError: missing, or no toml.
    """

    def __init__(self, config: Path, path: Path) -> None:
        self.config, self.path = config, path
        try:
            self.values: dict[str, Any] = tomllib.loads(config.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(f"there is no config {config}") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"cannot read {config} as toml: {error}") from error

    def get(self, section: str, key: str, kind: Any, default: Any = ...) -> Any:
        """A value of a section, with lists as tuples at any depth; ``kind`` is its type, or a union of types.

        Raises:
            InputError: of another type, or missing without a default.
        """
        values = self.values.get(section, {})
        if not isinstance(values, dict):
            raise InputError(f"{self.config}: [{section}] must be a section, not {shown(values)}")
        if key not in values:
            if default is ...:
                raise InputError(f"{self.config}: [{section}] lacks {key!r}")
            return default
        value = tuples(values[key])
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InputError(f"{self.config}: [{section}] {key} = {shown(values[key])} is of the wrong type")
        return value

    def compare(self, section: str, key: str, said: object, found: object, where: str) -> None:
        """Refuses a value that the weights contradict.

        Raises:
            InputError: they do; both sides are named, and ``where`` in the weights it was found.
        """
        if said != found:
            raise InputError(
                f"{self.config} says [{section}] {key} = {_plain(said)}, but {self.path} has {_plain(found)} ({where})"
            )


def _plain(value: object) -> str:
    """A value as toml writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
