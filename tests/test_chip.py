"""chip: windows of scenes, their padding and names, and what a second run keeps, removes or refuses."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from imagery import TRANSFORM, UTM, real
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp

from chip.chip import chip_name, chip_scenes, main, offsets, pad, pad_of, pad_value, size_of, white
from roofkit.artifacts import Outputs
from roofkit.cli import Run
from roofkit.errors import BadInputError, LockedError, MismatchError, MissingInputError, OutputError, SettingsError
from roofkit.ledger import digest, line_of
from roofkit.paths import project_paths
from roofkit.raster import Grid, all_valid, grid_of, noted_grid, open_raster, raster_files, read_pixels
from roofkit.settings import ChipArgs, RasterArgs, Settings

SCENE = np.arange(1, 10 * 15 + 1, dtype="uint8").reshape(1, 10, 15)


def cut(src: Path, dst: Path, *, overwrite: bool = False, workers: int = 1, **values: Any) -> Any:
    run = Run(Settings(), project_paths(Settings(), dst), dst / "settings.json", overwrite, workers, True)
    return chip_scenes(src, dst, settings=ChipArgs(**dict(size=8) | values), rasters=RasterArgs(), run=run)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def read(path: Path) -> Any:
    with open_raster(path) as src:
        return read_pixels(src)


# 1. Pure functions


@pytest.mark.parametrize(
    ("length", "size", "overlap", "expected"),
    [
        (10, 5, 0, [0, 5]),
        (11, 5, 0, [0, 5, 10]),
        (3, 5, 0, [0]),
        (10, 5, 2, [0, 3, 6]),
        (8, 5, 2, [0, 3]),
        (5, 5, 4, [0]),
        (1, 5, 4, [0]),
    ],
)
def test_offsets(length, size, overlap, expected):
    assert offsets(length, size, overlap) == expected
    assert expected[-1] + size >= length


def test_white():
    assert [white(np.dtype(name)) for name in ("uint8", "uint16", "int16", "float32")] == [255, 65535, 32767, 1]


def test_pad_grows_right_and_down():
    pixels, valid = pad(np.array([[[1, 2]]], "uint8"), np.array([[True, False]]), (2, 3), 255)
    assert pixels.tolist() == [[[1, 2, 255], [255, 255, 255]]]
    assert valid.tolist() == [[True, False, False], [False, False, False]]
    assert pixels.dtype == np.uint8


def test_pad_value():
    scene = Path("s.tif")
    assert pad_value("white", np.dtype("uint16"), None, scene) == 65535
    assert pad_value("nodata", np.dtype("int16"), -9999.0, scene) == -9999
    assert pad_value(0.5, np.dtype("float32"), None, scene) == 0.5
    with pytest.raises(SettingsError, match=r"chip_args.pad: nodata, but s.tif has no nodata value; expected white or"):
        pad_value("nodata", np.dtype("uint8"), None, scene)
    for value in (300, -1, 0.5):
        with pytest.raises(SettingsError, match=f"chip_args.pad: {value}; expected a value of uint8, as s.tif has"):
            pad_value(value, np.dtype("uint8"), None, scene)


def test_names_and_options():
    assert chip_name(Path("a/town.north.tif"), 640, 0) == "town.north_r640_c0.tif"
    assert (size_of([640]), size_of([2, 3]), size_of(None)) == ([640, 640], [2, 3], None)
    assert (pad_of("white"), pad_of("300")) == ("white", 300.0)


# 2. The stage


def test_chips_of_a_scene_that_is_no_multiple(make_raster, tmp_path):
    scene = make_raster(SCENE, "town.tif")
    report = cut(scene, tmp_path / "chips", size=(8, 6))
    assert names(tmp_path / "chips") == [f"town_r{r}_c{c}.tif" for r in (0, 8) for c in (0, 12, 6)]
    assert (report.scenes, report.chips_made, report.chips_kept, report.left_out) == (1, 6, 0, 0)
    assert report.valid_fraction == pytest.approx(150 / (6 * 48))
    with open_raster(tmp_path / "chips" / "town_r8_c12.tif") as src:
        expected = Grid(rasterio.crs.CRS.from_string(UTM), TRANSFORM * TRANSFORM.translation(12, 8), 8, 6)
        assert grid_of(src) == expected
        assert (src.dtypes, src.nodata) == (("uint8",), None)
        pixels, valid = read_pixels(src)
    np.testing.assert_array_equal(pixels[:, :2, :3], SCENE[:, 8:, 12:])
    assert (valid[:2, :3].all(), valid.sum()) == (True, 6)
    assert (pixels[0][~valid] == 255).all()
    assert read(tmp_path / "chips" / "town_r0_c0.tif")[1].all()


def test_chips_overlap(make_raster, tmp_path):
    cut(make_raster(SCENE), tmp_path / "chips", size=8, overlap=3)
    left, right = (read(tmp_path / "chips" / f"scene_r0_c{col}.tif")[0] for col in (0, 5))
    np.testing.assert_array_equal(left[:, :, 5:], right[:, :, :3])


def test_chips_keep_nodata_names_and_colours(make_raster, tmp_path):
    pixels = np.arange(4 * 150, dtype="int16").reshape(4, 10, 15)
    pixels[:, 0, 0] = -9999
    scene = make_raster(pixels, nodata=-9999)
    with rasterio.open(scene, "r+") as dst:
        dst.descriptions = ("blue", "green", "red", "near infrared")
    cut(scene, tmp_path / "chips", size=16, pad="nodata")
    with open_raster(tmp_path / "chips" / "scene_r0_c0.tif") as src:
        assert (src.nodata, src.descriptions) == (-9999, ("blue", "green", "red", "near infrared"))
        found, valid = read_pixels(src)
    assert (found[:, ~valid] == -9999).all()
    assert valid.sum() == 149
    cut(make_raster(np.ones((3, 10, 15), "uint8"), "rgb.tif", photometric="rgb"), tmp_path / "rgb", size=16)
    with open_raster(tmp_path / "rgb" / "rgb_r0_c0.tif") as src:
        assert src.colorinterp == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def test_alpha_becomes_the_mask(make_raster, tmp_path):
    alpha = np.full((1, 10, 15), 255, "uint8")
    alpha[0, 2, 3] = 0
    cut(make_raster(np.concatenate([SCENE, alpha]), alpha="yes"), tmp_path / "chips", size=(10, 15))
    with open_raster(tmp_path / "chips" / "scene_r0_c0.tif") as src:
        assert src.count == 1
        pixels, valid = read_pixels(src)
    np.testing.assert_array_equal(pixels, SCENE)
    assert np.argwhere(~valid).tolist() == [[2, 3]]


def test_chips_with_few_valid_pixels_are_left_out(make_raster, tmp_path):
    scene = make_raster(SCENE)
    assert cut(scene, tmp_path / "chips", size=8).left_out == 0
    report = cut(scene, tmp_path / "chips", size=8, min_valid=0.5)
    assert (report.chips_made, report.left_out) == (2, 2)
    assert names(tmp_path / "chips") == ["scene_r0_c0.tif", "scene_r0_c8.tif"]
    with pytest.raises(BadInputError, match=r"no chip has a share of 1.0 valid pixels; expected some valid pixels"):
        cut(scene, tmp_path / "chips", size=100, min_valid=1.0)


def test_workers_change_nothing(make_raster, tmp_path):
    make_raster(SCENE, "scenes/a.tif")
    make_raster(SCENE + 1, "scenes/b.tif")
    cut(tmp_path / "scenes", tmp_path / "one", size=4)
    cut(tmp_path / "scenes", tmp_path / "two", size=4, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


# What a second run does


def test_finished_chips_are_kept(make_raster, tmp_path):
    scene, chips = make_raster(SCENE), tmp_path / "chips"
    cut(scene, chips)
    before = contents(chips)
    stamps = [p.stat().st_ino for p in sorted(chips.glob("*.tif"))]
    report = cut(scene, chips)
    assert (report.chips_made, report.chips_kept) == (0, 4)
    assert [p.stat().st_ino for p in sorted(chips.glob("*.tif"))] == stamps
    assert cut(scene, chips, overwrite=True).chips_made == 4
    assert contents(chips) == before


def test_chips_follow_the_scene_and_the_settings(make_raster, tmp_path):
    chips = tmp_path / "chips"
    cut(make_raster(SCENE), chips)
    assert cut(make_raster(SCENE + 1), chips).chips_made == 4
    assert cut(tmp_path / "scene.tif", chips, pad=0).chips_made == 4
    assert cut(tmp_path / "scene.tif", chips, size=20).chips_made == 1
    assert names(chips) == ["scene_r0_c0.tif"]


def test_a_missing_or_changed_chip(make_raster, tmp_path):
    scene, chips = make_raster(SCENE), tmp_path / "chips"
    cut(scene, chips)
    before = contents(chips)
    (chips / "scene_r0_c8.tif").unlink()
    assert cut(scene, chips).chips_made == 1
    (chips / "scene_r0_c8.tif").write_bytes(b"bit rot")
    with pytest.raises(OutputError, match=r"scene_r0_c8.tif: changed since this stage wrote it; expected the file as"):
        cut(scene, chips)
    assert cut(scene, chips, overwrite=True).chips_made == 4
    assert contents(chips) == before


def test_a_foreign_file_is_not_written_over(make_raster, tmp_path):
    scene, chips = make_raster(SCENE), tmp_path / "chips"
    chips.mkdir()
    (chips / "scene_r8_c8.tif").write_text("mine")
    (chips / "notes.txt").write_text("mine too")
    with pytest.raises(OutputError, match=r"a file that this stage did not write; expected no file there. Move it"):
        cut(scene, chips)
    assert names(chips) == ["notes.txt", "scene_r8_c8.tif"]
    assert cut(scene, chips, overwrite=True).chips_made == 4
    assert (chips / "notes.txt").read_text() == "mine too"


def test_a_run_that_was_killed_goes_on(make_raster, tmp_path):
    """As kill -9 leaves it: chips planned, one of them made but not recorded, one half-written, the lock file there."""
    scene, chips = make_raster(SCENE), tmp_path / "chips"
    cut(scene, chips)
    before = contents(chips)
    ledger = chips / ".chip.ledger.jsonl"
    records = ledger.read_text().splitlines()
    planned = [json.loads(line)["name"] for line in records]
    ledger.write_text("\n".join([json.dumps({"planned": planned}), records[0], records[1][:40]]))
    (chips / planned[2]).unlink()
    (chips / f".part-{planned[2]}").write_bytes(b"II*\0 half")
    (chips / ".chip.lock").write_text("process 1 on elsewhere")
    report = cut(scene, chips)
    assert (report.chips_made, report.chips_kept) == (3, 1)
    assert contents(chips) == before


def test_two_runs_on_one_folder(make_raster, tmp_path):
    scene, chips = make_raster(SCENE), tmp_path / "chips"
    with Outputs(chips, "chip"), pytest.raises(LockedError, match=f"chips: locked by process {os.getpid()} on "):
        cut(scene, chips)
    assert names(chips) == []
    assert cut(scene, chips).chips_made == 4


# 3. The command line, and 4. what it refuses


def fails(capsys: Any, *argv: Path | str) -> str:
    assert main([*map(str, argv), "--quiet", "--workers", "1"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return str(line)


def test_main_writes_and_reports(make_raster, tmp_path, capsys):
    make_raster(SCENE, "data/scenes/town.tif")
    argv = [
        "--data",
        str(tmp_path / "data"),
        "--size",
        "8",
        "6",
        "--overlap",
        "2",
        "--quiet",
        "--json",
        "--workers",
        "1",
    ]
    assert main(argv) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["scenes"], line["chips_made"]) == (1, 8)
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["chips_kept"] == 8
    assert names(tmp_path / "data" / "chips")[0] == "town_r0_c0.tif"


@pytest.mark.parametrize("argv", [["--size", "x"], ["--pad", "black"], ["--nonsense"], ["--workers", "0"]])
def test_main_wrong_usage(argv):
    with pytest.raises(SystemExit, match="2"):
        main(argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--pad", "nodata"], "chip_args.pad: nodata, but"),
        (["--pad", "300"], "chip_args.pad: 300.0; expected a value of uint8"),
        (["--overlap", "8", "--size", "8"], "--size --overlap: chip_args.overlap is 8; expected less than"),
        (["--size", "0"], "chip_args.size is"),
        (["--size", "1", "2", "3"], "chip_args.size is"),
        (["--min-valid", "2"], "chip_args.min_valid is 2.0"),
    ],
)
def test_main_refuses_options(make_raster, tmp_path, capsys, argv, message):
    line = fails(capsys, make_raster(SCENE), tmp_path / "chips", *argv)
    assert message in line
    assert not (tmp_path / "chips").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"junk", "bad.tif: not readable as GTiff"),
        (b"", "bad.tif: 0 bytes; expected a GTiff file"),
        (b'<VRTDataset rasterXSize="20" rasterYSize="20"></VRTDataset>', "bad.tif: not readable as GTiff"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "bad.tif: not readable as GTiff"),
    ],
)
def test_main_refuses_bad_scenes_before_it_writes(make_raster, tmp_path, capsys, content, message):
    good = make_raster(SCENE, "scenes/a.tif")
    (good.parent / "bad.tif").write_bytes(content)
    assert message in fails(capsys, good.parent, tmp_path / "chips")
    assert not (tmp_path / "chips").exists()


def test_main_refuses_other_dtypes_and_absent_scenes(make_raster, tmp_path, capsys):
    wide = make_raster(np.ones((1, 4, 4)), "wide.tif")
    assert "wide.tif: pixels of float64; expected one of uint8" in fails(capsys, wide, tmp_path / "chips")
    assert "no such file or folder" in fails(capsys, tmp_path / "absent", tmp_path / "chips")


def test_stage_refuses_scenes_of_one_name(make_raster, tmp_path):
    make_raster(SCENE, "scenes/a.tif")
    make_raster(SCENE, "scenes/a.tiff")
    with pytest.raises(MismatchError, match=r"a.tiff: the same name as .*a.tif; expected files of different names"):
        cut(tmp_path / "scenes", tmp_path / "chips")
    with pytest.raises(MissingInputError, match="no such file or folder"):
        cut(tmp_path / "absent", tmp_path / "chips")


@pytest.mark.parametrize("size", ["16k", "160k", "400k"])
def test_a_full_disk_is_never_a_success(make_raster, tmp_path, capfd, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        noise = np.random.default_rng(0).integers(0, 255, (3, 600, 600), "uint8")
        line = fails(capfd, make_raster(noise), disk / "chips", "--size", "300")
        assert "not written (" in line
        assert "expected a writable folder with space left" in line
        for name in names(disk / "chips"):
            assert read(disk / "chips" / name)[0].shape == (3, 300, 300)
        assert not list((disk / "chips").glob(".part-*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# 5. Real data


def test_chips_of_real_scenes(tmp_path):
    scenes = raster_files(real("spacenet1_rio/8band"))
    report = cut(real("spacenet1_rio/8band"), tmp_path / "chips", size=64, workers=2)
    assert (report.scenes, report.chips_made) == (len(scenes), 4 * len(scenes))
    pixels, valid = read(scenes[0])
    chip = tmp_path / "chips" / chip_name(scenes[0], 64, 64)
    found, found_valid = read(chip)
    rows, cols = pixels.shape[1] - 64, pixels.shape[2] - 64
    np.testing.assert_array_equal(found[:, :rows, :cols], pixels[:, 64:, 64:])
    np.testing.assert_array_equal(found_valid[:rows, :cols], valid[64:, 64:])
    assert not found_valid[rows:].any()
    assert (found[:, rows:] == 65535).all()


@pytest.mark.parametrize(
    ("scene", "noted"),
    [
        ({}, 4),
        ({"dtype": "float32"}, 0),  # which may hold NaN
        ({"nodata": 0}, 0),
        ({"crs": "+proj=laea +lat_0=27 +lon_0=85"}, 0),  # no EPSG number says it
        ({"rows": 19}, 2),  # the last row is padded
    ],
)
def test_where_chips_lie_is_noted_if_every_pixel_is_valid(make_raster, tmp_path, scene, noted):
    pixels = np.ones((2, scene.pop("rows", 20), 20), scene.pop("dtype", "uint8"))
    src = make_raster(pixels, **scene)
    assert cut(src, tmp_path / "chips", size=10).chips_made == 4
    found = 0
    for path in raster_files(tmp_path / "chips"):
        with open_raster(path) as opened:
            assert noted_grid(path) in (None, grid_of(opened))
            found += noted_grid(path) is not None
            assert noted_grid(path) is None or all_valid(opened)
    assert found == noted
    for path in raster_files(tmp_path / "chips"):  # a mask beside one is heeded
        make_raster(np.zeros((10, 10), "uint8"), f"chips/{path.name}.msk")
        assert noted_grid(path) is None


@pytest.mark.parametrize("note", [7, [1], ["x"] * 9, [32644, 1, 0, 0, 0, -1, 0, 10**7, 10**7], [1] * 9, [32644] * 12])
def test_a_note_that_somebody_made_up_is_passed_over(make_raster, tmp_path, note):
    path = make_raster(np.ones((4, 4), "uint8"), "chips/a.tif")
    entry = {"name": "a.tif", "key": "1", "sha256": digest(path), "all_valid_on": note}
    (path.parent / ".chip.ledger.jsonl").write_text(line_of(entry))
    assert noted_grid(path) is None


def test_scenes_one_after_another_stay(make_raster, tmp_path, capsys):
    for name in ("a", "a_r0_c0", "b"):
        path = make_raster(np.full((40, 40), 7, "uint8"), f"scenes/{name}.tif")
        assert main([str(path), str(tmp_path / "chips"), "--size", "32", "--quiet"]) == 0
    assert len(list((tmp_path / "chips").glob("*.tif"))) == 12
    assert main([str(path), str(tmp_path / "chips"), "--size", "20", "--quiet"]) == 0
    assert capsys.readouterr().err.endswith(
        "removed 3 files that an earlier run made and this one does not (b_r0_c32.tif, …)\n"
    )
    assert len(list((tmp_path / "chips").glob("*.tif"))) == 12


def test_ground_control_points_are_said_to_be_lost(make_raster, tmp_path, capsys):
    path = make_raster(np.ones((8, 8), "uint8"), crs=None)
    points = [GroundControlPoint(row, col, 85.0 + col / 1e4, 27.0 - row / 1e4) for row, col in ((0, 0), (0, 8), (8, 0))]
    with rasterio.open(path, "r+") as dst:
        dst.gcps = (points, "EPSG:4326")
    assert main([str(path), str(tmp_path / "chips"), "--size", "8", "--quiet"]) == 0
    assert "scene.tif: lies nowhere: it has ground control points alone" in capsys.readouterr().err
