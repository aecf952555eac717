"""Inpainting masks of the paper's kinds, drawn on latent cells instead of by hand.

| kind            | repaints                                                        | parameters (with defaults)    |
|-----------------|-----------------------------------------------------------------|-------------------------------|
| `block`         | one rectangle of the grid's shape, somewhere                    | `share` (0.25), `seed`        |
| `random-blocks` | squares of `size` cells, anywhere, until they make up `share`   | `share` (0.5), `size`, `seed` |
| `grid`          | squares of `size` cells in rows and columns, `size` cells apart | `size`                        |

`share` is a share of all cells, in (0, 1]; `size` is by default an eighth of the grid's shorter side. What is random
depends on the seed and the grid alone. As text a mask is `KIND` or `KIND:NAME=VALUE,...`, such as
`random-blocks:share=0.4,size=2,seed=7`.

The cells are those that the bundle has for the whole picture: as many as its latent grid where the picture has its
aspect ratio and at least its size, fewer where the window of `sundae_rt.inpainting` reaches beyond the picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sundae_rt import inpainting, noise
from sundae_rt.errors import InputError, shown
from sundae_rt.validation import one_of, real, whole

Cells = NDArray[np.bool_]

Kind = Literal["block", "random-blocks", "grid"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_PARAMETERS: Final = {"block": ("share", "seed"), "random-blocks": ("share", "size", "seed"), "grid": ("size",)}
_SHARES: Final = {"block": 0.25, "random-blocks": 0.5}


@dataclass(frozen=True, slots=True, eq=False)
class PaperMask:
    """A mask of one of the paper's kinds, drawn for one picture.

    Attributes:
        text: kind and all parameters: parsed and drawn for a picture of the same size, it gives the same mask.
        cells: bool [h,w], True where a cell of the picture is repainted.
        pixels: bool [H,W], True where a pixel is.
    """

    text: str
    cells: Cells
    pixels: NDArray[np.bool_]


def draw(
    kind: str,
    shape: tuple[int, int],
    image_size: tuple[int, int],
    latent_grid: tuple[int, int],
    *,
    share: float | None = None,
    size: int | None = None,
    seed: int | None = None,
) -> PaperMask:
    """Draw a mask for a picture.

    Args:
        kind: one of `KINDS`.
        shape: the picture's (H, W) in pixels.
        image_size: the bundle's (H, W) in pixels.
        latent_grid: the bundle's (h, w) in cells.
        share: share of the cells to repaint, in (0, 1].
        size: side of a square in cells, 1 .. the shorter side of the picture's cells.
        seed: what is random depends on it, 0 .. 2**64 - 1; None is 0.

    Raises:
        InputError: an unknown kind, a parameter that the kind does not have, or one out of range; or a picture that
            is too small or too large to be inpainted.
    """
    own = _PARAMETERS[one_of("the kind of mask", kind, KINDS)]
    given = {name: value for name, value in (("share", share), ("size", size), ("seed", seed)) if value is not None}
    for name in given:
        if name not in own:
            raise InputError(f"{name} must be left out: a {kind} mask has {' and '.join(own)} alone")
    inpainting.check_sides(shape, image_size)
    window = inpainting.choose_window(np.ones(shape, np.bool_), image_size)
    sides = (window.height, window.width)
    rows, columns = (-(-length * cells // side) for length, cells, side in zip(shape, latent_grid, sides, strict=True))
    grid = (rows, columns)
    checks: dict[str, Any] = {
        "share": lambda value: real("a mask's share", value, 0.0, 1.0, above_low=True),
        "size": lambda value: whole("a mask's size", value, 1, min(grid)),
        "seed": lambda value: whole("a mask's seed", value, 0, noise.MAX_SEED),
    }
    defaults = {"share": _SHARES.get(kind), "size": max(1, round(min(grid) / 8)), "seed": 0}
    values = {name: checks[name](given.get(name, defaults[name])) for name in own}
    draws: dict[str, Callable[..., Cells]] = {"block": _block, "random-blocks": _random_blocks, "grid": _grid}
    cells = draws[kind](grid, **values)
    text = f"{kind}:{','.join(f'{name}={value}' for name, value in values.items())}"
    return PaperMask(text, cells, _pixels(cells, shape, latent_grid, sides))


def is_kind(text: str) -> bool:
    """Whether the text means a mask of the paper's kinds, and not a file."""
    return text.partition(":")[0] in KINDS


def parse(text: str) -> dict[str, Any]:
    """The arguments of `draw` that `KIND` or `KIND:NAME=VALUE,...` gives, by name.

    Raises:
        InputError: it is neither; whether the values are in range is for `draw` to say.
    """
    kind, _, rest = text.partition(":")
    values: dict[str, Any] = {"kind": one_of("the kind of mask", kind, KINDS)}
    for part in rest.split(",") if ":" in text else ():
        name, _, value = part.partition("=")
        if name not in ("share", "size", "seed") or name in values:
            raise InputError(f"mask {shown(text)}: share=, size= and seed= may follow, each once, not {shown(part)}")
        try:
            values[name] = float(value) if name == "share" else int(value)
        except ValueError:
            raise InputError(f"mask {shown(text)}: {name} must be a number, not {shown(value)}") from None
    return values


def has_seed(kind: str) -> bool:
    """Whether a mask of this kind is random."""
    return "seed" in _PARAMETERS[one_of("the kind of mask", kind, KINDS)]


def _block(grid: tuple[int, int], share: float, seed: int) -> Cells:
    sides = [max(1, round(length * share**0.5)) for length in grid]
    draws = noise.uniforms(seed, noise.Purpose.MASK, 2).astype(np.float64)
    top, left = (int(draw * (length - side + 1)) for draw, length, side in zip(draws, grid, sides, strict=True))
    cells = np.zeros(grid, np.bool_)
    cells[top : top + sides[0], left : left + sides[1]] = True
    return cells


def _random_blocks(grid: tuple[int, int], share: float, size: int, seed: int) -> Cells:
    """Every place for a square has its turn in random order, so that any share is reached."""
    cells = np.zeros(grid, np.bool_)
    rows, columns = (length - size + 1 for length in grid)
    for place in np.argsort(noise.uniforms(seed, noise.Purpose.MASK, rows * columns), kind="stable"):
        top, left = divmod(int(place), columns)
        cells[top : top + size, left : left + size] = True
        if cells.mean() >= share:
            break
    return cells


def _grid(grid: tuple[int, int], size: int) -> Cells:
    rows, columns = (np.arange(length) // size % 2 == 0 for length in grid)
    cells: Cells = rows[:, None] & columns
    return cells


def _pixels(cells: Cells, shape: tuple[int, int], latent_grid: tuple[int, int], sides: tuple[int, int]) -> Cells:
    """The pixels that lie wholly in repainted cells: one across an edge would have its other cell repainted too."""
    for axis, (length, count, side) in enumerate(zip(shape, latent_grid, sides, strict=True)):
        starts = np.arange(length) * count
        cells = cells.take(starts // side, axis) & cells.take((starts + count - 1) // side, axis)
    return cells
