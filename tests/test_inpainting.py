"""Inpainting around the model: what it sees, what it repaints, and that kept pixels come back untouched."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from sundae_rt.errors import InputError
from sundae_rt.inpainting import MAX_SIDE, MIN_SIDE, Plan, plan

SIZE, GRID = (32, 32), (4, 4)  # cells of 8 x 8 pixels
BIG = (128, 128), (16, 16)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def rectangle(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def fitted(image: Image.Image | np.ndarray, mask: Image.Image | np.ndarray) -> Plan:
    return plan(image, mask, SIZE, GRID)


def frame(height: int, width: int) -> np.ndarray:
    return ~rectangle(height, width, 3, 3, height - 3, width - 3)


def checkerboard(height: int, width: int) -> np.ndarray:
    return np.indices((height, width)).sum(axis=0) % 2 == 0


def specks(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).random((height, width)) < 0.02


PATTERNS: dict[str, Callable[[int, int], np.ndarray]] = {
    "one pixel": lambda h, w: rectangle(h, w, h // 2, w // 2, h // 2 + 1, w // 2 + 1),
    "a corner": lambda h, w: rectangle(h, w, 0, 0, 1, 1),
    "a thin line": lambda h, w: np.abs(np.subtract.outer(np.arange(h), np.arange(w))) == 0,
    "half": lambda h, w: rectangle(h, w, 0, 0, h, w // 2),
    "frame": frame,
    "checkerboard": checkerboard,
    "specks": specks,
    "everything": lambda h, w: np.ones((h, w), bool),
    "all but one pixel": lambda h, w: ~rectangle(h, w, h // 3, w // 3, h // 3 + 1, w // 3 + 1),
}
SIZES = [(32, 32), (32, 100), (100, 32), (75, 61), (300, 280), (8, 8), (20, 90), (33, 31)]


# What is kept, and what does not leak


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [3, 4])
def test_kept_pixels_come_back_identical_and_repainted_ones_opaque(
    pattern: str, size: tuple[int, int], channels: int
) -> None:
    image, mask = noise(*size, channels), PATTERNS[pattern](*size)
    result = np.asarray(fitted(image, mask).paste(noise(*SIZE, seed=9)))
    assert result.shape == image.shape
    np.testing.assert_array_equal(result[~mask], image[~mask])
    assert (result[mask][:, 3:] == 255).all()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_nothing_that_lies_under_the_mask_reaches_the_model_or_the_result(pattern: str, size: tuple[int, int]) -> None:
    mask = PATTERNS[pattern](*size)
    one, other = noise(*size, seed=1), noise(*size, seed=1)
    other[mask] = noise(*size, seed=2)[mask]
    first, second = fitted(one, mask), fitted(other, mask)
    np.testing.assert_array_equal(first.model_input, second.model_input)
    generated = noise(*SIZE, seed=9)
    np.testing.assert_array_equal(first.paste(generated), second.paste(generated))


def test_the_callers_arrays_are_left_alone() -> None:
    image, mask = noise(40, 40), rectangle(40, 40, 5, 5, 30, 30)
    fitted(image, mask).paste(noise(*SIZE, seed=9))
    np.testing.assert_array_equal(image, noise(40, 40))
    np.testing.assert_array_equal(mask, rectangle(40, 40, 5, 5, 30, 30))


# The seam


def test_the_seam_lies_inside_the_repainted_side_and_fades_out() -> None:
    image, mask = np.full((128, 128, 3), 100, np.uint8), rectangle(128, 128, 0, 68, 128, 128)
    image[:, :32] = 220  # so that in the mean nothing is wrong with kept cells
    row = np.asarray(plan(image, mask, *BIG).paste(np.full((128, 128, 3), 160, np.uint8)))[16, :, 0].astype(int)
    assert (row[32:68] == 100).all()
    assert row[68] - 100 <= 4  # no step at the seam, ...
    assert (np.diff(row[32:]) >= 0).all()
    assert np.diff(row[32:]).max() <= 15
    assert (row[76:] == 160).all()  # ... and the generated picture itself a few pixels in


def test_a_generated_picture_that_agrees_is_pasted_as_it_is() -> None:
    image, mask = noise(32, 32), rectangle(32, 32, 8, 8, 20, 24)
    np.testing.assert_array_equal(fitted(image, mask).paste(image), image)


def test_what_the_decoder_gets_wrong_of_kept_cells_is_taken_off_others_of_like_colour() -> None:
    image, mask = np.full((128, 128, 3), (200, 170, 120), np.uint8), rectangle(128, 128, 32, 32, 128, 128)
    decoded = image + np.array((20, -10, 0), np.int16)
    decoded[64:96, 64:] += 10  # which is no error: it is what was painted there
    decoded[96:, 64:] = (20, 40, 100)  # nor is this, of which nothing like is kept
    result = np.asarray(plan(image, mask, *BIG).paste(decoded.astype(np.uint8)))
    np.testing.assert_allclose(result[48, 48], image[0, 0], atol=1)
    np.testing.assert_allclose(result[80, 100], image[0, 0] + 10.0, atol=1)
    np.testing.assert_array_equal(result[112:, 72:], decoded[112:, 72:])


def test_kept_cells_of_two_colours_each_say_what_is_wrong_of_their_own() -> None:
    image, mask = np.full((128, 128, 3), 60, np.uint8), rectangle(128, 128, 64, 0, 128, 128)
    image[:, 64:] = 180
    decoded = image.astype(np.int16)
    decoded[:, :64] += 12
    decoded[:, 64:] -= 12
    result = np.asarray(plan(image, mask, *BIG).paste(decoded.astype(np.uint8))).astype(int)
    np.testing.assert_allclose(result[100, [16, 112]], image[100, [16, 112]], atol=2)


@pytest.mark.parametrize(("cells", "share"), [(0, 0), (1, 1 / 5), (4, 1 / 2), (12, 3 / 4)])
def test_few_kept_cells_count_little(cells: int, share: float) -> None:
    mask = np.ones(GRID, bool)
    mask.ravel()[:cells] = False
    image = np.full((32, 32, 3), 100, np.uint8)
    result = np.asarray(fitted(image, mask.repeat(8, 0).repeat(8, 1)).paste(np.full((32, 32, 3), 180, np.uint8)))
    assert result[31, 31, 0] == 180 - round(share * 80)


def test_a_large_grid_is_corrected_as_a_small_one_is() -> None:
    image, mask = np.full((512, 512, 3), 100, np.uint8), rectangle(512, 512, 0, 256, 512, 512)
    image[::2] = 140
    result = np.asarray(plan(image, mask, (512, 512), (128, 128)).paste(image + np.uint8(20))).astype(int)
    assert np.abs(result - image).max() <= 1


def test_padding_says_nothing_of_the_decoder() -> None:
    image, mask = np.full((12, 32, 3), 100, np.uint8), rectangle(12, 32, 0, 8, 12, 32)
    fit = fitted(image, mask)
    assert np.argwhere(fit.kept).tolist() == [[0, 0]]  # the next row of cells has 4 rows of pixels of the image
    assert np.asarray(fit.paste(np.full((32, 32, 3), 180, np.uint8)))[4, 31, 0] == 180 - round(80 / 5)


def test_a_scaled_picture_is_corrected_too() -> None:
    image, mask = np.full((320, 320, 3), 100, np.uint8), rectangle(320, 320, 0, 80, 320, 320)
    result = np.asarray(plan(image, mask, *BIG).paste(np.full((128, 128, 3), 120, np.uint8)))
    assert result[160, 300].tolist() == [101] * 3  # 64 kept cells count 16 times as much as what is left in doubt


def test_a_shift_towards_the_surroundings_stays_in_range() -> None:
    image, mask = np.full((32, 32, 3), 255, np.uint8), rectangle(32, 32, 8, 8, 24, 24)
    generated = np.zeros((32, 32, 3), np.uint8)
    generated[::2] = 255
    result = np.asarray(fitted(image, mask).paste(generated))
    assert result[8, 8:24].min() > 200  # shifted by about half the range and clipped, not wrapped around


def test_large_repainted_areas_are_blended_as_one() -> None:
    """Blending goes by tiles to bound memory; no tile's edge shows."""
    image, mask = np.full((600, 600, 3), 50, np.uint8), rectangle(600, 600, 40, 40, 560, 560)
    result = np.asarray(plan(image, mask, (600, 600), (6, 6)).paste(np.full((600, 600, 3), 90, np.uint8))).astype(int)
    np.testing.assert_array_equal(result, result[::-1])
    np.testing.assert_array_equal(result, result.swapaxes(0, 1))
    assert (result[300, 60:540] == 90).all()


# What the model sees


def test_the_fill_under_the_mask_continues_the_surroundings_smoothly() -> None:
    ramp = np.repeat(np.linspace(0, 248, 32)[None, :, None], 32, axis=0).repeat(3, axis=2).astype(np.uint8)
    filled = fitted(ramp, rectangle(32, 32, 8, 8, 24, 24)).model_input.astype(int)
    hole = filled[8:24, 8:24, 0]
    assert np.abs(np.diff(hole, axis=0)).max() <= 16
    assert hole[:, 0].mean() + 60 < hole[:, -1].mean()
    assert ramp[0, 7, 0] <= hole.min()
    assert hole.max() <= ramp[0, 24, 0]


def test_with_nothing_kept_the_model_sees_grey() -> None:
    sees = fitted(noise(32, 32), np.ones((32, 32), bool))
    assert np.unique(sees.model_input).tolist() == [128]
    assert sees.repaint.all()


@pytest.mark.parametrize(
    ("pixel", "cell"), [((0, 0), (0, 0)), ((7, 7), (0, 0)), ((8, 7), (1, 0)), ((31, 31), (3, 3)), ((16, 15), (2, 1))]
)
def test_a_cell_is_repainted_if_any_of_its_pixels_is_masked(pixel: tuple[int, int], cell: tuple[int, int]) -> None:
    mask = np.zeros((32, 32), bool)
    mask[pixel] = True
    assert np.argwhere(fitted(noise(32, 32), mask).repaint).tolist() == [list(cell)]


def test_an_image_of_the_bundles_size_is_used_as_it_is() -> None:
    image, mask = noise(32, 32), specks(32, 32)
    exact = fitted(image, mask)
    assert exact.notes == ()
    np.testing.assert_array_equal(exact.model_input[~mask], image[~mask])


def test_a_bundle_of_tiny_images_takes_them() -> None:
    assert plan(noise(4, 6), np.ones((4, 6), bool), (4, 6), (2, 3)).repaint.all()


def test_a_bundle_need_not_be_square() -> None:
    image, mask = noise(40, 70), rectangle(40, 70, 10, 50, 14, 60)
    wide = plan(image, mask, (16, 48), (2, 3))
    assert wide.model_input.shape == (16, 48, 3)
    assert wide.repaint.shape == (2, 3)
    assert wide.notes == ("the model sees a window of 48x16 pixels at column 22, row 4 of the 70x40 image",)


# The window


def test_a_mask_that_fits_is_worked_on_at_native_resolution_in_a_window_around_it() -> None:
    image, mask = noise(100, 120), rectangle(100, 120, 50, 60, 54, 70)
    near = fitted(image, mask)
    assert near.notes == ("the model sees a window of 32x32 pixels at column 49, row 36 of the 120x100 image",)
    np.testing.assert_array_equal(near.model_input[:14], image[36:50, 49:81])


def test_the_window_stays_inside_the_image() -> None:
    near = fitted(noise(100, 120), rectangle(100, 120, 97, 0, 100, 2))
    assert near.notes == ("the model sees a window of 32x32 pixels at column 0, row 68 of the 120x100 image",)


def test_a_larger_mask_is_worked_on_in_a_larger_window_scaled_down() -> None:
    sees = fitted(noise(100, 120), rectangle(100, 120, 10, 20, 50, 36))  # 40 high, with margin 50
    assert sees.notes == (
        "the model sees a window of 50x50 pixels at column 3, row 5 of the 120x100 image",
        "the window is scaled down by 1.56 to the bundle's 32x32 and its result back up: "
        "repainted parts have no finer detail",
    )


def test_the_margin_is_asked_for_only_where_the_image_has_one() -> None:
    assert fitted(noise(32, 64), rectangle(32, 64, 0, 0, 32, 28)).notes == (
        "the model sees a window of 32x32 pixels at column 0, row 0 of the 64x32 image",
    )


def test_scaled_results_are_scaled_back() -> None:
    ramp = np.repeat(np.linspace(0, 255, 96)[None, :, None], 96, axis=0).repeat(3, axis=2).astype(np.uint8)
    mask = rectangle(96, 96, 4, 4, 92, 92)
    small = np.asarray(Image.fromarray(ramp).resize((32, 32), Image.Resampling.BOX))
    result = np.asarray(fitted(ramp, mask).paste(small)).astype(int)
    assert np.abs(result - ramp).max() <= 3


def test_an_image_smaller_than_the_bundle_is_padded_by_mirroring_and_the_padding_is_kept() -> None:
    image, mask = noise(20, 24), rectangle(20, 24, 16, 16, 20, 24)
    padded = fitted(image, mask)
    assert padded.notes == ("the window is padded by mirroring from 24x20 to 32x32",)
    assert np.argwhere(padded.repaint).tolist() == [[2, 2]]
    np.testing.assert_array_equal(padded.model_input[:16, 24:], image[:16, 22:14:-1])
    assert padded.paste(noise(*SIZE, seed=9)).size == (24, 20)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_masked_pixel_lies_in_a_repainted_cell_of_the_window(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        mask = np.zeros(size, bool)
        mask[tuple(rng.integers(0, size, (rng.integers(1, 4), 2)).T)] = True
        found = fitted(noise(*size), mask)
        window = found.window
        assert found.window.cut(mask).sum() == mask.sum()
        for row, column in np.argwhere(mask):
            cell = ((row - window.top) * GRID[0] // window.height, (column - window.left) * GRID[1] // window.width)
            assert found.repaint[cell]


@pytest.mark.parametrize("size", [(MIN_SIDE - 1, 50), (50, MIN_SIDE - 1), (8, MAX_SIDE + 1)], ids=str)
def test_other_sides_are_refused_with_the_range(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"image has {size[1]}x{size[0]} pixels: .* from {MIN_SIDE} to {MAX_SIDE}"):
        fitted(noise(*size), np.ones(size, bool))


# Masks


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA"])
def test_masks_of_any_mode_select_what_is_white(mode: str) -> None:
    wanted = rectangle(32, 32, 4, 6, 20, 9)
    grey = Image.fromarray(np.where(wanted, 200, 100).astype(np.uint8))
    mask = Image.fromarray(wanted) if mode == "1" else grey.convert("LA" if mode == "PA" else "RGB").convert(mode)
    np.testing.assert_array_equal(fitted(noise(32, 32), mask).mask, wanted)


def test_transparent_white_is_black() -> None:
    mask = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 8, 8))
    mask.paste((255, 255, 255, 127), (8, 8, 16, 16))
    np.testing.assert_array_equal(fitted(noise(32, 32), mask).mask, rectangle(32, 32, 0, 0, 8, 8))


def test_mask_arrays_are_bool_or_uint8() -> None:
    levels = np.array([[0, 127], [128, 255]], np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    np.testing.assert_array_equal(fitted(noise(32, 32), levels).mask, levels >= 128)
    for wrong in (levels.astype(float), levels[..., None], levels.astype(np.int64)):
        with pytest.raises(InputError, match=r"mask array must be bool or uint8 \[H,W\], not"):
            fitted(noise(32, 32), wrong)


@pytest.mark.parametrize("value", [0, 1, 127])
def test_a_mask_that_selects_nothing_is_refused(value: int) -> None:
    with pytest.raises(InputError, match=r"selects nothing: .* \(128 or above\)"):
        fitted(noise(32, 32), np.full((32, 32), value, np.uint8))


def test_a_mask_of_another_size_is_fitted_so_that_every_touched_pixel_counts() -> None:
    small = fitted(noise(40, 60), rectangle(20, 30, 5, 5, 6, 7))
    np.testing.assert_array_equal(small.mask, rectangle(40, 60, 10, 10, 12, 14))
    assert "the mask is fitted from 30x20 to 60x40: every pixel it touches is repainted" in small.notes
    large = fitted(noise(40, 60), rectangle(4000, 6000, 199, 199, 201, 200))  # two pixels, across an edge
    np.testing.assert_array_equal(large.mask, rectangle(40, 60, 1, 1, 3, 2))


@pytest.mark.parametrize("size", [(33, 50), (34, 50), (66, 99), (67, 100), (333, 500)], ids=str)
def test_an_aspect_ratio_within_a_pixels_rounding_is_the_same(size: tuple[int, int]) -> None:
    assert fitted(noise(100, 150), np.ones(size, bool)).mask.all()


@pytest.mark.parametrize("size", [(150, 100), (100, 152), (35, 50), (64, 99)], ids=str)
def test_another_aspect_ratio_is_refused_with_both_sizes(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"mask is {size[1]}x{size[0]} and the image 150x100"):
        fitted(noise(100, 150), np.ones(size, bool))


# Kinds of image


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_greyscale_and_palette_images_come_back_as_rgb(mode: str) -> None:
    image, mask = Image.fromarray(noise(32, 32)).convert(mode), rectangle(32, 32, 3, 3, 9, 9)
    result = fitted(image, mask).paste(noise(*SIZE, seed=9))
    assert result.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(result)[~mask], np.asarray(image.convert("RGB"))[~mask])


def test_image_and_mask_are_turned_upright_and_the_result_has_no_tag() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(noise(20, 40))
    image.info["exif"] = exif.tobytes()
    mask = rectangle(40, 20, 3, 3, 9, 9)
    result = fitted(image, mask).paste(noise(*SIZE, seed=9))
    assert not result.getexif()
    np.testing.assert_array_equal(np.asarray(result)[~mask], np.rot90(noise(20, 40), -1)[~mask])


def test_the_colour_profile_goes_with_the_pixels() -> None:
    image = Image.fromarray(noise(32, 32))
    image.info["icc_profile"] = bytes(16) + b"RGB " + bytes(108)
    result = fitted(image, rectangle(32, 32, 3, 3, 9, 9)).paste(noise(*SIZE, seed=9))
    assert result.info == {"icc_profile": image.info["icc_profile"]}


@pytest.mark.parametrize("generated", [np.zeros((32, 32), np.uint8), np.zeros((32, 32, 3)), noise(16, 16)])
def test_a_generated_picture_of_another_kind_is_refused(generated: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"must be uint8 \[32, 32, 3\]"):
        fitted(noise(32, 32), np.ones((32, 32), bool)).paste(generated)
