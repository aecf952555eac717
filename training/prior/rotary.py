"""Rotary embeddings over two axes: attention scores that know how far apart two places lie, by row and by column.

Two kinds. ``axial`` turns every head by whole steps of the grid, at frequencies that fall geometrically; the halves of
a head form the pairs. ``first-head`` is that of the published checkpoints: places run from -1 to 1 whatever the grid's
size, frequencies rise linearly to half of a highest one, neighbouring channels form the pairs, and only the first 64
channels, hence the first head, turn at all.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

HEAD_WIDTH = 64
AXIAL_BASE = 100.0
OUTER_FREQUENCY = 16


def axial_tables(grid: tuple[int, int]) -> Tensor:
    """Cosines and sines that turn channel pairs by place: float ``[2, h*w, HEAD_WIDTH / 2]``, for ``axial``.

    The first half of the pairs turns with the row, the second with the column.
    """
    pairs = HEAD_WIDTH // 4
    frequencies = AXIAL_BASE ** -(torch.arange(pairs) / pairs)
    return _tables(torch.arange(grid[0])[:, None] * frequencies, torch.arange(grid[1])[:, None] * frequencies)


def pixel_frequencies(highest: int) -> Tensor:
    """The frequencies of ``first-head``: float ``[HEAD_WIDTH / 4]``, from pi to ``highest / 2`` times pi."""
    return torch.linspace(1.0, highest / 2, HEAD_WIDTH // 4) * math.pi


def pixel_tables(grid: tuple[int, int], highest: int) -> Tensor:
    """The same as :func:`axial_tables`, for ``first-head``."""
    frequencies = pixel_frequencies(highest)
    rows, columns = (torch.linspace(-1.0, 1.0, length)[:, None] * frequencies for length in grid)
    return _tables(rows, columns)


def _tables(rows: Tensor, columns: Tensor) -> Tensor:
    height, width = rows.shape[0], columns.shape[0]
    angles = torch.cat((rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)), -1)
    angles = rearrange(angles, "h w pairs -> (h w) pairs")
    return torch.stack((angles.cos(), angles.sin()))


def rotate_halves(heads: Tensor, tables: Tensor) -> Tensor:
    """Turns ``[B, heads, T, HEAD_WIDTH]``, whose first and second half form the pairs."""
    first, second = heads.chunk(2, -1)
    cosine, sine = tables.to(heads.dtype)
    # Both halves at once: the first is first * cosine - second * sine, the second is second * cosine + first * sine.
    cosines, sines = torch.cat((cosine, cosine), -1), torch.cat((-sine, sine), -1)
    return heads * cosines + torch.cat((second, first), -1) * sines


def rotate_first_head(heads: Tensor, tables: Tensor) -> Tensor:
    """Turns the first head of ``[B, heads, T, HEAD_WIDTH]``, whose neighbouring channels form the pairs."""
    first, second = heads[:, :1, :, 0::2], heads[:, :1, :, 1::2]
    cosine, sine = tables.to(heads.dtype)
    turned = torch.stack((first * cosine - second * sine, second * cosine + first * sine), -1).flatten(-2)
    return torch.cat((turned, heads[:, 1:]), 1)


class Rotary(nn.Module):
    """Turns queries and keys over one grid: float ``[B, heads, h*w, HEAD_WIDTH]`` to the same shape.

    ``kind``: ``axial`` or ``first-head``; ``highest``: the highest frequency of the latter.
    """

    tables: Tensor

    def __init__(self, kind: str, grid: tuple[int, int], highest: int = OUTER_FREQUENCY) -> None:
        super().__init__()
        self.kind, self.highest = kind, highest
        tables = axial_tables(grid) if kind == "axial" else pixel_tables(grid, highest)
        self.register_buffer("tables", tables, persistent=False)

    def forward(self, heads: Tensor) -> Tensor:
        """Turns them."""
        return (rotate_halves if self.kind == "axial" else rotate_first_head)(heads, self.tables)
