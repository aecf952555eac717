"""`sundae-rt generate`: files, settings in them, contact sheet, `--like`, and what is refused."""

from __future__ import annotations

import errno
import json
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fakes import IMAGE, LABELS, FakeBackend, absorbing, entry, labelled, write_bundle
from sundae_rt import provenance
from sundae_rt.cli import saving
from sundae_rt.schedule import Schedule


def files(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# Files


def test_images_are_numbered_by_index(run: Any) -> None:
    result = run("generate", "--bundle", "fake", "--n", 3)
    assert result.code == 0
    assert files("samples") == ["000000.png", "000001.png", "000002.png"]
    assert pixels("samples/000000.png").shape == (*IMAGE, 3)


def test_the_last_line_sums_up_the_run(run: Any) -> None:
    result = run("generate", "--bundle", "fake", "--n", 3, "--out", "pictures")
    (line,) = result.out
    assert re.fullmatch(r"3 images in \d+\.\d s \(\d+\.\d\d images/s\), in pictures, backend fake, variant fp32", line)
    assert [line.partition(",")[0] for line in result.err] == ["3/3 images"]


def test_an_image_is_the_same_in_any_run_of_its_seed_and_settings(run: Any) -> None:
    run("generate", "--bundle", "fake", "--n", 5, "--seed", 10, "--out", "together", "--batch-size", 2)
    run("generate", "--bundle", "fake", "--seed", 13, "--out", "alone")
    np.testing.assert_array_equal(pixels("together/000003.png"), pixels("alone/000000.png"))
    assert (pixels("together/000003.png") != pixels("together/000004.png")).any()


def test_files_are_replaced_one_by_one_and_others_stay(run: Any) -> None:
    Path("pictures").mkdir()
    for name in ("000000.png", "000007.png", "notes.txt"):
        Path("pictures", name).write_text("old")
    run("generate", "--bundle", "fake", "--n", 2, "--out", "pictures")
    assert files("pictures") == ["000000.png", "000001.png", "000007.png", "notes.txt"]
    assert pixels("pictures/000000.png").shape == (*IMAGE, 3)


def test_one_image_may_have_a_name_of_its_own(run: Any) -> None:
    result = run("generate", "--bundle", "fake", "-o", "new/one.png")
    assert (result.code, files("new")) == (0, ["one.png"])
    assert not Path("samples").exists()


def test_the_contact_sheet_shows_all_images_by_index(run: Any) -> None:
    assert run("generate", "--bundle", "fake", "--n", 3, "--grid", "samples/sheet.png").code == 0
    sheet, (height, width) = pixels("samples/sheet.png"), IMAGE
    np.testing.assert_array_equal(sheet[:height, width + 2 :], pixels("samples/000001.png"))
    np.testing.assert_array_equal(sheet[height + 2 :, :width], pixels("samples/000002.png"))


def test_long_runs_keep_only_a_few_images_in_memory(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[Image.Image]] = []
    most = 0

    def save(path: Path, image: Image.Image, made: Any) -> None:
        nonlocal most
        seen.append(weakref.ref(image))
        most = max(most, sum(reference() is not None for reference in seen))

    monkeypatch.setattr(saving, "save", save)
    assert run("generate", "--bundle", "fake", "--n", 100, "--steps", 1, "--grid", "sheet.png").code == 0
    assert most <= 3


def test_a_run_may_be_longer_than_the_queue_of_a_service(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "save", lambda path, image, made: None)
    assert run("generate", "--bundle", "fake", "--n", 5000, "--steps", 1, "--batch-size", 512).code == 0


# Settings


def test_every_setting_is_written_into_the_image(run: Any) -> None:
    settings = ("--temperature", "0.9:0.3", "--proportion", 0.8, "--min-steps", 2, "--guidance", 1.5)
    rules = ("--stop", "published", "--order", "confidence", "--choice-temperature", "2:0.5")
    write_bundle(Path("named"), **labelled(name="named"))
    run("generate", "--bundle", "named", "--n", 2, "--seed", 7, "--steps", 4, *settings, *rules, "--label", "ice")
    made = provenance.read("samples/000001.png")
    assert made.schedule == Schedule(4, (0.9, 0.3), (0.8, 0.8), 2, 1.5, "published", "confidence", (2.0, 0.5))
    assert (made.command, made.bundle, made.variant, made.backend) == ("generate", "named", "fp32", "fake")
    assert (made.index, made.seed, made.label) == (1, 8, "ice")


def test_the_bundles_defaults_are_written_where_nothing_is_given(run: Any) -> None:
    run("generate", "--bundle", "fake")
    made = provenance.read("samples/000000.png")
    assert made.schedule == Schedule(6, (1.0, 0.5), (1.0, 0.5), 3, 1.0)
    assert made.label is None


def test_without_a_label_each_image_draws_its_own_and_names_it(run: Any) -> None:
    write_bundle(Path("named"), **labelled())
    run("generate", "--bundle", "named", "--n", 40)
    assert {provenance.read(path).label for path in Path("samples").iterdir()} == set(LABELS)


# Making an image again


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, ()),
        ({}, ("--stop", "published", "--order", "confidence", "--min-steps", 0)),
        ({}, ("--proportion", "ancestral", "--order", "confidence", "--choice-temperature", 1)),
        (labelled(), ()),
        (labelled(null_label=False), ()),
        (absorbing(), ()),
    ],
    ids=["unlabelled", "other rules", "ancestral", "labelled", "without null label", "absorbing"],
)
def test_like_makes_the_same_file_again(changes: dict[str, Any], options: tuple[Any, ...], run: Any) -> None:
    write_bundle(Path("b"), **changes)
    run("generate", "--bundle", "b", "--n", 6, "--seed", 5, "--steps", 4, "--temperature", "0.7:0.2", *options)
    again = run("generate", "--like", "samples/000004.png", "--bundle", "b", "-o", "again.png")
    assert again.code == 0
    assert Path("again.png").read_bytes() == Path("samples/000004.png").read_bytes()
    assert again.out[0].startswith("1 image in ")


def test_like_runs_on_this_machines_backend_and_says_so(run: Any, backend: FakeBackend) -> None:
    entries = {"fp32": entry("denoiser"), "fp16": entry("denoiser", "gpu")}
    others = {graph: {"fp32": entry(graph)} for graph in ("decoder", "encoder")}
    write_bundle(Path("b"), holds=("denoiser", "decoder", "encoder"), graphs={"denoiser": entries, **others})
    backend.name, backend.provides = "gpu", frozenset({"gpu"})
    assert run("generate", "--bundle", "b", "--variant", "fp16").code == 0
    backend.name, backend.provides = "fake", frozenset({"fake"})
    again = run("generate", "--like", "samples/000000.png", "--bundle", "b", "-o", "again.png")
    assert again.code == 0, again.err
    assert "sundae-rt: made on 'fake' in 'fp32', the first time on 'gpu' in 'fp16': pixels may differ" in again.err[0]
    assert (provenance.read("again.png").backend, provenance.read("again.png").variant) == ("fake", "fp32")
    asked = run("generate", "--like", "samples/000000.png", "--bundle", "b", "--variant", "fp16", "-o", "b.png")
    assert (asked.code, len(asked.err)) == (1, 1)
    assert "does not provide gpu" in asked.err[0]


def test_like_without_a_name_writes_the_images_own_number(run: Any) -> None:
    run("generate", "--bundle", "fake", "--n", 3)
    run("generate", "--bundle", "fake", "--like", "samples/000002.png", "--out", "again")
    assert files("again") == ["000002.png"]


def test_like_finds_a_bundle_that_ships_and_asks_for_any_other(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run("generate", "--bundle", "fake")
    refused = run("generate", "--like", "samples/000000.png", "-o", "again.png")
    assert refused.code == 1
    assert "the bundle 'fake', which does not ship: name where it lies with --bundle" in refused.err[-1]
    house = Path("fake").rename("house").resolve()
    monkeypatch.setattr("sundae_rt.engines.shipped", lambda: {"fake": house})
    Path("fake").mkdir()  # a folder that happens to have the bundle's name is not taken for it
    assert run("generate", "--like", "samples/000000.png", "-o", "again.png").code == 0


def test_like_refuses_another_bundle_and_names_both(run: Any) -> None:
    run("generate", "--bundle", "fake")
    write_bundle(Path("other"), name="other")
    refused = run("generate", "--like", "samples/000000.png", "--bundle", "other")
    assert refused.code == 1
    assert "was made with the bundle 'fake' (" in refused.err[0]
    assert "not with 'other' (" in refused.err[0]


def test_like_refuses_an_inpainting(run: Any) -> None:
    Image.new("RGB", (8, 8)).save("image.png")
    Image.new("L", (8, 8), 255).save("mask.png")
    assert run("inpaint", "image.png", "mask.png", "--bundle", "fake").code == 0
    refused = run("generate", "--like", "image-inpainted.png", "--bundle", "fake")
    assert refused.code == 1
    assert "is an inpainting" in refused.err[0]


def test_like_refuses_a_picture_that_tells_nothing(run: Any) -> None:
    Image.new("RGB", (8, 8)).save("image.png")
    refused = run("generate", "--like", "image.png")
    assert (refused.code, len(refused.err)) == (1, 1)
    assert "does not say how it was made" in refused.err[0]


@pytest.mark.parametrize(
    "option", [("--seed", 0), ("--n", 1), ("--steps", 4), ("--temperature", 1), ("--label", "ice"), ("--grid", "a.png")]
)
def test_like_goes_with_no_setting(option: tuple[str, Any], run: Any) -> None:
    refused = run("generate", "--like", "a.png", *option)
    assert refused.code == 2
    assert refused.err[0].startswith(f"sundae-rt generate: {option[0]} does not go with --like")


# Refused, each in one line


@pytest.mark.parametrize(
    ("option", "value", "code", "told"),
    [
        ("--n", 0, 2, "0 is not in the range x>=1"),
        ("--n", "many", 2, "'many' is not a valid integer"),
        ("--steps", 0, 2, "'--steps': 0 is not in the range"),
        ("--steps", 10**30, 1, "steps must be a whole number from 1 to 65536"),
        ("--min-steps", 0, 1, "min_steps must be a whole number from 1 to 65536, not 0"),
        ("--min-steps", -1, 2, "'--min-steps': -1 is not in the range"),
        ("--stop", "early", 1, "stop must be one of proposal, published, not 'early'"),
        ("--order", "random", 1, "order must be one of uniform, confidence, not 'random'"),
        ("--choice-temperature", "-1", 1, "choice_temperature must be a finite number of at least 0, not -1.0"),
        ("--min-steps", 7, 1, r"min_steps must be at most steps \(6\), not 7"),
        ("--seed", -1, 2, "'--seed': -1 is not in the range"),
        ("--seed", 2**64, 2, f"'--seed': {2**64} is not in the range"),
        ("--batch-size", 0, 2, "'--batch-size': 0 is not in the range"),
        ("--temperature", "nan", 1, "temperature must be a finite number of at least 0, not nan"),
        ("--temperature", "-1", 1, "temperature must be a finite number of at least 0, not -1.0"),
        ("--temperature", "1:inf", 1, "temperature must be a finite number of at least 0, not inf"),
        (
            "--temperature",
            "1e39",
            1,
            r"temperature must be a finite number of at least 0 and at most 3\.40282e\+38, not 1e\+39",
        ),
        ("--choice-temperature", "2", 2, "--choice-temperature is for --order confidence, and the order is uniform"),
        ("--temperature", "1:", 2, "'1:' is neither a number A nor two of them, A:B"),
        ("--temperature", "1:1:1", 2, "'1:1:1' is neither"),
        ("--temperature", "warm", 2, "'warm' is neither"),
        ("--proportion", "0", 1, "proportion must be a finite number above 0 and at most 1, not 0.0"),
        ("--proportion", "1:1.5", 1, "proportion must be .*, not 1.5"),
        ("--proportion", "ancestors", 2, "'ancestors' is neither a number A, nor two of them, A:B, nor ancestral"),
        ("--guidance", "nan", 1, r"guidance must be a finite number of at least 0 and at most 1e\+06, not nan"),
        ("--label", "sea", 1, "label must be one of coast, desert, ice, not 'sea'"),
        ("--bundle", "nowhere", 1, "no bundle 'nowhere'"),
        ("--variant", "int3", 1, r"no variant 'int3' \(it has fp32\)"),
        ("--grid", "sheet.gif", 1, "sheet.gif is no name for a contact sheet"),
        ("-o", "image.jpg", 2, r"image.jpg must end in \.png"),
    ],
)
def test_a_value_out_of_range_is_named(option: str, value: Any, code: int, told: str, run: Any) -> None:
    write_bundle(Path("fake"), **labelled())
    result = run("generate", "--bundle", "fake", option, value)
    assert (result.code, result.out, len(result.err)) == (code, [], 1)
    assert re.search(told, result.err[0])
    assert not Path("samples").exists()


def test_a_setting_that_the_family_does_not_have_is_named(run: Any) -> None:
    write_bundle(Path("fake"), **absorbing())
    for option, value in (("--proportion", "1"), ("--min-steps", 2), ("--stop", "proposal"), ("--order", "uniform")):
        result = run("generate", "--bundle", "fake", option, value)
        assert (result.code, len(result.err)) == (1, 1)
        assert f"{option[2:].replace('-', '_')} must be left out" in result.err[0]
    assert run("generate", "--bundle", "fake", "--steps", 9, "--temperature", 1).code == 0


def test_an_unlabelled_bundle_takes_no_label(run: Any) -> None:
    assert "has no labels" in run("generate", "--bundle", "fake", "--label", "ice").err[0]


@pytest.mark.parametrize("options", [("--n", 2), ("--out", "samples")])
def test_a_file_name_is_for_one_image(options: tuple[Any, ...], run: Any) -> None:
    refused = run("generate", "--bundle", "fake", "-o", "a.png", *options)
    assert refused.code == 2
    assert "-o names one image" in refused.err[0]


def test_more_images_than_a_sheet_shows_are_refused_before_any_is_made(run: Any, backend: FakeBackend) -> None:
    refused = run("generate", "--bundle", "fake", "--n", 1_000_000, "--grid", "sheet.png")
    assert refused.code == 1
    assert "do not fit on one contact sheet" in refused.err[0]
    assert backend.calls == []


@pytest.mark.parametrize("damage", ["manifest", "graph", "missing"])
def test_a_damaged_bundle_is_refused(damage: str, run: Any) -> None:
    if damage == "manifest":
        Path("fake/manifest.json").write_text("{")
    elif damage == "graph":
        Path("fake/denoiser.onnx").write_text("altered")
    else:
        Path("fake/decoder.onnx").unlink()
    refused = run("generate", "--bundle", "fake")
    assert (refused.code, len(refused.err)) == (1, 1)
    assert "fake" in refused.err[0]


def test_a_manifest_that_points_outside_its_folder_is_refused(run: Any) -> None:
    manifest = json.loads(Path("fake/manifest.json").read_text())
    manifest["graphs"]["denoiser"]["fp32"]["file"] = "../denoiser.onnx"
    Path("fake/manifest.json").write_text(json.dumps(manifest))
    refused = run("generate", "--bundle", "fake")
    assert (refused.code, len(refused.err)) == (1, 1)
    assert "../denoiser.onnx" in refused.err[0]


def test_a_folder_that_cannot_be_written_is_named(run: Any) -> None:
    Path("samples").write_text("a file")
    refused = run("generate", "--bundle", "fake")
    assert (refused.code, len(refused.err)) == (1, 1)
    assert "samples is no folder, so samples/000000.png cannot be written: name another" in refused.err[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("-o", "a.png", "--grid", "a.png"),
            "a.png would be both a picture and the contact sheet of all: name another",
        ),
        (
            ("--n", 3, "--grid", "samples/000002.png"),
            "samples/000002.png would be both a picture and the contact sheet",
        ),
        (("--grid", "link/000000.png"), "link/000000.png would be both a picture and the contact sheet"),
        (("-o", "folder.png"), "folder.png is a folder: name a file in it"),
        (("--grid", "folder.png"), "folder.png is a folder: name a file in it"),
        (("--grid", "fake/manifest.json/a.png"), "fake/manifest.json is no folder, so fake/manifest.json/a.png cannot"),
    ],
)
def test_where_nothing_can_be_written_or_a_picture_would_be_is_refused_before_any_work(
    options: tuple[Any, ...], told: str, run: Any, backend: FakeBackend
) -> None:
    Path("folder.png").mkdir()
    Path("samples").mkdir()
    Path("link").symlink_to("samples")
    refused = run("generate", "--bundle", "fake", *options)
    assert (refused.code, len(refused.err), backend.calls) == (1, 1, [])
    assert told in refused.err[0]


def test_a_contact_sheet_beside_the_pictures_is_none_of_them(run: Any) -> None:
    for grid in ("samples/000003.png", "samples/3.png", "samples/sheet.png"):
        assert run("generate", "--bundle", "fake", "--n", 3, "--grid", grid).code == 0


def fill_disk_after(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full after so many images, and in the middle of the next."""
    save, saved = Image.Image.save, 0

    def until_full(self: Image.Image, path: Path, *arguments: Any, **options: Any) -> None:
        nonlocal saved
        if saved == images:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, *arguments, **options)
        saved += 1

    monkeypatch.setattr(Image.Image, "save", until_full)


def test_a_full_disk_is_one_line_and_finished_images_are_whole(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk_after(2, monkeypatch)
    result = run("generate", "--bundle", "fake", "--n", 6)
    assert (result.code, len(result.err)) == (1, 1)
    assert re.search(r"cannot write samples/\d+\.png: No space left on device", result.err[0])
    assert len(files("samples")) == 2
    for name in files("samples"):
        assert pixels(Path("samples", name)).shape == (*IMAGE, 3)


def test_a_backend_that_fails_is_one_line(run: Any, backend: FakeBackend) -> None:
    def fail(graph: str) -> None:
        if len(backend.calls) > 1:  # the first run asks the denoiser for its vocabulary
            raise RuntimeError("out of memory")

    backend.before_run = fail
    result = run("generate", "--bundle", "fake", "--n", 6)
    assert (result.code, len(result.err)) == (1, 1)
    assert "out of memory" in result.err[0]
