"""The Fréchet distance, against its closed form."""

import numpy as np
import pytest

pytest.importorskip("torch")

from sundae_rt.training.frechet import frechet_distance, nearest_distances


def test_it_is_zero_between_a_set_and_itself():
    features = np.random.default_rng(0).normal(size=(200, 5))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-8)


def test_a_shift_counts_by_its_square():
    features = np.random.default_rng(0).normal(size=(200, 5))
    assert frechet_distance(features, features + 2) == pytest.approx(20)


def test_a_scale_counts_by_the_difference_of_deviations():
    features = np.random.default_rng(0).normal(size=(200, 5))
    features -= features.mean(0)
    expected = np.square(np.sqrt(np.linalg.eigvalsh(np.cov(features, rowvar=False)))).sum()
    assert frechet_distance(features, 2 * features) == pytest.approx(expected)


def test_the_nearest_row_is_found_by_angle():
    distances = nearest_distances(np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [-1.0, 0.0]]))
    assert distances == pytest.approx([0, 1 - np.sqrt(0.5)])
