"""Per-image, counter-based noise: all randomness of an image is a function of its seed, a purpose and a step.

The generator is NumPy's Philox 4x64-10 with key (seed, 0) and counter (0, 0, step, purpose), lowest word first, which
NumPy counts up before it makes the first block of words. Floats are made from its raw 64-bit words by hand, so that
they do not depend on how a NumPy release turns words into floats, and any language with a Philox can make the same
image.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sundae_rt.errors import InputError, shown

MAX_SEED: Final = 2**64 - 1


class Purpose(IntEnum):
    """What a stream of an image's noise is for; different purposes never share a word."""

    INITIAL_CODES = 0
    LABEL = 1
    STEP = 2
    MASK = 3


def uniforms(seed: int, purpose: Purpose, count: int, step: int = 0) -> NDArray[np.float32]:
    """`count` uniform float32 in [0, 1): the top 24 bits of each word, times 2^-24."""
    words = np.random.Philox(key=seed, counter=[0, 0, step, purpose]).random_raw(count)
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def initial_codes(seed: int, positions: int, vocabulary: int) -> NDArray[np.int32]:
    """Uniform random codes, int32 [positions], where sampling starts."""
    draws = uniforms(seed, Purpose.INITIAL_CODES, positions).astype(np.float64)
    return np.floor(draws * vocabulary).astype(np.int32)


def seeds(first: int, n: int) -> range:
    """The seeds of `n` images, `first` and those after it.

    Raises:
        InputError: one would pass `MAX_SEED`.
    """
    if first + n - 1 > MAX_SEED:
        raise InputError(f"seed + n - 1 must be at most 2**64 - 1; seed is {first} and n is {shown(n)}")
    return range(first, first + n)


def label(seed: int, weights: Sequence[float]) -> int:
    """A label id, 0 .. len(weights) - 1, drawn in proportion to `weights`, which sum to 1."""
    draw = uniforms(seed, Purpose.LABEL, 1)[0]
    index = int(np.searchsorted(np.cumsum(weights), draw, side="right"))
    return min(index, len(weights) - 1)  # the sum may fall short of 1 by rounding


def step(seed: int, index: int, positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The draws of one step, each float32 [positions]: one picks the new code, one decides whether it is written."""
    draws = uniforms(seed, Purpose.STEP, 2 * positions, index)
    return draws[:positions], draws[positions:]
