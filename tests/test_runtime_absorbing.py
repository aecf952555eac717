"""Absorbing diffusion through the Python interface, on a backend without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import GRID, IMAGE, VOCABULARY, FakeBackend, absorbing, fake_runtime, grids
from sundae_rt import InputError, Runtime


@pytest.fixture
def masked(tmp_path: Path) -> Runtime:
    return fake_runtime(tmp_path, **absorbing())


def test_absorbing_reveals_every_code_once(masked: Runtime) -> None:
    samples = masked.generate(n=9, steps=20)
    assert all(sample.codes.min() >= 0 and sample.codes.max() < VOCABULARY for sample in samples)
    assert all(1 <= sample.steps <= 20 for sample in samples)
    (again,) = masked.generate(seed=4, steps=20)
    assert np.array_equal(again.codes, samples[4].codes)


def test_absorbing_inpaints_from_masked_cells(tmp_path: Path) -> None:
    seen: list[np.ndarray] = []

    def propose(inputs: Any) -> np.ndarray:
        seen.append(inputs["codes"])
        return np.zeros_like(inputs["codes"])

    runtime = fake_runtime(tmp_path, FakeBackend(propose), **absorbing())
    pixels = runtime.decode(grids(1))[0]
    mask = np.zeros(IMAGE, bool)
    mask[:2, :2] = True
    (sample,) = runtime.inpaint(pixels, mask)
    kept = runtime.encode(runtime.plan_inpainting(pixels, mask).model_input[None])[0].reshape(-1)
    assert (seen[1] == np.where(np.arange(12) == 0, VOCABULARY, kept)).all()  # the first call is the vocabulary's check
    assert np.array_equal(sample.codes.reshape(-1)[1:], kept[1:])
    assert sample.codes[0, 0] == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("proportion", 0.5),
        ("min_steps", 1),
        ("stop", "published"),
        ("order", "confidence"),
        ("choice_temperature", 1),
    ],
)
def test_what_means_nothing_to_the_family_is_refused_by_name(masked: Runtime, setting: str, value: Any) -> None:
    with pytest.raises(
        InputError, match=rf"^{setting} must be left out: the bundle 'fake' is of the family absorbing, "
    ):
        masked.stream(**{setting: value})
    assert masked.schedule(**{setting: None}) == masked.schedule()


def test_the_mask_code_is_a_code_of_this_family_alone(masked: Runtime, tmp_path: Path) -> None:
    with_mask = np.full((1, *GRID), VOCABULARY)
    draws = np.zeros((1, *GRID)), np.zeros((1, *GRID), bool)
    assert (masked.denoise(with_mask, 1.0, *draws)[0] == VOCABULARY).all()
    with pytest.raises(InputError, match=r"^codes must lie from 0 to 99, not 100"):
        masked.decode(with_mask)
    with pytest.raises(InputError, match=r"^codes must lie from 0 to 100, not 101"):
        masked.logits(with_mask + 1)
    with pytest.raises(InputError, match=r"^codes must lie from 0 to 99, not 100"):
        fake_runtime(tmp_path / "other").denoise(with_mask, 1.0, *draws)
