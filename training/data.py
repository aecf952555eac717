"""Folders of images, and batches of them that depend on the step alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sundae_rt.errors import BundleError, InputError, shown
from sundae_rt.images import open_image
from sundae_rt.manifest import Manifest
from sundae_rt.training import about

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class ImageFolder(Dataset[Tensor]):
    """All images under a folder, in the order of their names, at one size.

    Subfolders, where there are any, are the labels. Images are read by the rules of :mod:`sundae_rt.images`; one of
    another size is scaled by its shorter side and cut from the middle. Items are uint8 ``[H, W, 3]``; item
    ``(index, turn)`` is turned and mirrored, ``turn`` 0 to 7. ``about`` is what the folder says of itself, see
    :mod:`~sundae_rt.training.about`.

    Raises:
        InputError: the folder is missing, holds no image, mixes labelled with unlabelled images, or says of itself what
            no folder can.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder} of images")
        self.folder = folder
        self.files = sorted(path for path in folder.rglob("*") if self._is_meant(path))
        if not self.files:
            raise InputError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
        self.about = about.read(folder)
        self.image_size = image_size
        parents = [path.relative_to(folder).parts[:-1] for path in self.files]
        if any(parents) and not all(parents):
            loose = self.files[parents.index(())]
            raise InputError(f"{folder} has images both in label folders and outside them, such as {loose.name}")
        names = [parts[0] for parts in parents if parts]
        self.labels = sorted(set(names)) or None
        check_labels(self.labels or (), str(folder))
        self.label_ids = [self.labels.index(name) for name in names] if self.labels else None

    def _is_meant(self, path: Path) -> bool:
        """Whether it is a file of an image, and none that some program hid there (.thumbs/1.png, ._1.png)."""
        is_hidden = any(part.startswith(".") for part in path.relative_to(self.folder).parts)
        return path.suffix.lower() in SUFFIXES and not is_hidden and not path.is_dir()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: int | tuple[int, int]) -> Tensor:
        index, turn = key if isinstance(key, tuple) else (key, 0)
        pixels = torch.from_numpy(self._read(self.files[index]))
        if turn % 2:
            pixels = pixels.flip(1)
        return pixels.rot90(turn // 2, (0, 1)).contiguous()

    def chosen(self, count: int) -> list[int]:
        """The indices of ``count`` different images, at random but always the same ones.

        Raises:
            InputError: it holds fewer.
        """
        if len(self) < count:
            raise InputError(f"{self.folder} holds {len(self)} pictures: --count {count} needs as many")
        return [int(index) for index in np.random.default_rng(0).permutation(len(self))[:count]]

    def fingerprint(self) -> str:
        """A hash of the names and lengths of all files, the same wherever the folder lies."""
        digest = hashlib.sha256()
        for file in self.files:
            line = f"{file.relative_to(self.folder).as_posix()} {file.stat().st_size}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _read(self, file: Path) -> np.ndarray:
        rgb = open_image(file).convert("RGB")
        side = self.image_size
        if rgb.size != (side, side):
            # What is scaled first must not be much longer than what is left of it: a line of a million pixels may come.
            wide, high = (min(length, 4 * min(rgb.size)) for length in rgb.size)
            left, top = (rgb.width - wide) // 2, (rgb.height - high) // 2
            rgb = rgb.crop((left, top, left + wide, top + high))
            scale = side / min(rgb.size)
            rgb = rgb.resize(
                (max(side, round(rgb.width * scale)), max(side, round(rgb.height * scale))), Image.Resampling.LANCZOS
            )
            left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
            rgb = rgb.crop((left, top, left + side, top + side))
        return np.array(rgb)


def check_labels(labels: Sequence[object], where: str) -> None:
    """Refuses names that a bundle may not have.

    Raises:
        InputError: no text, an empty one, one with a tab or the like in it, or one that stands twice; it and ``where``
            are named.
    """
    for label in labels:
        if not isinstance(label, str) or not label or not label.isprintable():
            raise InputError(f"{where}: a label must be a text without tabs or the like, not {shown(label)}: rename it")
        if labels.count(label) > 1:
            raise InputError(f"{where}: the label {shown(label)} stands twice")


def image_side(manifest: Manifest) -> int:
    """Pixels along one side of the images that a bundle makes, which a folder is to be read at.

    Raises:
        BundleError: it makes none, or none that are square.
    """
    height, width = manifest.image_size or (0, 0)
    if not height or height != width:
        made = f"images of {height}x{width}" if height else "no images"
        raise BundleError(f"the bundle {manifest.name!r} makes {made}: square ones are needed")
    return height


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The batches of steps ``start`` to ``end``: epoch by epoch, each in an order drawn from seed and epoch.

    With ``turns`` every item comes with one of the eight flips and quarter turns. Of several processes each takes its
    own part of every batch. Step n's batch is the same whether the run began at 0 or was resumed.
    """

    def __init__(
        self, length: int, batch: int, start: int, end: int, seed: int, turns: bool, rank: int = 0, ranks: int = 1
    ) -> None:
        self.length, self.batch, self.start, self.end = length, batch, start, end
        self.seed, self.turns, self.rank, self.ranks = seed, turns, rank, ranks

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, order_epoch = np.empty(0, np.int64), -1
        for step in range(self.start, self.end):
            items: list[tuple[int, int]] = []
            for position in range(step * self.batch, (step + 1) * self.batch):
                epoch, offset = divmod(position, self.length)
                if epoch != order_epoch:
                    order, order_epoch = np.random.default_rng([self.seed, epoch]).permutation(self.length), epoch
                turn = int(np.random.default_rng([self.seed, position, 1]).integers(8)) if self.turns else 0
                items.append((int(order[offset]), turn))
            yield items[self.rank :: self.ranks]


def batches(dataset: Dataset[Any], sampler: StepSampler, workers: int = 0) -> Iterator[Any]:
    """The batches of a :class:`StepSampler`, read by this process or by workers.

    Raises:
        InputError: an item that the dataset refuses.
    """
    try:
        yield from DataLoader(dataset, batch_sampler=sampler, num_workers=workers)
    except InputError as error:  # a worker's has the whole traceback in front of its message
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from error
