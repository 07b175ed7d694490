"""Footprints: pixels to polygons, roofs cut by window edges put together again."""

from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
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
    FootprintTracer,
    footprint_ids,
    gather,
    geodesic_areas,
    load_pieces,
    pixel_metres,
    save_pieces,
    to_footprints,
    trace,
)
from roofkit.raster import Grid
from roofkit.settings import PredictArgs
from roofkit.vectors import frame_of

GRID = Grid(CRS.from_epsg(32644), Affine(0.5, 0, 735000, 0, -0.5, 2960000), 40, 60)
# Pixels of 0.5 m by 1 m at 60 degrees north, where a degree of longitude is half as long as one of latitude
NORTH = Grid(CRS.from_epsg(4326), Affine(0.5 / 55800, 0, 25, 0, -1 / 111412, 60), 40, 60)
EVERYTHING = PredictArgs(min_area=1, min_hole=1, separate=0.6, simplify=0.6, square=True)
SCENE = Path("a.tif")
COUNTS = ("separated", "specks", "unseparated")


def shapes(pieces):
    return sorted((p.polygon.normalize().wkt, p.pixels, round(p.probability, 3)) for p in pieces)


def traced(roof, rows=None, cols=None):
    """The pieces of `roof`, traced at once or in windows of so many rows and columns; every probability is 0.75."""
    tracer = FootprintTracer()
    rows, cols = rows or roof.shape[0], cols or roof.shape[1]
    for row in range(0, roof.shape[0], rows):
        for col in range(0, roof.shape[1], cols):
            part = roof[row : row + rows, col : col + cols]
            tracer.add(part, np.full(part.shape, 0.75, np.float32), Window(col, row, *part.shape[::-1]))
    return list(tracer.pieces())


def table_of(found):
    return pa.Table.from_batches(found.batches(found.crs)).combine_chunks()


def features_of(found):
    return frame_of(table_of(found), found.crs)


def rectangle(rows, cols, shape=(40, 60)):
    roof = np.zeros(shape, bool)
    roof[rows, cols] = True
    return roof


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
    assert shapes(tracer.pieces()) == shapes(trace(roof, probability))
    assert (tracer.whole, tracer.cut) == ([], [])  # nobody holds a piece twice


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
    assert footprint_ids("a", halves, GRID) == ["a_r0_c0", "a_r0_c0_2"]
    assert footprint_ids("a", halves[:0], GRID) == []


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
def test_portions_give_the_roofs_of_the_whole(monkeypatch, tmp_path, options):
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(160, 200)), 2)
    pieces = traced(noise > 0.04, 37, 50)
    whole = to_footprints(pieces, SCENE, GRID, options)
    tracer = FootprintTracer()
    tracer.whole, tracer.cut = pieces[::2], pieces[1::2]
    monkeypatch.setattr("roofkit.outlines.PORTION", 7)
    sizes, drawn = [], footprints._drawn
    monkeypatch.setattr(footprints, "_drawn", lambda some, *rest: sizes.append(len(some)) or drawn(some, *rest))
    save_pieces(tracer, tmp_path / "a.arrow")
    loaded = load_pieces([tmp_path / "a.arrow"])
    assert (loaded.whole, loaded.cut) == (tracer.whole, tracer.cut)
    parts = to_footprints(pieces, SCENE, GRID, options)
    assert len(pieces) > 50
    assert max(sizes) == 7
    assert [getattr(parts, name) for name in COUNTS] == [getattr(whole, name) for name in COUNTS]
    assert table_of(parts).equals(table_of(whole))
    assert max(len(batch) for batch in parts.batches(parts.crs)) == 7


def test_nothing_found_is_written_and_read(tmp_path):
    save_pieces(FootprintTracer(), tmp_path / "a.arrow")
    assert list(load_pieces([tmp_path / "a.arrow"]).pieces()) == []


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
    kept = to_footprints(pieces, SCENE, grid, PredictArgs(min_area=0.9 * area))
    left_out = to_footprints(pieces, SCENE, grid, PredictArgs(min_area=1.1 * area))
    assert (len(kept.ids), kept.specks) == (1, 0)
    assert (len(left_out.ids), left_out.specks) == (0, 1)


@pytest.mark.parametrize(("grid", "area"), [(GRID, 1.0), (NORTH, 2.0)])
def test_holes_are_filled_by_their_square_metres(grid, area):
    roof = rectangle(np.s_[5:15], np.s_[5:15])
    roof[8:10, 8:10] = False
    filled = features_of(to_footprints(traced(roof), SCENE, grid, PredictArgs(min_hole=1.1 * area)))
    left = features_of(to_footprints(traced(roof), SCENE, grid, PredictArgs(min_hole=0.9 * area)))
    assert len(filled.geometry[0].interiors) == 0
    assert len(left.geometry[0].interiors) == 1
    assert filled["area_m2"][0] - left["area_m2"][0] == pytest.approx(area, rel=0.01)


def test_a_roof_in_a_filled_hole_is_gone():
    roof = rectangle(np.s_[5:15], np.s_[5:15])
    roof[7:12, 7:12] = False
    roof[9, 9] = True
    found = to_footprints(traced(roof), SCENE, GRID, PredictArgs(min_hole=10))
    assert (len(found.ids), found.specks) == (1, 1)


@pytest.mark.parametrize("grid", [GRID, NORTH])
def test_two_roofs_with_a_neck_come_apart(grid):
    roof = rectangle(np.s_[5:15], np.s_[5:15]) | rectangle(np.s_[5:15], np.s_[19:29])
    roof[9:11, 15:19] = True
    whole = to_footprints(traced(roof), SCENE, grid, PredictArgs())
    apart = to_footprints(traced(roof), SCENE, grid, PredictArgs(separate=1.2))
    assert (len(whole.ids), whole.separated) == (1, 0)
    assert (len(apart.ids), apart.separated) == (2, 1)
    assert features_of(apart)["area_m2"].sum() == pytest.approx(features_of(whole)["area_m2"][0], abs=0.03)
    assert apart.probabilities.tolist() == [0.75, 0.75]


def test_a_patch_that_is_too_large_to_take_apart_is_counted(monkeypatch):
    monkeypatch.setattr("roofkit.footprints.LARGEST", 99)
    roof = rectangle(np.s_[0:10], np.s_[0:10]) | rectangle(np.s_[20:29], np.s_[20:29])
    assert to_footprints(traced(roof), SCENE, GRID, EVERYTHING).unseparated == 1


def test_corners_are_right_angles_on_the_ground():
    rows, cols = np.mgrid[:40, :60]
    along, across = (cols - 30) * 0.5 * 0.8 + (rows - 20) * 0.6, (rows - 20) * 0.8 - (cols - 30) * 0.5 * 0.6
    roof = (np.abs(along) < 9) & (np.abs(across) < 6)  # 18 m by 12 m, turned
    options = PredictArgs(simplify=1.5, square=True)
    (ground,) = features_of(to_footprints(traced(roof), SCENE, NORTH, options)).to_crs("EPSG:32635").geometry
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
    assert at_once.separated == 2
    assert table_of(in_strips).equals(table_of(at_once))


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


def test_scenes_of_two_zones_meet_in_longitude_and_latitude(monkeypatch):
    monkeypatch.setattr("roofkit.outlines.PORTION", 2)
    pieces = traced(np.kron(np.eye(5, dtype=bool), np.ones((4, 4), bool)))
    grids = [replace(GRID, crs=CRS.from_epsg(epsg)) for epsg in (32644, 32645)]
    found = [to_footprints(pieces, Path(f"{grid.crs}.tif"), grid, PredictArgs()) for grid in grids]
    batches, crs = gather(found)
    table = pa.Table.from_batches(batches)
    assert crs.to_epsg() == 4326
    assert table["scene"].to_pylist() == ["EPSG:32644"] * 5 + ["EPSG:32645"] * 5
    both = frame_of(table, crs)
    for one, part in zip(found, (both[:5], both[5:].reset_index(drop=True))):
        assert part.geom_equals(features_of(one).to_crs("EPSG:4326")).all()
    batches, crs = gather(found[:1])
    assert crs.to_epsg() == 32644
    assert pa.Table.from_batches(batches).equals(table_of(found[0]))


def test_no_roofs_is_an_empty_table():
    empty = to_footprints([], SCENE, GRID, EVERYTHING)
    elsewhere = to_footprints([], SCENE, NORTH, EVERYTHING)
    for found in ([empty, empty], [empty, elsewhere]):
        batches = list(gather(found)[0])
        assert [len(batch) for batch in batches] == [0, 0]
        assert batches[0].schema.names == ["id", "scene", "area_m2", "mean_probability", "geometry"]


def test_real_roofs_keep_their_place_and_get_few_corners():
    labels = gpd.read_file(real("banepa/labels/roofs.geojson"))
    with rasterio.open(sorted(real("banepa/scenes").glob("*.tif"))[14]) as src:
        grid = Grid(src.crs, src.transform, src.height, src.width)
    roof = rasterize(labels.geometry, (grid.height, grid.width), transform=grid.transform) > 0
    options = PredictArgs(min_area=4, min_hole=4, separate=1, simplify=0.4, square=True)
    found = features_of(to_footprints(traced(roof), SCENE, grid, options))
    tile = shapely.box(*grid.bounds)
    there, here = labels.union_all().intersection(tile), found.union_all()
    assert here.intersection(there).area / here.union(there).area > 0.9
    assert np.median(found.count_coordinates()) <= 10
