"""evaluate: pairs, scores of pixels, outlines, buildings and probabilities, the JSON file."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from imagery import TRANSFORM, UTM, real
from rasterio.crs import CRS

from evaluate import evaluate as stage
from evaluate.evaluate import boundary_width, find_frames, main, measure, pixel_area, true_roofs
from mask.mask import main as draw_masks
from roofkit.errors import BadInputError, MismatchError, MissingInputError
from roofkit.raster import Grid
from roofkit.settings import EvaluateArgs

PREDICTED = np.array([[255, 255, 0], [0, 0, 0]], np.uint8)
TRUTH = np.array([[255, 0, 255], [255, 0, 0]], np.uint8)
PROBABILITY = np.array([[0.9, 0.8, 0.4], [0.1, 0.1, 0.1]], np.float32)
BLANK = np.zeros((2, 3), np.uint8)


@pytest.fixture
def folders(make_raster, tmp_path):
    make_raster(PREDICTED, "predictions/a.tif")
    make_raster(TRUTH, "masks/a.tif")
    make_raster(BLANK, "predictions/b.tif")
    make_raster(BLANK, "masks/b.tif")
    return [str(tmp_path / "predictions"), str(tmp_path / "masks"), str(tmp_path / "out" / "metrics.json")]


@pytest.fixture
def evaluate(tmp_path):
    """Runs the stage on two folders or files, in this process; what the JSON holds. It must be strict JSON."""

    def run(predictions="predictions", masks="masks", *options, status=0, **settings):
        named = write_settings(tmp_path, evaluate_args=settings)
        dst = tmp_path / "out" / "metrics.json"
        paths = [str(path) for path in (tmp_path / predictions, tmp_path / masks, dst)]
        line = [*paths, "--quiet", "--workers", "1", "--settings", named, *map(str, options)]
        assert main(line) == status
        return json.loads(dst.read_text(), parse_constant=pytest.fail) if status == 0 else None

    return run


def write_settings(folder, **blocks):
    path = folder / "settings.json"
    path.write_text(json.dumps(blocks))
    return str(path)


def pair(make_raster, predicted=PREDICTED, truth=TRUTH):
    """One frame to measure."""
    path = make_raster(predicted, "p.tif")
    make_raster(truth, "t/p.tif")
    return find_frames(path, path.parent / "t")[0]


def counts_of(frame, **settings):
    return measure(frame, settings=EvaluateArgs(**settings), all_touched=False)


def pixel_box(left, top, right, bottom):
    return shapely.box(*(TRANSFORM @ (left, bottom)), *(TRANSFORM @ (right, top)))


def write_labels(path, boxes, kind="tin", crs="EPSG:4326"):
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = gpd.GeoDataFrame({"kind": [kind] * len(boxes)}, geometry=[pixel_box(*box) for box in boxes], crs=UTM)
    labels.to_crs(crs).to_file(path)
    return path


def test_main_writes_total_and_frames(folders, capsys):
    assert main([*folders, "--json", "--quiet", "--workers", "1"]) == 0
    values = json.loads(Path(folders[2]).read_text())
    assert values["counts"] == {"tp": 1, "fp": 1, "fn": 2, "tn": 8}
    assert values["iou"] == pytest.approx(1 / 4)
    assert values["frames"]["b"]["iou"] is None
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["stage"], report["iou"], report["kept"]) == ("evaluate", 0.25, False)


def test_unchanged_is_kept_and_changed_is_redone(folders, make_raster, capsys):
    main([*folders, "--quiet", "--workers", "1"])
    main([*folders, "--json", "--quiet", "--workers", "1"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["kept"], report["iou"]) == (True, 0.25)
    make_raster(TRUTH, "predictions/a.tif")
    main([*folders, "--json", "--quiet", "--workers", "1"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["iou"] == 1.0


def test_invalid_pixels_count_nowhere(make_raster, evaluate):
    make_raster(PREDICTED, "predictions/a.tif", valid=[[True, False, True], [True, True, True]])
    make_raster(TRUTH, "masks/a.tif", valid=[[True, True, False], [True, True, True]])
    values = evaluate()
    assert values["counts"] == {"tp": 1, "fp": 0, "fn": 1, "tn": 2}
    assert values["buildings"] == {
        "precision": 1.0, "recall": 1.0, "f1": 1.0, "tp": 1, "fp": 0, "fn": 0, "truth": "masks",
    }  # fmt: skip


def test_masks_of_0_and_1_count_too(make_raster, evaluate):
    make_raster(PREDICTED // 255, "predictions/a.tif")
    make_raster(TRUTH, "masks/a.tif")
    assert evaluate()["counts"]["tp"] == 1


def test_background_tagged_as_nodata_counts(make_raster, evaluate):
    make_raster(PREDICTED, "predictions/a.tif")
    make_raster(TRUTH, "masks/a.tif", nodata=0)
    assert evaluate()["counts"] == {"tp": 1, "fp": 1, "fn": 2, "tn": 2}


def test_probabilities_are_not_masks(make_raster):
    with pytest.raises(BadInputError, match=r"p\.tif: values 0, 127; expected 0 and 255"):
        counts_of(pair(make_raster, predicted=PREDICTED // 2))


def test_two_bands_are_not_a_mask(make_raster):
    with pytest.raises(BadInputError, match=r"p\.tif: 2 bands; expected a mask of one band"):
        counts_of(pair(make_raster, truth=np.stack([TRUTH, TRUTH])))


def test_missing_partner_is_named(folders, tmp_path, capsys):
    (tmp_path / "masks" / "b.tif").unlink()
    assert main([*folders, "--quiet"]) == 1
    assert "predictions/b.tif: 1 of 2 predictions without mask (b.tif)" in capsys.readouterr().err


def test_frames_in_natural_order(make_raster, evaluate):
    for name in ("val_10", "val_9"):
        make_raster(PREDICTED, f"predictions/{name}.tif")
        make_raster(TRUTH, f"masks/{name}.tif")
    assert list(evaluate()["frames"]) == ["val_9", "val_10"]


def test_other_grid_is_refused(make_raster, folders, capsys):
    make_raster(TRUTH, "masks/a.tif", crs="EPSG:32645")
    assert main([*folders, "--workers", "1"]) == 1
    assert "a.tif: on another grid (3 x 2 px, EPSG:32644" in capsys.readouterr().err
    assert not Path(folders[2]).exists()


def test_other_grid_is_a_mismatch(make_raster):
    with pytest.raises(MismatchError, match="equal size, CRS and transform"):
        counts_of(pair(make_raster, truth=TRUTH[:, :2]))


def test_png_masks_pair_too(tmp_path, evaluate):
    from skimage.io import imsave

    for folder, pixels in (("predictions", PREDICTED), ("masks", TRUTH)):
        (tmp_path / folder).mkdir()
        imsave(tmp_path / folder / "a.png", pixels, check_contrast=False)
    values = evaluate()
    assert values["counts"] == {"tp": 1, "fp": 1, "fn": 2, "tn": 2}
    assert values["buildings"]["fn"] == 2  # the two patches on the left share an edge: IoU 1/3
    assert values["boundary_iou"] == pytest.approx(1 / 4)


def test_no_folder_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none"), str(tmp_path), str(tmp_path / "x.json")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'none'}: no such file or folder; expected")
    assert error.count("\n") == 1


@pytest.mark.parametrize("broken", ["p.tif", "t/p.tif"])
def test_the_broken_one_of_two_files_is_named(make_raster, tmp_path, broken):
    rng = np.random.default_rng(0)
    for name in ("p.tif", "t/p.tif"):
        make_raster(rng.integers(0, 2, (64, 64), np.uint8) * 255, name, compress="deflate")
    path = tmp_path / broken
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes(200) + whole[500:])
    with pytest.raises(BadInputError, match=rf"{path}: broken pixels"):
        counts_of(find_frames(tmp_path / "p.tif", tmp_path / "t")[0])


# probabilities


def test_scores_of_probabilities_by_hand(folders, make_raster, tmp_path, evaluate, capsys):
    make_raster(PROBABILITY, "probabilities/a.tif")
    make_raster(np.zeros((2, 3), np.float32), "probabilities/b.tif")
    values = evaluate("predictions", "masks", "--probabilities", tmp_path / "probabilities")
    # roof at 0.9, 0.4 and 0.1, where two of background are as probable; the other frame only has background
    assert values["pr_auc"] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert values["pr_auc_error"] < 0.2
    squares = 0.1**2 + 0.8**2 + 0.6**2 + 0.9**2 + 2 * 0.1**2
    assert values["brier"] == pytest.approx(squares / 12, abs=1e-3)
    assert values["best_iou"] == pytest.approx(2 / 4)
    assert 0.1 < values["best_threshold"] <= 0.4
    assert values["frames"]["a"]["pr_auc"] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert values["frames"]["b"]["pr_auc"] is None
    assert capsys.readouterr().err == ""


def test_without_probabilities_their_scores_are_null_and_it_says_why(folders, tmp_path, capsys):
    assert main([*folders, "--quiet", "--workers", "1"]) == 0
    values = json.loads(Path(folders[2]).read_text())
    names = ["pr_auc", "pr_auc_error", "ece", "brier", "best_threshold", "best_iou"]
    assert [values[name] for name in names] == [None] * len(names)
    assert values["intervals"]["ece"] is None
    assert "Name their folder with --probabilities. Without them pr_auc, ece," in capsys.readouterr().err


def test_the_projects_probabilities_are_found_and_part_of_what_is_kept(make_raster, tmp_path, capsys):
    make_raster(PREDICTED, "results/predictions/a.tif")
    make_raster(TRUTH, "data/val_masks/a.tif")
    line = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results"), "--quiet", "--json"]

    def report():
        assert main(line) == 0
        out, err = capsys.readouterr()
        return json.loads(out.splitlines()[-1]), err

    first, said = report()
    assert first["pr_auc"] is None
    assert f"note: {tmp_path / 'results' / 'probabilities'}: no such file or folder" in said
    assert f"note: {tmp_path / 'data' / 'labels'}: no roof polygons" in said
    make_raster(PROBABILITY, "results/probabilities/a.tif")
    second, _ = report()
    assert (second["kept"], second["pr_auc"]) == (False, pytest.approx((1 + 2 / 3 + 3 / 6) / 3))
    make_raster(PREDICTED.astype(np.float32) / 255, "results/probabilities/a.tif")
    third, _ = report()
    assert (third["kept"], third["pr_auc"]) == (False, pytest.approx((1 / 2 + 2 * 3 / 6) / 3))
    assert report()[0]["kept"] is True


def test_probabilities_count_where_they_are_valid(make_raster, evaluate, tmp_path):
    make_raster(PREDICTED, "predictions/a.tif")
    make_raster(TRUTH, "masks/a.tif")
    make_raster(np.where(TRUTH > 0, 0.9, np.nan).astype(np.float32), "probabilities/a.tif")
    values = evaluate("predictions", "masks", "--probabilities", tmp_path / "probabilities")
    assert values["counts"] == {"tp": 1, "fp": 1, "fn": 2, "tn": 2}
    assert values["ece"] == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize(
    ("array", "crs", "line"),
    [
        (PROBABILITY * 255, UTM, "a.tif: values 0 to 229.5; expected probabilities, 0 to 1"),
        (PROBABILITY - 1, UTM, "a.tif: values -0.9 to 0; expected probabilities"),
        (np.stack([PROBABILITY, PROBABILITY]), UTM, "a.tif: 2 bands; expected one band of roof probabilities"),
        (PROBABILITY[:, :2], UTM, "a.tif: on another grid (2 x 2 px"),
        (PROBABILITY, "EPSG:32645", "a.tif: on another grid (3 x 2 px, EPSG:32645"),
    ],
)
def test_wrong_probabilities_are_named(make_raster, tmp_path, evaluate, capsys, array, crs, line):
    make_raster(PREDICTED, "predictions/a.tif")
    make_raster(TRUTH, "masks/a.tif")
    make_raster(array, "probabilities/a.tif", crs=crs)
    evaluate("predictions", "masks", "--probabilities", tmp_path / "probabilities", status=1)
    assert line in capsys.readouterr().err


def test_frames_without_probabilities_are_named(folders, make_raster, tmp_path, evaluate, capsys):
    make_raster(PROBABILITY, "probabilities/a.tif")
    evaluate("predictions", "masks", "--probabilities", tmp_path / "probabilities", status=1)
    assert "probabilities: nothing for 1 of 2 predictions (b); expected" in capsys.readouterr().err


# outlines and buildings


def test_boundary_width_is_a_share_of_the_diagonal():
    assert boundary_width((300, 400), 0.02) == 10
    assert boundary_width((2, 3), 0.02) == 1


def test_outlines_and_buildings_of_a_frame_by_hand(make_raster):
    truth, predicted = np.zeros((30, 40), np.uint8), np.zeros((30, 40), np.uint8)
    truth[2:7, 2:7] = truth[20:25, 20:25] = 255
    predicted[2:7, 3:8] = 255  # one pixel to the right: IoU 20/30
    counts = counts_of(pair(make_raster, predicted, truth))
    assert counts["buildings"].tolist() == [1, 0, 1]
    assert counts["boundary"].tolist() == [8, 16 + 16 + 16 - 8]
    assert counts_of(pair(make_raster, predicted, truth), building_iou=0.7)["buildings"].tolist() == [0, 1, 2]
    assert counts_of(pair(make_raster, predicted, truth), boundary=0.06)["boundary"].tolist() == [20, 25 + 30]


def test_polygons_tell_apart_roofs_that_touch():
    truth = np.array([[1, 1, 1, 1, 0, 1]], bool)
    drawn = np.array([[1, 1, 2, 2, 2, 0]], np.int32)
    numbered, judged = true_roofs(truth, np.ones_like(truth), drawn)
    assert numbered.tolist() == [[1, 1, 2, 2, 0, 5]]  # the last is a patch that no polygon touches
    assert judged.all()


def test_a_polygon_that_is_mostly_invalid_is_no_roof_to_find():
    truth = np.array([[1, 1, 0, 0, 0, 0]], bool)
    drawn = np.array([[1, 1, 0, 2, 2, 2]], np.int32)
    valid = np.array([[1, 0, 1, 0, 0, 1]], bool)
    numbered, judged = true_roofs(truth, valid, drawn)
    assert numbered.tolist() == [[1, 0, 0, 0, 0, 0]]  # half of it is valid
    assert judged.tolist() == [[True, False, True, False, False, False]]


@pytest.fixture
def touching(make_raster, tmp_path):
    """Two roofs of 4 x 4 pixels that share an edge, and a prediction of the left one alone."""
    truth, predicted = np.zeros((16, 24), np.uint8), np.zeros((16, 24), np.uint8)
    truth[4:8, 4:12] = predicted[4:8, 4:8] = 255
    make_raster(predicted, "predictions/a.tif")
    make_raster(truth, "masks/a.tif")
    return [(4, 4, 8, 8), (8, 4, 12, 8)]


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
def test_labels_tell_apart_roofs_that_touch(touching, tmp_path, evaluate, crs):
    labels = write_labels(tmp_path / "roofs.gpkg", touching, crs=crs)
    alone = evaluate()["buildings"]
    assert (alone["tp"], alone["fp"], alone["fn"], alone["truth"]) == (1, 0, 0, "masks")  # IoU 16/32
    apart = evaluate("predictions", "masks", "--labels", labels)["buildings"]
    assert (apart["tp"], apart["fp"], apart["fn"], apart["truth"]) == (1, 0, 1, "labels")


def test_the_smaller_of_two_overlapping_polygons_is_on_top(touching, tmp_path, evaluate):
    labels = write_labels(tmp_path / "roofs.gpkg", [(4, 4, 8, 8), (4, 4, 12, 8), (4, 4, 8, 8)])
    buildings = evaluate("predictions", "masks", "--labels", labels)["buildings"]
    assert (buildings["tp"], buildings["fp"], buildings["fn"]) == (1, 0, 1)


def test_the_projects_labels_are_found_selected_and_part_of_what_is_kept(touching, tmp_path, capsys, monkeypatch):
    shutil.move(tmp_path / "masks", tmp_path / "data" / "val_masks")
    shutil.move(tmp_path / "predictions", tmp_path / "results" / "predictions")
    labels = write_labels(tmp_path / "data" / "labels" / "roofs.gpkg", touching)
    places = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]

    def buildings(where):
        named = write_settings(tmp_path, mask_args={"where": where})
        assert main([*places, "--settings", named, "--json"]) == 0
        out, err = capsys.readouterr()
        found = json.loads(out.splitlines()[-1])
        return found["buildings"]["truth"], found["buildings"]["fn"], found["kept"], err

    assert buildings("kind = 'tin'")[:3] == ("labels", 1, False)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "touching_roofs", None)  # where nothing changed, polygons are not read
        assert buildings("kind = 'tin'")[:3] == ("labels", 1, True)
    truth, missed, kept, said = buildings("kind = 'brick'")
    assert (truth, missed, kept) == ("masks", 0, False)
    assert "note: mask_args.where: kind = 'brick' selects none of 2 features" in said
    assert "Without labels, roofs that touch count as one building." in said
    write_labels(labels, [(4, 4, 12, 8)])
    assert buildings("kind = 'tin'")[:3] == ("labels", 0, False)


def test_labels_elsewhere_are_refused_when_they_are_named(touching, tmp_path, evaluate, capsys):
    labels = write_labels(tmp_path / "roofs.gpkg", [(400, 4, 408, 8)])
    evaluate("predictions", "masks", "--labels", labels, status=1)
    assert "roofs.gpkg: no roof on any frame; expected polygons that lie on the frames" in capsys.readouterr().err
    evaluate("predictions", "masks", "--labels", tmp_path / "none.gpkg", status=1)
    assert "none.gpkg: no such file or folder" in capsys.readouterr().err


def test_labels_find_no_place_on_frames_without_a_crs(touching, make_raster, tmp_path, evaluate, capsys):
    labels = write_labels(tmp_path / "roofs.gpkg", touching)
    for folder in ("predictions", "masks"):
        make_raster(np.zeros((16, 24), np.uint8), f"{folder}/a.tif", crs=None)
    evaluate("predictions", "masks", "--labels", labels, status=1)
    assert "roofs.gpkg: no roof on any frame" in capsys.readouterr().err


def test_small_buildings_are_left_out_by_square_metres(touching, evaluate):
    kinds = ("tp", "fp", "fn")  # the prediction is 16 pixels of 0.25 m2, the true roof 32
    assert [evaluate(min_building=3.9)["buildings"][kind] for kind in kinds] == [1, 0, 0]
    assert [evaluate(min_building=4.1)["buildings"][kind] for kind in kinds] == [0, 0, 1]
    assert [evaluate(min_building=8.1)["buildings"][kind] for kind in kinds] == [0, 0, 0]


def test_pixel_area_in_metres_and_degrees(make_raster):
    frame = pair(make_raster)
    assert pixel_area(frame) == pytest.approx(0.25, rel=0.002)
    lonlat = replace(frame, grid=Grid(CRS.from_epsg(4326), Affine(1e-5, 0, 85.5, 0, -1e-5, 27.6), 10, 10))
    assert pixel_area(lonlat) == pytest.approx(1.113 * np.cos(np.radians(27.6)) * 1.108, rel=0.01)


def test_square_metres_need_a_crs(make_raster, tmp_path):
    path = make_raster(PREDICTED, "p.tif", crs=None)
    with pytest.raises(MissingInputError, match=r"p\.tif: no CRS; expected a georeferenced frame, to know square met"):
        counts_of(find_frames(path, path)[0], min_building=3)


@pytest.mark.parametrize("crs", ['LOCAL_CS["a plane"]', "EPSG:4978"])
def test_square_metres_need_a_place_on_earth(make_raster, crs):
    path = make_raster(PREDICTED, "p.tif", crs=crs)
    with pytest.raises(BadInputError, match=r"p\.tif: a place that is not on Earth; expected a georeferenced frame"):
        counts_of(find_frames(path, path)[0], min_building=3)


def test_a_frame_too_large_for_memory_counts_in_the_pixel_scores_only(folders, evaluate, monkeypatch, capsys):
    monkeypatch.setattr(stage, "LARGEST", 5)
    values = evaluate()
    assert values["iou"] == 0.25
    assert (values["boundary_iou"], values["buildings"]["f1"]) == (None, None)
    assert values["too_large"] == ["a", "b"]
    assert (
        "note: 2 frames of more than 5 pixels (a.tif, b.tif) count in the pixel scores only" in capsys.readouterr().err
    )


# intervals and report


def test_intervals_contain_the_scores_and_depend_on_the_settings(folders, evaluate):
    first = evaluate()
    for name in ("iou", "f1", "precision", "recall", "boundary_iou"):
        low, high = first["intervals"][name]
        assert 0 <= low <= first[name] <= high <= 1
    assert first["intervals"]["buildings"].keys() == {"precision", "recall", "f1"}
    assert evaluate(bootstrap=0)["intervals"]["iou"] is None
    assert evaluate()["intervals"] == first["intervals"]


def test_the_intervals_of_one_frame_are_null(make_raster, evaluate):
    make_raster(PREDICTED, "predictions/a.tif")
    make_raster(TRUTH, "masks/a.tif")
    between = evaluate()["intervals"]
    assert set(between.pop("buildings").values()) == set(between.values()) == {None}


def test_workers_change_nothing(folders, evaluate, tmp_path):
    one = evaluate()
    assert main([*folders, "--quiet", "--workers", "2", "--overwrite"]) == 0
    assert json.loads(Path(folders[2]).read_text()) == one


def test_the_summary_shows_scores_with_intervals(folders, capsys):
    assert main([*folders, "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "0.25 (0.25 to 0.25)" in out
    assert "interval confidence" in out
    assert main([*folders, "--workers", "1", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_real_masks_scored_against_themselves_moved(tmp_path, evaluate):
    import rasterio

    scene, labels = real("banepa/scenes/banepa_386690_220243.tif"), real("banepa/labels/roofs.geojson")
    named = write_settings(tmp_path, mask_args={"where": "\"roof:material\" IN ('tin','metal')"})
    assert draw_masks([str(scene), str(labels), str(tmp_path / "masks"), "--settings", named, "--quiet"]) == 0
    (tmp_path / "predictions").mkdir()
    with rasterio.open(tmp_path / "masks" / scene.name) as src:
        roof, profile = src.read(1), src.profile
    with rasterio.open(tmp_path / "predictions" / scene.name, "w", **profile) as dst:
        dst.write(np.roll(roof, 3, axis=1), 1)
    values = evaluate("predictions", "masks", "--labels", labels, boundary=0.005)
    assert values["boundary_iou"] < values["iou"] < 1
    assert values["buildings"]["tp"] > 0
    assert values["buildings"]["truth"] == "labels"
