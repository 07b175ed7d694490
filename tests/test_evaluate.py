"""evaluate: counts, scores, pairs, the JSON file."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluate.evaluate import Counts, compare, count, main
from roofkit.errors import BadInputError, MismatchError

PREDICTED = np.array([[255, 255, 0], [0, 0, 0]], np.uint8)
TRUTH = np.array([[255, 0, 255], [255, 0, 0]], np.uint8)


@pytest.fixture
def folders(make_raster, tmp_path):
    make_raster(PREDICTED, "predictions/a.tif")
    make_raster(TRUTH, "masks/a.tif")
    make_raster(np.zeros((2, 3), np.uint8), "predictions/b.tif")
    make_raster(np.zeros((2, 3), np.uint8), "masks/b.tif")
    return [str(tmp_path / "predictions"), str(tmp_path / "masks"), str(tmp_path / "out" / "metrics.json")]


def test_count_by_hand():
    valid = np.array([[True, True, True], [False, True, True]])
    assert count(PREDICTED > 0, TRUTH > 0, valid) == Counts(tp=1, fp=1, fn=1, tn=2)


def test_scores_by_hand():
    scores = Counts(tp=6, fp=2, fn=4, tn=8).scores()
    assert scores == {"iou": 6 / 12, "f1": 12 / 18, "precision": 6 / 8, "recall": 6 / 10}


def test_scores_of_nothing_are_none():
    assert Counts(tn=5).scores() == {"iou": None, "f1": None, "precision": None, "recall": None}


def test_scores_of_a_blank_prediction_are_zero_not_none():
    assert Counts(fn=5, tn=5).scores()["iou"] == 0


def test_main_writes_total_and_frames(folders, capsys):
    assert main([*folders, "--json", "--quiet"]) == 0
    values = json.loads(Path(folders[2]).read_text())
    assert values["counts"] == {"tp": 1, "fp": 1, "fn": 2, "tn": 8}
    assert values["iou"] == pytest.approx(1 / 4)
    assert values["frames"]["b"]["iou"] is None
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["stage"], report["iou"], report["kept"]) == ("evaluate", 0.25, False)


def test_unchanged_is_kept_and_changed_is_redone(folders, make_raster, capsys):
    main([*folders, "--quiet"])
    main([*folders, "--json", "--quiet"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kept"] is True
    make_raster(TRUTH, "predictions/a.tif")
    main([*folders, "--json", "--quiet"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["iou"] == 1.0


def test_invalid_pixels_count_nowhere(make_raster, tmp_path):
    valid = [[True, False, True], [True, True, True]]
    make_raster(PREDICTED, "p/a.tif", valid=valid)
    make_raster(TRUTH, "m/a.tif", valid=[[True, True, False], [True, True, True]])
    assert main([str(tmp_path / "p"), str(tmp_path / "m"), str(tmp_path / "s.json"), "--quiet"]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["counts"] == {"tp": 1, "fp": 0, "fn": 1, "tn": 2}


def test_masks_of_0_and_1_count_too(make_raster, tmp_path):
    make_raster(PREDICTED // 255, "p/a.tif")
    make_raster(TRUTH, "m/a.tif")
    main([str(tmp_path / "p"), str(tmp_path / "m"), str(tmp_path / "s.json"), "--quiet"])
    assert json.loads((tmp_path / "s.json").read_text())["counts"]["tp"] == 1


def test_background_tagged_as_nodata_counts(make_raster, tmp_path):
    make_raster(PREDICTED, "p/a.tif")
    make_raster(TRUTH, "m/a.tif", nodata=0)
    assert main([str(tmp_path / "p"), str(tmp_path / "m"), str(tmp_path / "s.json"), "--quiet"]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["counts"] == {"tp": 1, "fp": 1, "fn": 2, "tn": 2}


def test_probabilities_are_not_masks(make_raster):
    pair = (make_raster(PREDICTED // 2, "p.tif"), make_raster(TRUTH, "t.tif"))
    with pytest.raises(BadInputError, match=r"p\.tif: values 0, 127; expected 0 and 255"):
        compare(pair)


def test_two_bands_are_not_a_mask(make_raster):
    pair = (make_raster(PREDICTED, "p.tif"), make_raster(np.stack([TRUTH, TRUTH]), "t.tif"))
    with pytest.raises(BadInputError, match=r"t\.tif: 2 bands; expected a mask of one band"):
        compare(pair)


def test_missing_partner_is_named(folders, tmp_path, capsys):
    (tmp_path / "masks" / "b.tif").unlink()
    assert main([*folders, "--quiet"]) == 1
    assert "predictions/b.tif: 1 of 2 predictions without mask (b.tif)" in capsys.readouterr().err


def test_frames_in_natural_order(make_raster, tmp_path):
    for name in ("val_10", "val_9"):
        make_raster(PREDICTED, f"p/{name}.tif")
        make_raster(TRUTH, f"m/{name}.tif")
    assert main([str(tmp_path / "p"), str(tmp_path / "m"), str(tmp_path / "s.json"), "--quiet"]) == 0
    assert list(json.loads((tmp_path / "s.json").read_text())["frames"]) == ["val_9", "val_10"]


def test_other_grid_is_refused(make_raster, folders, tmp_path, capsys):
    make_raster(TRUTH, "masks/a.tif", crs="EPSG:32645")
    assert main([*folders, "--workers", "1"]) == 1
    assert "a.tif: on another grid (3 x 2 px, EPSG:32644" in capsys.readouterr().err
    assert not Path(folders[2]).exists()


def test_other_grid_is_a_mismatch(make_raster):
    pair = (make_raster(PREDICTED, "p.tif"), make_raster(TRUTH[:, :2], "t.tif"))
    with pytest.raises(MismatchError, match="equal size, CRS and transform"):
        compare(pair)


def test_png_masks_pair_too(tmp_path, make_raster):
    from skimage.io import imsave

    make_raster(PREDICTED, "p/a.tif")
    (tmp_path / "m").mkdir()
    imsave(tmp_path / "m" / "a.png", TRUTH, check_contrast=False)
    assert main([str(tmp_path / "p"), str(tmp_path / "m"), str(tmp_path / "s.json"), "--quiet"]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["counts"] == {"tp": 1, "fp": 1, "fn": 2, "tn": 2}


def test_no_folder_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none"), str(tmp_path), str(tmp_path / "x.json")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'none'}: no such file or folder; expected")
    assert error.count("\n") == 1


@pytest.mark.parametrize("broken", ["p", "m"])
def test_the_broken_one_of_two_files_is_named(make_raster, tmp_path, broken):
    from evaluate.evaluate import compare

    rng = np.random.default_rng(0)
    pair = tuple(
        make_raster(rng.integers(0, 2, (64, 64), np.uint8) * 255, f"{n}.tif", compress="deflate") for n in ("p", "m")
    )
    path = tmp_path / f"{broken}.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes(200) + whole[500:])
    with pytest.raises(BadInputError, match=rf"{broken}\.tif: broken pixels"):
        compare(pair)
