"""The latent dataset: a folder of images to one file of code grids (equation 1 of the paper)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sundae_rt.errors import InputError, one_line, shown
from sundae_rt.files import check_folder_of, replacing
from sundae_rt.training import about, checkpoint, config
from sundae_rt.training.data import SUFFIXES, check_labels, image_side
from sundae_rt.training.idx import Images, open_images
from sundae_rt.training.pixels import CODES as PIXEL_CODES
from sundae_rt.training.pixels import GreyPixels
from sundae_rt.training.pixels import read_config as read_pixels
from sundae_rt.training.vqgan.model import VQGAN, VQGANConfig, to_model

CODES_FORMAT = 1


@dataclass(frozen=True, slots=True)
class LatentDataset:
    """Code grids of a set of images.

    ``codes``: int32 ``[N, h, w]``; ``vocabulary``: how many codes there are; ``labels``: names, or None;
    ``label_ids``: int32 ``[N]``, or None; ``vqgan_file``: the VQ-GAN's path relative to the dataset's folder, or None
    where a bundle encoded it or there is none; ``codes_sha256``: hash of the tensors that decide the codes, or
    :data:`pixels.CODES` where they are grey levels; ``about``: what the folder of images says of itself, see
    :mod:`~sundae_rt.training.about`, and empty where the codes were written before it was kept; ``noise``: int32
    ``[N, h, w]``, the random codes of which a prior made each grid (:mod:`~sundae_rt.training.prior.pairs`), or None;
    ``drawn``: how, plain values, or None where they are codes of images.
    """

    codes: Tensor
    vocabulary: int
    labels: tuple[str, ...] | None
    label_ids: Tensor | None
    vqgan_file: str | None
    codes_sha256: str
    about: dict[str, str] = field(default_factory=dict)
    noise: Tensor | None = None
    drawn: dict[str, Any] | None = None

    @property
    def label_weights(self) -> tuple[float, ...] | None:
        """The share of each label in the data."""
        if self.labels is None or self.label_ids is None:
            return None
        counts = torch.bincount(self.label_ids.long(), minlength=len(self.labels)).double()
        return tuple((counts / counts.sum()).tolist())


def load_vqgan(path: Path) -> VQGAN:
    """The VQ-GAN of a checkpoint, in evaluation mode.

    Raises:
        InputError: no such checkpoint, or weights that its config does not describe.
    """
    return vqgan_of(checkpoint.load(path, "vqgan"), path)


def vqgan_of(values: dict[str, Any], path: Path) -> VQGAN:
    """The same from what :func:`checkpoint.load` read of ``path``."""
    with config.named(str(path)):
        model = VQGAN(config.build(VQGANConfig, values["config"], f"{path}: config"))
    checkpoint.load_weights(model, values["weights"], str(path))
    return model.eval()


def write(path: Path, dataset: LatentDataset) -> None:
    """Writes a dataset as safetensors, whole or not at all.

    Raises:
        InputError: it cannot be written: a full disk, no permission, ...
    """
    tensors = {"codes": dataset.codes.contiguous()}
    if dataset.label_ids is not None:
        tensors["labels"] = dataset.label_ids
    if dataset.noise is not None:
        tensors["noise"] = dataset.noise.contiguous()
    described = {
        "format": CODES_FORMAT,
        "vocabulary": dataset.vocabulary,
        "labels": dataset.labels,
        "vqgan_file": dataset.vqgan_file,
        "codes_sha256": dataset.codes_sha256,
        "about": dataset.about,
        "drawn": dataset.drawn,
    }
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {"sundae-rt": json.dumps(described)})
        except SafetensorError as error:
            raise InputError(f"cannot write {path}: {one_line(error)}") from error


def read(path: Path) -> LatentDataset:
    """Reads what :func:`write` wrote.

    Raises:
        InputError: missing, not such a file, codes outside the vocabulary, or what no folder can say of itself.
    """
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {})["sundae-rt"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        labels = tuple(described["labels"]) if described["labels"] else None
        if not isinstance(described["vocabulary"], int):
            raise TypeError(f"its vocabulary is {shown(described['vocabulary'])}")
        for name in ("vqgan_file", "codes_sha256"):
            if not isinstance(described[name], str) and (name, described[name]) != ("vqgan_file", None):
                raise TypeError(f"its {name} is {shown(described[name])}")
        dataset = LatentDataset(
            tensors["codes"],
            described["vocabulary"],
            labels,
            tensors.get("labels"),
            described["vqgan_file"],
            described["codes_sha256"],
            about.checked(described.get("about", {}), f"{path}: about"),
            tensors.get("noise"),
            described.get("drawn"),
        )
    except FileNotFoundError as error:
        raise InputError(f"there is no file of codes {path}") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no file of codes that `sundae-rt encode` wrote: {error}") from error
    codes = dataset.codes
    if codes.ndim != 3 or not codes.numel() or not _within(codes, dataset.vocabulary):
        raise InputError(f"{path}: codes must be [N, h, w] within 0..{dataset.vocabulary - 1}")
    if dataset.noise is not None and (
        dataset.noise.shape != codes.shape or not _within(dataset.noise, dataset.vocabulary)
    ):
        raise InputError(
            f"{path}: noise must be {list(codes.shape)} within 0..{dataset.vocabulary - 1}, as the codes are"
        )
    if (dataset.labels is None) != (dataset.label_ids is None):
        raise InputError(f"{path}: labels and their names must come together")
    if dataset.labels is not None and dataset.label_ids is not None:
        check_labels(dataset.labels, str(path))
        if dataset.label_ids.shape != codes.shape[:1] or not _within(dataset.label_ids, len(dataset.labels)):
            raise InputError(f"{path}: labels must be [{len(codes)}] within 0..{len(dataset.labels) - 1}")
    return dataset


def _within(codes: Tensor, vocabulary: int) -> bool:
    is_whole = codes.dtype in (torch.int32, torch.int64)
    return is_whole and int(codes.min()) >= 0 and int(codes.max()) < vocabulary


def encode_folder(
    data: Path,
    out: Path,
    *,
    vqgan: Path | None = None,
    bundle: str | Path | None = None,
    preset: str | None = None,
    batch_size: int = 16,
    say: Callable[[str], None] = print,
) -> LatentDataset:
    """Encodes every image under ``data``, and writes ``out``, with what the folder says of itself.

    The encoder is that of a VQ-GAN's checkpoint, of a bundle, or of a preset whose codes are pixels.

    Raises:
        InputError: no images, unreadable images, an ``about.toml`` that is none, not exactly one encoder; or ``out`` is
            the name of an image, and might be one of these, or lies in no folder.
        BundleError: a bundle whose images are not square.
    """
    if sum(source is not None for source in (vqgan, bundle, preset)) != 1:
        raise InputError("name one to encode with: a VQ-GAN checkpoint, a bundle, or a preset whose codes are pixels")
    if out.suffix.lower() in SUFFIXES:
        raise InputError(f"{out} is the name of an image: name the data set another, such as codes.safetensors")
    check_folder_of(out)
    if bundle is not None:
        import sundae_rt

        with sundae_rt.load(bundle) as runtime:
            manifest = runtime.manifest
            provenance = manifest.provenance.get("vqgan", {})
            if manifest.image_size is None or "codes_sha256" not in provenance:
                raise InputError(f"bundle {bundle} has no encoder that a prior could name: encode with --vqgan")
            images = open_images(data, image_side(manifest))
            codes = _encode_all(images, runtime.encode, batch_size)
            vocabulary, file, made_by = manifest.image_codes, None, provenance["codes_sha256"]
    else:
        if vqgan is not None:
            model: VQGAN | GreyPixels = load_vqgan(vqgan)
            file = os.path.relpath(vqgan.resolve(), out.resolve().parent)
            made_by = checkpoint.tensor_hash(model.codes_parameters())
        else:
            model, file, made_by = GreyPixels(read_pixels(config.load_preset(str(preset)))), None, PIXEL_CODES
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)
        images = open_images(data, model.config.image_size)

        @torch.no_grad()
        def encode(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
            inputs = to_model(torch.from_numpy(pixels).to(device), model.config.pixel_range)
            return model.encode(inputs).cpu().numpy().astype(np.int32)

        codes = _encode_all(images, encode, batch_size)
        vocabulary = model.config.codebook_size
    labels = tuple(images.labels) if images.labels else None
    label_ids = torch.tensor(images.label_ids, dtype=torch.int32) if images.label_ids is not None else None
    dataset = LatentDataset(torch.from_numpy(codes), vocabulary, labels, label_ids, file, made_by, images.about)
    write(out, dataset)
    used = len(np.unique(codes))
    say(f"wrote {out}: {len(codes)} grids of {codes.shape[1]}x{codes.shape[2]}, {used} of {vocabulary} codes used")
    return dataset


def _encode_all(
    images: Images, encode: Callable[[NDArray[np.uint8]], NDArray[np.int32]], batch_size: int
) -> NDArray[np.int32]:
    import click

    grids: list[NDArray[np.int32]] = []
    with click.progressbar(range(0, len(images), batch_size), label="encoding") as starts:
        for start in starts:
            batch = [images[index].numpy() for index in range(start, min(start + batch_size, len(images)))]
            grids.append(encode(np.stack(batch)))
    return np.concatenate(grids)
