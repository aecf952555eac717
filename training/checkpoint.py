"""Checkpoints: one plain dict of tensors and JSON-like values a file, read with ``weights_only=True``.

``vqgan.pt`` and ``prior.pt`` hold what export needs: ``format_version``, ``kind``, ``config``, ``weights`` (EMA) and
``provenance``; a prior adds ``latent_grid``, ``labels``, ``label_weights``, ``schedule`` and ``vqgan`` (the name of the
VQ-GAN's file, and the hash of its tensors that decide the codes). What only resuming needs lies beside it, in
``*.resume.pt``.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sundae_rt.errors import InputError, one_line
from sundae_rt.files import replacing

FORMAT_VERSION = 1


def save(path: Path, values: dict[str, Any]) -> None:
    """Writes a checkpoint whole or not at all."""
    with replacing(path) as temporary:
        torch.save(values, temporary)


def read(path: Path) -> dict[str, Any]:
    """Reads a file of tensors and plain values on the CPU; nothing else in it is unpickled.

    Raises:
        InputError: missing, unreadable, or holding more than tensors and plain values.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint {path}") from error
    except pickle.UnpicklingError as error:
        raise InputError(_not_data(path, error)) from error
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read the checkpoint {path}: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is no checkpoint: it holds a {type(values).__name__}, not a dict")
    return values


def _not_data(path: Path, error: pickle.UnpicklingError) -> str:
    """What a file holds beside tensors and plain values, and how to strip it."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return f"{path} is no checkpoint: {one_line(error)[:200]}"
    stripped = path.with_name(f"{path.stem}-tensors{path.suffix}")
    return (
        f"{path} holds more than tensors and plain values: {found[1]}. Nothing of the kind is unpickled here, for it "
        "can run any code. If you trust the file, strip it: "
        f"python -c \"import torch; a = torch.load('{path}', 'cpu', weights_only=False); "
        f"torch.save({{k: a[k] for k in ('net', 'state_dict') if k in a}}, '{stripped}')\""
    )


def load(path: Path, kind: str) -> dict[str, Any]:
    """Reads a checkpoint of this project and checks its kind and format version.

    Raises:
        InputError: not such a checkpoint, of the other kind, or of a newer format.
    """
    values = read(path)
    if values.get("kind") != kind:
        raise InputError(f"{path} is no {kind} checkpoint (its kind is {values.get('kind')!r})")
    version = values.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(f"{path} has checkpoint format {version!r}; this version reads up to {FORMAT_VERSION}")
    return values


def load_weights(module: torch.nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Fills a module, refusing missing, unexpected and wrongly shaped tensors by name.

    Raises:
        InputError: names what does not fit, and ``where`` it comes from.
    """
    wanted = module.state_dict()
    missing = sorted(set(wanted) - set(weights))
    unexpected = sorted(set(weights) - set(wanted))
    if missing or unexpected:
        raise InputError(f"{where}: missing weights {missing or 'none'}, unexpected weights {unexpected or 'none'}")
    for name, tensor in wanted.items():
        if weights[name].shape != tensor.shape:
            raise InputError(
                f"{where}: {name} is {list(weights[name].shape)}, the config asks for {list(tensor.shape)}"
            )
    module.load_state_dict(weights)


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values: the same for the same tensors, whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def resume_path(path: Path) -> Path:
    """Where the state that only resuming needs lies: ``prior.pt`` -> ``prior.resume.pt``."""
    return path.with_suffix(".resume.pt")
