"""Sample sheets: the pictures that a training shows on its way."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sundae_rt.files import replacing


def write(path: Path, pictures: Tensor, columns: int) -> None:
    """Writes uint8 ``[N, H, W, 3]`` as one picture, row by row, whole or not at all; N is a multiple of ``columns``."""
    rows = [torch.cat(tuple(row), 1) for row in pictures.split(columns)]
    with replacing(path) as temporary:
        Image.fromarray(torch.cat(rows, 0).numpy()).save(temporary)
