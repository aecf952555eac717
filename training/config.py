"""Configuration: small toml presets read into frozen dataclasses that refuse typos.

A preset may build on another: ``extends = "vqgan256"`` takes over all that the other says and it does not say itself.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from importlib import resources
from typing import Any, TypeVar

from sundae_rt.errors import InputError

T = TypeVar("T")


def preset_names() -> list[str]:
    """Names of the presets that ship."""
    folder = resources.files("sundae_rt.training.presets")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def sections(name: str) -> frozenset[str]:
    """The sections that a shipped preset has.

    Raises:
        InputError: no such preset.
    """
    if name not in preset_names():
        raise InputError(f"unknown preset {name!r}: choose one of {', '.join(preset_names())}")
    return frozenset(_read(name))


def read_preset(name: str, section: str) -> dict[str, Any]:
    """One section (``vqgan``, ``pixels``, ``prior``) of a shipped preset, as plain values.

    Raises:
        InputError: no such preset, or it has no such section.
    """
    if section not in sections(name):
        raise InputError(f"preset {name!r} has no [{section}] section")
    return _read(name)[section]


def about(name: str) -> dict[str, str]:
    """A preset's ``[about]`` section: data, licence and recipe, carried on into checkpoint and manifest."""
    return dict(_read(name).get("about", {}))


def _read(name: str) -> dict[str, Any]:
    text = (resources.files("sundae_rt.training.presets") / f"{name}.toml").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    base = values.pop("extends", None)
    return values if base is None else _merged(_read(base), values)


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
        InputError: an unknown or missing key, or a value of the wrong type, named together with ``where``.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(fields)}")
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise InputError(f"{where}: {name} = {value!r} is not a {hints[name]}")
    try:
        return cls(**{name: tuples(value) for name, value in values.items()})
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def tuples(value: Any) -> Any:
    """A value with its lists as tuples, at any depth."""
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is tuple or hint is tuple:
        return isinstance(value, list | tuple)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True
