"""drawing: polygons on a grid, pixel for pixel as GDAL draws them."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from roofkit import drawing
from roofkit.drawing import fill

GRIDS = [
    Affine(1, 0, 0, 0, -1, 30),
    Affine(0.5, 0, 2, 0, -0.5, 20),
    Affine(0.3, 0, 600000.7, 0, -0.3, 2960010.1),
    Affine(1, 0, 0, 0, 1, 0),
    Affine(0.5, 0.1, 3, -0.07, -0.6, 15),
]


def test_pixels_whose_centre_is_inside():
    shape = shapely.Polygon([(0, 0), (2, 0), (2, 1.6), (0, 1.6)])
    assert fill([shape], Affine(1, 0, 0, 0, -1, 2), (2, 3)).tolist() == [[True, True, False], [True, True, False]]
    assert fill([shape], Affine(1, 0, 0, 0, -1, 2.2), (2, 3)).tolist() == [[False] * 3, [True, True, False]]


def test_holes_stay_open_and_overlaps_stay_filled():
    ring = shapely.box(0, 0, 5, 5).difference(shapely.box(1, 1, 4, 4))
    found = fill([ring, shapely.box(2, 2, 3, 3), shapely.box(0, 0, 2, 1)], Affine(1, 0, 0, 0, -1, 5), (5, 5))
    assert found.astype(int).tolist() == [
        [1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1],
    ]  # fmt: skip


def test_a_hole_without_points_is_none():
    square = shapely.box(0, 0, 2, 2)
    with_hole = shapely.from_wkt("POLYGON ((0 0, 2 0, 2 2, 0 2, 0 0), EMPTY)")
    for shapes in ([with_hole], [with_hole, square], [square, with_hole]):
        assert fill(shapes, Affine(1, 0, 0, 0, -1, 3), (3, 3)).sum() == 4


def test_nothing_to_draw():
    assert not fill([], GRIDS[0], (3, 2)).any()
    assert not fill([shapely.Polygon()], GRIDS[0], (3, 2)).any()
    assert not fill([shapely.box(100, 100, 110, 110)], GRIDS[0], (3, 2)).any()


@pytest.mark.parametrize("pixels", [drawing.PIXELS, 50])
def test_as_gdal_draws(pixels, monkeypatch):
    """Also where corners and edges lie exactly on centres of pixels, and on turned grids."""
    monkeypatch.setattr(drawing, "PIXELS", pixels)

    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(
        st.lists(
            st.tuples(
                st.lists(st.tuples(st.integers(-40, 240), st.integers(-40, 240)), min_size=3, max_size=8),
                st.booleans(),
            ),
            min_size=1,
            max_size=6,
        ),
        st.sampled_from(GRIDS),
        st.sampled_from([1, 2, 4, 7.3]),
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
    )
    def check(drawn, transform, parts, size):
        shapes = []
        for points, hollow in drawn:
            corners = [transform @ (x / parts, y / parts) for x, y in points]
            shape = shapely.make_valid(shapely.Polygon(corners), method="structure", keep_collapsed=False)
            if hollow:
                shape = shape.difference(shapely.affinity.scale(shape, 0.5, 0.5))
            shapes += [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and part.area]
        if shapes:
            expected = rasterize(shapes, size, transform=transform, dtype="uint8") > 0
            assert np.array_equal(fill(shapes, transform, size), expected)
            assert np.array_equal(fill([shapely.MultiPolygon(shapes)], transform, size), expected)

    check()
