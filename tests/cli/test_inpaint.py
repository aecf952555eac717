"""`sundae-rt inpaint`: what is kept comes back from the file, what was fitted is said, what cannot be is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fakes import IMAGE, LABELS, FakeBackend, labelled, write_bundle
from processes import SLOW, process
from sundae_rt import provenance

HEIGHT, WIDTH = IMAGE
BOX = (2, 2, 5, 4)  # left, top, right, bottom: what the mask repaints


@pytest.fixture(autouse=True)
def pictures(run: Any) -> None:
    rng = np.random.default_rng(0)
    for name, size in (("image", (HEIGHT, WIDTH)), ("large", (40, 50))):
        Image.fromarray(rng.integers(0, 256, (*size, 4), dtype=np.uint8)).save(f"{name}.png")
        mask = Image.new("L", size[::-1])
        mask.paste(255, BOX)
        mask.save(f"{name}-mask.png")


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def repainted(shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape[:2], bool)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    return mask


@pytest.mark.parametrize("name", ["image", "large"])
def test_kept_pixels_come_back_and_the_others_change(name: str, run: Any) -> None:
    result = run("inpaint", f"{name}.png", f"{name}-mask.png", "--bundle", "fake")
    assert result.code == 0
    before, after = pixels(f"{name}.png"), pixels(f"{name}-inpainted.png")
    mask = repainted(before.shape)
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).any()


def test_several_are_numbered_and_differ(run: Any) -> None:
    result = run("inpaint", "image.png", "image-mask.png", "--bundle", "fake", "--n", 3, "-o", "new/out.png")
    assert sorted(path.name for path in Path("new").iterdir()) == ["out-0.png", "out-1.png", "out-2.png"]
    assert (pixels("new/out-0.png") != pixels("new/out-1.png")).any()
    assert result.out[0].startswith("3 images in ")
    assert ", in new/out-*.png, " in result.out[0]


def test_they_share_batches_and_are_the_same_in_any(run: Any, backend: FakeBackend) -> None:
    common = ("inpaint", "image.png", "image-mask.png", "--bundle", "fake", "--n", 5, "--seed", 3)
    run(*common, "-o", "a.png")
    backend.calls.clear()
    run(*common, "-o", "b.png", "--batch-size", 2)
    assert [rows for graph, rows in backend.calls if graph == "encoder"] == [1]
    assert max(rows for graph, rows in backend.calls if graph == "denoiser") == 2
    for index in range(5):
        assert Path(f"a-{index}.png").read_bytes() == Path(f"b-{index}.png").read_bytes()


def test_the_default_name_is_the_images_own_in_this_folder(run: Any) -> None:
    Path("elsewhere").mkdir()
    Path("image.png").rename("elsewhere/photo.png")
    assert run("inpaint", "elsewhere/photo.png", "image-mask.png", "--bundle", "fake").code == 0
    assert Path("photo-inpainted.png").is_file()


def test_what_was_fitted_is_said_on_stderr(run: Any) -> None:
    Image.new("L", (25, 20), 255).save("small-mask.png")
    result = run("inpaint", "large.png", "small-mask.png", "--bundle", "fake", "--n", 9)
    notes = [line for line in result.err if line.startswith("sundae-rt: ")]
    assert len(notes) == 3
    assert notes[0] == "sundae-rt: the mask is fitted from 25x20 to 50x40: every pixel it touches is repainted"
    assert "padded by mirroring" in notes[1]
    assert "scaled down by 6.67" in notes[2]


def test_settings_and_both_files_are_written_into_the_result(run: Any) -> None:
    run("inpaint", "image.png", "image-mask.png", "--bundle", "fake", "--n", 10, "--steps", 4, "--seed", 6)
    made = provenance.read("image-inpainted-9.png")
    assert (made.command, made.index, made.seed, made.schedule.steps) == ("inpaint", 9, 15, 4)
    assert made.image_sha256 == hashlib.sha256(Path("image.png").read_bytes()).hexdigest()
    assert made.mask_sha256 == hashlib.sha256(Path("image-mask.png").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ("block", "block:share=0.25,seed=6"),
        ("random-blocks:share=0.3", "random-blocks:share=0.3,size=1,seed=6"),
        ("block:seed=2", "block:share=0.25,seed=2"),
        ("grid", "grid:size=1"),
    ],
)
def test_a_mask_of_the_papers_kinds_needs_no_file(mask: str, text: str, run: Any) -> None:
    result = run("inpaint", "image.png", mask, "--bundle", "fake", "--seed", 6, "--n", 2, "-o", "a.png")
    assert (result.code, result.err[0]) == (0, f"sundae-rt: the mask is {text}")
    made = provenance.read("a-1.png")
    assert (made.mask, made.mask_sha256, made.seed) == (text, None, 7)
    changed = (pixels("a-1.png") != pixels("image.png")).any(axis=2)
    assert 0 < changed.sum() < changed.size
    run("inpaint", "image.png", made.mask, "--bundle", "fake", "--seed", 7, "-o", "again.png")
    np.testing.assert_array_equal(pixels("again.png"), pixels("a-1.png"))


def test_a_file_of_a_kinds_name_is_named_with_its_folder(run: Any) -> None:
    Path("image-mask.png").rename("grid")
    assert run("inpaint", "image.png", "./grid", "--bundle", "fake").code == 0
    assert provenance.read("image-inpainted.png").mask is None
    assert run("inpaint", "image.png", "grid", "--bundle", "fake").code == 0
    assert provenance.read("image-inpainted.png").mask == "grid:size=1"


def test_a_picture_without_a_label_draws_none_where_the_bundle_has_a_null_label(run: Any) -> None:
    for name, null_label in (("with", True), ("without", False)):
        write_bundle(Path(name), **labelled(null_label=null_label))
        run("inpaint", "image.png", "image-mask.png", "--bundle", f"./{name}", "-o", f"{name}.png")
    assert provenance.read(Path("with.png")).label is None
    assert provenance.read(Path("without.png")).label in LABELS
    for command, default in (("inpaint", "none, if the bundle has a null label"), ("generate", "drawn for each")):
        assert f"Label of all images. [{default}" in " ".join(" ".join(run(command, "--help").out).split())


def test_a_contact_sheet_shows_all(run: Any) -> None:
    run("inpaint", "image.png", "image-mask.png", "--bundle", "fake", "--n", 2, "--grid", "sheet.png")
    assert pixels("sheet.png").shape == (HEIGHT, 2 * WIDTH + 2, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("none.png", "image-mask.png"), 1, "cannot read none.png: No such file"),
        (("image.png", "none.png"), 1, "cannot read none.png: No such file"),
        (("fake/manifest.json", "image-mask.png"), 1, "fake/manifest.json is no image"),
        (("image.png", "image-mask.png", "-o", "out.jpg"), 2, "out.jpg must end in .png"),
        (("image.png", "black.png"), 1, "the mask selects nothing"),
        (("image.png", "square.png"), 1, "the mask is 20x20 and the image 8x6"),
        (("image.png",), 2, "Missing argument 'MASK'"),
        (("image.png", "block:share=2"), 1, "a mask's share must be a finite number above 0 and at most 1, not 2.0"),
        (("image.png", "grid:size=9"), 1, "a mask's size must be a whole number from 1 to 3, not 9"),
        (("image.png", "block", "--bundle", "half"), 1, "has no encoder graph"),
        (("image.png", "image-mask.png", "--bundle", "half"), 1, "has no encoder graph"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    arguments: tuple[str, ...], code: int, told: str, run: Any, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "half", holds=("denoiser", "decoder"))
    Image.new("L", (WIDTH, HEIGHT)).save("black.png")
    Image.new("L", (20, 20), 255).save("square.png")
    options = () if "--bundle" in arguments else ("--bundle", "fake")
    result = run("inpaint", *arguments, *options)
    assert (result.code, result.out, len(result.err)) == (code, [], 1)
    assert told in result.err[0]


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        (("-o", "image.png"), "image.png"),
        (("-o", "image-mask.png"), "image-mask.png"),
        (("-o", "out.png", "--grid", "./image.png"), "image.png"),
        (("-o", "image.png", "--n", 2, "--grid", "image-1.png"), "image-1.png"),
    ],
)
def test_nothing_that_is_read_or_made_is_written_over(options: tuple[Any, ...], lost: str, run: Any) -> None:
    before = Path("image.png").read_bytes(), Path("image-mask.png").read_bytes()
    refused = run("inpaint", "image.png", "image-mask.png", "--bundle", "fake", *options)
    assert (refused.code, len(refused.err)) == (1, 1)
    assert lost in refused.err[0] and "name another file with -" in refused.err[0]
    assert before == (Path("image.png").read_bytes(), Path("image-mask.png").read_bytes())


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="this system has no /dev/stdin")
def test_a_picture_may_come_through_a_pipe_and_is_hashed_as_it_was_read(run: Any, tmp_path: Path) -> None:
    with process(
        *("inpaint", "/dev/stdin", "image-mask.png", "--bundle", "fake", "-o", "out.png"),
        cwd=tmp_path,
        code=SLOW,
        stdin=Path("image.png").open("rb"),
    ) as program:
        assert program.wait(60) == 0
    made = provenance.read(Path("out.png"))
    assert made.image_sha256 == hashlib.sha256(Path("image.png").read_bytes()).hexdigest()
