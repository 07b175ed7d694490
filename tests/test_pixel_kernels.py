"""pixelwise.kernels: each against a literal result, or the library whose definition it follows."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import filters

from pixelwise import kernels
from pixelwise.features import gaussian
from pixelwise.models import Forest

F = np.float32


def image(rows=40, cols=50, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, cols)).astype(F)


def test_convolve_by_hand():
    weights = np.array([0.25, 0.5, 0.25], F)
    found = kernels.convolve(np.arange(12, dtype=F).reshape(3, 4) ** 2, weights)
    # rows 0 1 4 9 | 16 25 36 49 | 64 81 100 121, down: 24 33 44 57 (times 1/4 1/2 1/4), across again
    np.testing.assert_allclose(found, [[33.5, 44.5]])


@pytest.mark.parametrize("sigma", [0.5, 1, 1.7, 6])
def test_convolve_is_scipys_gaussian_away_from_the_edge(sigma):
    weights = gaussian(sigma)
    radius = weights.size // 2
    source = image(2 * radius + 9, 2 * radius + 23)
    expected = ndimage.gaussian_filter(source.astype(float), sigma)[radius:-radius, radius:-radius]
    np.testing.assert_allclose(kernels.convolve(source, weights), expected, atol=1e-5)


def test_deviation_by_hand_and_never_of_a_negative():
    out = np.empty((1, 2), F)
    kernels.deviation(np.array([[3, 2]], F), np.array([[25, 3.9]], F), out)
    np.testing.assert_allclose(out, [[4, 0]])


def test_edges_are_skimages():
    source, out = image(), np.empty((38, 48), F)
    kernels.edges(source, out)
    np.testing.assert_allclose(out, filters.sobel(source)[1:-1, 1:-1], atol=1e-5)


def test_hessian_of_a_saddle_by_hand():
    rows, cols = np.mgrid[:9, :9].astype(F)
    high, low = np.empty((5, 5), F), np.empty((5, 5), F)
    kernels.hessian((3 * rows**2 - cols**2).astype(F), high, low)
    np.testing.assert_allclose(high, 6)
    np.testing.assert_allclose(low, -2)
    kernels.hessian((rows * cols).astype(F), high, low)  # turned by an eighth
    np.testing.assert_allclose(high, 1)
    np.testing.assert_allclose(low, -1)


def test_coherence_is_1_on_stripes_and_0_where_nothing_changes():
    out = np.empty((3, 3), F)
    for stripes in (np.sin(np.arange(30, dtype=F))[:, None] * np.ones(30, F), np.eye(30, dtype=F)):
        parts = [kernels.convolve(part, gaussian(2)) for part in kernels.gradients(stripes.astype(F))]
        kernels.coherence(*(np.ascontiguousarray(part[4:7, 4:7]) for part in parts), out)
        np.testing.assert_allclose(out, 1, atol=0.02)
    kernels.coherence(*np.zeros((3, 3, 3), F), out)
    assert not out.any()


def test_gradients_by_hand():
    rows, cols = np.mgrid[:3, :3].astype(F)
    down, along, both = kernels.gradients((2 * rows + 5 * cols).astype(F))
    assert (down, along, both) == (4, 25, 10)


TREES = Forest(
    thresholds=np.array([0.5, np.inf, 2.0, np.inf, np.inf, np.inf], F),  # x0 <= 0.5, then x1 <= 2; and a lone leaf
    children=np.array([1, 1, 3, 3, 4, 0], np.uint32),
    features=np.array([0, 0, 1, 0, 0, 0], np.uint16),
    values=np.array([0, 0.2, 0, 0.4, 1.0, 0.6], F),
    roots=np.array([0, 5, 6]),
)


def test_walk_by_hand():
    pixels = np.array([[0.5, 0.6, 0.6], [9, 2.0, 2.1]], F)
    np.testing.assert_allclose(TREES.probability(pixels), [0.4, 0.5, 0.8])
    assert TREES.fault(num_features=2) == ""


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1023, 1024, 1025, 5000])
def test_walk_of_any_number_of_pixels(count):
    pixels = np.tile(np.array([[0.5, 0.6, 0.6], [9, 2.0, 2.1]], F), 1667)[:, :count]
    np.testing.assert_allclose(TREES.probability(pixels), np.tile([0.4, 0.5, 0.8], 1667)[:count])
