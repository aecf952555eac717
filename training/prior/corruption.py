"""How codes are corrupted in training: which positions may be noise, and what stands there (section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def corrupt(codes: Tensor, rates: Tensor, vocabulary: int) -> Tensor:
    """Replaces each code of row b, with probability ``rates[b]``, by a uniformly random one. Integers ``[B, T]``."""
    return replace_by(torch.randint_like(codes, vocabulary), codes, rates)


def replace_by(noise: Tensor, codes: Tensor, rates: Tensor) -> Tensor:
    """Replaces each code of row b, with probability ``rates[b]``, by its noise. Integers ``[B, T]``."""
    return torch.where(torch.rand(codes.shape, device=codes.device) < rates[:, None], noise, codes)


def draw_regions(count: int, latent_grid: tuple[int, int], share: float, device: torch.device) -> Tensor:
    """The positions of each grid that may be noise: all, or with the chance ``share`` a region as in inpainting.

    A region is a rectangle, of random sides about a random cell and cut off at the grid's edges, or what lies outside
    of one. A prior that has only seen noise strewn evenly takes a block of noise in clean surroundings for codes.

    Returns:
        bool ``[count, T]``.
    """
    if not share:
        return torch.ones(count, latent_grid[0] * latent_grid[1], dtype=torch.bool, device=device)
    rows, columns = (_spans(count, length, device) for length in latent_grid)
    inside = (rows[:, :, None] & columns[:, None, :]).flatten(1)
    inverted = torch.rand(count, 1, device=device) < 0.5
    everywhere = torch.rand(count, 1, device=device) >= share
    return (inside ^ inverted) | everywhere


def _spans(count: int, length: int, device: torch.device) -> Tensor:
    """Spans of an axis, bool ``[count, length]``: at least one cell each, about a quarter of them the whole axis."""
    middle, reach = torch.rand(2, count, 1, device=device) * length
    cells = torch.arange(length, device=device) + 0.5
    return (cells - middle).abs() <= reach.clamp(min=0.5)
