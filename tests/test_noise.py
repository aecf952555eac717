"""An image's noise is a function of its seed, a purpose and a step, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from sundae_rt import noise
from sundae_rt.noise import MAX_SEED, Purpose


def test_the_stream_is_philox_with_the_documented_key_and_counter() -> None:
    words = np.random.Philox(key=np.array([5, 0], np.uint64), counter=[0, 0, 3, Purpose.STEP]).random_raw(4)
    expected = (words >> np.uint64(40)).astype(np.float64) / 2**24
    assert noise.uniforms(5, Purpose.STEP, 4, step=3).tolist() == expected.tolist()


def test_the_numbers_never_change() -> None:
    assert noise.initial_codes(0, 6, 512).tolist() == [5, 123, 57, 288, 257, 142]
    assert noise.step(0, 0, 2)[1].tolist() == [0.9975356459617615, 0.8674752116203308]


def test_uniforms_are_in_the_half_open_unit_interval() -> None:
    draws = noise.uniforms(1, Purpose.STEP, 100_000)
    assert draws.dtype == np.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.01


def test_seeds_purposes_and_steps_do_not_overlap() -> None:
    streams = [
        noise.uniforms(seed, purpose, 64, step) for seed in (0, 1, MAX_SEED) for purpose in Purpose for step in (0, 1)
    ]
    assert len({stream.tobytes() for stream in streams}) == len(streams)


def test_a_step_has_two_independent_draws() -> None:
    uniform, update = noise.step(7, 2, 64)
    assert uniform.shape == update.shape == (64,)
    assert not np.array_equal(uniform, update)


@pytest.mark.parametrize("vocabulary", [1, 2, 1000])
def test_initial_codes_cover_the_vocabulary(vocabulary: int) -> None:
    codes = noise.initial_codes(3, 20_000, vocabulary)
    assert codes.dtype == np.int32
    assert set(codes.tolist()) == set(range(vocabulary))


def test_labels_follow_their_weights() -> None:
    drawn = [noise.label(seed, [0.5, 0.0, 0.25, 0.25]) for seed in range(2000)]
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    assert np.abs(shares - [0.5, 0.0, 0.25, 0.25]).max() < 0.04
    assert shares[1] == 0
