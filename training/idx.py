"""The files that the MNIST family comes as: ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, or ``.gz``."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sundae_rt.errors import InputError
from sundae_rt.training import about
from sundae_rt.training.data import ImageFolder

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


class IdxImages(Dataset[Tensor]):
    """The training pictures of a folder of idx files: grey, as uint8 ``[H, W, 3]``, labelled "0" to "9".

    ``about`` is as :class:`~sundae_rt.training.data.ImageFolder` has it.

    Raises:
        InputError: damaged files, pictures of another size, not one label for each, or a bad ``about.toml``.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        self.pictures = _read(_find(folder, IMAGES), 3)
        ids = _read(_find(folder, LABELS), 1)
        if self.pictures.shape[1:] != (image_size, image_size):
            height, width = self.pictures.shape[1:]
            raise InputError(f"{folder} has pictures of {height}x{width}, not {image_size}x{image_size}")
        if len(ids) != len(self.pictures) or not len(ids):
            raise InputError(f"{folder} has {len(self.pictures)} pictures and {len(ids)} labels")
        self.about = about.read(folder)
        self.labels = [str(label) for label in range(int(ids.max()) + 1)]
        self.label_ids = ids.tolist()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.pictures[index])[..., None].repeat(1, 1, 3)


Images = ImageFolder | IdxImages


def open_images(folder: Path, image_size: int) -> Images:
    """The pictures of a folder: its idx files where it has any, or else all its images.

    Raises:
        InputError: neither, or pictures that cannot be read.
    """
    if _find(folder, IMAGES).exists():
        return IdxImages(folder, image_size)
    return ImageFolder(folder, image_size)


def _find(folder: Path, name: str) -> Path:
    """The file, or its compressed twin where that alone is there."""
    packed = folder / f"{name}.gz"
    return packed if packed.exists() else folder / name


def _read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of bytes of an idx file."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        zero, kind, found, *shape = struct.unpack_from(f">HBB{dimensions}I", data)
        if (zero, kind, found) != (0, 8, dimensions):
            raise ValueError(f"its header is {data[:4].hex()}")
        return np.frombuffer(bytearray(data), np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}") from error
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{path} is no idx file of bytes in {dimensions} dimensions: {error}") from error
