"""Footprints: pixels to polygons, roofs cut by window edges put together again."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings, strategies
from hypothesis.extra.numpy import arrays
from rasterio.windows import Window

from roofkit.footprints import FootprintTracer, gather, geodesic_areas, to_features, trace

TRANSFORM = Affine(0.5, 0, 735000, 0, -0.5, 2960000)


def whole(roof, probability):
    return {(p.polygon.normalize().wkt, p.pixels, round(p.probability, 4)) for p in trace(roof, probability)}


def test_trace_by_hand():
    roof = np.array([[1, 1, 0], [0, 0, 1]], bool)
    first, second = sorted(trace(roof, np.array([[0.5, 1.0, 0], [0, 0, 0.25]], np.float32)), key=lambda p: -p.pixels)
    assert (first.polygon.bounds, first.pixels, first.probability) == ((0, 0, 2, 1), 2, 1.5)
    assert (second.polygon.bounds, second.pixels, second.probability) == ((2, 1, 3, 2), 1, 0.25)


def test_a_hole_stays_a_hole():
    roof = np.ones((3, 3), bool)
    roof[1, 1] = False
    (piece,) = trace(roof, np.ones((3, 3), np.float32))
    assert (piece.polygon.area, len(piece.polygon.interiors)) == (8, 1)


@settings(max_examples=60, deadline=None)
@given(roof=arrays(bool, (9, 11)), rows=strategies.integers(1, 9), cols=strategies.integers(1, 11))
def test_windows_give_the_roofs_of_the_whole(roof, rows, cols):
    probability = np.arange(99, dtype=np.float32).reshape(9, 11) / 99
    tracer = FootprintTracer()
    for row in range(0, 9, rows):
        for col in range(0, 11, cols):
            part = np.s_[row : row + rows, col : col + cols]
            height, width = roof[part].shape
            tracer.add(roof[part], probability[part], Window(col, row, width, height))
    found = {(p.polygon.normalize().wkt, p.pixels, round(p.probability, 4)) for p in tracer.pieces()}
    expected = whole(roof, probability)
    np.testing.assert_allclose(
        sorted((pixels, p) for _, pixels, p in found), sorted((pixels, p) for _, pixels, p in expected), atol=1e-3
    )
    assert all(shapely.from_wkt(wkt).is_valid for wkt, _, _ in found)
    union = shapely.union_all([shapely.from_wkt(wkt) for wkt, _, _ in found])
    assert union.equals(shapely.union_all([shapely.from_wkt(wkt) for wkt, _, _ in expected]))


def test_features_are_on_the_ground_with_area_and_probability():
    tracer = FootprintTracer()
    tracer.add(np.ones((20, 10), bool), np.full((20, 10), 0.75, np.float32), Window(4, 2, 10, 20))
    features = to_features(tracer.pieces(), scene="a", transform=TRANSFORM, crs="EPSG:32644", min_area=0)
    assert features.crs.to_epsg() == 32644
    assert features.geometry[0].bounds == (735002, 2959989, 735007, 2959999)
    assert features["area_m2"][0] == pytest.approx(50, rel=2e-3)
    assert features["mean_probability"][0] == 0.75


def test_area_is_square_metres_in_any_crs():
    square = gpd.GeoSeries([shapely.box(735000, 2960000, 735100, 2960100)], crs="EPSG:32644")
    metres = geodesic_areas(gpd.GeoDataFrame(geometry=square))[0]
    for crs in ("EPSG:4326", "EPSG:3857"):
        assert geodesic_areas(gpd.GeoDataFrame(geometry=square.to_crs(crs)))[0] == pytest.approx(metres, abs=0.05)
    assert metres == pytest.approx(10000, rel=2e-3)


def test_small_roofs_are_left_out():
    tracer = FootprintTracer()
    tracer.add(np.ones((2, 2), bool), np.ones((2, 2), np.float32), Window(0, 0, 2, 2))
    options = dict(scene="a", transform=TRANSFORM, crs="EPSG:32644")
    assert len(to_features(tracer.pieces(), min_area=0.9, **options)) == 1
    assert len(to_features(tracer.pieces(), min_area=1.1, **options)) == 0


def test_scenes_of_two_zones_meet_in_longitude_and_latitude():
    pieces = trace(np.ones((9, 9), bool), np.ones((9, 9), np.float32))
    zones = ("EPSG:32644", "EPSG:32645")
    tables = [to_features(pieces, scene=crs, transform=TRANSFORM, crs=crs, min_area=0) for crs in zones]
    assert gather(tables).crs.to_epsg() == 4326
    assert list(gather(tables)["scene"]) == ["EPSG:32644", "EPSG:32645"]
    assert gather(tables[:1]).crs.to_epsg() == 32644


def test_no_roofs_is_an_empty_table():
    empty = to_features([], scene="a", transform=TRANSFORM, crs="EPSG:32644", min_area=0)
    assert len(gather([empty, empty])) == 0
    assert list(empty.columns) == ["scene", "area_m2", "mean_probability", "geometry"]
