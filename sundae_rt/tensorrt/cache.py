"""Engines as files: each under a key of all that it depends on, beside an entry that says what it is.

An engine is read only if its entry has the very key that is asked for and its bytes have the entry's hash: one that is
damaged, was built from another graph, by another version or for another card is never loaded.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from sundae_rt.backends.origin import Origin
from sundae_rt.errors import InputError
from sundae_rt.files import replacing
from sundae_rt.tensorrt.opening import Library
from sundae_rt.tensorrt.profiles import Profile

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Key:
    """All that an engine depends on.

    Attributes:
        graph: name of the graph.
        variant: its precision variant.
        graph_sha256: digest of the graph and its weights.
        builder: "tensorrt" or "tensorrt_rtx".
        builder_version: its version; an engine loads in no other.
        capability: compute capability that it was built for, or "portable".
        profiles: the batch sizes that it was built for.
    """

    graph: str
    variant: str
    graph_sha256: str
    builder: str
    builder_version: str
    capability: str
    profiles: tuple[str, ...]

    @classmethod
    def of(cls, origin: Origin, library: Library, capability: str, profiles: Sequence[Profile]) -> "Key":
        """The key of a graph's engine."""
        return cls(
            origin.graph, origin.variant, origin.sha256, library.name, library.version, capability,
            tuple(map(str, profiles)),
        )  # fmt: skip

    @property
    def stem(self) -> str:
        """The name of its files, without their suffixes."""
        text = json.dumps([_FORMAT, asdict(self)], sort_keys=True)
        return f"{self.graph}-{self.variant}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class Stored:
    """An engine that lies in a cache.

    Attributes:
        data: its bytes.
        path: its file.
    """

    data: bytes
    path: Path


class Cache:
    """The engines in some folders, of which the first that can be written takes new ones.

    Args:
        folders: may be missing; an engine is looked for in all of them.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)

    def read(self, key: Key) -> tuple[Stored | None, str]:
        """The engine of a key; or None, and why what is there does not serve, which is empty where nothing is."""
        reasons = []
        for folder in self._folders:
            found, reason = _read(folder, key)
            if found is not None:
                return found, ""
            reasons.append(reason)
        reasons += [_difference(key, entry) for folder in self._folders for entry in _others(folder, key)]
        return None, next(filter(None, reasons), "")

    def for_other_batches(self, key: Key) -> list[Key]:
        """The keys of engines here that differ from `key` in their batch sizes alone, in no order."""
        entries = [entry for folder in self._folders for entry in _others(folder, key)]
        return [
            replace(key, profiles=tuple(map(str, entry["profiles"])))
            for entry in entries
            if _changed(key, entry) == ["profiles"] and isinstance(entry["profiles"], list)
        ]

    def write(self, key: Key, engine: bytes) -> Path:
        """Keep an engine, whole or not at all, and drop those that it replaces; returns its file.

        Raises:
            InputError: no folder can be written.
        """
        folder = next(filter(_is_writable, self._folders), None)
        if folder is None:
            raise InputError(f"cannot keep an engine in {' or '.join(map(str, self._folders))}: not writable")
        path, entry = folder / f"{key.stem}.engine", folder / f"{key.stem}.json"
        values = {"format": _FORMAT, **asdict(key), "sha256": hashlib.sha256(engine).hexdigest(), "bytes": len(engine)}
        with replacing(path) as temporary:
            temporary.write_bytes(engine)
        with replacing(entry) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        self._drop_replaced(folder, key)
        return path

    def _drop_replaced(self, folder: Path, key: Key) -> None:
        """Remove what is of no more use: engines of the same graph from other bytes, or by another version."""
        for entry in _others(folder, key):
            changed = _changed(key, entry)
            if entry["builder"] == key.builder and set(changed) & {"graph_sha256", "builder_version"}:
                for suffix in (".json", ".engine"):
                    with suppress(OSError):
                        (folder / f"{entry['stem']}{suffix}").unlink()


def _read(folder: Path, key: Key) -> tuple[Stored | None, str]:
    entry = _entry(folder / f"{key.stem}.json")
    path = folder / f"{key.stem}.engine"
    if entry is None:
        return None, f"the entry of {path} is missing or damaged" if path.exists() else ""
    if changed := _changed(key, entry):
        return None, f"{path} says that it is of another {changed[0]}"
    try:
        engine = path.read_bytes()
    except OSError as error:
        return None, f"cannot read {path}: {error.strerror or error}"
    if len(engine) != entry.get("bytes"):
        return None, f"{path} has {len(engine)} bytes and should have {entry.get('bytes')}"
    if hashlib.sha256(engine).hexdigest() != entry.get("sha256"):
        return None, f"{path} is damaged or was altered"
    return Stored(engine, path), ""


def _entry(path: Path) -> dict[str, Any] | None:
    """An entry with all fields of a key; None where it is missing or damaged."""
    try:
        entry = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(entry, dict) and entry.get("format") == _FORMAT and all(one.name in entry for one in fields(Key))
    return {**entry, "stem": path.stem} if whole else None


def _others(folder: Path, key: Key) -> Iterator[dict[str, Any]]:
    """The entries of other engines of the same graph and variant."""
    for path in sorted(folder.glob(f"{key.graph}-{key.variant}-*.json")):
        entry = _entry(path)
        if (
            entry is not None
            and path.stem != key.stem
            and (entry["graph"], entry["variant"]) == (key.graph, key.variant)
        ):
            yield entry


def _changed(key: Key, entry: dict[str, Any]) -> list[str]:
    mine = asdict(key) | {"profiles": list(key.profiles)}
    return [name for name, value in mine.items() if entry[name] != value]


def _difference(key: Key, entry: dict[str, Any]) -> str:
    """Why an engine of the same graph and variant is not the one of the key, in words."""
    changed = _changed(key, entry)
    if "graph_sha256" in changed:
        return "the one here was built from another graph"
    if {"builder", "builder_version"} & set(changed):
        return f"the one here was built by {entry['builder']} {entry['builder_version']}"
    if "capability" in changed:
        return f"the one here is for compute capability {entry['capability']}"
    return f"the one here is for batches of {', '.join(map(str, entry['profiles']))}"


def _is_writable(folder: Path) -> bool:
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return existing is not None and existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
