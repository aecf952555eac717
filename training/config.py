"""Configuration: small toml presets read into frozen dataclasses that refuse typos.

A preset is one that ships, by its name, or a file of one's own, by its path. It may build on one that ships:
``extends = "vqgan256"`` takes over all that the other says and it does not say itself. toml has no null: ``false``
stands for it where null may stand and a truth value may not.
"""

from __future__ import annotations

import copy
import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from sundae_rt.errors import InputError, one_line, shown

T = TypeVar("T")

DEFAULT = "earth"
"""The preset where none is named."""

SECTIONS = ("vqgan", "pixels", "prior")


@dataclass(frozen=True, slots=True)
class Preset:
    """A preset as it was read: its name, or its file's, and its sections as plain values."""

    name: str
    sections: dict[str, dict[str, Any]]

    def section(self, name: str) -> dict[str, Any]:
        """A copy of one section (``vqgan``, ``pixels``, ``prior``).

        Raises:
            InputError: the preset has no such section.
        """
        if name not in self.sections:
            raise InputError(f"preset {self.name!r} has no [{name}] section")
        return copy.deepcopy(self.sections[name])


def preset_names() -> list[str]:
    """Names of the presets that ship."""
    folder = resources.files("sundae_rt.training.presets")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_preset(name: str) -> Preset:
    """The preset of a name that ships; or of a file, where ``name`` ends in .toml or has a separator in it.

    Raises:
        InputError: no such preset, an unreadable file, or sections that no preset has.
    """
    path = Path(name)
    if path.suffix.lower() == ".toml" or path.name != name:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot read the preset {name}: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"the preset {name} is no toml file: {one_line(error)}") from error
        return Preset(path.name, _parsed(text, name))
    if name not in preset_names():
        raise InputError(f"unknown preset {name!r}: choose one of {', '.join(preset_names())}, or name a .toml file")
    text = (resources.files("sundae_rt.training.presets") / f"{name}.toml").read_text(encoding="utf-8")
    return Preset(name, _parsed(text, name))


def _parsed(text: str, name: str) -> dict[str, dict[str, Any]]:
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the preset {name} is no toml file: {one_line(error)}") from error
    base = values.pop("extends", None)
    for section, content in values.items():
        if section not in SECTIONS or not isinstance(content, dict):
            raise InputError(f"preset {name!r}: {section!r} is no section; known are {', '.join(SECTIONS)}")
    if base is not None:
        if base not in preset_names():
            shipped = ", ".join(preset_names())
            raise InputError(f"preset {name!r} extends {shown(base)}, which does not ship: {shipped} do")
        values = _merged(load_preset(base).sections, values)
    if "pixels" in values and "vqgan" in values:
        raise InputError(
            f"preset {name!r} has both [pixels] and [vqgan]: codes are pixels or a VQ-GAN's, leave one out"
        )
    return values


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``values`` over it, section by section and key by key."""
    both = {
        key: _merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in values.items()
    }
    return base | both


def build(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Makes the dataclass ``cls`` from plain values; lists become tuples, at any depth.

    Raises:
        InputError: no table, an unknown or missing key, a value of the wrong type or one that the class refuses, named
            together with ``where``.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a table, not {shown(values)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields), key=str)
    if unknown:
        raise InputError(f"{where}: unknown key {shown(unknown[0])}; known are {', '.join(fields)}")
    hints = typing.get_type_hints(cls)
    values = {name: _null_for_false(value, hints[name]) for name, value in values.items()}
    for name, value in values.items():
        if not _fits(value, hints[name]):
            wanted = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
            raise InputError(f"{where}: {name} = {value!r} is not a {wanted}")
    try:
        with named(where):
            return cls(**{name: tuples(value) for name, value in values.items()})
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def tuples(value: Any) -> Any:
    """A value with its lists as tuples, at any depth."""
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value


def at_least(least: int, settings: Any, *names: str) -> None:
    """Checks fields of a dataclass that have a lower end.

    Raises:
        InputError: one is below ``least``, or no number; it is named.
    """
    for name in names:
        if not least <= getattr(settings, name):
            raise InputError(f"{name} is {getattr(settings, name)}: it must be at least {least}")


def above_zero(settings: Any, *names: str) -> None:
    """Checks fields of a dataclass that must not be 0 either.

    Raises:
        InputError: one is 0 or below, or no number; it is named.
    """
    for name in names:
        value = getattr(settings, name)
        if not value > 0:
            raise InputError(f"{name} is {value}: it must be above 0")


def shares(settings: Any, *names: str) -> None:
    """Checks fields of a dataclass that are shares.

    Raises:
        InputError: one is not from 0 to 1; it is named.
    """
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise InputError(f"{name} is {getattr(settings, name)}: it must be a share, from 0 to 1")


@contextmanager
def named(where: str, place: str | None = None) -> Iterator[None]:
    """Puts ``place`` (by default ``where``) before what is refused inside without beginning with ``where``."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(where):
            raise
        raise InputError(f"{place or where}: {error}") from error


def _null_for_false(value: Any, hint: Any) -> Any:
    return None if value is False and not _fits(False, hint) and _fits(None, hint) else value


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        return isinstance(value, list | tuple) and _items_fit(value, typing.get_args(hint))
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _items_fit(values: Sequence[Any], hints: tuple[Any, ...]) -> bool:
    if len(hints) == 2 and hints[1] is Ellipsis:
        return all(_fits(value, hints[0]) for value in values)
    return len(values) == len(hints) and all(_fits(value, hint) for value, hint in zip(values, hints, strict=True))
