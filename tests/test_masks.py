"""Masks of the paper's kinds: what each repaints, what its text says, and that whole cells of the model are masked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sundae_rt import inpainting, masks
from sundae_rt.errors import InputError
from sundae_rt.masks import PaperMask

SIZE, GRID = (128, 128), (16, 16)


def drawn(kind: str, shape: tuple[int, int] = SIZE, **parameters: Any) -> PaperMask:
    return masks.draw(kind, shape, SIZE, GRID, **parameters)


def sides(cells: np.ndarray) -> tuple[int, int]:
    """Height and width of the one rectangle that the cells make up."""
    rows, columns = cells.any(axis=1), cells.any(axis=0)
    assert cells.sum() == rows.sum() * columns.sum()
    assert all(np.ptp(np.flatnonzero(axis)) + 1 == axis.sum() for axis in (rows, columns))
    return int(rows.sum()), int(columns.sum())


@pytest.mark.parametrize(("share", "side"), [(None, 8), (0.25, 8), (1.0, 16), (0.0001, 1), (0.5, 11)])
def test_a_block_is_one_rectangle_of_its_share(share: float | None, side: int) -> None:
    assert sides(drawn("block", share=share).cells) == (side, side)


def test_a_block_lies_anywhere() -> None:
    corners = {tuple(np.argwhere(drawn("block", seed=seed).cells)[0]) for seed in range(300)}
    assert len(corners) > 60
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(9))


@pytest.mark.parametrize("size", [1, 2, 5, 16])
@pytest.mark.parametrize("share", [0.01, 0.4, 1.0])
def test_random_blocks_make_up_their_share_of_squares(size: int, share: float) -> None:
    cells = drawn("random-blocks", size=size, share=share, seed=3).cells
    assert cells.mean() >= share
    assert cells.sum() - size * size < share * cells.size  # no more squares than needed
    windows = np.lib.stride_tricks.sliding_window_view(cells, (size, size)).all(axis=(2, 3))
    covered = np.zeros_like(cells)
    for top, left in np.argwhere(windows):
        covered[top : top + size, left : left + size] = True
    assert (covered == cells).all()


def test_a_grid_is_squares_their_own_side_apart() -> None:
    row = [True, True, False, False] * 4
    np.testing.assert_array_equal(drawn("grid").cells, np.outer(row, row))
    assert drawn("grid", size=1).cells.sum() == 64


def test_what_is_random_depends_on_the_seed() -> None:
    for kind in ("block", "random-blocks"):
        one, same, other = (drawn(kind, seed=seed).cells for seed in (7, 7, 8))
        assert (one == same).all()
        assert (one != other).any()


@pytest.mark.parametrize(
    ("kind", "parameters", "text"),
    [
        ("block", {}, "block:share=0.25,seed=0"),
        ("random-blocks", {"seed": 2**64 - 1}, "random-blocks:share=0.5,size=2,seed=18446744073709551615"),
        ("random-blocks", {"share": 0.1, "size": 3, "seed": 1}, "random-blocks:share=0.1,size=3,seed=1"),
        ("grid", {"size": 4}, "grid:size=4"),
    ],
)
def test_the_text_names_every_parameter_and_draws_the_mask_again(kind: str, parameters: Any, text: str) -> None:
    mask = drawn(kind, **parameters)
    assert mask.text == text
    again = drawn(**masks.parse(text))
    assert again.text == text
    assert (again.pixels == mask.pixels).all()


def test_parts_of_the_text_may_be_left_out() -> None:
    assert masks.parse("block") == {"kind": "block"}
    assert masks.parse("random-blocks:size=2") == {"kind": "random-blocks", "size": 2}


@pytest.mark.parametrize("text", ["block", "block:", "grid:size=2", "random-blocks:x"])
def test_what_starts_with_a_kind_is_no_file(text: str) -> None:
    assert masks.is_kind(text)


@pytest.mark.parametrize("text", ["./block", "block.png", "blocks", "", "masks/grid"])
def test_anything_else_is_a_file(text: str) -> None:
    assert not masks.is_kind(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("blok", "the kind of mask must be one of block, random-blocks, grid, not 'blok'"),
        ("block:", "share=, size= and seed= may follow, each once, not ''"),
        ("block:0.5", "may follow, each once, not '0.5'"),
        ("block:share=1,share=1", "each once"),
        ("block:shape=1", "not 'shape=1'"),
        ("block:share=half", "share must be a number, not 'half'"),
        ("grid:size=1.5", "size must be a number, not '1.5'"),
        ("grid:size=", "size must be a number, not ''"),
        ("grid:share=0.5", "share must be left out: a grid mask has size alone"),
        ("grid:seed=1", "seed must be left out"),
        ("block:size=2", "size must be left out: a block mask has share and seed alone"),
        ("block:share=0", "a mask's share must be a finite number above 0 and at most 1, not 0.0"),
        ("block:share=nan", "a mask's share must be"),
        ("block:seed=-1", "a mask's seed must be a whole number from 0"),
        ("random-blocks:size=17", "a mask's size must be a whole number from 1 to 16, not 17"),
        ("grid:size=0", "a mask's size must be a whole number from 1 to 16, not 0"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        drawn(**masks.parse(text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


# On pictures


@pytest.mark.parametrize("kind", masks.KINDS)
@pytest.mark.parametrize(("size", "grid"), [((128, 128), (16, 16)), ((28, 28), (28, 28)), ((48, 96), (6, 12))])
def test_on_a_picture_of_the_bundles_size_the_models_cells_are_the_masks(
    kind: str, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    mask = masks.draw(kind, size, size, grid)
    assert mask.cells.shape == grid
    plan = inpainting.plan(np.zeros((*size, 3), np.uint8), mask.pixels, size, grid)
    np.testing.assert_array_equal(plan.repaint, mask.cells)


@pytest.mark.parametrize("shape", [(256, 256), (300, 300), (200, 200), (128, 500), (401, 77)])
def test_on_a_larger_picture_the_cells_are_those_of_the_whole_picture(shape: tuple[int, int]) -> None:
    mask = drawn("random-blocks", shape, size=1, share=0.4)
    rows, columns = mask.cells.shape
    assert max(rows, columns) == 16
    mask.pixels[0, 0] = mask.pixels[-1, -1] = True  # so that the window is the whole picture
    plan = inpainting.plan(np.zeros((*shape, 3), np.uint8), mask.pixels, SIZE, GRID)
    found = plan.repaint[:rows, :columns].copy()
    found[0, 0], found[-1, -1] = mask.cells[0, 0], mask.cells[-1, -1]
    np.testing.assert_array_equal(found, mask.cells)


def test_a_smaller_picture_has_fewer_cells() -> None:
    mask = drawn("grid", (20, 60))
    assert mask.cells.shape == (3, 8)
    assert mask.pixels.shape == (20, 60)
    plan = inpainting.plan(np.zeros((20, 60, 3), np.uint8), mask.pixels, SIZE, GRID)
    np.testing.assert_array_equal(plan.repaint[:3, :8], mask.cells)
