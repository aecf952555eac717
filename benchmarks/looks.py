"""What is plainly wrong with a picture, as numbers: too little contrast, or a red that no real picture has.

A Fréchet distance compares sets of pictures through a network that knows little of maps. These look at pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_REDDEST = 0.99  # of a picture's pixels, how many are less red than what it is judged by
_REAL = 0.999  # of the real pictures, how many do not glow


def contrasts(pictures: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Standard deviation of luminance within each of N pictures or parts, uint8 [..., 3]: float32 [N], 0 to 127.5."""
    return np.array([(picture @ _LUMINANCE).std() for picture in pictures], np.float32)


def rednesses(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How far red exceeds green and blue in each picture's reddest hundredth, -255 to 255: float32 [N]."""
    beyond = [picture[..., 0].astype(np.int16) - picture[..., 1:].max(axis=-1) for picture in pictures]
    return np.array([np.quantile(picture, _REDDEST) for picture in beyond], np.float32)


class Looks:
    """What real pictures look like: others are held against it.

    Args:
        real: uint8 [N, H, W, 3]; thousands, for the reddest of a few is not the reddest there is.
    """

    def __init__(self, real: NDArray[np.uint8]) -> None:
        self._contrast = np.median(contrasts(real))
        self._reddest = np.quantile(rednesses(real), _REAL)

    def contrast_ratio(self, pictures: NDArray[np.uint8]) -> float:
        """The median picture's contrast as a share of the median real one's, of uint8 [N, H, W, 3]."""
        return float(np.median(contrasts(pictures)) / self._contrast)

    def glowing(self, pictures: NDArray[np.uint8]) -> int:
        """How many of the pictures, uint8 [N, H, W, 3], are redder than 999 of 1,000 real ones."""
        return int((rednesses(pictures) > self._reddest).sum())
