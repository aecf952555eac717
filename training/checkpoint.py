"""Checkpoints: one plain dict of tensors and JSON-like values a file, read with ``weights_only=True``.

``vqgan.pt`` and ``prior.pt`` hold what export needs: ``format_version``, ``kind``, ``config``, ``weights`` (EMA) and
``provenance``; a prior adds ``family``, ``labels``, ``label_weights``, ``schedule`` and ``vqgan`` (the name of the
VQ-GAN's file, and the hash of its tensors that decide the codes). What only resuming needs lies beside it, in
``*.resume.pt``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shlex
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sundae_rt.errors import InputError, one_line, shown
from sundae_rt.files import replacing
from sundae_rt.training import foreign

FORMAT_VERSION = 1

_NAMED = 6  # names that a message lists
_UNREADABLE = (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)  # what torch.load raises
# What a checkpoint of each kind must hold, by name, and of which types; a dot leads into a dict.
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "vqgan": {"config": (dict,), "weights": (dict,), "provenance": (dict,)},
    "prior": {
        "config": (dict,),
        "weights": (dict,),
        "provenance": (dict,),
        "labels": (list, type(None)),
        "label_weights": (list, type(None)),
        "schedule": (dict,),
        "vqgan": (dict,),
        "vqgan.file": (str, type(None)),
        "vqgan.codes_sha256": (str,),
    },
}


def save(path: Path, values: dict[str, Any]) -> None:
    """Writes a checkpoint whole or not at all.

    Raises:
        InputError: it cannot be written: a full disk, no permission, ...
    """
    with replacing(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(values, file)
        except RuntimeError as error:
            # Where the system refuses to write, PyTorch goes on, and fails for another reason.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def read(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Reads a file of tensors and plain values on the CPU; nothing else in it is unpickled.

    With ``mmap`` tensors stay in the file where its form allows it, and come into memory as they are used. That is for
    what is copied at once: what somebody writes to the file would show, and some systems do not replace a mapped one.

    Raises:
        InputError: missing, unreadable, or holding more than tensors and plain values.
    """
    mapped = foreign.is_zip(path) and mmap
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PyTorch thinks of other protocols of pickle than its own
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise InputError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except (*_UNREADABLE, pickle.UnpicklingError) as error:
        names = foreign.names(path)
        if names or isinstance(error, pickle.UnpicklingError):
            raise InputError(_not_data(path, names)) from error
        raise InputError(f"cannot read the checkpoint {path}: {one_line(error)[:200]}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is no checkpoint: it holds a {type(values).__name__}, not a dict")
    return values


def _not_data(path: Path, names: tuple[str, ...]) -> str:
    """What a file holds beside tensors and plain values, and how to strip it."""
    stripped = path.with_name(f"{path.stem}-tensors{path.suffix}")
    command = shlex.join([sys.executable, "-m", "sundae_rt.training.strip", str(path), str(stripped)])
    found = f"holds more than tensors and plain values: {', '.join(names)}" if names else "is not all data to PyTorch"
    return (
        f"{path} {found}. Nothing of the kind is unpickled here, for it can run any code. This writes its tensors to a "
        f"file of their own, and runs nothing either: {command}"
    )


def is_own(values: Mapping[str, Any]) -> bool:
    """Whether what :func:`read` read is a checkpoint of this project, of whatever kind."""
    return "kind" in values


def load(path: Path, kind: str) -> dict[str, Any]:
    """Reads a checkpoint of this project, and checks it as :func:`checked` does."""
    return checked(read(path, mmap=True), path, kind)


def checked(values: dict[str, Any], path: Path, kind: str) -> dict[str, Any]:
    """What :func:`read` read, if it is a checkpoint of this project and of this kind, with all its fields.

    Raises:
        InputError: not such a checkpoint, of the other kind, of a newer format, or with a field missing or of the wrong
            type; file and field are named.
    """
    if values.get("kind") != kind:
        raise InputError(f"{path} is no {kind} checkpoint (its kind is {values.get('kind')!r})")
    version = values.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(f"{path} has checkpoint format {version!r}; this version reads up to {FORMAT_VERSION}")
    values = {"provenance": {}} | values
    for name, types in _FIELDS[kind].items():
        found: Any = values
        for part in name.split("."):
            if part not in found:
                raise InputError(f"{path} is no whole {kind} checkpoint: it lacks {name}")
            found = found[part]
        if not isinstance(found, types):
            wanted = " or ".join("null" if kind is type(None) else f"a {kind.__name__}" for kind in types)
            raise InputError(f"{path}: {name} must be {wanted}, not {shown(found)}")
    try:
        json.dumps(values["provenance"], allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: provenance must be of what JSON has: {one_line(error)}") from error
    for name, tensor in values["weights"].items():
        if not isinstance(name, str):
            raise InputError(f"{path}: weights: {shown(name)} is no name of a tensor")
        if not isinstance(tensor, Tensor):
            raise InputError(f"{path}: weights: {name} must be a tensor, not {shown(tensor)}")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
            raise InputError(f"{path}: weights: {name} must be a tensor of plain numbers, all of them there")
    return values


def load_weights(module: torch.nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Fills a module with weights that fit it and are finite numbers.

    Raises:
        InputError: names what does not fit or is not finite, and ``where`` it comes from.
    """
    check_fit(module, weights, where)
    check_finite(weights, where)
    module.load_state_dict(weights)


def check_fit(module: torch.nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Refuses missing, unexpected and wrongly shaped tensors, by name.

    Raises:
        InputError: names what does not fit, and ``where`` it comes from.
    """
    wanted = module.state_dict()
    missing, unexpected = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    if missing or unexpected:
        raise InputError(f"{where}: missing weights {listed(missing)}; unexpected weights {listed(unexpected)}")
    for name, tensor in wanted.items():
        if weights[name].shape != tensor.shape:
            raise InputError(
                f"{where}: {name} is {list(weights[name].shape)}, the config asks for {list(tensor.shape)}"
            )


def listed(names: Iterable[str]) -> str:
    """Names for a message: the first few in order, and how many more there are."""
    ordered = sorted(names)
    first = ", ".join(ordered[:_NAMED]) or "none"
    return first if len(ordered) <= _NAMED else f"{first} and {len(ordered) - _NAMED} more"


def check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuses tensors with values that are no finite numbers.

    Raises:
        InputError: names the first such tensor, and ``where`` it comes from.
    """
    for name, tensor in weights.items():
        if not is_finite(tensor):
            raise InputError(f"{where}: {name} holds values that are no finite numbers")


def is_finite(values: Any) -> bool:
    """Whether all tensors in a nest of dicts and lists hold finite numbers alone: what diverged does not."""
    if isinstance(values, Tensor):
        return bool(torch.isfinite(values.float()).all())
    if isinstance(values, dict):
        return all(is_finite(value) for value in values.values())
    return not isinstance(values, list | tuple) or all(is_finite(value) for value in values)


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values: the same for the same tensors, whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def resume_path(path: Path) -> Path:
    """Where the state that only resuming needs lies: ``prior.pt`` -> ``prior.resume.pt``."""
    return path.with_suffix(".resume.pt")
