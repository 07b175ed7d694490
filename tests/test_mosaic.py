"""mosaic: layers over each other, tiles on one grid, and chip then mosaic gives the scene back."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from imagery import TRANSFORM, UTM, real
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from chip.chip import chip_scenes
from mosaic.mosaic import (
    WINDOW,
    Layer,
    Layout,
    Tile,
    check_alike,
    combine,
    common_transform,
    corner_offsets,
    lay_out,
    main,
    mosaic_tiles,
    read_tile,
    size_difference,
    windows_touched,
)
from roofkit.artifacts import Outputs
from roofkit.cli import Run
from roofkit.errors import BadInputError, LockedError, MismatchError, MissingInputError, OutputError
from roofkit.paths import project_paths
from roofkit.raster import Grid, grid_of, open_raster, read_pixels
from roofkit.settings import ChipArgs, MosaicArgs, RasterArgs, Settings

METHODS = ("last", "first", "max", "mean")


def run_at(folder: Path, **values: Any) -> Run:
    usual = dict(overwrite=False, workers=1, quiet=True)
    return Run(Settings(), project_paths(Settings(), folder), folder / "settings.json", **usual | values)


def put_together(src: Path, dst: Path, method: str = "last", **values: Any) -> Any:
    run = run_at(dst.parent, **values)
    return mosaic_tiles(src, dst, settings=MosaicArgs(method=method), rasters=RasterArgs(), run=run)


def layer(row: int, col: int, pixels: Any, valid: Any, dtype: str = "uint8") -> Layer:
    return Layer(row, col, np.array([pixels], dtype), np.array(valid, bool))


def moved(rows: float, cols: float) -> Affine:
    return TRANSFORM * Affine.translation(cols, rows)


def tile(transform: Affine = TRANSFORM, path: str = "a.tif", height: int = 4, width: int = 6, **values: Any) -> Tile:
    usual = dict(bands=1, dtype="uint8", nodata=None, names=None, rgb=False)
    crs = rasterio.crs.CRS.from_user_input(values.pop("crs", UTM))
    return Tile(Path(path), Grid(crs, transform, height, width), **usual | values)


# 1. Pure functions


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("last", [[1, 20, 30, 9], [4, 50, 9, 9]]),
        ("first", [[1, 2, 30, 9], [4, 50, 9, 9]]),
        ("max", [[1, 20, 30, 9], [4, 50, 9, 9]]),
        ("mean", [[1, 11, 30, 9], [4, 50, 9, 9]]),
    ],
)
def test_combine_overlap(method, expected):
    left = layer(0, 0, [[1, 2], [4, 5]], [[1, 1], [1, 0]])
    right = layer(0, 1, [[20, 30], [50, 9]], [[1, 1], [1, 0]])
    pixels, valid = combine([left, right], (1, 2, 4), np.dtype("uint8"), method=method, empty=9)
    assert pixels.dtype == np.uint8
    assert pixels[0].tolist() == expected
    assert valid.tolist() == [[True, True, True, False], [True, True, False, False]]


@pytest.mark.parametrize(("method", "expected"), [("last", 7), ("first", 5), ("max", 7), ("mean", 7)])
def test_combine_shows_a_pixel_that_no_layer_has_valid(method, expected):
    layers = [layer(0, 0, [[5]], [[0]]), layer(0, 0, [[7]], [[0]])]
    pixels, valid = combine(layers, (1, 1, 2), np.dtype("uint8"), method=method, empty=3)
    assert (pixels.tolist(), valid.tolist()) == ([[[expected, 3]]], [[False, False]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", [1, -1])
def test_combine_never_covers_valid_by_invalid(method, order):
    layers = [layer(0, 0, [[8]], [[1]]), layer(0, 0, [[255]], [[0]])][::order]
    pixels, valid = combine(layers, (1, 1, 1), np.dtype("uint8"), method=method, empty=0)
    assert (pixels.item(), valid.item()) == (8, True)


def test_combine_mean_rounds_half_to_even_and_does_not_wrap():
    layers = [layer(0, 0, [[250, 1, 2, -3]], [[1] * 4], "int16"), layer(0, 0, [[255, 2, 3, -4]], [[1] * 4], "int16")]
    pixels, _ = combine(layers, (1, 1, 4), np.dtype("int16"), method="mean", empty=0)
    assert pixels[0, 0].tolist() == [252, 2, 2, -4]  # 252.5 1.5 2.5 -3.5
    top = [layer(0, 0, [[65535]], [[1]], "uint16")] * 3
    assert combine(top, (1, 1, 1), np.dtype("uint16"), method="mean", empty=0)[0].item() == 65535


def test_combine_mean_of_floats_is_not_rounded_and_nan_stays_out():
    layers = [layer(0, 0, [[np.nan, 0.5]], [[0, 1]], "float32"), layer(0, 0, [[3, 1.0]], [[1, 1]], "float32")]
    pixels, valid = combine(layers, (1, 1, 2), np.dtype("float32"), method="mean", empty=0)
    assert pixels.dtype == np.float32
    assert pixels[0, 0].tolist() == [3.0, 0.75]
    assert valid.all()


def test_combine_max_goes_band_by_band():
    ones = np.ones((1, 1), bool)
    layers = [
        Layer(0, 0, np.array([[[1]], [[9]]], "uint8"), ones),
        Layer(0, 0, np.array([[[5]], [[2]]], "uint8"), ones),
    ]
    pixels, _ = combine(layers, (2, 1, 1), np.dtype("uint8"), method="max", empty=0)
    assert pixels.ravel().tolist() == [5, 9]


def test_size_difference_sees_scale_and_rotation():
    assert size_difference(Affine.scale(2.0), Affine.scale(2.5)) == 0.25
    assert size_difference(Affine.scale(2.0), Affine.scale(2.0) * Affine.rotation(90)) == pytest.approx(1)
    assert size_difference(TRANSFORM, moved(3, 7)) == 0


def test_corner_offsets_count_pixels():
    grid = Grid(None, moved(3, 7), 4, 6)
    np.testing.assert_allclose(corner_offsets(TRANSFORM, grid), [[7, 3], [13, 7]], atol=1e-6)


def test_common_transform_keeps_equal_pixels_exactly():
    third = Affine(1 / 3, 0, 100.1, 0, -1 / 3, 7.7)
    assert common_transform([third, third * Affine.translation(5, 0)]) == third


def test_lay_out_spans_all_tiles():
    layout = lay_out([tile(moved(10, 20)), tile(moved(8, 30), "b.tif")])
    assert layout.corners == ((2, 0), (0, 10))
    assert (layout.grid.height, layout.grid.width) == (6, 16)
    assert layout.grid.transform.almost_equals(moved(8, 20))


def test_lay_out_of_south_up_and_rotated_tiles():
    for start in (Affine(0.5, 0, 735000, 0, 0.5, 2960000), TRANSFORM * Affine.rotation(30)):
        layout = lay_out([tile(start), tile(start * Affine.translation(6, 4))])
        assert layout.corners == ((0, 0), (4, 6))


def test_lay_out_lets_a_thousandth_of_a_pixel_pass():
    assert lay_out([tile(), tile(moved(0, 6.0009), "b.tif")]).corners == ((0, 0), (0, 6))


@pytest.mark.parametrize("off", [0.002, 0.05, 0.5])
def test_lay_out_refuses_tiles_off_the_grid(off):
    with pytest.raises(MismatchError, match=r"^b.tif: 0\.\d+ of a pixel off the grid of a.tif; expected tiles on one"):
        lay_out([tile(), tile(moved(0, 6 + off), "b.tif")])


def test_lay_out_lets_drift_pass_that_pixel_sizes_explain_up_to_a_tenth():
    """Rows of tiles, each a little taller than the one above: their edges meet, but are not whole pixels away."""

    def column(num_rows: int, growth: float) -> list[Tile]:
        tops = np.cumsum([0] + [512 * (1 + growth * row) for row in range(num_rows)])
        scale = [Affine.scale(1, 1 + growth * row) for row in range(num_rows)]
        return [tile(moved(top, 0) * s, f"{top}.tif", 512, 512) for top, s in zip(tops, scale)]

    assert lay_out(column(6, 5.6e-6)).corners == tuple((512 * row, 0) for row in range(6))
    with pytest.raises(MismatchError, match="off the grid"):
        lay_out(column(10, 1e-5 * 1.0) + [tile(moved(9.3 * 512, 600), "z.tif")])
    with pytest.raises(MismatchError, match="of a pixel off the grid"):
        lay_out(column(40, 1e-5))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dict(crs="EPSG:32645"), "CRS EPSG:32645; expected CRS EPSG:32644, as a.tif has"),
        (dict(bands=3), "3 bands; expected 1 bands, as a.tif has"),
        (dict(dtype="uint16"), "pixels of uint16; expected pixels of uint8, as a.tif has"),
        (dict(nodata=0.0), "nodata 0.0; expected nodata None, as a.tif has"),
        (dict(transform=TRANSFORM * Affine.scale(2)), "pixels of 1, 0, 0, -1; expected pixels of 0.5, 0, 0, -0.5, as"),
        (dict(transform=TRANSFORM * Affine.rotation(1)), "expected pixels of 0.5, 0, 0, -0.5, as a.tif has"),
    ],
)
def test_check_alike_names_both_files(other, message):
    with pytest.raises(MismatchError, match=message) as caught:
        check_alike([tile(), tile(path="b.tif", **other)])
    assert caught.value.where == "b.tif"


def test_check_alike_takes_nan_for_nan():
    check_alike([tile(nodata=float("nan")), tile(nodata=float("nan"))])


def test_windows_touched_leaves_out_what_no_tile_touches():
    rows, cols = WINDOW
    tiles = [tile(), tile(height=4, width=2), tile()]
    layout = Layout(Grid(None, TRANSFORM, 10 * rows, 10 * cols), ((0, 0), (rows - 2, cols - 1), (5 * rows, 7 * cols)))
    assert windows_touched(layout, tiles) == {
        (0, 0): [0, 1],
        (0, cols): [1],
        (rows, 0): [1],
        (rows, cols): [1],
        (5 * rows, 7 * cols): [2],
    }


# 2. The stage


def test_mosaic_of_two_tiles(make_raster, tmp_path):
    one = np.arange(1, 25, dtype="uint16").reshape(1, 4, 6) * 100
    make_raster(one, "tiles/a.tif", valid=one[0] != 2400)
    make_raster(one + 1, "tiles/b.tif", transform=moved(2, 8))
    report = put_together(tmp_path / "tiles", tmp_path / "out" / "m.tif")
    assert asdict(report) == dict(
        wrote=str(tmp_path / "out" / "m.tif"), tiles=2, rows=6, cols=14, bands=1, valid_fraction=47 / 84, kept=False
    )
    with open_raster(tmp_path / "out" / "m.tif") as src:
        pixels, valid = read_pixels(src)
        assert grid_of(src) == Grid(rasterio.crs.CRS.from_string(UTM), TRANSFORM, 6, 14)
        assert (src.dtypes, src.nodata) == (("uint16",), None)
    np.testing.assert_array_equal(pixels[0, :4, :6], one[0])  # the pixel under the mask too
    np.testing.assert_array_equal(pixels[0, 2:, 8:], one[0] + 1)
    assert (pixels[0, 4:, :8].max(), pixels[0, :2, 6:].max()) == (0, 0)
    assert (valid[:4, :6].sum(), valid[2:, 8:].all(), valid.sum()) == (23, True, 47)


def test_mosaic_spans_several_windows_and_leaves_holes_cheap(make_raster, tmp_path):
    one = np.arange(1, 41, dtype="uint8").reshape(1, 5, 8)
    for name, corner in dict(a=(0, 0), b=(WINDOW[0] - 3, WINDOW[1] - 4), c=(30_000, 40_000)).items():
        make_raster(one, f"tiles/{name}.tif", transform=moved(*corner), nodata=200)
    put_together(tmp_path / "tiles", tmp_path / "m.tif")
    with open_raster(tmp_path / "m.tif") as src:
        assert (src.height, src.width, src.nodata) == (30_005, 40_008, 200)
        for row, col in ((0, 0), (WINDOW[0] - 3, WINDOW[1] - 4), (30_000, 40_000)):
            pixels, valid = read_pixels(src, Window(col, row, 8, 5))
            np.testing.assert_array_equal(pixels, one)
            assert valid.all()
        pixels, valid = read_pixels(src, Window(20_000, 20_000, 9, 9))
        assert (pixels.min(), valid.any()) == (200, False)
    assert (tmp_path / "m.tif").stat().st_size < 2_000_000


def test_mosaic_keeps_names_and_colours(make_raster, tmp_path):
    path = make_raster(np.ones((4, 4, 6), "uint8"), "tiles/a.tif", photometric="rgb", alpha="no")
    with rasterio.open(path, "r+") as dst:
        dst.set_band_description(4, "near infrared")
    put_together(path.parent, tmp_path / "m.tif")
    with open_raster(tmp_path / "m.tif") as src:
        assert src.descriptions == ("red", "green", "blue", "near infrared")
        assert src.colorinterp[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        assert ColorInterp.alpha not in src.colorinterp
        assert read_pixels(src)[1].all()


def test_mosaic_is_kept_while_nothing_changes(make_raster, tmp_path):
    make_raster(np.ones((1, 4, 6), "uint8"), "tiles/a.tif")
    dst = tmp_path / "m.tif"
    assert not put_together(tmp_path / "tiles", dst).kept
    before = dst.read_bytes()
    report = put_together(tmp_path / "tiles", dst)
    assert (report.kept, report.valid_fraction, report.cols) == (True, 1.0, 6)
    assert not put_together(tmp_path / "tiles", dst, overwrite=True).kept
    assert dst.read_bytes() == before
    assert not put_together(tmp_path / "tiles", dst, "mean").kept
    make_raster(np.full((1, 4, 6), 2, "uint8"), "tiles/a.tif")
    assert not put_together(tmp_path / "tiles", dst, "mean").kept
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mosaic.m.tif.ledger.jsonl", "m.tif", "tiles"]


# 3. The command line, and 4. what it refuses


def test_main_writes_and_reports(make_raster, tmp_path, capsys):
    make_raster(np.ones((1, 4, 6), "uint8"), "tiles/a.tif")
    argv = [str(tmp_path / "tiles"), str(tmp_path / "m.tif"), "--method", "max", "--quiet", "--json"]
    assert main(argv) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["tiles"], line["rows"], line["kept"]) == (1, 4, False)
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["kept"]


def test_main_takes_folders_from_settings(make_raster, tmp_path):
    make_raster(np.ones((1, 4, 6), "uint8"), "data/chips/a.tif")
    assert main(["--data", str(tmp_path / "data"), "--quiet"]) == 0
    assert (tmp_path / "data" / "mosaic.tif").is_file()


def test_main_wrong_usage(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--method", "median"])


def fails(capsys: Any, *argv: Path | str) -> str:
    assert main([*map(str, argv), "--quiet"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return str(line)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dict(transform=moved(0.5, 6)), "0.5 of a pixel off the grid of"),
        (dict(crs="EPSG:32645"), "CRS EPSG:32645; expected CRS EPSG:32644"),
        (dict(transform=moved(0, 6) * Affine.scale(1.01)), "expected pixels of 0.5, 0, 0, -0.5"),
        (dict(nodata=7), "nodata 7.0; expected nodata None"),
    ],
)
def test_main_refuses_tiles_that_do_not_fit(make_raster, tmp_path, capsys, other, message):
    make_raster(np.ones((1, 4, 6), "uint8"), "tiles/a.tif")
    make_raster(np.ones((1, 4, 6), "uint8"), "tiles/b.tif", **dict(transform=moved(0, 6)) | other)
    line = fails(capsys, tmp_path / "tiles", tmp_path / "out" / "m.tif")
    assert message in line
    assert "b.tif" in line
    assert "a.tif" in line
    assert not (tmp_path / "out").exists()


def test_main_refuses_mixed_dtypes(make_raster, tmp_path, capsys):
    make_raster(np.full((1, 4, 6), 64, "uint8"), "tiles/a.tif")
    make_raster(np.full((1, 4, 6), 40000, "uint16"), "tiles/b.tif")
    assert "pixels of uint16; expected pixels of uint8" in fails(capsys, tmp_path / "tiles", tmp_path / "m.tif")


def test_read_tile_wants_georeferencing(make_raster):
    with pytest.warns(NotGeoreferencedWarning):
        path = make_raster(np.ones((1, 4, 6), "uint8"), crs=None, transform=Affine.identity())
    with pytest.raises(BadInputError, match="no georeferencing; expected a tile with CRS and transform"):
        read_tile(path)


def test_main_refuses_junk_beside_good_tiles(make_raster, tmp_path, capsys):
    make_raster(np.ones((1, 4, 6), "uint8"), "tiles/a.tif")
    (tmp_path / "tiles" / "junk.tif").write_bytes(b"not a raster")
    assert "junk.tif: not readable as GTiff" in fails(capsys, tmp_path / "tiles", tmp_path / "m.tif")
    assert not (tmp_path / "m.tif").exists()


def test_mosaic_of_nothing(tmp_path):
    with pytest.raises(MissingInputError, match="no such file or folder"):
        put_together(tmp_path / "tiles", tmp_path / "m.tif")
    (tmp_path / "tiles").mkdir()
    with pytest.raises(MissingInputError, match="an empty folder"):
        put_together(tmp_path / "tiles", tmp_path / "m.tif")


def test_mosaic_refuses_destinations(make_raster, tmp_path):
    folder = make_raster(np.ones((1, 4, 6), "uint8"), "tiles/a.tif").parent
    with pytest.raises(OutputError, match="inside the folder of its own tiles"):
        put_together(folder, folder / "m.tif")
    with pytest.raises(OutputError, match=r"a .png file; expected a .tif"):
        put_together(folder, tmp_path / "m.png")
    (tmp_path / "m.tif").write_text("somebody else's")
    with pytest.raises(OutputError, match="a file that this stage did not write"):
        put_together(folder, tmp_path / "m.tif")
    assert (tmp_path / "m.tif").read_text() == "somebody else's"
    assert put_together(folder, tmp_path / "m.tif", overwrite=True).tiles == 1


def test_mosaic_is_locked_by_another_run_on_the_same_file_only(make_raster, tmp_path):
    folder = make_raster(np.ones((1, 4, 6), "uint8"), "tiles/a.tif").parent
    with Outputs(tmp_path, "mosaic", name="m.tif"):
        with pytest.raises(LockedError, match="locked by process"):
            put_together(folder, tmp_path / "m.tif")
        assert put_together(folder, tmp_path / "other.tif").tiles == 1


def test_a_broken_tile_leaves_the_earlier_mosaic(make_raster, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (1, 60, 60), "uint8")
    path = make_raster(noise, "tiles/a.tif", compress="deflate")
    put_together(path.parent, tmp_path / "m.tif")
    before = (tmp_path / "m.tif").read_bytes()
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + b"\xff" * 500 + whole[1500:])
    with pytest.raises(BadInputError, match="broken pixels"):
        put_together(path.parent, tmp_path / "m.tif")
    assert (tmp_path / "m.tif").read_bytes() == before
    assert not list(tmp_path.glob(".part-*"))


# 5. Real data


def test_adjoining_web_tiles_in_degrees(tmp_path):
    """Their pixel heights differ by 28 millionths from the first to the last row."""
    scenes = real("banepa/scenes")
    report = put_together(scenes, tmp_path / "m.tif")
    assert (report.tiles, report.rows, report.cols, report.valid_fraction) == (36, 3072, 3072, 1.0)
    with open_raster(tmp_path / "m.tif") as src:
        left, _, right, _ = src.bounds
        assert src.colorinterp == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        for path in (sorted(scenes.glob("*.tif"))[n] for n in (0, 17, 35)):
            with open_raster(path) as one:
                col, row = (round(value) for value in ~src.transform * (one.transform.c, one.transform.f))
                np.testing.assert_array_equal(read_pixels(src, Window(col, row, 512, 512))[0], one.read())
                assert left <= one.bounds.left < one.bounds.right <= right + 1e-12
                assert abs(one.bounds.bottom - (src.transform * (0, row + 512))[1]) < 0.05 * -src.transform.e


def test_separate_tiles_of_other_pixel_sizes_are_refused(tmp_path, capsys):
    line = fails(capsys, real("spacenet1_rio/3band"), tmp_path / "m.tif")
    assert "img10.tif: pixels of" in line
    assert "img1.tif has" in line


# 6. Chip then mosaic is the scene


@st.composite
def scenes(draw: Any) -> dict[str, Any]:
    dtype = draw(st.sampled_from(["uint8", "uint16", "int16", "float32"]))
    how = draw(st.sampled_from(["all", "nodata", "mask", "alpha"] + ["nan"] * (dtype == "float32")))
    height, width = draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
    size = draw(st.tuples(st.integers(height // 4 + 1, 100), st.integers(width // 4 + 1, 100)))
    pads = ["white", 7.0] + ["nodata"] * (how == "nodata")
    return dict(
        dtype=dtype, how=how, height=height, width=width,
        bands=draw(st.integers(1, 8)), size=size, overlap=draw(st.integers(0, min(size) - 1)) // 2,
        pad=draw(st.sampled_from(pads)), method=draw(st.sampled_from(METHODS)), seed=draw(st.integers(0, 99)),
    )  # fmt: skip


def write_scene(path: Path, scene: dict[str, Any]) -> None:
    rng = np.random.default_rng(scene["seed"])
    shape = (scene["bands"], scene["height"], scene["width"])
    pixels = rng.integers(0, 200, shape).astype(scene["dtype"])
    if scene["dtype"] == "int16":
        pixels -= 100
    pixels[:, rng.random(shape[1:]) < 0.2] = 5  # nodata where that is the way
    holes = np.where(rng.random(shape[1:]) < 0.3, 0, 255).astype("uint8")
    if scene["how"] == "nan":
        pixels[0, holes == 0] = np.nan
    alpha = scene["how"] == "alpha"
    if alpha:
        pixels = np.concatenate([pixels, holes[None].astype(scene["dtype"])])
    nodata = 5 if scene["how"] == "nodata" else None
    profile = dict(driver="GTiff", dtype=scene["dtype"], count=len(pixels), height=shape[1], width=shape[2])
    options = dict(photometric="minisblack", alpha="unspecified" if alpha else "no")
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **profile, crs=UTM, transform=TRANSFORM, nodata=nodata, **options) as dst,
    ):
        if alpha:
            dst.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (len(pixels) - 2) + [ColorInterp.alpha]
        dst.write(pixels)
        if scene["how"] == "mask":
            dst.write_mask(holes)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(scene=scenes())
def test_chip_then_mosaic_is_the_scene(scene):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scene(folder / "scene.tif", scene)
        chips = ChipArgs(size=scene["size"], overlap=scene["overlap"], pad=scene["pad"])
        run = run_at(folder)
        chip_scenes(folder / "scene.tif", folder / "chips", settings=chips, rasters=RasterArgs(), run=run)
        put_together(folder / "chips", folder / "m.tif", scene["method"])
        with open_raster(folder / "scene.tif") as src, open_raster(folder / "m.tif") as dst:
            extent = Window(0, 0, src.width, src.height)
            (before, was_valid), (after, is_valid) = read_pixels(src), read_pixels(dst, extent)
            assert dst.transform.almost_equals(src.transform)
            assert (dst.nodata, dst.crs, len(after)) == (src.nodata, src.crs, scene["bands"])
            beyond = int(read_pixels(dst)[1].sum()) - int(is_valid.sum())
        np.testing.assert_array_equal(after, before)
        np.testing.assert_array_equal(is_valid, was_valid)
        assert beyond == 0
