"""The contact sheet: every image in the place of its index, on a picture of bounded size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sundae_rt.errors import InputError
from sundae_rt.sheet import MAX_SIDE, ContactSheet

COLOURS = ["red", "lime", "blue", "yellow", "white"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sheet.png"


def saved(sheet: ContactSheet, path: Path) -> Image.Image:
    sheet.save()
    with Image.open(path) as image:
        return image.convert("RGB")


def test_images_stand_in_the_order_of_their_indices_whatever_order_they_came_in(path: Path) -> None:
    sheet = ContactSheet(path, 5, (10, 20))
    for index in (3, 0, 4, 2, 1):
        sheet.add(index, Image.new("RGB", (20, 10), COLOURS[index]))
    image = saved(sheet, path)
    assert image.size == (3 * 20 + 2 * 2, 2 * 10 + 2)
    for index, colour in enumerate(COLOURS):
        row, column = divmod(index, 3)
        assert image.getpixel((column * 22 + 10, row * 12 + 5)) == Image.new("RGB", (1, 1), colour).getpixel((0, 0))


def test_images_are_not_scaled_while_there_is_room(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)
    sheet = ContactSheet(path, 4, (10, 20))
    sheet.add(3, Image.fromarray(pixels))
    np.testing.assert_array_equal(np.asarray(saved(sheet, path))[12:22, 22:42], pixels)


@pytest.mark.parametrize(("count", "size"), [(1, (9000, 100)), (2000, (128, 128)), (70_000, (1024, 1024))])
def test_thumbnails_shrink_until_the_sheet_fits(count: int, size: tuple[int, int], path: Path) -> None:
    sheet = ContactSheet(path, count, size)
    sheet.add(count - 1, Image.new("RGB", size[::-1], "red"))
    assert max(saved(sheet, path).size) <= MAX_SIDE


def test_more_images_than_could_be_seen_are_refused(path: Path) -> None:
    with pytest.raises(
        InputError, match="1000000 images of 128x128 pixels do not fit on one contact sheet: make fewer, or"
    ):
        ContactSheet(path, 1_000_000, (128, 128))


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")])
def test_the_suffix_chooses_the_format(name: str, kind: str, tmp_path: Path) -> None:
    ContactSheet(tmp_path / name, 1, (8, 8)).save()
    with Image.open(tmp_path / name) as image:
        assert image.format == kind


@pytest.mark.parametrize("name", ["sheet", "sheet.gif"])
def test_other_suffixes_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} is no name for a contact sheet: it must end in \.png"):
        ContactSheet(Path(name), 1, (8, 8))


def test_an_image_of_a_shape_that_no_sheet_shows_is_named(path: Path) -> None:
    with pytest.raises(InputError, match=r"^an image of 8192x8 pixels does not fit on one .*: leave the sheet out$"):
        ContactSheet(path, 1, (8, 8192))
