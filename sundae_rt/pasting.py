"""Pasting a generated picture into an image: in the image's colours, and without a step at the seam."""

from itertools import product

import numpy as np
from PIL import Image

_LIKE = 25.0  # levels, of 255, by which colours may differ and still be alike
_DOUBT = 4.0  # cells of the same colour and without any error that are taken for kept: one cell alone says little
_WITNESSES = 1024  # kept cells that are asked, at most twice as many: larger grids have thousands
_TILE = 256  # pixels that are blended at a time, each way: bounds memory, and skips what lies far from any seam


def corrected(generated: np.ndarray, seen: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The generated picture without what the decoder gets wrong of colours, as kept cells of like colour show it.

    Kept cells are decoded from codes of the very picture, so there the two differ by the decoder's error alone. Each
    cell's mean colour is shifted by the mean error of kept cells, weighted by exp(-d^2 / 2 25^2) at d levels between
    the colours that the decoder gave them (of large grids, of an even choice of them); the shift runs smoothly from
    cell to cell.

    Args:
        generated: uint8 [H,W,3], what the decoder made.
        seen: uint8 [H,W,3], the picture in its true colours where it is kept.
        kept: bool [h,w], True where a cell is kept; H and W are multiples of h and w.

    Returns:
        uint8 [H,W,3].
    """
    made, true = _cell_means(generated, kept.shape), _cell_means(seen, kept.shape)
    every = max(1, np.count_nonzero(kept) // _WITNESSES)
    colours, errors = made[kept][::every], (true - made)[kept][::every]
    shifts = np.zeros((*kept.shape, 3), np.float32)
    for row, cells in enumerate(made):  # by rows: all pairs of a large grid's cells need much memory
        apart = np.square(cells[:, None] - colours).sum(-1)
        weights = np.exp(-apart / (2 * _LIKE**2))
        shifts[row] = weights @ errors / (weights.sum(1, keepdims=True) + _DOUBT)
    shifted = generated + resized(shifts, generated.shape[:2], Image.Resampling.BILINEAR)
    result: np.ndarray = np.clip(np.rint(shifted), 0, 255).astype(np.uint8)
    return result


def _cell_means(picture: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """The mean colour of each cell, float32 [h,w,3]."""
    rows, columns = grid
    cells = picture.reshape(rows, picture.shape[0] // rows, columns, picture.shape[1] // columns, 3)
    means: np.ndarray = cells.mean((1, 3), np.float32)
    return means


def resized(values: np.ndarray, size: tuple[int, ...], filter: Image.Resampling) -> np.ndarray:
    """Resize float32 [H,W,C] to `size` (H, W), channel by channel."""
    height, width = size
    channels = (Image.fromarray(channel).resize((width, height), filter) for channel in np.moveaxis(values, 2, 0))
    return np.stack([np.asarray(channel) for channel in channels], axis=2)


def blend(original: np.ndarray, generated: np.ndarray, mask: np.ndarray, feather: int) -> None:
    """Overwrite masked pixels of `original` [h,w,3 or 4] in place with `generated` [h,w,3], its seam adapted."""
    radius = max(1, feather // 2)
    reach = 3 * radius + feather
    result = generated.copy()
    for top, left in product(*(range(0, side, _TILE) for side in mask.shape)):
        around = tuple(slice(max(0, start - reach), start + _TILE + reach) for start in (top, left))
        if mask[top : top + _TILE, left : left + _TILE].any() and not mask[around].all():
            adapted = _adapted(original[around][..., :3], generated[around], mask[around], feather, radius)
            own = adapted[top - around[0].start :, left - around[1].start :][:_TILE, :_TILE]
            result[top : top + _TILE, left : left + _TILE] = own
    inside = mask[..., None]  # np.copyto, unlike an index by the mask, needs no memory
    np.copyto(original[..., :3], result, where=inside)
    np.copyto(original[..., 3:], 255, where=inside)


def _adapted(original: np.ndarray, generated: np.ndarray, mask: np.ndarray, feather: int, radius: int) -> np.ndarray:
    """The generated picture plus the smoothly extended difference of kept pixels, faded out into the mask."""
    kept = ~mask[..., None]
    difference = (original.astype(np.float64) - generated) * kept
    blurred = _blurred(np.concatenate([difference, kept], axis=2), radius)
    weight = blurred[..., 3:]
    shift = np.divide(blurred[..., :3], weight, out=np.zeros_like(difference), where=weight > 1e-6)
    depth = _depth(mask, feather)[..., None] / feather
    fade = 1.0 - depth * depth * (3.0 - 2.0 * depth)
    adapted: np.ndarray = np.clip(np.rint(generated + fade * shift), 0, 255).astype(np.uint8)
    return adapted


def _depth(mask: np.ndarray, most: int) -> np.ndarray:
    """How many pixels, diagonals included, each masked pixel lies from the nearest kept one: 0 (kept) .. `most`."""
    depth = np.zeros(mask.shape, np.int32)
    for _ in range(most):
        depth += mask
        around = np.pad(mask, 1, constant_values=True)
        rows = around[:-2] & around[1:-1] & around[2:]
        mask = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    return depth


def _blurred(values: np.ndarray, radius: int) -> np.ndarray:
    """Box blur of [H,W,C], three times over squares of side 2 x radius + 1, with zeros beyond the edge."""
    side = 2 * radius + 1
    for axis in (0, 1) * 3:
        length = values.shape[axis]
        at = np.arange(length)
        totals = np.cumsum(np.pad(values, [(int(one == axis), 0) for one in range(3)]), axis=axis)
        ends, starts = np.minimum(at + radius + 1, length), np.maximum(at - radius, 0)
        values = (totals.take(ends, axis) - totals.take(starts, axis)) / side
    return values
