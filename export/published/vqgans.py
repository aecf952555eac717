"""Any published VQ-GAN: which system a file or folder comes from is read from the names of its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sundae_rt.errors import InputError
from sundae_rt.export.halves import VQGANHalf
from sundae_rt.export.published import taming, tensors, unleashing
from sundae_rt.export.published.diffusers import CONFIG, read_diffusers
from sundae_rt.training.vqgan.model import VQGAN

Reader = Callable[[Path, tensors.Weights, Path], tuple[VQGAN, dict[str, Any]]]

# What is in the names of a system's weights, its reader, and what its config is.
_FILES: dict[str, tuple[Reader, str]] = {
    taming.PARTS: (taming.read_taming, "yaml"),
    unleashing.PARTS: (unleashing.read_unleashing, "json"),
}
_KNOWN = "taming-transformers (.ckpt and yaml), unleashing-transformers (.th and json), diffusers (a VQModel's folder)"


def read_vqgan(path: Path, config: Path | None, weights: tensors.Weights | None = None) -> VQGANHalf:
    """Reads a published VQ-GAN, in evaluation mode.

    Args:
        path: a checkpoint of *Taming Transformers* or *Unleashing Transformers*, or a ``diffusers`` folder.
        config: the config beside a checkpoint; a folder holds its own.
        weights: the tensors of a checkpoint, where they have been read.

    Raises:
        InputError: unreadable, of no known system, or weights and config that contradict each other.
    """
    if path.is_dir():
        return _read_folder(path, config)
    weights = tensors.read(path) if weights is None else weights
    for parts, (reader, kind) in _FILES.items():
        if tensors.has(weights, parts):
            if config is None:
                raise InputError(f"{path} is a published VQ-GAN: give its {kind} with --vqgan-config")
            model, provenance = reader(path, weights, config)
            return VQGANHalf(model, provenance, tensors.notes(weights, parts, path))
    some = ", ".join(list(weights)[:4]) or "no tensors"
    raise InputError(f"{path} is no VQ-GAN that is known: {_KNOWN}; it holds {some}, ...")


def _read_folder(folder: Path, config: Path | None) -> VQGANHalf:
    if not (folder / CONFIG).is_file():
        nested = [part for part in ("vqvae", "vqgan", "movq") if (folder / part / CONFIG).is_file()]
        hint = f"; name its VQ-GAN: {folder / nested[0]}" if nested else f", which has a {CONFIG}"
        raise InputError(f"{folder} is no folder of a diffusers VQModel{hint}")
    if config is not None and config.resolve() != (folder / CONFIG).resolve():
        raise InputError(f"{folder} holds its own {CONFIG}: leave out --vqgan-config {config}")
    return read_diffusers(folder)
