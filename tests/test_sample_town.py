"""The synthetic town: the same from the same seed, true to its labels, and hard for anything that only sees colour."""

from __future__ import annotations

import subprocess
import sys
import zlib
from itertools import combinations
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.features import rasterize
from rasterio.transform import array_bounds
from scipy import ndimage
from shapely.geometry import box

from sources.sample import MATERIALS, Town, make_town
from sources.synthetic import BANDS, EPSG, GSD

SIZE = 1024
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", params=[0, pytest.param(7, marks=pytest.mark.slow)])
def town(request: pytest.FixtureRequest) -> Town:
    return make_town(seed=request.param, size=SIZE)


def metal_of(town: Town) -> NDArray[np.bool_]:
    metal = town.roofs[town.roofs["material"] == "metal"]
    return np.asarray(rasterize(metal.geometry, town.valid.shape, transform=town.transform), bool)


def best_iou(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The IoU of the best threshold in either direction, tried at 200 quantiles."""
    found = 0.0
    for sign in (1, -1):
        order = np.argsort(sign * values)[::-1]
        hits = np.cumsum(truth[order])
        taken = np.arange(1, len(order) + 1)
        found = max(found, float((hits / (taken + truth.sum() - hits))[:: len(order) // 200].max()))
    return found


def test_the_same_seed_draws_the_same_town() -> None:
    one, other = make_town(seed=3, size=300), make_town(seed=3, size=300)
    assert one.pixels.tobytes() == other.pixels.tobytes()
    assert one.valid.tobytes() == other.valid.tobytes()
    assert one.roofs.to_wkb().equals(other.roofs.to_wkb())


def test_another_process_draws_the_same_town() -> None:
    code = "import zlib; from sources.sample import make_town; print(zlib.crc32(make_town(seed=3, size=300).pixels))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(answer) == zlib.crc32(make_town(seed=3, size=300).pixels.tobytes())


def test_the_global_random_state_is_left_alone() -> None:
    before = str(np.random.get_state())
    make_town(seed=3, size=128)
    assert str(np.random.get_state()) == before


def test_another_seed_draws_another_town() -> None:
    one, other = make_town(seed=3, size=300), make_town(seed=4, size=300)
    both = one.valid & other.valid
    assert (one.pixels[:, both] != other.pixels[:, both]).mean() > 0.9
    assert not one.roofs.geometry.iloc[0].equals(other.roofs.geometry.iloc[0])


def test_pixels_are_four_bands_of_eleven_bits(town: Town) -> None:
    assert BANDS == ("red", "green", "blue", "nir")
    assert town.pixels.shape == (4, SIZE, SIZE)
    assert town.pixels.dtype == np.uint16
    measured = town.pixels[:, town.valid]
    assert measured.min() >= 1
    assert measured.max() <= 2047
    # Few pixels are clipped, and the range is used.
    assert (measured == 2047).mean() < 0.01
    assert np.percentile(measured, 99) > 1000


def test_a_slanted_corner_is_not_valid(town: Town) -> None:
    assert town.valid.dtype == np.bool_
    assert 0.9 < town.valid.mean() < 0.99
    assert not town.valid[-1, -1]
    assert town.valid[0].all()
    assert town.valid[:, 0].all()
    widths = (~town.valid).sum(axis=1)
    assert np.all(np.diff(widths) >= 0)
    assert len(np.unique(widths)) > 50
    assert not town.pixels[:, ~town.valid].any()


def test_the_town_lies_near_gorakhpur_at_half_a_metre(town: Town) -> None:
    assert (town.transform.a, town.transform.e) == (GSD, -GSD) == (0.5, -0.5)
    longitude, latitude = Transformer.from_crs(EPSG, 4326, always_xy=True).transform(town.transform.c, town.transform.f)
    assert (longitude, latitude) == pytest.approx((83.37, 26.76), abs=0.01)


def test_roofs_are_valid_polygons_of_known_materials_inside_the_scene(town: Town) -> None:
    assert isinstance(town.roofs, gpd.GeoDataFrame)
    assert town.roofs.crs == EPSG == "EPSG:32644"
    assert set(town.roofs["material"]) == set(MATERIALS) == {"metal", "concrete", "tile", "thatch"}
    assert (town.roofs.geom_type == "Polygon").all()
    assert town.roofs.is_valid.all()
    assert set(town.roofs.count_coordinates()) == {5, 7}  # rectangles and L shapes, without slivers
    assert town.roofs.within(box(*array_bounds(SIZE, SIZE, town.transform))).all()


def test_roofs_do_not_overlap(town: Town) -> None:
    first, second = town.roofs.sindex.query(town.roofs.geometry, predicate="intersects")
    assert np.array_equal(first, second)


def test_metal_is_a_small_class_that_every_quarter_has(town: Town) -> None:
    metal, half = metal_of(town), SIZE // 2
    assert 0.05 < metal[town.valid].mean() < 0.13
    for rows in (slice(half), slice(half, None)):
        for cols in (slice(half), slice(half, None)):
            assert metal[rows, cols][town.valid[rows, cols]].mean() > 0.03


def test_metal_roofs_are_drawn_where_their_polygons_are(town: Town) -> None:
    """The picture's edges are strongest within half a pixel of the outlines, tried in steps of a quarter."""
    rings = town.roofs[town.roofs["material"] == "metal"].exterior
    x, y = np.concatenate([ring.segmentize(GSD).coords for ring in rings]).T
    cols, rows = (x - town.transform.c) / GSD, (town.transform.f - y) / GSD
    # Sample i is at the pixel's centre, i + 0.5 in pixel coordinates.
    edges = ndimage.gaussian_gradient_magnitude(town.pixels.sum(axis=0, dtype=float), 0.7)
    shifts = np.arange(-2, 2.25, 0.25)
    down = [ndimage.map_coordinates(edges, (rows - 0.5 + shift, cols - 0.5), order=1).mean() for shift in shifts]
    right = [ndimage.map_coordinates(edges, (rows - 0.5, cols - 0.5 + shift), order=1).mean() for shift in shifts]
    assert abs(shifts[np.argmax(down)]) <= 0.5
    assert abs(shifts[np.argmax(right)]) <= 0.5
    assert max(down) > 1.2 * down[0]


def test_no_threshold_on_a_band_or_ratio_finds_metal(town: Town) -> None:
    truth = metal_of(town)[town.valid]
    bands = town.pixels[:, town.valid].astype(float)
    ratios = [(one - other) / (one + other) for one, other in combinations(bands, 2)]
    assert max(best_iou(values, truth) for values in [*bands, *ratios]) < 0.45


def test_the_threshold_search_finds_what_a_threshold_can_find() -> None:
    """The guard above must be able to fail."""
    truth = np.arange(4000) % 4 == 0
    values = np.where(truth, 2.0, 1.0) + np.linspace(0, 0.5, 4000)
    assert best_iou(values, truth) > 0.95
    assert best_iou(-values, truth) > 0.95


def test_a_tiny_town_still_has_houses() -> None:
    for seed in range(5):
        assert len(make_town(seed=seed, size=128).roofs) > 0
