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


@pytest.mark.parametrize("counts", [(200, 300), (4, 7), (4, 300)])
def test_fewer_pictures_than_features_are_compared_as_exactly(counts):
    """By the formula as it stands: a root of a product of matrices, found by eigenvalues."""
    random = np.random.default_rng(0)
    first, second = (random.normal(size=(count, 20)) @ random.normal(size=(20, 20)) for count in counts)
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    cross = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)).sum()
    expected = np.square(first.mean(0) - second.mean(0)).sum() + sum(map(np.trace, covariances)) - 2 * cross
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)


def test_the_nearest_row_is_found_by_angle():
    distances = nearest_distances(np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [-1.0, 0.0]]))
    assert distances == pytest.approx([0, 1 - np.sqrt(0.5)])
