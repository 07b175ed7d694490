"""Footprints: pixels to polygons, roofs cut by window edges put together again."""

import tempfile
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings, strategies
from hypothesis.extra.numpy import arrays
from imagery import real
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.windows import Window
from scipy import ndimage

from roofkit import footprints
from roofkit.errors import BadInputError, MissingInputError
from roofkit.footprints import (
    Footprints,
    common_crs,
    footprint_ids,
    footprint_schema,
    geodesic_areas,
    pixel_metres,
)
from roofkit.patches import fronts, tracing
from roofkit.raster import Grid
from roofkit.settings import PredictArgs

GRID = Grid(CRS.from_epsg(32644), Affine(0.5, 0, 735000, 0, -0.5, 2960000), 40, 60)
# Pixels of 0.5 m by 1 m at 60 degrees north, where a degree of longitude is half as long as one of latitude
NORTH = Grid(CRS.from_epsg(4326), Affine(0.5 / 55800, 0, 25, 0, -1 / 111412, 60), 40, 60)
EVERYTHING = PredictArgs(min_area=1, min_hole=1, separate=0.6, simplify=0.6, square=True)
SCENE = Path("a.tif")
COUNTS = ("count", "separated", "specks", "unseparated")


def traced(roof, rows=None, cols=None):
    """The fronts of `roof`, traced at once or in windows of so many rows and columns; every probability is 0.75."""
    rows, cols = rows or roof.shape[0], cols or roof.shape[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.arrow"
        with tracing(path) as tracer:
            for row in range(0, roof.shape[0], rows):
                for col in range(0, roof.shape[1], cols):
                    part = roof[row : row + rows, col : col + cols]
                    tracer.add(part, np.full(part.shape, 0.75, np.float32), Window(col, row, *part.shape[::-1]))
        return list(fronts([(0, path)]))


def to_footprints(found, path, grid, options):
    """The roofs of some fronts, all of them drawn, and their table."""
    roofs = Footprints(path, grid, options)
    table = pa.Table.from_batches(roofs.batches(found, grid.crs), footprint_schema()).combine_chunks()
    assert roofs.count == len(table)
    return roofs, table


def frame_of(table, crs):
    """The rows of `Footprints.batches` for geopandas."""
    shapes = gpd.GeoSeries.from_wkb(table["geometry"].to_pandas(), crs=crs)
    return gpd.GeoDataFrame(table.drop_columns("geometry").to_pandas(), geometry=shapes)


def features_of(found, grid=GRID):
    return frame_of(found[1], grid.crs)


def rectangle(rows, cols, shape=(40, 60)):
    roof = np.zeros(shape, bool)
    roof[rows, cols] = True
    return roof


def test_features_are_on_the_ground_with_area_and_probability():
    features = features_of(to_footprints(traced(rectangle(np.s_[2:22], np.s_[4:14])), SCENE, GRID, PredictArgs()))
    assert features.crs.to_epsg() == 32644
    assert list(features["scene"]) == ["a"]
    assert list(features["id"]) == ["a_r12_c9"]
    np.testing.assert_allclose(features.geometry[0].bounds, (735002, 2959989, 735007, 2959999), atol=1e-6)
    assert features["area_m2"][0] == pytest.approx(50, rel=2e-3)
    assert features["mean_probability"][0] == 0.75


def test_roofs_of_one_pixel_have_names_of_their_own():
    halves = np.array([(735000.25, 2959999.85), (735000.25, 2959999.6)])
    named = {}
    assert footprint_ids("a", halves, GRID, named) == ["a_r0_c0", "a_r0_c0_2"]
    assert footprint_ids("a", halves[:1], GRID, named) == ["a_r0_c0_3"]
    assert footprint_ids("a", halves[:0], GRID, named) == []


@settings(max_examples=40, deadline=None)
@given(roof=arrays(bool, (9, 11)), rows=strategies.integers(1, 9), cols=strategies.integers(1, 11))
def test_names_do_not_depend_on_the_windows(roof, rows, cols):
    whole, parts = (
        features_of(to_footprints(pieces, SCENE, GRID, PredictArgs()))
        for pieces in (traced(roof), traced(roof, rows, cols))
    )
    assert whole["id"].is_unique
    assert dict(zip(whole["id"], whole.geometry)) == dict(zip(parts["id"], parts.geometry))


@pytest.mark.parametrize("options", [PredictArgs(), EVERYTHING])
def test_portions_give_the_roofs_of_the_whole(monkeypatch, options):
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(160, 200)), 2)
    found = traced(noise > 0.04, 37, 50)
    whole, table = to_footprints(found, SCENE, GRID, options)
    monkeypatch.setattr("roofkit.outlines.PORTION", 7)
    sizes, drawn = [], footprints._drawn
    monkeypatch.setattr(footprints, "_drawn", lambda some, *rest: sizes.append(len(some)) or drawn(some, *rest))
    parts = Footprints(SCENE, GRID, options)
    batches = list(parts.batches(found, GRID.crs))
    assert sum(sizes) > 50
    assert max(sizes) == 7
    assert [getattr(parts, name) for name in COUNTS] == [getattr(whole, name) for name in COUNTS]
    assert pa.Table.from_batches(batches).combine_chunks().equals(table)
    assert max(len(batch) for batch in batches) == 7


def test_pixels_are_measured_on_the_ground():
    metres = pixel_metres(NORTH, SCENE)
    np.testing.assert_allclose([metres.a, metres.b, metres.d, metres.e], [0.5, 0, 0, -1], atol=1e-3)
    utm = pixel_metres(GRID, SCENE)
    assert abs(utm.determinant) == pytest.approx(0.25, rel=2e-3)


@pytest.mark.parametrize(
    ("grid", "error", "match"),
    [
        (replace(GRID, crs=None), MissingInputError, r"a\.tif: no CRS"),
        (replace(GRID, crs=CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')), BadInputError, "nowhere on Earth"),
        (replace(GRID, transform=Affine(0.5, 0, 1e40, 0, -0.5, 0)), BadInputError, "nowhere on Earth"),
    ],
)
def test_polygons_need_a_place_on_earth(grid, error, match):
    with pytest.raises(error, match=match):
        to_footprints([], SCENE, grid, PredictArgs())


def test_area_is_square_metres_in_any_crs():
    square = gpd.GeoSeries([shapely.box(735000, 2960000, 735100, 2960100)], crs="EPSG:32644")
    metres = geodesic_areas(np.asarray(square), square.crs)[0]
    for crs in ("EPSG:4326", "EPSG:3857"):
        assert geodesic_areas(np.asarray(square.to_crs(crs)), crs)[0] == pytest.approx(metres, abs=0.05)
    assert metres == pytest.approx(10000, rel=2e-3)


@pytest.mark.parametrize(("grid", "area"), [(GRID, 1.0), (NORTH, 2.0)])
def test_specks_are_left_out_by_their_square_metres(grid, area):
    pieces = traced(rectangle(np.s_[0:2], np.s_[0:2]))
    kept, _ = to_footprints(pieces, SCENE, grid, PredictArgs(min_area=0.9 * area))
    left_out, _ = to_footprints(pieces, SCENE, grid, PredictArgs(min_area=1.1 * area))
    assert (kept.count, kept.specks) == (1, 0)
    assert (left_out.count, left_out.specks) == (0, 1)


@pytest.mark.parametrize(("grid", "area"), [(GRID, 1.0), (NORTH, 2.0)])
def test_holes_are_filled_by_their_square_metres(grid, area):
    roof = rectangle(np.s_[5:15], np.s_[5:15])
    roof[8:10, 8:10] = False
    filled = features_of(to_footprints(traced(roof), SCENE, grid, PredictArgs(min_hole=1.1 * area)), grid)
    left = features_of(to_footprints(traced(roof), SCENE, grid, PredictArgs(min_hole=0.9 * area)), grid)
    assert len(filled.geometry[0].interiors) == 0
    assert len(left.geometry[0].interiors) == 1
    assert filled["area_m2"][0] - left["area_m2"][0] == pytest.approx(area, rel=0.01)


def test_a_roof_in_a_filled_hole_is_gone():
    roof = rectangle(np.s_[5:15], np.s_[5:15])
    roof[7:12, 7:12] = False
    roof[9, 9] = True
    found, _ = to_footprints(traced(roof), SCENE, GRID, PredictArgs(min_hole=10))
    assert (found.count, found.specks) == (1, 1)


@pytest.mark.parametrize("grid", [GRID, NORTH])
def test_two_roofs_with_a_neck_come_apart(grid):
    roof = rectangle(np.s_[5:15], np.s_[5:15]) | rectangle(np.s_[5:15], np.s_[19:29])
    roof[9:11, 15:19] = True
    whole = to_footprints(traced(roof), SCENE, grid, PredictArgs())
    apart = to_footprints(traced(roof), SCENE, grid, PredictArgs(separate=1.2))
    assert (whole[0].count, whole[0].separated) == (1, 0)
    assert (apart[0].count, apart[0].separated) == (2, 1)
    (area,), areas = (features_of(found, grid)["area_m2"] for found in (whole, apart))
    assert areas.sum() == pytest.approx(area, abs=0.03)
    assert apart[1]["mean_probability"].to_pylist() == [0.75, 0.75]


def test_a_patch_that_is_too_large_to_take_apart_is_counted(monkeypatch):
    monkeypatch.setattr("roofkit.footprints.LARGEST", 99)
    roof = rectangle(np.s_[0:10], np.s_[0:10]) | rectangle(np.s_[20:29], np.s_[20:29])
    assert to_footprints(traced(roof), SCENE, GRID, EVERYTHING)[0].unseparated == 1


def test_corners_are_right_angles_on_the_ground():
    rows, cols = np.mgrid[:40, :60]
    along, across = (cols - 30) * 0.5 * 0.8 + (rows - 20) * 0.6, (rows - 20) * 0.8 - (cols - 30) * 0.5 * 0.6
    roof = (np.abs(along) < 9) & (np.abs(across) < 6)  # 18 m by 12 m, turned
    options = PredictArgs(simplify=1.5, square=True)
    (ground,) = features_of(to_footprints(traced(roof), SCENE, NORTH, options), NORTH).to_crs("EPSG:32635").geometry
    sides = np.diff(ground.exterior.coords, axis=0)
    lengths = np.hypot(*sides.T)
    np.testing.assert_allclose(sorted(lengths), [12, 12, 18, 18], atol=0.6)
    cosines = (sides[1:] * sides[:-1]).sum(axis=1) / lengths[1:] / lengths[:-1]
    np.testing.assert_allclose(cosines, 0, atol=0.01)


@pytest.fixture(scope="module")
def town():
    """A mask of many blobs, some of which touch."""
    noise = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(90, 110)), 3)
    return noise > 0.4 * noise.std()


@pytest.mark.parametrize("windows", [(17, 110), (90, 13), (8, 9)])
def test_strips_leave_no_seam(town, windows):
    at_once = to_footprints(traced(town), SCENE, GRID, EVERYTHING)
    in_strips = to_footprints(traced(town, *windows), SCENE, GRID, EVERYTHING)
    assert at_once[0].separated == 2
    assert in_strips[1].equals(at_once[1])


@settings(max_examples=60, deadline=None)
@given(
    roof=arrays(bool, (12, 14)),
    zoom=strategies.integers(1, 4),
    options=strategies.builds(
        PredictArgs,
        min_hole=strategies.sampled_from([0, 2]),
        separate=strategies.sampled_from([0, 0.5, 1.0]),
        simplify=strategies.sampled_from([0, 0.4, 2.0]),
        square=strategies.booleans(),
    ),
)
def test_every_footprint_is_valid_and_none_overlap(roof, zoom, options):
    features = features_of(to_footprints(traced(np.kron(roof, np.ones((zoom, zoom), bool))), SCENE, GRID, options))
    assert features.geom_type.isin(["Polygon"]).all()
    assert features.is_valid.all()
    assert (features.area > 0).all()
    assert features.area.sum() == pytest.approx(features.union_all().area, abs=1e-3)


def test_scenes_of_two_zones_meet_in_longitude_and_latitude():
    found = traced(np.kron(np.eye(5, dtype=bool), np.ones((4, 4), bool)))
    grids = [replace(GRID, crs=CRS.from_epsg(epsg)) for epsg in (32644, 32645)]
    crs = common_crs(grids)
    assert crs.to_epsg() == 4326
    for grid in grids:
        batches = Footprints(SCENE, grid, PredictArgs()).batches(found, crs)
        there = frame_of(pa.Table.from_batches(batches), crs)
        here = features_of(to_footprints(found, SCENE, grid, PredictArgs()), grid)
        assert len(there) == 5
        assert there.geom_equals(here.to_crs("EPSG:4326")).all()
    assert common_crs(grids[:1]).to_epsg() == 32644


def test_no_roofs_is_an_empty_table():
    roofs, table = to_footprints([], SCENE, GRID, EVERYTHING)
    assert (roofs.count, len(table)) == (0, 0)
    assert table.schema.names == ["id", "scene", "area_m2", "mean_probability", "geometry"]


@pytest.fixture
def small_bands(monkeypatch):
    """Fronts of a few rows, and roofs that do not reach far."""
    monkeypatch.setattr("roofkit.patches.BAND", 8)
    monkeypatch.setattr(footprints, "FARTHEST", 2)


def by_place(features):
    return features.assign(id=features["id"].str.extract(r"(a_r\d+_c\d+)")[0]).sort_values(["id", "area_m2"])


@pytest.mark.parametrize("options", [PredictArgs(), EVERYTHING, EVERYTHING.model_copy(update={"min_hole": 30.0})])
def test_bands_give_the_roofs_of_the_whole(small_bands, monkeypatch, options):
    noise = ndimage.gaussian_filter(np.random.default_rng(7).normal(size=(400, 120)), 2)
    waiting, take = [], footprints._Waiting.take
    monkeypatch.setattr(footprints._Waiting, "take", lambda self, free: waiting.append(~free) or take(self, free))
    parts, in_parts = to_footprints(traced(noise > 0.04, 37, 50), SCENE, GRID, options)
    assert max(held.sum() for held in waiting) < 0.3 * parts.count
    monkeypatch.setattr("roofkit.patches.BAND", 1024)
    whole, at_once = to_footprints(traced(noise > 0.04), SCENE, GRID, options)
    assert [getattr(parts, name) for name in COUNTS] == [getattr(whole, name) for name in COUNTS]
    one, other = (by_place(frame_of(table, GRID.crs)).reset_index(drop=True) for table in (in_parts, at_once))
    pd.testing.assert_frame_equal(one.drop(columns="geometry"), other.drop(columns="geometry"))
    assert one.geometry.geom_equals(other.geometry).all()


@settings(max_examples=60, deadline=None)
@given(roof=arrays(bool, (20, 6)), band=strategies.integers(1, 9), zoom=strategies.integers(1, 3))
def test_no_two_roofs_of_a_scene_have_one_name(roof, band, zoom):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("roofkit.patches.BAND", band)
        patched.setattr(footprints, "FARTHEST", 1)
        options = PredictArgs(separate=0.5, simplify=0.4, square=True)
        found = features_of(to_footprints(traced(np.kron(roof, np.ones((zoom, zoom), bool))), SCENE, GRID, options))
    assert found["id"].is_unique


def test_names_are_forgotten(small_bands):
    roofs = Footprints(SCENE, GRID, PredictArgs())
    list(roofs.batches(traced(np.kron(np.eye(100, dtype=bool), np.ones((3, 3), bool)), 8)[:-1], GRID.crs))
    assert roofs.count > 80
    assert len(roofs._named) < 20


def test_a_roof_waits_for_what_may_reach_it(small_bands):
    """A patch that goes on below is drawn late, and may take something from a small one beside it."""
    roof = rectangle(np.s_[2:6], np.s_[20:24], (60, 60))
    roof[1:55, 26:36] = True
    roofs, found = Footprints(SCENE, GRID, PredictArgs()), traced(roof, 8)
    assert [len(front.patches) for front in found] == [1, 0, 0, 0, 0, 0, 1, 0]
    assert list(roofs.batches(found[:3], GRID.crs)) == []  # the small one is complete, and not written
    assert sum(map(len, roofs.batches(found[3:], GRID.crs))) == 2


def test_real_roofs_keep_their_place_and_get_few_corners():
    labels = gpd.read_file(real("banepa/labels/roofs.geojson"))
    with rasterio.open(sorted(real("banepa/scenes").glob("*.tif"))[14]) as src:
        grid = Grid(src.crs, src.transform, src.height, src.width)
    roof = rasterize(labels.geometry, (grid.height, grid.width), transform=grid.transform) > 0
    options = PredictArgs(min_area=4, min_hole=4, separate=1, simplify=0.4, square=True)
    found = features_of(to_footprints(traced(roof), SCENE, grid, options), grid)
    tile = shapely.box(*grid.bounds)
    there, here = labels.union_all().intersection(tile), found.union_all()
    assert here.intersection(there).area / here.union(there).area > 0.9
    assert np.median(found.count_coordinates()) <= 10
