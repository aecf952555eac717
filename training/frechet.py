"""Fréchet distance between two sets of pictures, over the features of EfficientNet-Lite0.

This is not the Inception FID of the literature: another network, another scale. Its numbers compare with one another
only, and only for equal counts of pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from sundae_rt.training.features import EfficientNetLite0
from sundae_rt.training.vqgan.model import to_model

BATCH = 32
"""Pictures that are looked at together."""


def batched(pictures: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Pictures one by one, uint8 ``[H, W, 3]``, to batches ``[B, H, W, 3]``, of which the last may be smaller."""
    left = iter(pictures)
    while batch := list(islice(left, BATCH)):
        yield np.stack(batch)


@torch.no_grad()
def features_of(network: EfficientNetLite0, batches: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Pooled features, float64 ``[N, 1280]``, of batches of uint8 ``[B, H, W, 3]``."""
    return np.concatenate([network.pooled(to_model(torch.from_numpy(batch))).double().numpy() for batch in batches])


def frechet_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), of features ``[N, D]`` and ``[M, D]`` (Heusel et al. 2017)."""
    # With covariances R'R of centred features QR, tr (S1 S2)^(1/2) is the sum of the singular values of R1 R2'.
    roots = [
        np.linalg.qr(features - features.mean(0), mode="r") / np.sqrt(len(features) - 1) for features in (first, second)
    ]
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    shift = np.square(first.mean(0) - second.mean(0)).sum()
    return float(shift + sum(np.square(root).sum() for root in roots) - 2 * cross)


def nearest_distances(features: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine distance, 0 to 2, of each row of ``[N, D]`` to its nearest row of ``[M, D]``."""
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, reference))
    return 1 - (first @ second.T).max(1)
