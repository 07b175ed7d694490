"""flatten: a table of pixels, exact and in order, whatever the raster's size, dtype and CRS."""

import json
import resource

import numpy as np
import polars as pl
import pyproj
import pytest
import rasterio
from affine import Affine
from imagery import UTM, real

import flatten.flatten as stage
from flatten.flatten import codes, columns, cuts, degrees, draw, flatten_rasters, keep, main, strips
from roofkit.cli import Run
from roofkit.errors import BadInputError, MissingInputError, OutputError, SettingsError
from roofkit.settings import FlattenArgs


def flat(src, dst, run, **settings):
    report = flatten_rasters(src, dst, settings=FlattenArgs(**settings), run=run)
    return report, pl.read_csv(dst) if dst.suffix == ".csv" else pl.read_parquet(dst)


def counting(shape, dtype):
    """Another value in every cell, so that a flip or a swap shows."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


# The pure functions


def test_strips_are_whole_blocks():
    assert strips(10, 2**21, 4) == ((0, 4), (4, 8), (8, 10))
    assert strips(600, 100, 256) == ((0, 600),)


def test_cuts_hold_every_valid_pixel_within_the_limit():
    assert cuts(np.array([0, 2, 2, 0, 3, 9, 0]), 1, 4) == [(1, 4), (4, 5), (5, 6)]
    assert cuts(np.array([2, 2]), 3, 6) == [(0, 1), (1, 2)]
    assert cuts(np.array([0, 0]), 1, 4) == []


def test_draw_is_without_replacement_and_depends_on_name_and_seed():
    first = draw(1000, 100, seed=0, name="a.tif")
    assert len(set(first.tolist())) == 100
    assert (np.diff(first) > 0).all()
    assert 0 <= first[0] < first[-1] < 1000
    assert np.array_equal(first, draw(1000, 100, seed=0, name="a.tif"))
    assert not np.array_equal(first, draw(1000, 100, seed=0, name="b.tif"))
    assert not np.array_equal(first, draw(1000, 100, seed=1, name="a.tif"))
    assert draw(3, 5, seed=0, name="a.tif").tolist() == [0, 1, 2]


def test_draw_is_uniform():
    hits = np.zeros(20)
    for seed in range(500):
        hits[draw(20, 5, seed=seed, name="a.tif")] += 1
    assert abs(hits - 125).max() < 5 * np.sqrt(125 * 0.75)


def test_draw_from_ten_thousand_million_pixels_needs_no_list_of_them():
    assert len(draw(10**10, 10_000, seed=0, name="a.tif")) == 10_000


def test_codes_and_keep_find_the_same_pixels():
    valid = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]], bool)
    wanted = codes(np.array([1, 2, 4]), valid.sum(axis=1), 4)
    assert wanted.tolist() == [1, 8, 10]  # row 0 rank 1; row 2 rank 0; row 2 rank 2
    left = keep(valid[:, :2], np.array([0, 0, 0]), wanted, 4)
    right = keep(valid[:, 2:], valid[:, :2].sum(axis=1), wanted, 4)
    assert np.hstack([left, right]).astype(int).tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]]


def test_degrees_are_pixel_centres_on_a_turned_grid():
    turned = Affine.translation(10, 20) @ Affine.rotation(90) @ Affine.scale(2, 2)
    latitude, longitude = degrees(np.array([0, 3]), np.array([0, 1]), turned, pyproj.CRS("EPSG:4326").to_wkt())
    assert np.allclose(longitude, [9, 3])  # a quarter turn: x = 10 - 2 * (row + 0.5)
    assert np.allclose(latitude, [21, 23])  # y = 20 + 2 * (column + 0.5)


def test_columns_put_all_bands_of_a_pixel_together():
    values = np.array([[7, 8], [9, 10], [11, 12]], "uint16")
    table = columns(np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5, 6]), np.array([0, 1]), values)
    assert list(table) == ["latitude", "longitude", "row", "pixel", "band", "value"]
    assert table["value"].tolist() == [7, 9, 11, 8, 10, 12]
    assert table["band"].tolist() == [1, 2, 3, 1, 2, 3]
    assert table["row"].tolist() == [5, 5, 5, 6, 6, 6]
    assert table["value"].dtype == "uint16"


# The stage


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_every_valid_pixel_and_band_in_order(make_raster, run, tmp_path, dtype, suffix):
    array = counting((2, 3, 4), dtype) - np.array(5, dtype) * (dtype in ("int16", "float32"))
    valid = np.ones((3, 4), bool)
    valid[1, 2] = False
    report, table = flat(make_raster(array, valid=valid), tmp_path / f"out{suffix}", run)
    row, col = np.nonzero(valid)
    assert table.columns == ["latitude", "longitude", "row", "pixel", "band", "value"]
    assert table["row"].to_list() == np.repeat(row, 2).tolist()
    assert table["pixel"].to_list() == np.repeat(col, 2).tolist()
    assert table["band"].to_list() == [1, 2] * 11
    assert table["value"].to_list() == array[:, row, col].T.ravel().tolist()
    assert (report.frames, report.pixels, report.rows, report.bands, report.empty_frames) == (1, 11, 22, 2, 0)
    if suffix == ".parquet":
        assert table["value"].dtype == getattr(pl, {"uint8": "UInt8", "uint16": "UInt16"}.get(dtype, dtype.title()))


def test_coordinates_are_those_of_pyproj_to_a_tenth_of_a_millimetre(make_raster, run, tmp_path):
    path = make_raster(counting((1, 5, 7), "uint8"), transform=Affine(0.1, 0, 735000, 0, -0.1, 2960000))
    _, table = flat(path, tmp_path / "out.csv", run)
    to_degrees = pyproj.Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)
    x, y = 735000 + 0.1 * (table["pixel"].to_numpy() + 0.5), 2960000 - 0.1 * (table["row"].to_numpy() + 0.5)
    longitude, latitude = to_degrees.transform(x, y)
    assert abs(table["latitude"].to_numpy() - latitude).max() <= 0.51e-9
    assert abs(table["longitude"].to_numpy() - longitude).max() <= 0.51e-9
    flatten_rasters(path, tmp_path / "out.parquet", settings=FlattenArgs(), run=run)
    assert np.array_equal(pl.read_parquet(tmp_path / "out.parquet")["latitude"].to_numpy(), latitude)


def test_csv_text(make_raster, run, tmp_path):
    degrees_grid = Affine(0.25, 0, 85.0, 0, -0.25, 28.0)
    path = make_raster(np.array([[[1, 2]], [[3, 4]]], "uint8"), crs="EPSG:4326", transform=degrees_grid)
    flat(path, tmp_path / "out.csv", run)
    assert (tmp_path / "out.csv").read_bytes() == (
        b"latitude,longitude,row,pixel,band,value\n"
        b"27.875,85.125,0,0,1,1\n27.875,85.125,0,0,2,3\n27.875,85.375,0,1,1,2\n27.875,85.375,0,1,2,4\n"
    )


def test_integers_of_a_narrow_and_of_a_wide_range(make_raster, run, tmp_path):
    rng = np.random.default_rng(0)
    array = np.stack([rng.integers(-5, 3, (20, 30)), rng.integers(-(2**15), 2**15, (20, 30))]).astype("int16")
    _, table = flat(make_raster(array), tmp_path / "out.csv", run)
    assert table["value"].to_list() == array.reshape(2, -1).T.ravel().tolist()
    assert table["pixel"].to_list() == np.tile(np.repeat(np.arange(30), 2), 20).tolist()


def test_float32_reads_back_to_the_bit(make_raster, run, tmp_path):
    values = np.array([[0.1, 1 / 3, 1e-30, 3.4e38, -0.0, 16777216.0, np.pi, 1e-9]], "float32")
    _, table = flat(make_raster(values), tmp_path / "out.csv", run)
    assert np.array_equal(table["value"].to_numpy().astype("float32").view("uint32"), values[0].view("uint32"))


def test_nan_nodata_and_alpha_are_left_out(make_raster, run, tmp_path):
    make_raster(np.array([[[1, np.nan]], [[3, 4]]], "float32"), "src/a.tif")
    make_raster(np.array([[5, 9]], "uint8"), "src/b.tif", nodata=9)
    make_raster(np.array([[[6, 7]], [[0, 255]]], "uint8"), "src/c.tif", alpha="yes")
    report, table = flat(tmp_path / "src", tmp_path / "out.parquet", run)
    assert table["value"].to_list() == [1, 3, 5, 7]
    assert table["value"].dtype == pl.Float32  # the widest of uint8 and float32
    assert table["band"].to_list() == [1, 2, 1, 1]
    assert (report.frames, report.pixels, report.rows, report.bands) == (3, 3, 4, 2)


def test_mixed_signs_become_the_type_that_holds_both(make_raster, run, tmp_path):
    make_raster(np.array([[65535]], "uint16"), "src/a.tif")
    make_raster(np.array([[-7]], "int16"), "src/b.tif")
    for name in ("out.csv", "out.parquet"):
        assert flat(tmp_path / "src", tmp_path / name, run)[1]["value"].to_list() == [65535, -7]


def test_pieces_and_workers_do_not_change_a_byte(make_raster, run, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 99, (2, 40, 3000)).astype("uint8")
    valid = rng.random((40, 3000)) < 0.3
    make_raster(array, "src/a.tif", valid=valid, tiled=True, blockxsize=16, blockysize=16)
    make_raster(array[:, :9, :33], "src/b.tif", nodata=7)
    whole, sampled = tmp_path / "whole.csv", tmp_path / "sampled.csv"
    flat(tmp_path / "src", whole, run)
    flat(tmp_path / "src", sampled, run, sample=50)
    monkeypatch.setattr(stage, "READ_PIXELS", 16 * 1024)
    monkeypatch.setattr(stage, "TABLE_ROWS", 500)
    for name, settings in ((whole, {}), (sampled, {"sample": 50})):
        again = name.with_stem("again")
        flatten_rasters(tmp_path / "src", again, settings=FlattenArgs(**settings), run=run)
        assert again.read_bytes() == name.read_bytes()
        again.unlink()
    two = Run(run.settings, run.paths, run.settings_path, False, 2, True)
    flatten_rasters(tmp_path / "src", tmp_path / "two.csv", settings=FlattenArgs(), run=two)
    assert (tmp_path / "two.csv").read_bytes() == whole.read_bytes()


def test_parquet_row_groups_hold_many_pieces(make_raster, run, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "TABLE_ROWS", 10)
    monkeypatch.setattr(stage, "GROUP_ROWS", 40)
    array = counting((1, 20, 10), "uint8")
    _, table = flat(make_raster(array), tmp_path / "out.parquet", run)
    import pyarrow.parquet

    assert table["value"].to_list() == array.ravel().tolist()
    assert pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 5


def test_sample_is_of_valid_pixels_and_the_same_in_company(make_raster, run, tmp_path):
    rng = np.random.default_rng(1)
    array, valid = rng.integers(0, 255, (3, 30, 40)).astype("uint8"), rng.random((30, 40)) < 0.5
    make_raster(array, "src/b.tif", valid=valid)
    _, alone = flat(tmp_path / "src", tmp_path / "alone.csv", run, sample=50)
    make_raster(array, "src/a.tif", valid=valid)
    report, both = flat(tmp_path / "src", tmp_path / "both.csv", run, sample=50)
    row, col = alone["row"].to_numpy(), alone["pixel"].to_numpy()
    assert (len(alone), report.pixels, report.rows) == (150, 100, 300)
    assert valid[row, col].all()
    assert np.array_equal(alone["value"].to_numpy(), array[alone["band"].to_numpy() - 1, row, col])
    assert len({*zip(row, col)}) == 50
    assert both[150:].equals(alone)  # a.tif comes first
    assert not both[:150].equals(alone)  # another name, other pixels
    _, other = flat(tmp_path / "src", tmp_path / "other.csv", run, sample=50, seed=1)
    assert not other.equals(both)
    _, every = flat(tmp_path / "src", tmp_path / "every.csv", run, sample=10**6)
    assert len(every) == 2 * 3 * valid.sum()


def test_frames_without_valid_pixels_are_counted_and_named(make_raster, run, tmp_path, capsys):
    make_raster(np.zeros((2, 2), "uint8"), "src/empty.tif", nodata=0)
    make_raster(np.ones((2, 2), "uint8"), "src/full.tif", nodata=0)
    report, table = flat(tmp_path / "src", tmp_path / "out.csv", run)
    assert (report.frames, report.empty_frames, len(table)) == (2, 1, 4)
    assert "empty.tif" in capsys.readouterr().err
    (tmp_path / "src/full.tif").unlink()
    with pytest.raises(BadInputError, match=r"no valid pixel in 1 files; expected some"):
        flat(tmp_path / "src", tmp_path / "none.csv", run)
    assert not (tmp_path / "none.csv").exists()


def test_nothing_is_opened_where_nothing_is_to_be_done(make_raster, tmp_path, monkeypatch):
    reused, line = [], [str(make_raster(np.ones((8, 8), "uint8"))), str(tmp_path / "a.csv"), "--quiet"]
    monkeypatch.setattr(stage, "reuse_memory", lambda: reused.append(True))
    assert main(line) == 0
    assert reused
    monkeypatch.setattr("roofkit.raster.rasterio.open", lambda *_, **__: 1 / 0)
    assert main(line) == 0
    with pytest.raises(ZeroDivisionError):
        main([*line, "--dry-run"])  # which looks at what it is given


def test_finished_and_unchanged_is_kept(make_raster, run, tmp_path):
    path, out = make_raster(counting((1, 4, 4), "uint8")), tmp_path / "out.csv"
    first, _ = flat(path, out, run)
    written = out.stat().st_mtime_ns
    again, _ = flat(path, out, run)
    assert (first.kept, again.kept, out.stat().st_mtime_ns) == (False, True, written)
    assert again.rows == first.rows == 16
    assert not flat(path, out, run, sample=3)[0].kept
    make_raster(counting((1, 4, 5), "uint8"))
    assert flat(path, out, run)[0].rows == 20


# What is refused


def test_a_raster_without_crs(make_raster, run, tmp_path):
    path = make_raster(np.ones((2, 2), "uint8"), crs=None)
    with pytest.raises(BadInputError, match=r"scene.tif: no CRS; expected a georeferenced raster"):
        flat(path, tmp_path / "out.csv", run)


def test_a_crs_that_leads_nowhere(make_raster, run, tmp_path):
    path = make_raster(np.ones((2, 2), "uint8"), crs='LOCAL_CS["site",UNIT["metre",1]]')
    with pytest.raises(BadInputError, match=r"a CRS without a way to EPSG:4326"):
        flat(path, tmp_path / "out.csv", run)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [(UTM, Affine(1, 0, 1e9, 0, -1, 1e9)), ("EPSG:4326", Affine(1, 0, 0, 0, -1, 200))],
)
def test_pixels_that_are_nowhere_on_earth(make_raster, run, tmp_path, crs, transform):
    path = make_raster(np.ones((2, 2), "uint8"), crs=crs, transform=transform)
    with pytest.raises(BadInputError, match=r"scene.tif: x .*nowhere on Earth; expected"):
        flat(path, tmp_path / "out.csv", run)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("name", ["out.txt", "out", "out.csv.gz"])
def test_another_kind_of_table(make_raster, run, tmp_path, name):
    with pytest.raises(SettingsError, match=r"expected a .csv or .parquet file"):
        flat(make_raster(np.ones((2, 2), "uint8")), tmp_path / name, run)


def test_no_input(run, tmp_path):
    with pytest.raises(MissingInputError, match="no such file or folder"):
        flat(tmp_path / "nothing", tmp_path / "out.csv", run)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_full_disk_leaves_the_old_table(make_raster, run, tmp_path, suffix):
    path, out = make_raster(counting((1, 90, 90), "uint16")), tmp_path / f"out{suffix}"
    flat(path, out, run, sample=10)
    old = out.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"not written \(File too large\)"):
            flat(path, out, run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.read_bytes() == old
    assert not list(tmp_path.glob(".part-*"))


# The command line


def test_main(make_raster, tmp_path, capsys):
    make_raster(counting((2, 8, 8), "uint16"), "chips/a.tif")
    out = tmp_path / "pixels.csv"
    common = ["--data", str(tmp_path), "--quiet", "--json"]
    assert main([*common, "--sample", "9"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["rows"], line["wrote"], line["kept"]) == (18, str(out), False)
    assert main([*common, "--sample", "9"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kept"] is True
    assert main([*common, "--sample", "9", "--seed", "3"]) == 0
    assert main([str(tmp_path / "chips" / "a.tif"), str(tmp_path / "x.parquet"), *common]) == 0


def test_main_fails_in_one_line(make_raster, tmp_path, capsys):
    path = make_raster(np.ones((2, 2), "uint8"), crs=None)
    assert main([str(path), str(tmp_path / "out.csv")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: no CRS; expected ")
    assert error.count("\n") == 1
    assert main([str(path), str(tmp_path / "out.csv"), "--sample", "0"]) == 1
    assert "error: --sample: flatten_args.sample is 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["--samples", "a"])


def test_main_reads_png_frames_where_settings_say_so(tmp_path, capsys):
    (tmp_path / "settings.json").write_text('{"extension_args": {"extension": "png"}}')
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        rasterio.open(tmp_path / "a.png", "w", driver="PNG", width=2, height=2, count=1, dtype="uint8").close()
    assert main([str(tmp_path), str(tmp_path / "o.csv"), "--settings", str(tmp_path / "settings.json")]) == 1
    assert "a.png: no CRS" in capsys.readouterr().err


# Real data


def test_landsat(run, tmp_path):
    folder = real("landsat")
    report, table = flat(folder, tmp_path / "out.csv", run, sample=100)
    assert (report.frames, report.pixels, report.rows, report.bands) == (2, 200, 1600, 8)
    first = table[:800]
    with rasterio.open(sorted(folder.glob("*.tif"))[0]) as src:
        pixels, valid = src.read(), src.dataset_mask() != 0
        x, y = src.transform @ (first["pixel"].to_numpy() + 0.5, first["row"].to_numpy() + 0.5)
        longitude, latitude = pyproj.Transformer.from_crs(src.crs, "EPSG:4326", always_xy=True).transform(x, y)
    place = first["row"].to_numpy(), first["pixel"].to_numpy()
    assert np.array_equal(first["value"].to_numpy(), pixels[(first["band"].to_numpy() - 1, *place)])
    assert valid[place].all()
    assert np.allclose(first["latitude"], latitude, atol=1e-9)
    assert np.allclose(first["longitude"], longitude, atol=1e-9)


def test_spacenet_eight_bands_match_a_plain_loop(run, tmp_path):
    path = sorted(real("spacenet1_rio/8band").glob("*.tif"))[0]
    _, table = flat(path, tmp_path / "out.csv", run)
    with rasterio.open(path) as src:
        assert np.array_equal(table["value"].to_numpy(), src.read().transpose(1, 2, 0).ravel())
        assert np.allclose(table["longitude"][7 * 8], src.xy(0, 7)[0], atol=1e-9)
