"""raster: which pixels are valid, which files are read, and outputs that are whole or absent."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from imagery import TRANSFORM, UTM, real
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from roofkit import raster
from roofkit.errors import BadInputError, MissingInputError, OutputError
from roofkit.raster import (
    BLOCK,
    Grid,
    band_names,
    closed_digest,
    create_raster,
    data_bands,
    gdal_env,
    grid_of,
    is_rgb,
    open_raster,
    own_names,
    raster_digest,
    raster_files,
    read_pixels,
    read_valid,
    windows,
    write_raster,
)
from roofkit.settings import RasterArgs

CRS = rasterio.crs.CRS.from_string(UTM)
GRID = Grid(CRS, TRANSFORM, 2, 3)
SIX = np.array([[[1, 2, 3], [4, 5, 6]]], "uint8")


def read(path: Path, window: Window | None = None) -> Any:
    with open_raster(path) as src:
        return read_pixels(src, window)


# Grid


def test_grid_bounds_and_window():
    assert GRID.bounds == (735000, 2959999, 735001.5, 2960000)
    part = GRID.window(Window(1, -2, 5, 4))
    assert (part.height, part.width) == (4, 5)
    assert (part.transform.c, part.transform.f) == (735000.5, 2960001.0)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (GRID, True),
        (Grid(CRS, TRANSFORM * Affine.translation(0.0009, 0), 2, 3), True),
        (Grid(CRS, TRANSFORM * Affine.translation(0.002, 0), 2, 3), False),
        (Grid(CRS, TRANSFORM * Affine.translation(0, -0.002), 2, 3), False),
        (Grid(CRS, TRANSFORM * Affine.scale(1.001), 2, 3), False),
        (Grid(CRS, TRANSFORM, 3, 2), False),
        (Grid(None, TRANSFORM, 2, 3), False),
        (Grid(rasterio.crs.CRS.from_epsg(32645), TRANSFORM, 2, 3), False),
    ],
)
def test_grid_matches(other, same):
    assert GRID.matches(other) is same
    assert other.matches(GRID) is same


def test_windows_cover_each_pixel_once():
    seen = np.zeros((5, 7), int)
    for window in windows(5, 7, 3):
        seen[window.toslices()] += 1
    assert (seen == 1).all()


# Validity


def test_all_pixels_are_valid_without_any_mark(make_raster):
    pixels, valid = read(make_raster(SIX * 0))
    assert (pixels.shape, valid.dtype, valid.all()) == ((1, 2, 3), bool, True)


def test_nodata_is_invalid_only_where_all_bands_have_it(make_raster):
    pixels = np.array([[[0, 0, 3]], [[0, 5, 6]]], "uint8")
    assert read(make_raster(pixels, nodata=0))[1].tolist() == [[False, True, True]]


def test_alpha_is_validity_and_no_data_band(make_raster):
    path = make_raster(np.concatenate([SIX, [[[255, 0, 9], [255, 255, 0]]]]).astype("uint8"), alpha="yes")
    pixels, valid = read(path)
    np.testing.assert_array_equal(pixels, SIX)
    assert valid.tolist() == [[True, False, True], [True, True, False]]


def test_internal_mask_and_window(make_raster):
    path = make_raster(SIX, valid=[[1, 0, 1], [1, 1, 0]])
    pixels, valid = read(path, Window(1, 0, 2, 2))
    assert pixels.tolist() == [[[2, 3], [5, 6]]]
    assert valid.tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("nodata", [None, -1, np.nan])
def test_nan_is_never_valid(make_raster, nodata):
    pixels = np.array([[[1, np.nan, 3]], [[1, 2, np.nan]]], "float32")
    assert read(make_raster(pixels, nodata=nodata))[1].tolist() == [[True, False, False]]


def test_four_bytes_bands_have_no_alpha(tmp_path):
    pixels = np.arange(24, dtype="uint8").reshape(4, 2, 3)
    write_raster(tmp_path / "a.tif", pixels, None, GRID)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], pixels)


# Bands


def test_band_names_and_colours(make_raster):
    plain = make_raster(np.ones((4, 2, 3), "uint8"), "a.tif")
    colour = make_raster(np.ones((4, 2, 3), "uint8"), "b.tif", photometric="rgb", alpha="yes")
    with open_raster(plain) as src:
        assert (data_bands(src), is_rgb(src), own_names(src)) == ([1, 2, 3, 4], False, None)
        assert band_names(src) == ["band 1", "band 2", "band 3", "band 4"]
    with open_raster(colour) as src:
        assert (data_bands(src), is_rgb(src), band_names(src)) == ([1, 2, 3], True, ["red", "green", "blue"])


def test_own_names_fill_in_those_not_described(make_raster):
    path = make_raster(np.ones((2, 2, 3), "uint8"))
    with rasterio.open(path, "r+") as dst:
        dst.set_band_description(2, "swir")
    with open_raster(path) as src:
        assert own_names(src) == ["band 1", "swir"]


# Which files


def test_raster_files(tmp_path):
    for name in ("b.TIF", "a.tiff", ".hidden.tif", "c.png", "d.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in raster_files(tmp_path)] == ["a.tiff", "b.TIF"]
    assert [p.name for p in raster_files(tmp_path, "png")] == ["c.png"]
    assert raster_files(tmp_path / "c.png") == [tmp_path / "c.png"]
    with pytest.raises(MissingInputError, match=r"no .jpg file among 4 others \(a.tiff, …\); expected \*.jpg files"):
        raster_files(tmp_path, "jpg")
    with pytest.raises(MissingInputError, match="absent: no such file or folder"):
        raster_files(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="an empty folder"):
        raster_files(tmp_path / "empty")


@pytest.mark.parametrize(("name", "driver"), [("a.png", "PNG"), ("a.jpg", "JPEG")])
def test_png_and_jpeg_are_read(tmp_path, name, driver):
    pixels = np.full((3, 16, 24), 77, "uint8")
    with (
        gdal_env(),
        rasterio.open(tmp_path / name, "w", driver=driver, count=3, height=16, width=24, dtype="uint8") as dst,
    ):
        dst.write(pixels)
    found, valid = read(tmp_path / name)
    np.testing.assert_allclose(found.astype(int), pixels, atol=2)
    assert valid.all()


def test_open_raster_refuses_what_it_cannot_read(tmp_path, make_raster):
    def refused(name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInputError, match=message), open_raster(tmp_path / name):
            pass

    refused("junk.tif", b"junk", "junk.tif: not readable as GTiff")
    refused("empty.tif", b"", "empty.tif: 0 bytes; expected a GTiff file")
    refused("a.jp2", b"", "a .jp2 file; expected a .tif, .png or .jpg")
    refused("nameless", b"", "a nameless file")
    refused("vrt.tif", b'<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>', "not readable as GTiff")
    refused("png.tif", b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "not readable as GTiff")
    with pytest.raises(MissingInputError, match="no such file"), open_raster(tmp_path / "absent.tif"):
        pass
    with pytest.raises(BadInputError, match="pixels of float64; expected one of"):
        read(make_raster(np.ones((1, 2, 3)), "wide.tif"))


@pytest.mark.parametrize(("interleave", "fits"), [("pixel", False), ("band", True)])
def test_blocks_that_decode_to_too_much_are_refused(make_raster, monkeypatch, interleave, fits):
    path = make_raster(np.zeros((3, 64, 64), "uint16"), interleave=interleave, tiled=True, blockxsize=64, blockysize=64)
    monkeypatch.setattr(raster, "BLOCK_BYTES", 64 * 64 * 2)
    if fits:
        assert read(path)
    else:
        with pytest.raises(BadInputError, match=r"scene.tif: blocks of .* MiB for . bands; expected at most"):
            read(path)


def test_a_folder_named_as_a_raster(tmp_path):
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(MissingInputError, match=r"a.tif: a folder; expected a raster file"):
        read(tmp_path / "a.tif")


def test_broken_pixels_name_the_file(make_raster):
    path = make_raster(np.random.default_rng(0).integers(0, 255, (1, 60, 60), "uint8"), compress="deflate")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + b"\xff" * 500 + whole[1500:])
    with pytest.raises(BadInputError, match=r"scene.tif: broken pixels \("):
        read(path)


def test_raster_digest_follows_pixels_and_sidecars(make_raster, monkeypatch):
    path = make_raster(SIX)
    first = raster_digest(path)
    with monkeypatch.context() as patch:
        patch.setattr(rasterio, "open", None)
        assert closed_digest(path) == first
    assert raster_digest(path) == first == closed_digest(path)
    band = "<PAMRasterBand band='1'><NoDataValue>1</NoDataValue></PAMRasterBand>"
    path.with_suffix(".tif.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    assert first != raster_digest(path) == closed_digest(path)
    path.with_suffix(".tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:4326</SRS></PAMDataset>")
    assert raster_digest(path) == first == closed_digest(path)  # it has a CRS of its own
    path.with_suffix(".tif.aux.xml").unlink()
    make_raster(SIX + 1)
    assert raster_digest(path) != first


# Outputs


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_write_raster_round_trip(tmp_path, dtype, compress):
    """End values of the dtype, more than one block, an edge that is no whole block."""
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype) if dtype != "float32" else np.finfo(dtype)
    pixels = rng.integers(0, 99, (2, BLOCK + 4, BLOCK + 9)).astype(dtype)
    pixels[0, 0, :2] = info.min, info.max
    valid = rng.random(pixels.shape[1:]) < 0.5
    grid = Grid(CRS, TRANSFORM, *pixels.shape[1:])
    write_raster(tmp_path / "a.tif", pixels, valid, grid, names=["one", "two"], settings=RasterArgs(compress=compress))
    found, found_valid = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(found_valid, valid)
    with open_raster(tmp_path / "a.tif") as src:
        assert grid_of(src).matches(grid)
        assert (src.descriptions, src.dtypes[0], src.block_shapes[0]) == (("one", "two"), dtype, (BLOCK, BLOCK))
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_write_raster_keeps_measured_pixels_of_the_nodata_value(tmp_path):
    write_raster(tmp_path / "a.tif", SIX * 0, np.ones((2, 3), bool), GRID, nodata=0)
    assert read(tmp_path / "a.tif")[1].all()


def test_write_raster_tags_colours(tmp_path):
    write_raster(tmp_path / "a.tif", np.ones((4, 2, 3), "uint8"), None, GRID, rgb=True)
    with open_raster(tmp_path / "a.tif") as src:
        assert src.colorinterp[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        assert (is_rgb(src), len(data_bands(src))) == (True, 4)


def test_sparse_blocks_take_no_room_and_are_invalid(tmp_path):
    grid = Grid(CRS, TRANSFORM, 20_000, 20_000)
    block = np.full((1, BLOCK, BLOCK), 9, "uint8")
    with create_raster(tmp_path / "a.tif", grid, bands=1, dtype="uint8", nodata=3, sparse=True) as dst:
        dst.write(block, np.ones(block.shape[1:], bool), Window(BLOCK, BLOCK, BLOCK, BLOCK))
    assert (tmp_path / "a.tif").stat().st_size < 300_000
    pixels, valid = read(tmp_path / "a.tif", Window(BLOCK - 1, BLOCK, 2, 1))
    assert (pixels.tolist(), valid.tolist()) == ([[[3, 9]]], [[False, True]])


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.tif"
    write_raster(path, SIX, None, GRID)
    before = path.read_bytes()

    def stop():
        with create_raster(path, GRID, bands=1, dtype="uint8") as dst:
            dst.write(SIX)
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        stop()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


@pytest.fixture
def none_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rasters of any size are written as large ones are."""
    monkeypatch.setattr(raster, "IN_MEMORY", -1)


def test_a_large_raster_is_made_on_the_disk(tmp_path, none_in_memory):
    pixels = np.random.default_rng(0).integers(0, 99, (3, 600, 600), "uint8")
    grid, valid = Grid(CRS, TRANSFORM, 600, 600), pixels[0] > 3
    for name in ("a.tif", "b.tif"):
        write_raster(tmp_path / name, pixels, valid, grid, names=["a", "b", "c"])
    found, found_valid = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(found_valid, valid)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(self: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_raster(tmp_path / "a.tif", SIX, None, GRID)
    before = (tmp_path / "a.tif").read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        OutputError, match=r"a.tif: not written \(No space left on device\); expected a writable folder"
    ):
        write_raster(tmp_path / "a.tif", SIX + 1, None, GRID)
    assert (tmp_path / "a.tif").read_bytes() == before


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("big", [False, True])
def test_blocks_of_a_large_raster_round_trip(tmp_path, none_in_memory, monkeypatch, dtype, compress, big):
    """Windows in any order, some never written, edges that are no whole block; with and without a mask."""
    monkeypatch.setattr(raster, "BIG_FROM", 0 if big else 2**31)
    pixels = np.random.default_rng(0).integers(0, 99, (2, 3 * BLOCK + 4, 2 * BLOCK + 9)).astype(dtype)
    valid = pixels[0] > 20
    grid = Grid(CRS, TRANSFORM, *valid.shape)
    windows = [Window(0, 2 * BLOCK, valid.shape[1], BLOCK + 4), Window(BLOCK, 0, BLOCK + 9, BLOCK)]
    for name, masked in (("mask.tif", True), ("plain.tif", False)):
        options = dict(bands=2, dtype=dtype, names=["one", "two"], nodata=7, settings=RasterArgs(compress=compress))
        with create_raster(tmp_path / name, grid, sparse=True, **options) as dst:
            for window in windows:
                here = window.toslices()
                dst.write(pixels[(slice(None), *here)], valid[here] if masked else None, window)
        seen = np.zeros(valid.shape, bool)
        for window in windows:
            seen[window.toslices()] = True
        found, found_valid = read(tmp_path / name)
        np.testing.assert_array_equal(found, np.where(seen, pixels, 7 if compress else 0))
        expected = valid if masked else (pixels != 7).any(axis=0)
        np.testing.assert_array_equal(found_valid, seen & expected)
        assert (tmp_path / name).read_bytes()[2] == (43 if big else 42)
        with open_raster(tmp_path / name) as src:
            assert grid_of(src).matches(grid)
            assert (src.descriptions, src.dtypes[0], src.nodata) == (("one", "two"), dtype, 7)
            assert src.block_shapes[0] == (BLOCK, BLOCK)
            assert src.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "none").lower() == compress


def test_a_block_that_is_written_again_counts_as_it_was_last(tmp_path, none_in_memory):
    grid = Grid(CRS, TRANSFORM, 2 * BLOCK, 300)
    with create_raster(tmp_path / "a.tif", grid, bands=1, dtype="uint8") as dst:
        for value in (1, 2):
            dst.write(np.full((1, 2 * BLOCK, 300), value, "uint8"))
    assert set(read(tmp_path / "a.tif")[0].ravel()) == {2}


def test_windows_of_a_large_raster_are_whole_blocks(tmp_path, none_in_memory):
    grid = Grid(CRS, TRANSFORM, 600, 600)
    for window in (Window(0, 0, 100, BLOCK), Window(10, 0, BLOCK, BLOCK)):
        with (
            pytest.raises(ValueError, match="is not made of whole blocks"),
            create_raster(tmp_path / "a.tif", grid, bands=1, dtype="uint8") as dst,
        ):
            dst.write(np.zeros((1, window.height, window.width), "uint8"), None, window)
    assert not list(tmp_path.iterdir())


def test_a_large_raster_on_a_full_disk(tmp_path, none_in_memory):
    """The system lets no file of this process grow beyond 100 kB."""
    code = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from roofkit import raster
from roofkit.raster import Grid, write_raster
from affine import Affine
raster.IN_MEMORY = -1
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
pixels = np.random.default_rng(0).integers(0, 255, (3, 900, 900), "uint8")
write_raster(Path(sys.argv[1]), pixels, None, Grid(None, Affine.identity(), 900, 900))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.tif")], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith("roofkit.errors.OutputError: ")
    assert "a.tif: not written (File too large); expected a writable folder with space left." in done.stderr
    assert not list(tmp_path.iterdir())


def test_gdal_checks_what_was_put_together(tmp_path, none_in_memory):
    """Its own tool reads every block, where it is installed."""
    if not shutil.which("gdalinfo"):
        pytest.skip("gdalinfo is not installed")
    pixels = np.random.default_rng(0).integers(0, 255, (3, 700, 900), "uint8")
    write_raster(tmp_path / "a.tif", pixels, pixels[0] > 9, Grid(CRS, TRANSFORM, 700, 900), rgb=True)
    done = subprocess.run(["gdalinfo", "-checksum", tmp_path / "a.tif"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Checksum=") == 3


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_raster(tmp_path / "file" / "a.tif", SIX, None, GRID)


# Real data


@pytest.mark.parametrize(
    ("name", "bands", "dtype", "nodata"),
    [
        ("spacenet1_rio/8band", 8, "uint16", None),
        ("spacenet1_rio/3band", 3, "uint8", None),
        ("landsat", 8, "int16", -9999),
        ("banepa/scenes", 3, "uint8", None),
    ],
)
def test_real_rasters_copy_pixel_for_pixel(tmp_path, name, bands, dtype, nodata):
    path = raster_files(real(name))[0]
    with open_raster(path) as src:
        pixels, valid = read_pixels(src)
        assert (pixels.shape[0], pixels.dtype.name) == (bands, dtype)
        grid = grid_of(src)
        assert src.nodata in (nodata, None)
        write_raster(tmp_path / "copy.tif", pixels, valid, grid, nodata=src.nodata, rgb=is_rgb(src))
    with open_raster(tmp_path / "copy.tif") as copy:
        assert grid_of(copy).matches(grid)
        np.testing.assert_array_equal(read_pixels(copy)[0], pixels)
        np.testing.assert_array_equal(read_pixels(copy)[1], valid)


@pytest.mark.parametrize(
    ("dtype", "nodata", "opaque"),
    [("uint8", 255, 255), ("uint8", 0, 255), ("uint16", 65535, 65535), ("float32", -9999, 255)],
)
def test_alpha_and_nodata_both_have_to_hold(make_raster, recwarn, dtype, nodata, opaque):
    """What gdalwarp -dstalpha -dstnodata writes; alpha itself is no data, and never nodata."""
    pixels = np.full((4, 4, 6), 7, dtype)
    pixels[3] = opaque
    pixels[:3, :, 0] = nodata  # in all bands
    pixels[3, :, :2] = 0  # transparent
    pixels[0, 2, 4] = nodata  # in one band
    pixels[3, 3, 5] = 1  # almost transparent
    expected = np.ones((4, 6), bool)
    expected[:, :2] = False
    with open_raster(
        make_raster(pixels, nodata=nodata, photometric="rgb", alpha="yes", tiled=True, blockxsize=16, blockysize=16)
    ) as src:
        assert (read_pixels(src)[1] == expected).all()
        assert (read_valid(src, Window(0, 0, 6, 4)) == expected).all()
        assert (read_pixels(src, Window(1, 1, 5, 3))[1] == expected[1:, 1:]).all()
        assert read_pixels(src, size=(2, 3))[1].tolist() == expected[1::2, 1::2].tolist()
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["nodata", "palette", "mask", "sidecar"])
def test_a_geotiff_that_was_cut_short_loses_nothing_in_silence(kind, make_raster, tmp_path):
    """Its directory may be at the end: GDAL then leaves out a tag whose values are missing, nodata or CRS say."""
    if kind == "nodata":
        values = np.where(np.arange(900).reshape(30, 30) < 300, -9999, 1).astype("float32")
        path = make_raster([values] * 3, nodata=-9999, compress="deflate")
    else:
        path = make_raster(np.eye(30, dtype="uint8"), valid=None if kind == "palette" else np.eye(30) < 1)
    with gdal_env(), rasterio.open(path, "r+") as dst:
        if kind == "palette":
            dst.write_colormap(1, {0: (0, 0, 0, 255), 1: (255, 0, 0, 255)})
        dst.update_tags(NOTE="x" * 50)
    if kind == "sidecar":
        path = make_raster(np.eye(30, dtype="uint8"))
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dst:
            dst.write_mask(np.eye(30) < 1)
    cut = tmp_path / "scene.tif.msk" if kind == "sidecar" else path
    whole = cut.read_bytes()

    def look():
        with open_raster(path) as src:
            return src.crs, src.transform, src.nodata, *map(bytes, read_pixels(src))

    expected, refused = look(), 0
    for size in range(len(whole) - 1, 8, -3):
        cut.write_bytes(whole[:size])
        try:
            assert look() == expected
        except BadInputError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("share", [0.99, 0.6, 0.1])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_that_was_cut_short_is_no_black_one(suffix, share, tmp_path):
    path = tmp_path / f"frame.{suffix}"
    pixels = np.random.default_rng(0).integers(1, 255, (3, 64, 64)).astype(np.uint8)
    with (
        gdal_env(),
        rasterio.open(
            path, "w", driver={"png": "PNG", "jpg": "JPEG"}[suffix], count=3, height=64, width=64, dtype="uint8"
        ) as dst,
    ):
        dst.write(pixels)
    with open_raster(path) as src:
        assert read_pixels(src)[0].min() >= 0
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(BadInputError, match=r"cut short|broken pixels|not readable"), open_raster(path) as src:
        read_pixels(src)
