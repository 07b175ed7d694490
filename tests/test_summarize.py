"""summarize: numbers that are numpy's, exact for integers, and pictures that come out the same every time."""

import json

import numpy as np
import polars as pl
import pytest
from imagery import real

import flatten.flatten as flatten_stage
import summarize.summarize as stage
from roofkit.cli import Run
from roofkit.errors import BadInputError, MismatchError, MissingInputError
from roofkit.settings import FlattenArgs, SummarizeArgs
from summarize.summarize import (
    colour_of,
    edges,
    integer_levels,
    main,
    percentile,
    picture_name,
    saturated,
    shares,
    shown_range,
    slug,
    summarize_source,
    top_of_axis,
)


def summary(src, dst, run, **settings):
    report = summarize_source(src, dst, settings=SummarizeArgs(**settings), run=run)
    return report, json.loads((dst / "summary.json").read_text())


def numbers(src, run):
    """What summary.json says, without drawing."""
    table = src.suffix in (".csv", ".parquet")
    source = stage._table_source(src) if table else stage._raster_source(src, "tif")[0]
    levels = stage._table_levels(source) if table else stage._raster_levels(source, run)
    return json.loads(json.dumps(stage._summary(source, levels, SummarizeArgs()), allow_nan=False))


def levels_of(values, first=0):
    return integer_levels(np.bincount(np.asarray(values) - first), first)


def check_band(band, values, **close):
    """Compare a band of the summary with what numpy says of its valid values."""
    values = np.asarray(values, "float64")
    found = [band["min"], band["max"], band["mean"], band["std"], *band["percentiles"].values()]
    wanted = np.percentile(values, [float(p) for p in band["percentiles"]])
    assert np.allclose(found, [values.min(), values.max(), values.mean(), values.std(), *wanted], **close)
    assert band["zero_share"] == (values == 0).mean()


# The pure functions


def test_integer_levels_by_hand():
    levels = integer_levels(np.array([0, 1, 0, 2, 1]), -3)  # -2, 0, 0, 1
    assert (levels.minimum, levels.maximum, levels.mean, levels.total) == (-2, 1, -0.25, 4)
    assert levels.std == pytest.approx(np.std([-2, 0, 0, 1]))
    assert (levels.at_maximum, levels.zeros) == (1, 2)


def test_integer_levels_of_ten_thousand_million_pixels_do_not_overflow():
    counts = np.zeros(65536, np.int64)
    counts[[0, 65535]] = 5 * 10**9
    levels = integer_levels(counts, 0)
    assert (levels.mean, levels.std) == (32767.5, 32767.5)


@pytest.mark.parametrize("percent", [0, 0.1, 2, 25, 50, 75, 98, 99.9, 100])
def test_percentile_is_that_of_numpy(percent):
    values = np.random.default_rng(0).integers(-50, 400, 997)
    assert percentile(levels_of(values, -50), percent) == pytest.approx(np.percentile(values, percent))


def test_percentile_by_hand():
    assert percentile(levels_of([1, 3]), 50) == 2
    assert percentile(levels_of([7]), 98) == 7


def test_saturated_at_the_top_of_the_dtype():
    assert saturated(levels_of([0, 255, 255]), np.dtype("uint8")) == 2
    assert saturated(levels_of([0, 254, 254]), np.dtype("uint8")) == 0


def test_saturated_at_the_own_maximum_needs_a_spike():
    spread = np.arange(0, 1000)
    clipped = np.concatenate([spread, np.full(20, 999)])
    assert saturated(levels_of(clipped), np.dtype("uint16")) == 21
    assert saturated(levels_of(clipped), np.dtype("uint8")) == 0  # 8 bits: only 255 is the top
    assert saturated(levels_of(spread), np.dtype("uint16")) == 0  # no more than below
    few = np.concatenate([np.repeat(spread, 100), [999] * 50])
    assert saturated(levels_of(few), np.dtype("uint16")) == 0  # 150, where 101 and more stand below
    assert saturated(levels_of([0] * 900 + [4] * 100), np.dtype("int16")) == 0  # classes, not measurements


def test_edges_are_around_whole_numbers():
    levels = levels_of([2, 9])
    assert edges([levels], 2, 9, 256).tolist() == [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]
    assert edges([levels], 2, 9, 3).tolist() == [1.5, 4.5, 7.5, 10.5]


def test_shares_add_up_over_all_bins():
    levels = levels_of([2, 2, 5, 9])
    assert shares(levels, np.array([1.5, 4.5, 7.5, 10.5])).tolist() == [0.5, 0.25, 0.25]
    assert shares(levels, np.array([1.5, 4.5])).tolist() == [0.5]


def test_shown_range_leaves_out_a_long_tail_and_a_saturated_spike():
    body = np.repeat(np.arange(100, 200), 100)
    assert shown_range(levels_of(body), np.dtype("uint16")) == (100, 199)
    assert shown_range(levels_of([*body, 5000]), np.dtype("uint16")) == (100, 199)
    assert shown_range(levels_of([*body, *[5000] * 500]), np.dtype("uint16")) == (100, 199)
    assert shown_range(levels_of([7, 7]), np.dtype("uint16")) == (7, 7)


def test_top_of_axis_cuts_bars_that_stand_far_out():
    body = np.full(20, 0.01)
    assert top_of_axis(body) == pytest.approx(0.0112)
    assert top_of_axis(np.array([0.8, *body])) == pytest.approx(0.013)
    assert top_of_axis(np.array([0.8, 0.1, *body])) == pytest.approx(0.013)
    assert top_of_axis(np.array([0.9, 0.1])) == pytest.approx(1.008)


def test_names():
    assert slug("Band 4: Near-Infrared (NIR)") == "band_4_near_infrared_nir"
    assert picture_name(1, "red") == "band_1_red.png"
    assert picture_name(3, "band 3") == picture_name(3, "…") == "band_3.png"
    assert picture_name(2, "../../etc") == "band_2_etc.png"
    assert colour_of("Red", 5) != colour_of("red edge", 5) != colour_of("band 9", 5)


# The stage


def test_every_number_of_an_integer_band(make_raster, run, tmp_path):
    rng = np.random.default_rng(0)
    array = np.stack([rng.integers(-300, 4000, (40, 50)), rng.integers(0, 9, (40, 50))]).astype("int16")
    valid = rng.random((40, 50)) < 0.7
    report, found = summary(make_raster(array, valid=valid), tmp_path / "out", run)
    assert (found["frames"], found["pixels"], found["dtype"], found["units"]) == (1, 2000, "int16", "digital number")
    assert (report.bands, report.pictures, report.made, report.kept) == (2, 3, 4, 0)
    for band, values in zip(found["bands"], array):
        check_band(band, values[valid], rtol=1e-12)
        assert band["valid_share"] == valid.mean()
        assert isinstance(band["min"], int)
    assert {p.name for p in (tmp_path / "out").glob("[!.]*")} == {
        "band_1.png", "band_2.png", "all_bands.png", "summary.json",
    }  # fmt: skip


def test_every_number_of_a_float_band(make_raster, run):
    array = np.random.default_rng(0).normal(0.3, 0.1, (1, 60, 50)).astype("float32")
    array[0, 0, :4] = np.nan, np.inf, -np.inf, 0
    found = numbers(make_raster(array), run)
    values = array[np.isfinite(array)].astype("float64")
    step = (values.max() - values.min()) / 65536
    check_band(found["bands"][0], values, rtol=1e-9, atol=step)
    assert found["bands"][0]["valid_share"] == 2997 / 3000
    assert (found["units"], found["bands"][0]["max"]) == ("value", values.max())


def test_a_clipped_float_band_and_a_constant_one(make_raster, run):
    clipped = np.minimum(np.random.default_rng(0).random((40, 50)), 0.9).astype("float32")
    found = numbers(make_raster(np.stack([clipped, np.full((40, 50), 2.5, "float32")])), run)
    first, second = found["bands"]
    assert first["saturated_share"] == (clipped == np.float32(0.9)).mean() > 0.05
    assert first["saturated_at"] == float(np.float32(0.9))
    assert (second["min"], second["max"], second["std"], second["saturated_share"]) == (2.5, 2.5, 0, 0)
    assert set(second["percentiles"].values()) == {2.5}


def test_many_files_are_one_and_workers_change_nothing(make_raster, run, tmp_path, monkeypatch):
    array = np.random.default_rng(0).integers(0, 255, (3, 30, 40)).astype("uint8")
    whole = make_raster(array, "whole.tif", photometric="rgb")
    for i in range(3):
        make_raster(array[:, 10 * i : 10 * i + 10], f"parts/{i}.tif", photometric="rgb")
    one = numbers(whole, run)
    monkeypatch.setattr(stage, "SIDE", 16)
    monkeypatch.setattr(stage, "TASK_PIXELS", 300)
    many = numbers(tmp_path / "parts", run)
    monkeypatch.setattr(stage, "FEW_PIXELS", 0)
    two_workers = Run(run.settings, run.paths, run.settings_path, False, 2, True)
    assert one["bands"] == many["bands"] == numbers(tmp_path / "parts", two_workers)["bands"]
    assert [band["name"] for band in one["bands"]] == ["red", "green", "blue"]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_says_what_its_rasters_say(make_raster, run, tmp_path, dtype, suffix):
    array = (np.random.default_rng(0).normal(0, 40, (2, 30, 40)) + (128 if dtype == "uint8" else 0)).clip(-200, 255)
    src, table = make_raster(np.abs(array).astype(dtype), valid=array[0] < 150), tmp_path / f"pixels{suffix}"
    flatten_stage.flatten_rasters(src, table, settings=FlattenArgs(), run=run)
    rasters, found = numbers(src, run), numbers(table, run)
    assert (found["frames"], found["bands"][0]["valid_share"]) == (None, None)
    assert found["dtype"] == {"csvint16": "uint8"}.get(suffix[1:] + dtype, dtype)
    for a, b in zip(rasters["bands"], found["bands"]):
        assert a["name"] == b["name"]
        for key in ("min", "max", "mean", "std", "saturated_share", "zero_share"):
            assert a[key] == pytest.approx(b[key], rel=1e-6)
        assert list(a["percentiles"].values()) == pytest.approx(list(b["percentiles"].values()), rel=1e-6)


def test_pictures_are_the_same_bytes_again(make_raster, run, tmp_path):
    path = make_raster(np.random.default_rng(0).integers(0, 2000, (2, 20, 20)).astype("uint16"))
    for name in ("a", "b"):
        summary(path, tmp_path / name, run)
    for name in ("all_bands.png", "band_1.png", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a/band_1.png").read_bytes().startswith(b"\x89PNG")
    assert b"Software" not in (tmp_path / "a/band_1.png").read_bytes()


def test_finished_is_kept_and_stale_pictures_go(make_raster, run, tmp_path):
    out, array = tmp_path / "out", np.arange(48).reshape(3, 4, 4).astype("uint8")
    path = make_raster(array)
    assert summary(path, out, run)[0].made == 5
    assert summary(path, out, run)[0].kept == 5
    (out / "band_2.png").unlink()
    assert summary(path, out, run)[0].made == 1
    make_raster(array[:2])
    assert summary(path, out, run)[0].made == 4
    assert not (out / "band_3.png").exists()
    assert summary(path, out, run, bins=7)[0].made == 4


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_pixels_are_counted_in_parts(make_raster, run, monkeypatch, dtype):
    array = np.random.default_rng(0).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (2, 9, 11)).astype(dtype)
    valid = np.ones((9, 11), bool)
    valid[3:5, 2:] = False
    path = make_raster(array, valid=valid)
    whole = numbers(path, run)
    monkeypatch.setattr(stage, "AT_ONCE", 7)
    assert numbers(path, run) == whole
    for band, values in zip(whole["bands"], array):
        check_band(band, values[valid])


def test_pictures_have_labels(make_raster, run):
    spike = np.concatenate([np.zeros(6000), np.repeat(np.arange(100, 400), 10), np.full(600, 9000)]).astype("uint16")
    path = make_raster(spike.reshape(1, 96, 100))
    source = stage._raster_source(path, "tif")[0]
    levels = stage._raster_levels(source, run)
    axes = stage.draw_band(levels[0], 0, source, 256).axes[0]
    texts = " ".join(text.get_text() for text in axes.texts)
    assert axes.get_xlabel() == "band 1 (digital number)"
    assert axes.get_ylabel() == "share of valid pixels"
    for part in ("2nd percentile 0", "98th percentile 9,000", "saturated at 9,000", "outside the picture", "62 %"):
        assert part in texts
    assert [t.get_text() for t in stage.draw_all(levels, source, 256).legends[0].get_texts()] == ["band 1"]


# What is refused


def test_files_that_differ(make_raster, run, tmp_path):
    make_raster(np.ones((2, 3, 3), "uint8"), "src/a.tif")
    other = make_raster(np.ones((3, 3), "uint8"), "src/b.tif")
    with pytest.raises(MismatchError, match=r"b.tif: 1 bands of uint8, where .*a.tif has 2 of uint8; expected"):
        summary(tmp_path / "src", tmp_path / "out", run)
    other.unlink()
    make_raster(np.ones((2, 3, 3), "uint16"), "src/b.tif")
    with pytest.raises(MismatchError, match=r"b.tif: 2 bands of uint16, where .*a.tif has 2 of uint8"):
        summary(tmp_path / "src", tmp_path / "out", run)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_no_valid_pixel(make_raster, run, tmp_path, dtype):
    with pytest.raises(BadInputError, match=r"no valid pixel in 1 files; expected some"):
        summary(make_raster(np.zeros((3, 3), dtype), nodata=0), tmp_path / "out", run)
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize("name", ["nothing.csv", "nothing.parquet", "nothing"])
def test_no_input(run, tmp_path, name):
    with pytest.raises(MissingInputError, match=f"{name}: no such file"):
        summary(tmp_path / name, tmp_path / "out", run)


HEADER = "latitude,longitude,row,pixel,band,value\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "t.csv: "),
        ("a,b\n1,2\n", r"the columns a, b; expected latitude, longitude, row, pixel, band, value"),
        (HEADER, r"a table without rows"),
        (HEADER + "1,2,0,0,1,7\n1,2,0,0,1,x\n", r"not readable \("),
        (HEADER + "1,2,0,0,1,7\n1,2,0,0,1,7000000\n", r"values from 7 to 7000000; expected values of 16 bits"),
        (HEADER + "1,2,0,0,1,inf\n", r"a band without finite values"),
    ],
)
def test_bad_tables(run, tmp_path, text, match):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadInputError, match=match):
        summary(tmp_path / "t.csv", tmp_path / "out", run)


def test_bad_parquet(run, tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(BadInputError, match=r"t.parquet: not readable \("):
        summary(tmp_path / "t.parquet", tmp_path / "out", run)
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(BadInputError, match=r"the columns a; expected latitude"):
        summary(tmp_path / "t.parquet", tmp_path / "out", run)


# The command line


def test_main(make_raster, tmp_path, capsys):
    make_raster(np.arange(32).reshape(2, 4, 4).astype("uint16"), "chips/a.tif")
    assert main(["--data", str(tmp_path), "--quiet", "--json", "--bins", "8"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["stage"], line["bands"], line["made"], line["frames"]) == ("summarize", 2, 4, 1)
    assert (tmp_path / "histograms/all_bands.png").is_file()
    assert main(["--data", str(tmp_path), "--bins", "1"]) == 1
    assert "error: --bins: summarize_args.bins is 1" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        main(["--bin-count", "3"])


# Real data


def test_landsat(run, tmp_path):
    import rasterio

    report, found = summary(real("landsat"), tmp_path / "out", run)
    assert (report.frames, report.pixels, report.bands) == (2, 125000, 8)
    arrays = []
    for path in sorted(real("landsat").glob("*.tif")):
        with rasterio.open(path) as src:
            arrays.append(src.read()[:, src.dataset_mask() != 0])
    for band, values in zip(found["bands"], np.concatenate(arrays, axis=1)):
        check_band(band, values, rtol=1e-12)
    assert found["bands"][0]["name"] == "band 1 reflectance"
    assert found["bands"][0]["saturated_at"] == 16000
    assert found["bands"][7]["saturated_share"] == 0  # a class band


def test_spacenet_is_mostly_zero(run):
    found = numbers(real("spacenet1_rio/8band"), run)
    assert all(band["zero_share"] > 0.6 for band in found["bands"])
