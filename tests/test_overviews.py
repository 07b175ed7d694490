"""Cloud-optimised GeoTIFFs: a layout that validators accept, overviews worked out by hand, colours and statistics."""

import io

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings, strategies
from imagery import TRANSFORM, UTM
from PIL import Image
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rio_cogeo.cogeo import cog_validate

from roofkit.display import GROUND, MASK_COLOURS, ROOF, mask_statistics, value_statistics
from roofkit.overviews import Pyramid, halved, level_sizes, packed_halves
from roofkit.raster import Grid, create_raster, windows
from roofkit.settings import RasterArgs
from roofkit.tiff import read_directories

CRS = rasterio.crs.CRS.from_string(UTM)


def test_levels_by_hand():
    assert level_sizes(512, 40) == [(512, 40)]
    assert level_sizes(2049, 600) == [(2049, 600), (1025, 300), (513, 150), (257, 75)]


def test_averages_by_hand():
    pixels = np.array([[[0, 1, 0.5], [1, 1, 0.25], [0.2, 0.4, 0.8]]], np.float32)
    np.testing.assert_allclose(halved(pixels, None, classes=False)[0], [[[0.75, 0.375], [0.3, 0.8]]])
    valid = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1]], bool)
    values, known = halved(pixels, valid, classes=False)
    np.testing.assert_allclose(values, [[[0.5, 0], [0.4, 0.8]]])
    np.testing.assert_array_equal(known, [[True, False], [True, True]])


@pytest.mark.parametrize(
    ("four", "valid", "expected"),
    [
        ([[255, 255], [255, 0]], [[1, 1], [1, 1]], 255),
        ([[0, 0], [255, 0]], [[1, 1], [1, 1]], 0),
        ([[255, 0], [0, 255]], [[1, 1], [1, 1]], 255),  # a tie: the first counts
        ([[0, 255], [255, 0]], [[1, 1], [1, 1]], 0),
        ([[0, 0], [0, 255]], [[0, 0], [0, 1]], 255),  # those that are not valid have no say
        ([[255, 255], [255, 255]], [[0, 0], [0, 0]], 0),
    ],
)
def test_the_commoner_class_by_hand(four, valid, expected):
    values, known = halved(np.array([four], np.uint8), np.array(valid, bool), classes=True)
    assert (values.tolist(), known.tolist()) == ([[[expected]]], [[bool(np.any(valid))]])
    if np.all(valid):
        assert halved(np.array([four], np.uint8), None, classes=True)[0].tolist() == [[[expected]]]


@settings(max_examples=30, deadline=None)
@given(
    rows=strategies.integers(1, 70), cols=strategies.integers(1, 70), seed=strategies.integers(0, 9),
    classes=strategies.booleans(),
)  # fmt: skip
def test_blocks_in_any_order_make_the_halves_of_the_whole(rows, cols, seed, classes):
    rng = np.random.default_rng(seed)
    pixels, valid = rng.choice(np.float32([0, 1]), (1, rows, cols)), rng.random((rows, cols)) < 0.5
    pyramid = Pyramid(io.BytesIO(), (rows, cols), 16, bands=1, dtype=pixels.dtype)
    pyramid.sizes.append((-(-rows // 2), -(-cols // 2)))  # small as it is
    for part in rng.permutation(np.array([w.toslices() for w in windows(rows, cols, 16)], dtype=object)).tolist():
        if valid[tuple(part)].any():
            [half] = packed_halves(pixels[(slice(None), *part)], valid[tuple(part)], 16, classes=classes)
            pyramid.add(0, part[0].start // 16, part[1].start // 16, half)
    values, known = np.zeros((1, *pyramid.sizes[1]), np.float32), np.zeros(pyramid.sizes[1], bool)
    for block in (block for some in pyramid.blocks(1) for block in some):
        place = np.s_[block.row * 16 : block.row * 16 + 16, block.col * 16 : block.col * 16 + 16]
        values[(slice(None), *place)], known[place] = block.pixels, block.valid
    expected, expected_known = halved(pixels, valid, classes=classes)
    np.testing.assert_array_equal(known, expected_known)
    np.testing.assert_array_equal(values, expected)


@pytest.fixture
def written(tmp_path):
    """Writes a cloud-optimised GeoTIFF in windows of one block, leaving out those without a valid pixel."""

    def write(pixels, valid=None, *, classes=True, compress="deflate", tags=()):
        path = tmp_path / "map.tif"
        _, rows, cols = pixels.shape
        with create_raster(
            path, Grid(CRS, TRANSFORM, rows, cols), bands=1, dtype=pixels.dtype.name, names=["what it is"],
            settings=RasterArgs(compress=compress), cog=True, sparse=valid is not None, classes=classes,
            colours=MASK_COLOURS if classes else None,
        ) as dst:  # fmt: skip
            for window in windows(rows, cols, 256):
                here = window.toslices()
                if valid is None or valid[here].any():
                    dst.write(pixels[(slice(None), *here)], None if valid is None else valid[here], window)
            dst.tag(dict(tags))
        return path

    return write


def checked(path):
    """A file of which rio-cogeo has nothing to say."""
    assert cog_validate(str(path), strict=True, quiet=True) == (True, [], [])
    return path


def image(rows, cols, dtype):
    rng = np.random.default_rng(rows)
    pixels = rng.random((1, rows, cols), np.float32)
    valid = rng.random((rows, cols)) > 0.3
    valid[: rows // 2, : cols // 2] = False
    return (pixels if dtype == "float32" else np.where(pixels > 0.6, np.uint8(255), np.uint8(0))), valid


@pytest.mark.parametrize("compress", ["deflate", "zstd", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(20, 31), (300, 600), (700, 1100)])
@pytest.mark.parametrize("masked", [False, True])
def test_a_valid_cog_of_the_same_pixels(written, shape, dtype, compress, masked):
    pixels, valid = image(*shape, dtype)
    known = valid if masked else np.ones(shape, bool)
    path = checked(written(pixels, valid if masked else None, classes=dtype == "uint8", compress=compress))
    with rasterio.open(path) as src:
        np.testing.assert_array_equal(src.dataset_mask() > 0, known)
        np.testing.assert_array_equal(src.read()[:, known], pixels[:, known])
        assert (src.descriptions, src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"]) == (("what it is",), "COG")
        levels = src.overviews(1)
    assert levels == [2**level for level in range(1, len(level_sizes(*shape)))]
    expected = pixels
    for level in range(len(levels)):
        expected, known = halved(expected, known, classes=dtype == "uint8")
        with rasterio.open(path, OVERVIEW_LEVEL=level) as src:
            np.testing.assert_array_equal(src.dataset_mask() > 0, known)
            np.testing.assert_array_equal(src.read(), expected)


def test_a_mask_is_left_out_where_every_pixel_turned_out_valid(written):
    pixels, _ = image(700, 600, "uint8")
    without = checked(written(pixels)).read_bytes()
    path = checked(written(pixels, np.ones(pixels.shape[1:], bool)))
    with rasterio.open(path) as src:
        assert src.mask_flag_enums == ([MaskFlags.all_valid],)
        np.testing.assert_array_equal(src.read(), pixels)
    assert len(path.read_bytes()) == len(without)


def test_a_file_past_four_gigabytes_has_the_same_layout(written, monkeypatch):
    monkeypatch.setattr("roofkit.raster.BIG_FROM", 0)
    pixels, valid = image(600, 600, "uint8")
    path = checked(written(pixels, valid))
    assert path.read_bytes()[:4] == b"II+\0"
    with rasterio.open(path) as src:
        np.testing.assert_array_equal(src.read()[:, valid], pixels[:, valid])


def test_the_same_bytes_with_and_without_threads(written, monkeypatch):
    pixels, valid = image(700, 900, "float32")
    found = written(pixels, valid, classes=False).read_bytes()
    monkeypatch.setattr("roofkit.raster.IN_MEMORY", 0)
    assert written(pixels, valid, classes=False).read_bytes() == found


def test_averages_are_those_of_gdal(written):
    pixels, _ = image(600, 1024, "float32")
    path = written(pixels, classes=False)
    with rasterio.open(path, OVERVIEW_LEVEL=0) as ours, rasterio.open(path, OVERVIEW_LEVEL="NONE") as whole:
        theirs = whole.read(1, out_shape=(300, 512), resampling=Resampling.average)
        np.testing.assert_allclose(ours.read(1), theirs, atol=1e-6)


def test_colours_leave_the_values_alone(written):
    pixels, _ = image(64, 64, "uint8")
    path = written(pixels)
    with rasterio.open(path) as src:
        assert src.colorinterp == (ColorInterp.palette,)
        table = src.colormap(1)
        assert (table[0][:3], table[255][:3]) == (GROUND, ROOF)
        np.testing.assert_array_equal(src.read(), pixels)
    with Image.open(path) as found:
        np.testing.assert_array_equal(np.asarray(found), pixels[0])


def test_overviews_have_colours_and_no_place(written):
    with written(image(600, 600, "uint8")[0], tags={"STATISTICS_MEAN": "1"}).open("rb") as file:
        main, overview = ({entry.tag for entry in entries} for entries in read_directories(file.read()))
    assert 320 in main & overview
    assert {33550, 34735, 42112} <= main - overview


def statistics(path):
    """What GDAL finds out itself, and what stands in the file."""
    with rasterio.open(path) as src:
        pixels = src.read(1, masked=True).astype(float)
        found = {"MINIMUM": pixels.min(), "MAXIMUM": pixels.max(), "MEAN": pixels.mean(), "STDDEV": pixels.std()}
        found["VALID_PERCENT"] = 100 * pixels.count() / pixels.size
        tags = {key.removeprefix("STATISTICS_"): float(value) for key, value in src.tags(1).items()}
    return found, tags


def test_statistics_of_masks(written):
    pixels, valid = image(90, 80, "uint8")
    tags = mask_statistics(int((pixels[0] > 0)[valid].sum()), int(valid.sum()), valid.size)
    found, stored = statistics(written(pixels, valid, tags=tags))
    assert stored == pytest.approx(found, rel=1e-3)


def test_statistics_of_numbers_and_of_nothing():
    tags = value_statistics((0.25, 0.75), (1.5, 1.75 / 2), 3, 4)  # of 0.25, 0.5 and 0.75
    assert {key: float(value) for key, value in tags.items()} == pytest.approx(
        {
            "STATISTICS_MINIMUM": 0.25, "STATISTICS_MAXIMUM": 0.75, "STATISTICS_MEAN": 0.5,
            "STATISTICS_STDDEV": np.std([0.25, 0.5, 0.75]), "STATISTICS_VALID_PERCENT": 75,
        }
    )  # fmt: skip
    assert value_statistics((1.0, 0.0), (0.0, 0.0), 0, 4) == mask_statistics(0, 0, 4) == {}
    assert mask_statistics(4, 4, 4)["STATISTICS_MINIMUM"] == "255"
    assert mask_statistics(0, 4, 4)["STATISTICS_MAXIMUM"] == "0"
