import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from imagery import TRANSFORM, real

import split.split as split_stage
from chip.chip import main as chip
from mask.mask import main as mask
from roofkit.errors import MismatchError, MissingInputError, SettingsError
from roofkit.paths import project_paths
from roofkit.settings import check_settings
from split.split import (
    COLUMNS,
    Ground,
    Measured,
    Pair,
    choose,
    count_pixels,
    lattice,
    layout_of,
    main,
    measure,
    numbered,
    pair_up,
    sharing_ground,
)


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--quiet"])


def failure(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert run(*arguments) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "split.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_count_pixels():
    roof = np.array([[True, False, True], [True, True, False], [False, False, False]])
    valid = np.array([[False, False, False], [True, False, True], [False, True, False]])
    assert count_pixels(roof, valid) == (3, 1, (1, 3, 0, 3))
    assert count_pixels(roof, np.zeros((3, 3), bool)) == (0, 0, (0, 0, 0, 0))


def test_lattice_counts_down_from_the_upper_left():
    x, y = np.array([5, 15, 25, 35, 5, 24.9]), np.array([95, 95, 95, 95, 65, 75.1])
    assert lattice(x, y, (10, 10), 2) == [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 1)]
    assert lattice(x, y, (10, 10), 1)[:4] == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_choose_balances_roof():
    valid, roof = np.full(8, 100), np.array([0, 0, 10, 10, 20, 20, 50, 50])
    chosen = choose(valid, roof, 0.5, seed=0)
    assert valid[chosen].sum() == 400
    assert roof[chosen].sum() == 80  # half of all
    assert choose(valid, roof, 0.5, seed=0).tolist() == chosen.tolist()
    assert any(choose(valid, roof, 0.5, seed=seed).tolist() != chosen.tolist() for seed in range(1, 9))


def test_choose_wants_roof_on_both_sides():
    valid, roof = np.full(6, 100), np.array([0, 0, 0, 0, 9, 9])
    for seed in range(20):
        chosen = choose(valid, roof, 0.2, seed=seed)
        assert roof[chosen].sum() == 9


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1000)), min_size=2, max_size=40), st.floats(0.05, 0.95))
def test_choose_leaves_neither_side_empty(groups, fraction):
    valid = np.array([group[0] for group in groups])
    roof = np.minimum([group[1] for group in groups], valid)
    chosen = choose(valid, roof, fraction, seed=1)
    assert 0 < chosen.sum() < len(groups)


def square(x: float, y: float, side: float = 4, plane: str = "") -> Ground:
    return Ground(plane, shapely.box(x, y, x + side, y + side), shapely.box(x, y, x + side, y + side), 1.0)


def test_sharing_ground():
    grounds = [square(0, 0), square(4, 0), square(3.9, 0), square(9, 9), square(1, 1, plane="s")]
    assert sharing_ground(grounds, [square(-4, 0), square(-1, 3)]).tolist() == [True, False, False, False, False]
    assert sharing_ground(grounds, [square(4 + 1e-9, 0, plane="s")]).tolist() == [False, False, False, False, True]
    assert not sharing_ground(grounds, []).any()
    assert not sharing_ground([square(4, 0)], [square(8 - 1e-8, 0)]).any()  # rounding, not ground


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.booleans()), min_size=1, max_size=12))
def test_sharing_ground_is_what_pixels_say(places):
    train = [(x, y) for x, y, is_val in places if not is_val]
    val = {(x + i, y + j) for x, y, is_val in places if is_val for i in range(4) for j in range(4)}
    expected = [any((x + i, y + j) in val for i in range(4) for j in range(4)) for x, y in train]
    others = [square(x, y) for x, y, is_val in places if is_val]
    assert sharing_ground([square(x, y) for x, y in train], others).tolist() == expected


def test_numbered():
    assert numbered(["train", "left out", "val", "left out", "val"]) == ["train_0", "", "val_0", "", "val_1"]


def test_pair_up(tmp_path):
    frames = [tmp_path / "f" / name for name in ("b_r0_c10.tif", "b_r0_c9.tif", "a.png")]
    masks = [tmp_path / "m" / name for name in ("a.tif", "b_r0_c10.tif", "b_r0_c9.tif")]
    assert [pair.frame.name for pair in pair_up(frames, masks)] == ["a.png", "b_r0_c9.tif", "b_r0_c10.tif"]
    assert [pair.place for pair in pair_up(frames, masks)] == [("a", 0, 0), ("b", 0, 9), ("b", 0, 10)]
    with pytest.raises(MissingInputError, match=r"a\.png: 1 of 3 frames without mask"):
        pair_up(frames, masks[1:])
    with pytest.raises(MissingInputError, match=r"b_r0_c9\.tif: 2 of 3 masks without frame"):
        pair_up(frames[2:], masks)
    with pytest.raises(MismatchError, match=r"a\.tif: the same name as .*a\.png"):
        pair_up([*frames, tmp_path / "f" / "a.tif"], masks)


def layout(dst: Path | None, tmp_path: Path, **names: str) -> dict[str, str]:
    paths = project_paths(check_settings({"path_args": names}), tmp_path)
    found = layout_of(dst, paths)
    assert found.folder == (dst or paths.data)
    return found.names


def test_layout(tmp_path):
    usual = ["train_frames", "train_masks", "val_frames", "val_masks", "split.csv"]
    assert list(layout(None, tmp_path).values()) == usual
    assert list(layout(tmp_path / "d", tmp_path).values()) == usual
    deep = dict(train_frames="t/x", train_masks="t/y", val_frames="v/x", val_masks="v/y", data="data")
    assert list(layout(None, tmp_path, **deep).values()) == ["t/x", "t/y", "v/x", "v/y", "split.csv"]
    assert layout(tmp_path / "d", tmp_path, **deep)["val_masks"] == "v/y"  # the last parts alone would collide
    assert layout(tmp_path / "d", tmp_path, train_frames="sets/tf")["train_frames"] == "tf"
    with pytest.raises(SettingsError, match="expected four different folders"):
        layout(None, tmp_path, train_frames="x", train_masks="x")


@pytest.fixture
def town(make_raster, tmp_path):
    """A scene of 8 x 8 chips of 8 px with roofs along a diagonal, and its masks."""

    def make(
        name: str = "s", *, size: int = 8, overlap: int = 0, shift: tuple[int, int] = (0, 0), **raster: Any
    ) -> Path:
        rows, cols = np.mgrid[:64, :64]
        image = (rows * 64 + cols)[None].astype("uint16")
        transform = TRANSFORM @ Affine.translation(*shift)
        scene = make_raster(image, f"scenes/{name}.tif", transform=transform, **raster)
        size_and_overlap = ["--size", str(size), "--overlap", str(overlap), "--workers", "1", "--quiet"]
        assert chip([str(scene), str(tmp_path / f"chips_{name}"), *size_and_overlap]) == 0
        (tmp_path / "chips").mkdir(exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        for path in (tmp_path / f"chips_{name}").glob("*.tif"):
            draw_mask(path, tmp_path / "masks" / path.name)
            path.rename(tmp_path / "chips" / path.name)
        return tmp_path

    return make


def draw_mask(frame: Path, path: Path) -> None:
    """Roof where row and column of the scene are close."""
    with rasterio.open(frame) as src:
        pixels, valid, profile = src.read(1), src.dataset_mask(), src.profile
    roof = (np.abs(pixels // 64 - pixels % 64) < 10) & (valid > 0)
    with rasterio.open(path, "w", **profile | dict(dtype="uint8", nodata=None)) as dst:
        dst.write(np.where(roof, 255, 0).astype("uint8")[None])


def ground_pixels(folder: Path, side: str) -> set[tuple[int, int]]:
    """Column and row, on the test lattice, of every valid pixel of a side."""
    found: set[tuple[int, int]] = set()
    for path in (folder / f"{side}_frames").iterdir():
        with rasterio.open(path) as src:
            col, row = ~TRANSFORM @ (src.transform.c, src.transform.f)
            rows, cols = np.nonzero(src.dataset_mask())
        found |= set(zip((cols + round(col)).tolist(), (rows + round(row)).tolist()))
    return found


def test_frames_and_masks_are_copied_byte_for_byte(town, capsys):
    folder = town()
    assert run(folder / "chips", folder / "masks", folder / "out", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["train_frames"], report["val_frames"], report["left_out"]) == (48, 16, 0)
    assert report["val_share"] == 0.25
    assert report["val_roof_fraction"] == pytest.approx(report["train_roof_fraction"], rel=0.15)
    rows = rows_of(folder / "out")
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 64
    for row in rows:
        for kind, source in (("frames", "chips"), ("masks", "masks")):
            copy = folder / "out" / f"{row['split']}_{kind}" / f"{row['frame']}.tif"
            assert copy.read_bytes() == (folder / source / f"{row['chip']}.tif").read_bytes()
        assert row["chip"] == f"{row['scene']}_r{row['row']}_c{row['col']}"
        assert row["block"] == f"{int(row['row']) // 16}_{int(row['col']) // 16}"
    for side in ("train", "val"):
        assert [r["frame"] for r in rows if r["split"] == side] == [
            f"{side}_{n}" for n in range(report[f"{side}_frames"])
        ]
    places = [(row["scene"], int(row["row"]), int(row["col"])) for row in rows]
    assert places == sorted(places)
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["block"], set()).add(row["split"])
    assert all(len(found) == 1 for found in sides.values())


@pytest.mark.parametrize(
    ("size", "overlap"),
    [pytest.param(16, 0, marks=pytest.mark.slow), (16, 4), pytest.param(24, 0, marks=pytest.mark.slow)],
)
def test_no_validation_pixel_is_trained_on(town, size, overlap):
    """Two adjoining scenes and one that lies across both, off their grid."""
    town("a", size=size, overlap=overlap)
    valid = np.ones((64, 64), bool)
    valid[20:30, 10:50] = False
    town("b", size=size, overlap=overlap, shift=(64, 0), valid=valid)
    folder = town("c", size=size, overlap=overlap, shift=(53, 37))
    splits, sides = 0, set()
    for by, seed in (("block", 0), ("block", 1), ("random", 0), ("scene", 0)):
        out = folder / f"out_{by}{seed}"
        if run(folder / "chips", folder / "masks", out, "--by", by, "--val-fraction", 0.1, "--seed", seed):
            assert by == "random"  # where chips overlap too much for a split by chips
            continue
        assert not ground_pixels(out, "train") & ground_pixels(out, "val")
        rows = rows_of(out)
        sides |= {row["split"] for row in rows}
        assert all((row["split"] == "left out") == (row["frame"] == "") for row in rows)
        assert len(rows) == len(list((folder / "chips").iterdir()))
        splits += 1
    assert splits >= 3
    assert sides == {"train", "val", "left out"}


def test_adjoining_scenes_share_one_lattice(town):
    town("a", size=16)
    folder = town("b", size=16, shift=(64, 0))
    assert run(folder / "chips", folder / "masks", folder / "out", "--block-size", 3) == 0
    block = {row["chip"]: row["block"] for row in rows_of(folder / "out")}
    assert block["a_r0_c48"] == block["b_r0_c0"] == block["b_r32_c16"] == "0_1"
    assert block["a_r0_c32"] == "0_0"
    assert block["b_r48_c32"] == "1_2"


def test_without_georeferencing_each_scene_has_its_own_lattice(town):
    town("a", size=16, crs=None)
    folder = town("b", size=16, overlap=4, crs=None)
    assert run(folder / "chips", folder / "masks", folder / "out") == 0
    block = {row["chip"]: row["block"] for row in rows_of(folder / "out")}
    assert block["a_r16_c48"] == "a:0_1"
    assert block["b_r24_c12"] == "b:1_0"
    names = {side: [r for r in rows_of(folder / "out") if r["split"] == side] for side in ("train", "val")}
    for scene in "ab":
        pixels = {side: scene_pixels(rows, scene) for side, rows in names.items()}
        assert not pixels["train"] & pixels["val"]


def scene_pixels(rows: list[dict[str, str]], scene: str) -> set[tuple[int, int]]:
    """Row and column of every pixel that chips of 16 px of a scene of 64 px hold."""
    corners = [(int(row["row"]), int(row["col"])) for row in rows if row["scene"] == scene]
    found = {(row + i, col + j) for row, col in corners for i in range(16) for j in range(16)}
    return {place for place in found if max(place) < 64}


def test_scenes_in_two_crs_meet_in_lon_lat(town):
    town("a", size=16)
    folder = town("b", size=16, crs="EPSG:32645")
    assert run(folder / "chips", folder / "masks", folder / "out", "--by", "scene", "--val-fraction", 0.5) == 0
    rows = rows_of(folder / "out")
    assert {(row["scene"], row["split"]) for row in rows} in (
        {("a", "train"), ("b", "val")},
        {("a", "val"), ("b", "train")},
    )


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_png_frames_keep_their_kind(tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text('{"extension_args": {"extension": "png"}}')
    for folder in ("chips", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(4):
        pixels = np.full((1, 8, 8), 60 * i, "uint8")
        profile = dict(height=8, width=8, count=1, dtype="uint8")
        with rasterio.open(tmp_path / "chips" / f"n{i}.png", "w", driver="PNG", **profile) as dst:
            dst.write(pixels)
        with rasterio.open(tmp_path / "masks" / f"n{i}.tif", "w", driver="GTiff", **profile) as dst:
            dst.write(np.where(np.arange(8) < 2 + i, 255, 0).astype("uint8")[None].repeat(8, 0)[None])
    assert run(tmp_path / "chips", tmp_path / "masks", tmp_path / "out", "--settings", settings) == 0
    assert sorted(p.name for p in (tmp_path / "out" / "train_frames").iterdir()) == [f"train_{n}.png" for n in range(3)]
    assert [p.name for p in (tmp_path / "out" / "val_masks").iterdir()] == ["val_0.tif"]


def test_chips_without_a_valid_pixel_are_left_out(town, capsys):
    valid = np.ones((64, 64), bool)
    valid[:16, :16] = False
    valid[20, 20] = False
    folder = town(size=16, valid=valid)
    assert run(folder / "chips", folder / "masks", folder / "out", "--by", "random", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["without_valid_pixel"], report["left_out"]) == (1, 0)
    rows = {row["chip"]: row for row in rows_of(folder / "out")}
    assert (rows["s_r0_c0"]["split"], rows["s_r0_c0"]["frame"]) == ("left out", "")
    assert float(rows["s_r16_c16"]["valid_fraction"]) == pytest.approx(255 / 256, abs=1e-6)
    assert report["train_valid_fraction"] * report["train_frames"] + report["val_valid_fraction"] * report[
        "val_frames"
    ] == pytest.approx(14 + 255 / 256)


def test_roof_counts_valid_pixels_only(make_raster, tmp_path):
    for i in range(2):
        valid, mask_valid = np.ones((4, 4), bool), np.ones((4, 4), bool)
        valid[0], mask_valid[:, 0] = False, False
        make_raster(
            np.ones((4, 4), "uint8"), f"chips/{i}.tif", valid=valid, transform=TRANSFORM @ Affine.translation(4 * i, 0)
        )
        roof = np.zeros((4, 4), "uint8")
        roof[0], roof[1] = 255, 255
        make_raster(roof, f"masks/{i}.tif", valid=mask_valid, transform=TRANSFORM @ Affine.translation(4 * i, 0))
    assert run(tmp_path / "chips", tmp_path / "masks", tmp_path / "out", "--by", "random") == 0
    assert {(row["roof_fraction"], row["valid_fraction"]) for row in rows_of(tmp_path / "out")} == {
        ("0.333333", "0.562500")
    }


def test_masks_of_1_and_of_nodata_0_count_as_others(make_raster, tmp_path):
    for i, options in enumerate(({}, {"nodata": 0})):
        there = {"transform": TRANSFORM @ Affine.translation(2 * i, 0)}
        make_raster(np.ones((2, 2), "uint8"), f"chips/{i}.tif", **there)
        make_raster(np.array([[1, 0], [0, 0]], "uint8"), f"masks/{i}.tif", **there, **options)
    assert run(tmp_path / "chips", tmp_path / "masks", tmp_path / "out", "--by", "random") == 0
    assert {(row["roof_fraction"], row["valid_fraction"]) for row in rows_of(tmp_path / "out")} == {
        ("0.250000", "1.000000")
    }


def test_a_rerun_keeps_and_another_split_replaces(town, capsys):
    folder = town(size=16)
    arguments = (folder / "chips", folder / "masks", folder / "out", "--json")
    assert run(*arguments) == 0
    before = {path: path.read_bytes() for path in (folder / "out").rglob("*.*") if path.suffix != ".lock"}
    assert run(*arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["files_made"], report["files_kept"]) == (0, 33)
    assert {path: path.read_bytes() for path in before} == before
    assert run(*arguments, "--by", "random", "--val-fraction", 0.5, "--seed", 3) == 0
    rows = rows_of(folder / "out")
    for side in ("train", "val"):
        expected = sorted(f"{row['frame']}.tif" for row in rows if row["split"] == side)
        for kind in ("frames", "masks"):
            assert sorted(path.name for path in (folder / "out" / f"{side}_{kind}").iterdir()) == expected
    changed = (folder / "out" / "train_frames" / "train_0.tif").read_bytes()
    assert (
        changed == (folder / "chips" / f"{next(r['chip'] for r in rows if r['frame'] == 'train_0')}.tif").read_bytes()
    )


def test_without_a_change_no_chip_is_read(town, capsys, monkeypatch):
    folder = town(size=16)
    arguments = (folder / "chips", folder / "masks", folder / "out")

    def report(*options: object) -> dict[str, object]:
        assert run(*arguments, "--json", *options) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    measured: list[Pair] = []

    def watched(pair: Pair) -> Measured:
        measured.append(pair)
        return measure(pair)

    monkeypatch.setattr(split_stage, "measure", watched)
    first = report()
    assert len(measured) == 16
    of_run = {"files_made": 0, "files_kept": 33} | dict.fromkeys(("seconds", "resources"))
    assert report() | of_run == first | of_run
    stranger = folder / "out" / "val_frames" / "mine.tif"
    stranger.write_bytes(b"mine")
    assert "mine.tif: a file that split did not write" in failure(capsys, *arguments)
    stranger.unlink()
    assert len(measured) == 16
    (folder / "out" / "train_masks" / "train_0.tif").unlink()
    assert report()["files_made"] == 1
    with rasterio.open(next((folder / "masks").iterdir()), "r+") as mask:
        mask.write(255 - mask.read())
    roofs = ("train_roof_fraction", "val_roof_fraction")
    assert [report()[name] for name in roofs] != [first[name] for name in roofs]
    report("--seed", 5)
    report("--seed", 5)
    assert len(measured) == 64


def test_files_of_others_are_refused(town, capsys):
    folder = town(size=16)
    arguments = (folder / "chips", folder / "masks", folder / "out")
    stranger = folder / "out" / "val_frames" / "mine.tif"
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"mine")
    assert "mine.tif: a file that split did not write" in failure(capsys, *arguments)
    stranger.rename(stranger.with_name("val_0.tif"))
    assert "val_0.tif: a file that this stage did not write" in failure(capsys, *arguments)
    assert (folder / "out" / "val_frames" / "val_0.tif").read_bytes() == b"mine"
    assert not (folder / "out" / "split.csv").exists()


def test_what_an_interrupted_run_left_is_replaced(town):
    folder = town(size=16)
    arguments = (folder / "chips", folder / "masks", folder / "out")
    assert run(*arguments) == 0
    ledger = folder / "out" / ".split.ledger.jsonl"
    names = [line["name"] for line in map(json.loads, ledger.read_text().splitlines()) if "name" in line]
    ledger.write_text(json.dumps({"planned": names}) + "\n")  # killed before any file was recorded
    assert run(*arguments, "--val-fraction", 0.6) == 0
    counts = {side: sum(row["split"] == side for row in rows_of(folder / "out")) for side in ("train", "val")}
    assert counts["train"] < 12
    assert {side: len(list((folder / "out" / f"{side}_masks").iterdir())) for side in counts} == counts


def test_named_problems(town, make_raster, capsys):
    folder = town(size=16)
    chips, masks, out = folder / "chips", folder / "masks", folder / "out"
    assert "only 1 scene (16 chips); expected 2 or more scenes" in failure(capsys, chips, masks, out, "--by", "scene")
    assert "only 1 block (16 chips)" in failure(capsys, chips, masks, out, "--block-size", 4)
    assert "val_fraction" in failure(capsys, chips, masks, out, "--val-fraction", 1)
    assert "no such file or folder" in failure(capsys, chips, folder / "none", out)
    extra = make_raster(np.zeros((16, 16), "uint8"), "masks/other.tif")
    assert "other.tif: 1 of 17 masks without frame" in failure(capsys, chips, masks, out)
    extra.rename(masks / "s_r0_c16.tif")
    assert "s_r0_c16.tif: on another grid (16 x 16 px, EPSG:32644" in failure(capsys, chips, masks, out)
    draw_mask(chips / "s_r0_c16.tif", masks / "s_r0_c16.tif")
    with rasterio.open(masks / "s_r0_c0.tif", "r+") as dst:
        dst.write(7 * np.eye(16, dtype="uint8")[None])
    assert "s_r0_c0.tif: values 0, 7; expected 0 and 255, or 0 and 1" in failure(capsys, chips, masks, out)
    assert not out.exists()


def test_roofs_are_needed_on_both_sides(town, capsys):
    folder = town(size=16)
    chips, masks, out = folder / "chips", folder / "masks", folder / "out"
    for path in masks.glob("*.tif"):
        with rasterio.open(path, "r+") as dst:
            dst.write(np.full((1, 16, 16), 255 if path.stem == "s_r0_c0" else 0, "uint8"))
    assert "no roof pixel in the" in failure(capsys, chips, masks, out)
    with rasterio.open(masks / "s_r0_c0.tif", "r+") as dst:
        dst.write(np.zeros((1, 16, 16), "uint8"))
    assert "masks: no roof pixel in 16 masks" in failure(capsys, chips, masks, out)


def test_nothing_left_to_train_on(make_raster, tmp_path, capsys):
    for name in ("a", "b"):  # two images of one place
        make_raster(np.ones((8, 8), "uint8"), f"chips/{name}.tif")
        make_raster(np.full((8, 8), 255, "uint8"), f"masks/{name}.tif")
    line = failure(capsys, tmp_path / "chips", tmp_path / "masks", tmp_path / "out", "--by", "random")
    assert "no training chip is left: 1 share ground with validation chips" in line
    assert "--by block" in line


def test_defaults_are_the_folders_that_settings_name(town):
    folder = town(size=16)
    assert run("--data", folder) == 0
    assert len(list((folder / "train_frames").iterdir())) == 12
    assert len(rows_of(folder)) == 16


def test_real_town(tmp_path, capsys):
    tiles = sorted(real("banepa/scenes").glob("*.tif"))[:6]
    (tmp_path / "scenes").mkdir()
    for tile in tiles:
        (tmp_path / "scenes" / tile.name).symlink_to(tile)
    common = ["--workers", "1", "--quiet"]
    assert chip([str(tmp_path / "scenes"), str(tmp_path / "chips"), "--size", "256", "--overlap", "64", *common]) == 0
    sql = ["--where", "\"roof:material\" IN ('tin','metal')"]
    roofs = real("banepa/labels/roofs.geojson")
    assert mask([str(tmp_path / "chips"), str(roofs), str(tmp_path / "masks"), *sql, *common]) == 0
    assert run("--data", tmp_path, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["left_out"] > 0
    assert report["val_roof_fraction"] == pytest.approx(report["train_roof_fraction"], rel=0.3)
    sides: dict[str, Any] = {"train": [], "val": []}
    for side, outlines in sides.items():
        for path in (tmp_path / f"{side}_frames").iterdir():
            with rasterio.open(path) as src:
                pixel, mask_rows = src.transform.a * -src.transform.e, src.dataset_mask() > 0
                height, width = mask_rows.any(1).sum(), mask_rows.any(0).sum()
                outlines.append(shapely.box(*rasterio.transform.array_bounds(height, width, src.transform)))
    assert shapely.union_all(sides["train"]).intersection(shapely.union_all(sides["val"])).area < 1e-3 * pixel
