"""Quality against steps, at toy size: which pictures are compared, what a table says, and what looks wrong."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from house import benchmark
from sundae_rt.schedule import Schedule

looks, steps = benchmark("looks"), benchmark("steps")


def plain(colour: tuple[int, int, int], side: int = 10) -> np.ndarray:
    """One picture of one colour, uint8 [1, side, side, 3]."""
    return np.full((1, side, side, 3), colour, np.uint8)


# What is plainly wrong with pictures


def test_contrast_is_the_deviation_of_luminance_within_a_picture() -> None:
    halves = plain((0, 0, 0))
    halves[:, :5] = 200
    assert looks.contrasts(np.concatenate([halves, plain((9, 9, 9))])) == pytest.approx([100, 0], abs=1e-3)
    assert looks.Looks(halves).contrast_ratio(halves // 2) == pytest.approx(0.5)


def test_a_picture_glows_if_a_hundredth_of_it_is_redder_than_real_pictures_are() -> None:
    real = np.concatenate([plain((red, 80, 40)) for red in range(100, 180)])
    specks = {}
    for share in (0, 2):  # of the 100 pixels
        specks[share] = plain((120, 80, 40))
        specks[share][0, 0, :share] = (250, 60, 20)
    assert looks.rednesses(specks[2])[0] > 100 > looks.rednesses(specks[0])[0]
    bright = plain((255, 200, 180))  # not so much redder than green
    judged = np.concatenate([specks[0], specks[2], bright, plain((10, 20, 200))])
    assert looks.Looks(real).glowing(judged) == 1


# The study


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of noise in the place of real pictures."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind, count in {"heldout": 8, "train": 4}.items():
        (folder / kind / "noise").mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).resize((128, 128)).save(folder / kind / "noise" / f"{index}.png")
    return folder


def run(data: Path, results: Path, *options: object) -> list[str]:
    """What a small run says, line by line."""
    lines: list[str] = []
    results.mkdir(exist_ok=True)
    arguments = ["--data", data, "--results", results / "steps.json", "--plot", results / "steps.svg"]
    arguments += ["--count", 4, "--steps", 3, "--steps", 1, *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.click, "echo", lambda text="": lines.extend(str(text).splitlines()))
        steps.main.main([str(argument) for argument in arguments], standalone_mode=False)
    return lines


def test_each_policy_is_measured_at_all_steps(data: Path, tmp_path: Path) -> None:
    lines = run(data, tmp_path)
    written = json.loads((tmp_path / "steps.json").read_text())
    assert (written["bundle"], written["pictures"], written["seed"]) == ("earth", 4, 0)
    assert written["other_heldout"] > 0
    assert list(written["curves"]) == ["default", "ancestral", "paper"]
    for name, points in written["curves"].items():
        assert [point["steps"] for point in points] == [1, 3]
        assert [point["taken"] for point in points] == [1, 3]
        assert all(point[figure] > 0 for point in points for figure in ("heldout", "train", "contrast"))
        for point in points:
            assert any(f"| {point['steps']} | {point['taken']:.1f} | {point['heldout']} |" in line for line in lines)
        assert written["schedules"][name]["steps"] == 3
    assert written["curves"]["default"] != written["curves"]["paper"]
    assert "<svg" in (tmp_path / "steps.svg").read_text()


def test_the_same_pictures_have_the_same_figures(data: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("once", "again", "other")]
    for folder, seed in zip(folders, (3, 3, 4), strict=True):
        run(data, folder, "--policy", "default", "--seed", seed)
    once, again, other = (json.loads((folder / "steps.json").read_text())["curves"]["default"] for folder in folders)
    for point in (*once, *again, *other):
        del point["seconds_per_image"]
    assert once == again != other


def test_too_few_pictures_are_refused_in_one_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"heldout holds 8 pictures: --count 10 needs as many$"):
        run(data, tmp_path, "--count", 5)


def test_the_papers_policy_owes_nothing_to_the_bundle_and_its_min_steps_give_way() -> None:
    own = Schedule(steps=7, temperature=(0.3, 0.3), proportion=(0.1, 0.2), min_steps=7, guidance=3, order="confidence")
    own = own.with_changes(proportion="ancestral")
    for count, least in ((2, 2), (50, 10)):
        paper = own.with_changes(**steps._settings("paper", count))
        expected = Schedule(count, (0.8, 0.8), (0.5, 0.5), least, 1.0, "published", "uniform")
        assert paper == expected


def test_the_table_says_what_fewer_steps_lose_and_which_are_enough() -> None:
    points = [steps.Point(count, count, value, 50.0, 0.9, 1, 0.1) for count, value in ((4, 108), (8, 102), (20, 100))]
    table = steps._table("default", points, 20.0)  # of which other real pictures are 20 away
    assert table[2:5] == [
        "| 4 | 4.0 | 108.0 | +10.0 % | 50.0 | 0.90 | 1 |",
        "| 8 | 8.0 | 102.0 | +2.5 % | 50.0 | 0.90 | 1 |",
        "| 20 | 20.0 | 100.0 | +0.0 % | 50.0 | 0.90 | 1 |",
    ]
    assert table[-1] == "default: the fewest steps that lose under 5 % against 20: 8"
