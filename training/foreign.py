"""PyTorch files that others wrote: their form, what they hold beside tensors, and their tensors without it."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sundae_rt.errors import InputError, one_line
from sundae_rt.training.inert import Described, Foreign, Name, Pickle, Storage

_ZIP = b"PK\x03\x04"
_LEGACY = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # near the start of what PyTorch before 1.6 wrote
_DAMAGE = (
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, RuntimeError, EOFError),
    *(zipfile.BadZipFile, zlib.error),
)
_LEFT_OUT = object()


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds.

    ``values``: its tensors and plain values in their nesting; objects of other kinds are left out of dicts, and None in
    lists. ``foreign``: the names of these kinds, in order.
    """

    values: Any
    foreign: tuple[str, ...]


def is_zip(path: Path) -> bool:
    """Whether a file has the form that PyTorch can map into memory, or else its older one.

    Raises:
        InputError: missing, no file that ``torch.save`` wrote, or one that is cut short.
    """
    unknown = InputError(f"{path} is no checkpoint: torch.save wrote no such file")
    with _readable(path):
        with path.open("rb") as file:
            start = file.read(64)
        if not start.startswith(_ZIP):
            if _LEGACY in start:
                return False
            raise unknown
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        raise InputError(f"{path} is a TorchScript archive, which is a program: save its model's state_dict() instead")
    if "data.pkl" not in names:
        raise unknown
    return True


def names(path: Path) -> tuple[str, ...]:
    """The names of the classes and functions that a file holds beside tensors and plain values; no tensor is read.

    Raises:
        InputError: no file that ``torch.save`` wrote, or a damaged one.
    """
    with _opened(path) as (held, _):
        return tuple(sorted(held.foreign))


def read(path: Path) -> Contents:
    """Reads the tensors and plain values of a file, whatever else it holds; nothing of that is made, let alone run.

    Raises:
        InputError: no file that ``torch.save`` wrote, or a damaged one.
    """
    with _opened(path) as (held, storages):
        read_storages = {
            key: torch.frombuffer(numbers, dtype=torch.uint8) if numbers else torch.empty(0, dtype=torch.uint8)
            for key, numbers in storages()
        }
        values = _filled(held.value, read_storages)
        return Contents(None if values is _LEFT_OUT else values, tuple(sorted(held.foreign)))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Pickle, Callable[[], Iterator[tuple[str, bytearray]]]]]:
    """A file's pickle, and what reads its storages: key and bytes of each."""
    zipped = is_zip(path)
    with _readable(path):
        if not zipped:
            with path.open("rb") as file:
                for _ in range(3):  # magic number, protocol, and the machine that wrote it
                    Pickle(file)
                held = Pickle(file)
                yield held, lambda: _legacy_storages(file, held.storages)
            return
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
            held = Pickle(io.BytesIO(archive.read(name)))
            yield held, lambda: _storages(archive, name.removesuffix("data.pkl"), held.storages)


def _storages(
    archive: zipfile.ZipFile, folder: str, storages: Mapping[str, Storage]
) -> Iterator[tuple[str, bytearray]]:
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("its numbers have the other byte order")
    for key in storages:
        yield key, bytearray(archive.read(f"{folder}data/{key}"))


def _legacy_storages(file: BinaryIO, storages: Mapping[str, Storage]) -> Iterator[tuple[str, bytearray]]:
    """Behind the pickle stand the keys of the storages, and then each one with its length before it."""
    for key in Pickle(file).value:
        count = int.from_bytes(file.read(8), "little")
        yield key, bytearray(file.read(count * storages[key].dtype.itemsize))


def _filled(value: Any, storages: Mapping[str, Tensor]) -> Any:
    """A value with its tensors in it and without what is foreign."""
    match value:
        case Described():
            numbers = storages[value.storage.key].view(value.dtype)
            return numbers.as_strided(value.size, value.stride, value.offset)
        case Name() | Storage():
            return _LEFT_OUT
        case Foreign() if not value:
            return _LEFT_OUT
        case dict():
            # Lightning names the states of its callbacks by their classes.
            filled = (
                (str(key) if isinstance(key, Name) else _filled(key, storages), _filled(item, storages))
                for key, item in value.items()
            )
            return {key: item for key, item in filled if key is not _LEFT_OUT and item is not _LEFT_OUT}
        case list() | tuple():
            items = (_filled(item, storages) for item in value)
            return type(value)(None if item is _LEFT_OUT else item for item in items)
        case _:
            return value


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read, in one line."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint {path}") from error
    except OSError as error:
        raise InputError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise InputError(f"the checkpoint {path} is damaged or cut short ({one_line(error)[:100]})") from error
