"""forest and regression: from frames to a classifier that predict applies and evaluate scores beside the network's."""

import json
import re
import shutil

import numpy as np
import pytest
import rasterio
from affine import Affine
from imagery import real
from rasterio.features import rasterize

from evaluate.evaluate import main as evaluate
from forest.forest import importance
from forest.forest import main as forest
from pixelwise.learning import Chart, calibrate, rebinned
from pixelwise.model_file import load_classifier
from pixelwise.models import Forest
from pixelwise.sampling import PixelSample
from predict.predict import main as predict
from regression.regression import folds
from regression.regression import main as regression
from roofkit import scores

SIDE = 48
PIXELS = dict(scales=[1.0, 2.0], pixels=600, pairs="adjacent")
STAGES = {"forest": forest, "regression": regression}


class Project:
    """Frames of bright, striped roofs on ground, and settings for a small forest and regression."""

    def __init__(self, folder, make_raster, dtype="uint16", bands=3):
        self.folder = folder
        self.values = {
            "pixel_args": dict(PIXELS),
            "forest_args": {"trees": 12, "leaf": 2, "importance": 200},
            "regression_args": {"strengths": [0.01, 1.0], "folds": 3},
        }
        rng = np.random.default_rng(5)
        for kind, count in (("train", 4), ("val", 2)):
            for i in range(count):
                roof = np.zeros((SIDE, SIDE), bool)
                top, left = rng.integers(2, 20, 2)
                roof[top : top + 14, left : left + 17] = True
                stripes = np.sin(np.arange(SIDE) * 1.5) * 60
                frame = rng.normal(400, 40, (bands, SIDE, SIDE)) + roof * (150 + stripes)
                make_raster(frame.astype(dtype), f"data/{kind}_frames/{kind}_{i}.tif")
                make_raster(np.where(roof, 255, 0).astype("uint8"), f"data/{kind}_masks/{kind}_{i}.tif")

    def line(self, *options):
        path = self.folder / "settings.json"
        path.write_text(json.dumps(self.values))
        folders = ["--data", str(self.folder / "data"), "--results", str(self.folder / "results")]
        return [*options, "--settings", str(path), *folders, "--json", "--quiet"]

    def run(self, stage, *options):
        return stage(self.line(*options))

    def path(self, name):
        return self.folder / name


@pytest.fixture
def project(tmp_path, make_raster):
    return Project(tmp_path, make_raster)


def report(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("name", STAGES)
def test_a_classifier_its_picture_and_its_report(project, capsys, name):
    assert project.run(STAGES[name]) == 0
    found = report(capsys)
    assert found["stage"] == name
    assert found["wrote"] == [str(project.path(f"results/{name}{suffix}")) for suffix in (".skops", ".png")]
    assert all(project.path(f"results/{name}{suffix}").is_file() for suffix in (".skops", ".png"))
    assert (found["train_frames"], found["val_frames"], found["pixels"], found["kept"]) == (4, 2, 600, False)
    assert found["val_iou"] > 0.8
    assert found["val_ece"] < 0.05
    loaded = load_classifier(project.path(f"results/{name}.skops"))
    assert loaded.kind == name
    assert len(loaded.features.names) == found["features"]
    assert loaded.threshold == found["threshold"]
    card = project.path(f"results/{name}.md").read_text()
    iou = re.search(r"^\| IoU \| ([0-9.]+) \| ([0-9.]+) to ([0-9.]+) \|$", card, re.MULTILINE)
    assert float(iou[1]) == pytest.approx(found["val_iou"], abs=6e-4)
    assert float(iou[2]) <= float(iou[1]) <= float(iou[3])
    item = json.loads(project.path(f"results/{name}.stac.json").read_text())
    assert item["assets"]["model"]["href"] == f"{name}.skops"
    assert item["properties"]["mlm:framework"] == "scikit-learn"


@pytest.mark.parametrize("name", ["forest", pytest.param("regression", marks=pytest.mark.slow)])
def test_unchanged_it_is_kept_and_the_seed_decides(project, capsys, monkeypatch, name):
    stage, path = STAGES[name], project.path(f"results/{name}.skops")
    assert project.run(stage) == 0
    first, before = report(capsys), path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(rasterio, "open", None)  # hashes are compared, and no frame is opened
        assert project.run(stage) == 0
    again = report(capsys)
    assert again.pop("kept")
    assert not first.pop("kept")
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in first.items() if k != "seconds"}
    assert project.run(stage, "--overwrite", "--workers", "1") == 0
    assert path.read_bytes() == before
    project.values["pixel_args"]["seed"] = 1
    assert project.run(stage) == 0
    assert path.read_bytes() != before


def test_the_seed_of_the_command_line_grows_other_trees(project):
    assert project.run(forest) == 0
    before = project.path("results/forest.skops").read_bytes()
    assert project.run(forest, "--seed", "4") == 0
    assert project.path("results/forest.skops").read_bytes() != before


def test_without_importance_there_is_no_picture(project, capsys):
    project.values["forest_args"]["importance"] = 0
    assert project.run(forest) == 0
    found = report(capsys)
    assert found["most_important"] == []
    assert [path.split("/")[-1] for path in found["wrote"]] == ["forest.skops"]
    assert not project.path("results/forest.png").exists()
    assert project.run(forest) == 0
    assert report(capsys)["kept"]


@pytest.mark.parametrize("name", STAGES)
def test_its_scores_are_those_that_evaluate_finds(project, capsys, name):
    assert project.run(STAGES[name]) == 0
    trained = report(capsys)
    assert project.run(predict, str(project.path(f"results/{name}.skops"))) == 0
    assert report(capsys)["threshold"] == pytest.approx(trained["threshold"])
    folders = [str(project.path(f"results/{name}_{kind}")) for kind in ("predictions", "probabilities")]
    line = [folders[0], str(project.path("data/val_masks")), str(project.path("m.json")), "--probabilities", folders[1]]
    assert project.run(evaluate, *line) == 0
    found = json.loads(project.path("m.json").read_text())
    assert found["iou"] == pytest.approx(trained["val_iou"], abs=1e-6)
    assert found["f1"] == pytest.approx(trained["val_f1"], abs=1e-6)
    assert found["pr_auc"] == pytest.approx(trained["val_pr_auc"], abs=2e-3)
    assert found["ece"] == pytest.approx(trained["val_ece"], abs=2e-3)


def test_all_models_stand_in_one_table(project, capsys):
    """The network is played by the regression, under its own name."""
    for stage in STAGES.values():
        assert project.run(stage) == 0
    shutil.copy(project.path("results/regression.skops"), project.path("results/network.skops"))
    project.values["checkpoint_args"] = {"checkpoint_path": "network.skops"}
    capsys.readouterr()
    assert project.run(predict) == 0
    found = report(capsys)
    assert found["rasters"] == 6
    names = ["predictions", "probabilities", *(f"{n}_{k}" for n in STAGES for k in ("predictions", "probabilities"))]
    assert all(len(list(project.path(f"results/{name}").glob("val_*.tif"))) == 2 for name in names)
    assert project.run(evaluate) == 0
    table = report(capsys)["models"]
    assert list(table) == ["network", "forest", "regression"]
    assert table["network"] == table["regression"] != table["forest"]
    stored = json.loads(project.path("results/metrics.json").read_text())
    assert stored["models"]["forest"]["iou"] == table["forest"]["iou"]
    assert stored["models"]["forest"]["intervals"]["iou"] is not None
    assert stored["iou"] == table["network"]["iou"]
    shutil.rmtree(project.path("results/forest_probabilities"))
    assert project.run(evaluate) == 0
    assert "forest is not scored" in capsys.readouterr().err


def test_a_network_alone_is_compared_with_nothing(project, capsys):
    assert project.run(regression) == 0
    project.values["path_args"] = {"regression": "other.skops"}
    assert project.run(predict, str(project.path("results/regression.skops"))) == 0
    capsys.readouterr()
    assert project.run(evaluate) == 0
    assert report(capsys)["models"] == {}


def test_a_scene_is_mapped_with_polygons(project, make_raster, capsys):
    import geopandas as gpd

    assert project.run(forest) == 0
    rng = np.random.default_rng(8)
    scene = rng.normal(400, 40, (3, 300, 560))
    scene[:, 240:280, 490:530] += 150 + np.sin(np.arange(40) * 1.5) * 60  # across four windows
    valid = np.ones((300, 560), bool)
    valid[:40] = False
    path = make_raster(scene.astype("uint16"), "town.tif", valid=valid)
    out = project.path("out")
    line = [str(project.path("results/forest.skops")), str(path), str(out), "--vectors", str(out / "roofs.gpkg")]
    assert project.run(predict, *line, "--probabilities", str(project.path("p"))) == 0
    with rasterio.open(out / "town.tif") as src, rasterio.open(path) as like:
        mask, measured = src.read(1), src.dataset_mask()
        assert (src.shape, src.crs, src.transform) == (like.shape, like.crs, like.transform)
    with rasterio.open(project.path("p/town.tif")) as src:
        assert src.dtypes == ("float32",)
        assert src.read(1).min() >= 0
        assert src.read(1).max() <= 1
    truth = np.zeros((300, 560), bool)
    truth[240:280, 490:530] = True
    assert ((mask > 0) & truth).sum() / ((mask > 0) | truth).sum() > 0.7
    assert not mask[:40].any()
    assert not measured[:40].any()
    assert measured[40:].all()
    largest = gpd.read_file(out / "roofs.gpkg", layer="roofs")["area_m2"].max()
    assert largest == pytest.approx(400, rel=0.2)
    assert report(capsys)["highest_probability"] > 0.8


def test_other_bands_are_refused(project, make_raster, capsys):
    assert project.run(forest) == 0
    path = make_raster(np.zeros((2, 40, 40), "uint16"), "two.tif")
    assert project.run(predict, str(project.path("results/forest.skops")), str(path), str(project.path("out"))) == 1
    assert "two.tif: 2 bands; expected 3" in capsys.readouterr().err
    assert not list(project.path("out").glob("*.tif"))


def test_an_older_kind_of_model_is_not_read(project, capsys):
    path = project.path("forest.pkl")
    path.write_bytes(b"\x80\x04.")
    assert project.run(predict, str(path), str(project.path("data/val_frames")), str(project.path("out"))) == 1
    assert "forest.pkl" in capsys.readouterr().err
    assert project.run(forest, str(path)) == 1
    assert "a .pkl file; expected .skops" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "value", "line"),
    [
        ("train_masks", 0, "train_masks: no valid roof pixel in any mask"),
        ("val_masks", 0, "val_masks: no valid roof pixel in any mask"),
        ("train_masks", 255, "train_masks: no valid background pixel in any mask"),
    ],
)
def test_a_missing_class_is_one_line(project, capsys, folder, value, line):
    for path in project.path(f"data/{folder}").glob("*.tif"):
        with rasterio.open(path, "r+") as dst:
            dst.write(np.full((1, SIDE, SIDE), value, "uint8"))
    for stage in STAGES.values():
        assert project.run(stage) == 1
        assert line in capsys.readouterr().err
    assert not list(project.path("results").glob("*.skops"))


def test_validation_frames_of_other_bands_are_named(project, make_raster, capsys):
    make_raster(np.zeros((2, SIDE, SIDE), "uint16"), "data/val_frames/val_1.tif")
    assert project.run(forest) == 1
    assert "val_1.tif: 2 bands; expected 3, as" in capsys.readouterr().err


def test_the_importance_of_a_few_pixels_is_refused(project, capsys):
    project.values["forest_args"]["importance"] = 3
    assert project.run(forest) == 1
    assert "forest_args.importance is 3" in capsys.readouterr().err


def test_no_frames_is_one_line(project, capsys):
    shutil.rmtree(project.path("data/train_frames"))
    assert project.run(forest) == 1
    assert "train_frames: no such file or folder" in capsys.readouterr().err


def test_a_regression_that_does_not_end_is_one_line(project, capsys):
    project.values["regression_args"]["iterations"] = 1
    assert project.run(regression) == 1
    assert "regression_args.iterations: 1, and the penalty" in capsys.readouterr().err


def test_of_one_frame_the_strongest_penalty_is_taken(project, capsys):
    for folder in ("train_frames", "train_masks"):
        for path in list(project.path(f"data/{folder}").glob("*.tif"))[1:]:
            path.unlink()
    assert project.run(regression) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out.splitlines()[-1])
    assert (found["strength"], found["log_loss"]) == (0.01, {})
    assert "no frame can be left out" in captured.err


def test_no_frame_is_on_both_sides_of_a_fold():
    frame = np.repeat(np.arange(5), 4)
    sample = PixelSample(np.zeros((20, 1), "f4"), np.tile([True, False], 10), frame)
    parts = list(folds(sample, 3, seed=0))
    assert len(parts) == 3
    assert sum(check.astype(int) for _, check in parts).tolist() == [1] * 20
    for learn, check in parts:
        assert not set(frame[learn]) & set(frame[check])
        assert (learn ^ check).all()
    lonely = PixelSample(np.zeros((20, 1), "f4"), frame == 2, frame)
    assert all((lonely.roof[learn]).any() for learn, _ in folds(lonely, 5, seed=0))
    assert len(list(folds(lonely, 5, seed=0))) == 4  # without frame 2 there would be no roof


def test_what_is_shuffled_and_needed_is_important():
    rng = np.random.default_rng(0)
    values = rng.random((400, 3)).astype("f4")
    stump = Forest(
        np.array([0.5, np.inf, np.inf], "f4"), np.array([1, 1, 2], "u4"), np.array([1, 0, 0], "u2"),
        np.array([0, 0, 1], "f4"), np.array([0, 3]),
    )  # fmt: skip
    loss, spread = importance(stump, PixelSample(values, values[:, 1] > 0.5, np.zeros(400, int)), seed=0)
    assert loss[1] == pytest.approx(0.5, abs=0.1)
    assert loss[[0, 2]].tolist() == [0, 0] == spread[[0, 2]].tolist()


def test_calibration_mends_a_shift_of_log_odds():
    rng = np.random.default_rng(0)
    true = rng.beta(1, 4, 200_000)
    raw = 1 / (1 + np.exp(-(np.log(true / (1 - true)) + 1.5) / 0.6))
    histogram = scores.frame_counts(raw, rng.random(true.size) < true, np.ones(true.size, bool))
    line = calibrate(histogram)
    assert line.slope == pytest.approx(0.6, abs=0.02)
    assert line.offset == pytest.approx(-1.5, abs=0.05)
    assert scores.expected_calibration_error(histogram) > 0.1
    after = rebinned(histogram, line)
    assert after.sum() == histogram.sum()
    assert scores.expected_calibration_error(after) < 0.01
    assert calibrate(histogram[::-1]).slope == 1.0  # it would turn the order round: left as it is


def test_charts_show_the_longest_bars():
    values = np.array([0.1, -5, 3, 0])
    assert Chart("abcd", values, "", "").order().tolist() == [1, 2, 0, 3]
    assert Chart("abcd", values, "", "", signed=False).order().tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_other_dtypes_and_one_band(tmp_path, make_raster, dtype, capsys):
    project = Project(tmp_path, make_raster, dtype="uint16" if dtype == "uint8" else dtype, bands=1)
    if dtype == "uint8":
        for path in project.path("data").glob("*_frames/*.tif"):
            with rasterio.open(path) as src:
                pixels = src.read()
            make_raster(np.clip(pixels // 3, 0, 255).astype("uint8"), str(path.relative_to(tmp_path)))
    for stage in STAGES.values():
        assert project.run(stage) == 0
        assert report(capsys)["val_iou"] > 0.6


@pytest.mark.parametrize("name", STAGES)
def test_signed_pixels_of_eight_bands_with_class_polygons(tmp_path, make_raster, name, capsys):
    """Landsat: forest against the other classes, by halves of a scene; what no polygon covers is invalid."""
    import geopandas as gpd

    folder = real("landsat")
    classes = gpd.read_file(folder / "training_data.shp")
    project = Project(tmp_path, make_raster)
    shutil.rmtree(project.path("data"))
    with rasterio.open(folder / "LE70220491999322EDC01_stack.tif") as src:
        pixels, transform, crs, nodata = src.read(), src.transform, src.crs.to_wkt(), src.nodata
    drawn = zip(classes.geometry, np.where(classes["class"] == "forest", 2, 1))
    known = rasterize(drawn, pixels.shape[1:], transform=transform)
    for kind, cols in (("train", slice(0, 125)), ("val", slice(125, 250))):
        options = dict(transform=transform @ Affine.translation(cols.start, 0), crs=crs)
        make_raster(pixels[..., cols], f"data/{kind}_frames/{kind}_0.tif", nodata=nodata, **options)
        mask = np.where(known[:, cols] == 2, 255, 0).astype("uint8")
        make_raster(mask, f"data/{kind}_masks/{kind}_0.tif", valid=known[:, cols] > 0, **options)
    assert project.run(STAGES[name]) == 0
    found = report(capsys)
    assert found["val_iou"] > 0.8
    assert load_classifier(project.path(f"results/{name}.skops")).features.bands.names[7] == "band 8"
