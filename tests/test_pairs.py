"""roofkit.pairs: which rasters belong together, whether their grids agree, and what a mask says."""

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from roofkit import pairs
from roofkit.errors import BadInputError, MismatchError, MissingInputError
from roofkit.pairs import by_stem, check_grid, mask_files, natural, pair_rasters
from roofkit.raster import gdal_env, open_raster

ZEROS = np.zeros((2, 2), "uint8")


def paths(folder, *names):
    return [Path(folder) / name for name in names]


def read_mask(path, window=None):
    with open_raster(path) as src:
        return pairs.read_mask(src, window)


# --------------------------------------------------------------------------------------------------------------- names


def test_pairs_by_name_in_natural_order():
    found = pair_rasters(paths("f", "t_10.tif", "t_9.tif", "t_1.png"), paths("m", "t_1.tif", "t_10.png", "t_9.tif"))
    assert [str(path) for pair in found for path in pair] == [
        *("f/t_1.png", "m/t_1.tif"),
        *("f/t_9.tif", "m/t_9.tif"),
        *("f/t_10.tif", "m/t_10.png"),
    ]


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_that_of_the_numbers(numbers):
    names = sorted(paths("f", *(f"s_{number}_b.tif" for number in numbers)), key=natural)
    assert [int(path.stem.split("_")[1]) for path in names] == sorted(numbers)


def test_missing_partners_of_both_sides_are_counted_and_named():
    frames, masks = paths("f", "a_10.tif", "a_9.tif", "a_8.tif", "a_7.tif", "b.tif"), paths("m", "b.tif", "c.tif")
    message = (
        r"f/a_7\.tif: 4 of 5 frames without mask \(a_7\.tif, a_8\.tif, a_9\.tif, …\) and 1 of 2 masks without frame "
        r"\(c\.tif\); expected a mask of the same name for each frame, and no others\. Add"
    )
    with pytest.raises(MissingInputError, match=message):
        pair_rasters(frames, masks)
    with pytest.raises(MissingInputError, match=r"m/c\.tif: 1 of 2 masks without frame \(c\.tif\); expected"):
        pair_rasters(frames[-1:], masks)
    with pytest.raises(MissingInputError, match=r"f/b\.tif: 1 of 1 predictions without truth \(b\.tif\); expected"):
        pair_rasters(frames[-1:], [], kinds=("prediction", "truth"))


def test_two_files_of_one_name():
    with pytest.raises(MismatchError, match=r"f/a\.png: the same name as f/a\.tif; expected files of different names"):
        by_stem(paths("f", "a.tif", "b.tif", "a.png"))
    with pytest.raises(MismatchError, match=r"m/a\.png: the same name as m/a\.tif"):
        pair_rasters(paths("f", "a.tif"), paths("m", "a.tif", "a.png"))


def test_masks_of_any_kind(tmp_path):
    for name in ("b.tif", "a.PNG", "c.tiff", "b.tif.aux.xml", ".b.ledger.jsonl", ".d.tif"):
        (tmp_path / name).touch()
    assert [path.name for path in mask_files(tmp_path)] == ["a.PNG", "b.tif", "c.tiff"]
    assert mask_files(tmp_path / "b.tif") == [tmp_path / "b.tif"]


def test_folders_without_masks(tmp_path):
    with pytest.raises(MissingInputError, match="m: no such file or folder"):
        mask_files(tmp_path / "m")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").touch()
    with pytest.raises(MissingInputError, match=r"m: no mask; expected \*\.tif or \*\.png files"):
        mask_files(tmp_path / "m")


# --------------------------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize(
    ("mask", "options", "words"),
    [
        (np.zeros((2, 3), "uint8"), {}, r"3 x 2 px, EPSG:32644"),
        (np.zeros((2, 3), "uint8"), {"crs": None, "transform": Affine.identity()}, r"3 x 2 px, no CRS"),
        (ZEROS, {"crs": "EPSG:32645"}, r"2 x 2 px, EPSG:32645"),
        (ZEROS, {"transform": Affine(1, 0, 735000, 0, -1, 2960000)}, r".*corner 735000, 2960000, pixel 1, -1"),
        (ZEROS, {"transform": Affine(1, 0, 0, 0, -1, 9), "crs": None}, r"2 x 2 px, no CRS, corner 0, 9"),
    ],
)
def test_other_grids(make_raster, mask, options, words):
    with gdal_env():
        frame, path = make_raster(ZEROS, "f/a.tif"), make_raster(mask, "m/a.tif", **options)
    message = rf"m/a\.tif: on another grid \({words}.*\) than .*f/a\.tif \(2 x 2 px, EPSG:32644, .*pixel 0\.5, -0\.5\)"
    with pytest.raises(MismatchError, match=message):
        check_grid(path, like=frame)
    with pytest.raises(MismatchError, match=r"f/a\.tif: on another grid"):
        check_grid(frame, like=path)


@pytest.mark.parametrize("options", [{}, {"crs": None}, {"crs": None, "transform": Affine.identity()}])
def test_what_a_file_does_not_know_is_not_compared(make_raster, options):
    with gdal_env():
        frame, path = make_raster(ZEROS, "f/a.tif"), make_raster(ZEROS, "m/a.tif", **options)
    check_grid(path, like=frame)
    check_grid(frame, like=path)


# --------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("values", [[0, 255, 0, 255], [0, 1, 0, 1], [0, 0, 0, 0], [255] * 4, [1] * 4])
def test_masks_of_either_kind(make_raster, values):
    roof, valid = read_mask(make_raster(np.array(values, "uint8").reshape(2, 2)))
    np.testing.assert_array_equal(roof.ravel(), np.array(values) > 0)
    assert roof.dtype == valid.dtype == bool
    assert valid.all()


def test_png_mask(tmp_path):
    Image.fromarray(np.array([[0, 255], [255, 0]], "uint8")).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png")[0], [[0, 1], [1, 0]])


def test_windows(make_raster):
    path = make_raster(np.array([[0, 255, 0], [7, 255, 255]], "uint8"), valid=[[1, 1, 0], [1, 0, 1]])
    roof, valid = read_mask(path, Window(1, 0, 2, 2))
    np.testing.assert_array_equal(roof, [[1, 0], [1, 1]])
    np.testing.assert_array_equal(valid, [[1, 0], [0, 1]])
    with pytest.raises(BadInputError, match="values 0, 7, 255"):
        read_mask(path)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_zero_as_nodata_is_background(make_raster, dtype):
    roof, valid = read_mask(make_raster(np.array([[0, 255]], dtype), nodata=0))
    np.testing.assert_array_equal(roof, [[0, 1]])
    assert valid.all()


def test_zero_as_nodata_beside_what_says_more(make_raster):
    path = make_raster(np.array([[0, 255, 0, 255]], "uint8"), nodata=0, valid=[[1, 1, 0, 0]])
    np.testing.assert_array_equal(read_mask(path)[1], [[1, 1, 0, 0]])  # an internal mask
    nan = make_raster(np.array([[0, 1, np.nan]], "float32"), "nan.tif", nodata=0)
    np.testing.assert_array_equal(read_mask(nan)[1], [[1, 1, 0]])


def test_alpha_is_validity(tmp_path):
    grey_alpha = np.array([[[0, 255], [255, 255], [255, 0]]], "uint8")
    Image.fromarray(grey_alpha, "LA").save(tmp_path / "a.png")
    with open_raster(tmp_path / "a.png") as src:
        assert ColorInterp.alpha in src.colorinterp
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png")[1], [[1, 1, 0]])


def test_255_as_nodata_beside_1_is_not_known(make_raster):
    roof, valid = read_mask(make_raster(np.array([[0, 1, 255]], "uint8"), nodata=255))
    np.testing.assert_array_equal(roof & valid, [[0, 1, 0]])
    np.testing.assert_array_equal(valid, [[1, 1, 0]])


@pytest.mark.parametrize(
    ("values", "shown"),
    [([0, 7, 255, 9], "0, 7, 9, 255"), ([0, 1, 255, 0], "0, 1, 255"), (range(8), "0, 1, 2, 3, 4, 5, …")],
)
def test_other_mask_values_are_named(make_raster, values, shown):
    with pytest.raises(BadInputError, match=rf"scene\.tif: values {shown}; expected 0 and 255, or 0 and 1"):
        read_mask(make_raster(np.array(values, "uint8").reshape(2, -1)))


def test_mask_of_three_bands(make_raster):
    with pytest.raises(BadInputError, match=r"scene\.tif: 3 bands; expected a mask of one band"):
        read_mask(make_raster(np.zeros((3, 2, 2), "uint8")))
