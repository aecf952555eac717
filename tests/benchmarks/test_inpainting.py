"""Inpainting beside what was there, at toy size: which masks, what the figures say, and that they can be made again."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import sundae_rt
from house import benchmark

inpainting = benchmark("inpainting")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of noise in the place of real pictures, with labels of the bundle's."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for label in ("coast", "ocean"):
        (folder / label).mkdir()
        for index in range(2):
            pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).resize((128, 128)).save(folder / label / f"{index}.png")
    return folder


def run(data: Path, results: Path, *options: object) -> list[dict[str, object]]:
    arguments = ["--data", data, "--results", results, "--sheet", results.with_suffix(".png"), "--count", 3, *options]
    inpainting.main.main([str(argument) for argument in arguments], standalone_mode=False)
    fits: list[dict[str, object]] = json.loads(results.read_text())["fits"]
    return fits


def test_every_kind_of_mask_is_measured_and_the_same_twice(data: Path, tmp_path: Path) -> None:
    fits = run(data, tmp_path / "once.json")
    assert [fit["mask"] for fit in fits] == list(inpainting.MASKS)
    assert all(fit[figure] > 0 for fit in fits for figure in ("colour", "contrast", "distance"))  # type: ignore[operator]
    again = run(data, tmp_path / "again.json", "--mask", "half", "--mask", "block")
    assert again == [fits[1], fits[0]]
    rows = {}
    for name in ("once", "again"):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            tiles = np.asarray(sheet)
        assert tiles.shape[1] == 2 * 130  # a column for each label
        rows[name] = [tiles[top + 1 : top + 129] for top in range(0, len(tiles), 130)]
    originals, hidden, made = rows["once"][:3]
    grey = (hidden == inpainting.GREY).all(2)
    assert 0.2 < grey.mean() < 0.25
    assert np.array_equal(made[~grey], originals[~grey])
    assert (made != originals)[grey].any()
    assert np.array_equal(rows["again"][3:], rows["once"][1:3])  # the block's


def test_masks_keep_and_repaint_what_they_say() -> None:
    picture = np.zeros((128, 128, 3), np.uint8)
    with sundae_rt.load("earth") as runtime:
        masks = {kind: [draw(runtime, picture, seed) for seed in range(4)] for kind, draw in inpainting.MASKS.items()}
    assert {kind: np.mean(drawn) for kind, drawn in masks.items()} == pytest.approx(
        {"block": 0.25, "half": 0.5, "outside": 0.75, "random-blocks": 0.5}, abs=0.02
    )
    assert all(np.array_equal(~one, other) for one, other in zip(masks["block"], masks["outside"], strict=True))
    assert [half[:64].all() or half[64:].all() for half in masks["half"]] == [True, False, True, False]
    assert np.mean(masks["half"], axis=0).tolist() == np.full((128, 128), 0.5).tolist()  # each side in its turn


def test_the_figures_are_of_what_was_repainted_alone() -> None:
    mask = np.zeros((4, 4), np.bool_)
    mask[:2] = True
    before, made = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 99, np.uint8)
    before[:, 0], before[:, 1], made[:, 0], made[:, 1] = 40, 80, 60, 70
    colour, contrast = inpainting._fit(made, before, [mask, mask])
    assert (colour, contrast) == (5.0, 0.25)


def test_too_few_pictures_are_refused_in_one_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"holds 4 pictures: --count 5 needs as many$"):
        run(data, tmp_path / "none.json", "--count", 5)
