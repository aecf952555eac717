"""A mapping from a published config, whose values are asked for by type and checked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from sundae_rt.errors import InputError, shown
from sundae_rt.training.config import named

_REQUIRED: Any = object()
_LARGEST = 2**24


class Values:
    """Values by key. ``where``: config and place in it, as messages name them.

    Every method takes a default for a key that is absent; without one, absence is an error.

    Raises:
        InputError: an absent key, or a value of the wrong type or out of range; ``where``, key and value are named.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._values = values

    def whole(self, key: str, default: Any = _REQUIRED) -> int:
        """A whole number from 1 up."""
        return self._whole(key, self._get(key, default))

    def wholes(self, key: str, default: Any = _REQUIRED) -> tuple[int, ...]:
        """A list of whole numbers from 1 up."""
        return tuple(self._whole(key, value) for value in self._list(key, default))

    def texts(self, key: str, default: Any = _REQUIRED) -> tuple[str, ...]:
        """A list of words."""
        values = self._list(key, default)
        for value in values:
            if not isinstance(value, str):
                raise self.bad(key, "a list of words", values)
        return tuple(values)

    def one_of(self, key: str, choices: Mapping[Any, Any] | tuple[Any, ...], default: Any = _REQUIRED) -> Any:
        """One of a few values; anything else is refused as not supported."""
        value = self._get(key, default)
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise InputError(
            f"{self.where}: {key} = {shown(value)} is not supported, only {' or '.join(map(str, choices))} is"
        )

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value as it is."""
        return self._get(key, default)

    def bad(self, key: str, wanted: str, value: object) -> InputError:
        """The error of a value that is not what is wanted."""
        return InputError(f"{self.where}: {key} must be {wanted}, not {shown(value)}")

    def named(self, place: str | None = None) -> AbstractContextManager[None]:
        """Puts ``place`` (by default ``where``) before what is refused inside without naming this config."""
        return named(self.where, place)

    def _get(self, key: str, default: Any) -> Any:
        if key in self._values:
            return self._values[key]
        if default is _REQUIRED:
            raise InputError(f"{self.where} lacks {key!r}")
        return default

    def _whole(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
            raise self.bad(key, f"a whole number from 1 to {_LARGEST}", value)
        return value

    def _list(self, key: str, default: Any) -> list[Any] | tuple[Any, ...]:
        values = self._get(key, default)
        if not isinstance(values, list | tuple):
            raise self.bad(key, "a list", values)
        return values
