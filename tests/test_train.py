"""train: learns, keeps the best epoch, repeats exactly, goes on where it was stopped, and says what is wrong."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
from imagery import real

import train.train as stage
from roofkit.ledger import input_digest
from roofkit.settings import LoadDatasetArgs, TrainingArgs
from train.train import (
    base_rate_bias,
    best_row,
    forecast,
    history_text,
    is_over,
    main,
    next_learning_rate,
    replanned,
    waited,
)
from unet.backend import best_precision

ROOT = Path(__file__).resolve().parent.parent
SIDE, BANDS = 16, 3
pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")  # see `uncompiled`


def row(epoch, iou, loss=1.0, rate=0.1):
    values = dict(
        loss=1.0,
        iou=0.0,
        f1=0.0,
        val_loss=loss,
        val_iou=iou,
        val_f1=0.0,
        val_ece=0.0,
        threshold=0.5,
        temperature=1.0,
        seconds=2.0,
    )
    return {"epoch": float(epoch), "learning_rate": rate, **values}


def rows(*ious, **options):
    return [row(i, iou, **options) for i, iou in enumerate(ious, start=1)]


# ------------------------------------------------------------------------------------------------------ pure functions


def test_base_rate_bias_answers_the_share():
    assert 1 / (1 + np.exp(-base_rate_bias(0.02, 1, "sigmoid")[0])) == pytest.approx(0.02)
    background, roof = base_rate_bias(0.02, 2, "softmax")
    assert np.exp(roof) / (np.exp(background) + np.exp(roof)) == pytest.approx(0.02)
    background, roof = base_rate_bias(0.02, 2, "sigmoid")
    assert 1 / (1 + np.exp(-background)) == pytest.approx(0.98)
    assert np.isfinite(base_rate_bias(0.0, 1, "sigmoid")).all()


def test_best_epoch_is_of_highest_iou_then_lowest_loss_then_the_first():
    assert best_row(rows(0.1, 0.4, 0.3))["epoch"] == 2
    assert best_row([row(1, 0.4, 0.9), row(2, 0.4, 0.5), row(3, 0.4, 0.5)])["epoch"] == 2
    assert waited(rows(0.1, 0.4, 0.3, 0.2)) == 2


def test_learning_rate_halves_on_a_plateau_and_waits_again():
    assert next_learning_rate(rows(0.4, 0.3), 2) == 0.1
    assert next_learning_rate(rows(0.4, 0.3, 0.3), 2) == 0.05
    after = rows(0.4, 0.3, 0.3)
    assert next_learning_rate([*after, row(4, 0.3, rate=0.05)], 2) == 0.05
    assert next_learning_rate([*after, row(4, 0.3, rate=0.05), row(5, 0.3, rate=0.05)], 2) == 0.025
    assert next_learning_rate(rows(0.4, *[0.1] * 9), None) == 0.1


def test_training_is_over_after_patience_or_all_epochs():
    assert not is_over([], TrainingArgs(), 1)
    assert is_over(rows(0.4), TrainingArgs(), 1)
    assert is_over(rows(0.4, 0.3, 0.3), TrainingArgs(early_stopping=2), 9)
    assert not is_over(rows(0.4, 0.3, 0.3), TrainingArgs(early_stopping=3), 9)
    assert not is_over(rows(0.4, 0.3, 0.3), TrainingArgs(early_stopping=None), 9)


def test_a_time_limit_is_planned_anew_after_each_epoch():
    assert replanned(rows(0.4, 0.5), TrainingArgs(), 9) == 9
    assert replanned([], TrainingArgs(minutes=1), 9) == 9
    assert replanned(rows(0.4, 0.5), TrainingArgs(minutes=0.09), 9) == 2  # 4 s spent; 1.4 s left, 2 s an epoch
    assert replanned(rows(0.4, 0.5), TrainingArgs(minutes=0.1), 9) == 3
    assert replanned(rows(0.4, 0.5), TrainingArgs(minutes=10, epochs=50), 9) == 50
    slow = [{**row, "seconds": 30.0} for row in rows(0.1)]
    assert replanned([*slow, *rows(0.4, 0.5, 0.5)], TrainingArgs(minutes=1), 9) == 4 + 12  # at the last three's pace


def test_the_forecast_advises_only_when_days_are_at_stake():
    data = LoadDatasetArgs(target_size=(640, 640))
    assert forecast(10.0, 6, data) == "about 10 s an epoch on this machine, 60 s for 6 epochs"
    assert "2.3 days for 50 epochs. Shorter: load_dataset_args.crop_size [320, 320]" in forecast(4000.0, 50, data)


def test_history_text():
    lines = history_text(rows(0.25)).splitlines()
    assert lines[0] == "epoch,loss,iou,f1,val_loss,val_iou,val_f1,val_ece,threshold,temperature,learning_rate,seconds"
    assert lines[1] == "1,1,0,0,1,0.25,0,0,0.5,1,0.1,2"


# ------------------------------------------------------------------------------------------------------------ a project


@pytest.fixture(autouse=True)
def uncompiled(request):
    """Without compiling, which takes seconds for a network of milliseconds; not for tests that ask for `compiled`."""
    import tensorflow as tf

    tf.config.run_functions_eagerly("compiled" not in request.fixturenames)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(autouse=True)
def unmeasured(request, monkeypatch):
    """Without timing steps before the first epoch, which takes as long as an epoch; not for `measured` tests."""
    from unet.backend import start_keras

    start_keras()
    from unet.learner import Learner

    if "measured" not in request.fixturenames:
        monkeypatch.setattr(Learner, "measure", lambda self, train, val: (0.01, 0.01))


@pytest.fixture(autouse=True)
def little_unless_whole(request):
    """With `little`; not for tests that ask for the `whole` network."""
    if "whole" not in request.fixturenames:
        request.getfixturevalue("little")


@pytest.fixture
def whole():
    """The test is about the network itself."""


@pytest.fixture
def measured():
    """The test measures the speed of training, as users do."""


@pytest.fixture
def compiled():
    """The test compiles the network, as users do."""


@pytest.fixture
def project(make_raster, tmp_path):
    """Writes frames whose roofs stand out, and settings for a tiny network; a function that runs train."""
    rng = np.random.default_rng(5)
    for kind, count in (("train", 4), ("val", 2)):
        for i in range(count):
            roof = np.zeros((SIDE, SIDE), bool)
            top, left = rng.integers(0, 9, 2)
            roof[top : top + 6, left : left + 7] = True
            frame = rng.normal(900, 60, (BANDS, SIDE, SIDE)) + roof * np.array([500, -200, 100])[:, None, None]
            make_raster(frame.astype("uint16"), f"data/{kind}_frames/{kind}_{i}.tif")
            make_raster(np.where(roof, 255, 0).astype("uint8"), f"data/{kind}_masks/{kind}_{i}.tif")
    return Project(tmp_path)


class Project:
    def __init__(self, folder):
        self.folder = folder
        self.values = {
            "load_dataset_args": dict(
                target_size=[SIDE, SIDE], channels=BANDS, batch_size=2, zoom_range=0.1, brightness_range=0.1
            ),
            "model_args": dict(
                input_shape=[SIDE, SIDE, BANDS], num_layers=0, filters=4, upconv_filters=4, bachnorm_momentum=0.8
            ),
            "training_args": dict(epochs=2, learning_rate=0.01, precision="float32", doctor=False),
        }
        self.model = folder / "results/results_4.h5"

    def set(self, **changes):
        for name, value in changes.items():
            block = next(b for b, v in self.values.items() if name in v or hasattr(_block(b), name))
            self.values[block][name] = value
        return self

    def run(self, *options):
        path = self.folder / "settings.json"
        path.write_text(json.dumps(self.values))
        return main(["--settings", str(path), "--quiet", *options])

    def history(self):
        with (self.folder / "results/history.csv").open() as file:
            return [{k: v for k, v in line.items() if k != "seconds"} for line in csv.DictReader(file)]

    def weights(self):
        from unet.model_file import load_model

        return load_model(self.model).model.get_weights()

    def path(self, name):
        return self.folder / "data" / name

    def rewrite(self, name, change):
        with rasterio.open(self.path(name), "r+") as dst:
            dst.write(change(dst.read()))


def _block(name):
    from roofkit.settings import Settings

    return getattr(Settings(), name)


def equal(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other))


def test_train_writes_model_history_and_report(project, capsys, monkeypatch):
    reused = []
    monkeypatch.setattr(stage, "reuse_memory", lambda: reused.append(True))
    assert project.run("--json") == 0
    assert len(reused) == 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["train_frames"], report["val_frames"], report["epochs"], report["kept"]) == (4, 2, 2, False)
    assert report["wrote"] == str(project.model)
    lines = project.history()
    assert [line["epoch"] for line in lines] == ["1", "2"]
    best = max(lines, key=lambda line: float(line["val_iou"]))
    assert float(best["val_iou"]) == pytest.approx(report["val_iou"], abs=1e-5)
    names = sorted(p.name for p in project.model.parent.iterdir())
    cards = ["results_4.md", "results_4.stac.json"]
    assert names == [".train.results_4.h5.ledger.jsonl", "history.csv", "results_4.h5", *cards]
    item = json.loads(project.model.with_suffix(".stac.json").read_text())
    assert item["properties"]["mlm:total_parameters"] == report["parameters"]
    assert item["properties"]["mlm:input"][0]["input"]["shape"] == [-1, SIDE, SIDE, BANDS]
    card = project.model.with_suffix(".md").read_text()
    iou = float(re.search(r"^\| IoU \| ([0-9.]+) \| [0-9.]+ to [0-9.]+ \|$", card, re.MULTILINE)[1])
    assert iou == pytest.approx(report["val_iou"], abs=2e-3)


def test_what_is_missing_beside_a_finished_model_is_made_without_training(project, monkeypatch, capsys):
    assert project.run() == 0
    before = project.model.read_bytes()
    card = project.model.with_suffix(".md")
    text = card.read_text()
    card.unlink()
    monkeypatch.setattr(stage.Training, "prepare", lambda *_: pytest.fail("it was trained again"))
    monkeypatch.setattr("unet.export._write", lambda model, part, kind, path: part.write_bytes(model.read_bytes()))
    assert project.run("--export", "onnx", "--json") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["kept"], report["exports"]) == (True, [str(project.model.with_suffix(".onnx"))])
    assert (card.read_text(), project.model.read_bytes()) == (text, before)
    assert project.model.with_suffix(".onnx").read_bytes() == before


def test_a_format_that_cannot_be_written_is_told_before_training(project, monkeypatch, capsys):
    monkeypatch.setattr("unet.export.PACKAGES", {"onnx": ("no_such_package",)})
    assert project.run("--export", "onnx") == 1
    assert 'error: --export onnx: no no_such_package; expected the extra "export".' in capsys.readouterr().err
    assert not project.model.exists()


@pytest.mark.parametrize("precision", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_saved_model_scores_what_the_report_says(project, capsys, precision):
    from unet.model_file import load_model

    assert project.set(epochs=4, precision=precision).run("--json") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    loaded = load_model(project.model)
    assert (loaded.threshold, loaded.frame_size) == (report["threshold"], (SIDE, SIDE))
    assert loaded.band_names == ("band 1", "band 2", "band 3")
    found = roofs = both = 0
    for i in range(2):
        with rasterio.open(project.path(f"val_frames/val_{i}.tif")) as src:
            image = np.moveaxis(src.read().astype("float32"), 0, -1)[None]
        with rasterio.open(project.path(f"val_masks/val_{i}.tif")) as src:
            roof = src.read(1) > 0
        predicted = loaded.model.predict(image, verbose=0)[0, ..., 0] >= loaded.threshold
        found, roofs, both = found + predicted.sum(), roofs + roof.sum(), both + (predicted & roof).sum()
    assert both / (found + roofs - both) == pytest.approx(
        report["val_iou"], abs=1e-3 if precision == "float32" else 0.03
    )


def test_a_tiny_network_overfits_four_frames(project, capsys, compiled, whole):
    for i in range(4):  # validate on the training frames
        for kind in ("frames", "masks"):
            (project.path(f"val_{kind}/val_{i}.tif")).write_bytes(
                project.path(f"train_{kind}/train_{i}.tif").read_bytes()
            )
    project.set(
        epochs=10,
        learning_rate=0.02,
        zoom_range=0.0,
        brightness_range=0.0,
        horizontal_flip=False,
        filters=8,
    )
    assert project.run("--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["val_iou"] > 0.9


def test_the_same_training_gives_the_same_weights(project, compiled):
    assert project.run() == 0
    first, lines = project.weights(), project.history()
    assert project.run("--overwrite") == 0
    assert equal(project.weights(), first)
    assert project.history() == lines


def test_another_seed_gives_other_weights(project):
    assert project.run() == 0
    first = project.weights()
    assert project.set(seed=1).run() == 0
    assert not equal(project.weights(), first)


def test_finished_and_unchanged_is_kept_and_its_history_restored(project, capsys, monkeypatch):
    assert project.run() == 0
    before, lines = project.model.read_bytes(), project.history()
    (project.folder / "results/history.csv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(rasterio, "open", None)  # hashes are compared, and no frame is opened
        assert project.run() == 0
    assert "kept, finished with these frames and settings" in capsys.readouterr().err
    assert (project.model.read_bytes(), project.history()) == (before, lines)
    project.rewrite("train_frames/train_0.tif", lambda pixels: pixels + 1)
    assert project.run() == 0
    assert project.model.read_bytes() != before


class Stop(BaseException):
    pass


@contextlib.contextmanager
def stopped_at(last):
    """A training that begins inside is stopped before that epoch."""
    run_epoch = stage.Training.run_epoch

    def stop(self, epoch, epochs):
        if epoch == last:
            raise Stop
        return run_epoch(self, epoch, epochs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.Training, "run_epoch", stop)
        with pytest.raises(Stop):
            yield


def test_resumed_training_is_bit_equal_to_an_uninterrupted_one(project, compiled):
    project.set(epochs=4, reduce_on_plateau=1)
    assert project.run() == 0
    whole, lines = project.weights(), project.history()
    with stopped_at(3):
        project.run("--overwrite")
    assert project.model.with_suffix(".resume.npz").is_file()
    assert project.run("--resume") == 0
    assert equal(project.weights(), whole)
    assert project.history() == lines
    assert not project.model.with_suffix(".resume.npz").exists()


@pytest.fixture
def stopped(project):
    """A project whose training was stopped after its first epoch."""
    with stopped_at(2):
        project.run()
    return project


def test_resume_with_other_settings_names_the_key(stopped, capsys):
    assert stopped.set(learning_rate=0.5).run("--resume") == 1
    error = capsys.readouterr().err
    assert "error: training_args.learning_rate: 0.5, and 0.01 when training was stopped" in error


def test_resume_with_other_frames(stopped, capsys):
    stopped.rewrite("train_frames/train_0.tif", lambda pixels: pixels + 1)
    assert stopped.run("--resume") == 1
    assert "error: frames and masks: " in capsys.readouterr().err


def test_resume_from_a_broken_state(stopped, capsys):
    state = stopped.model.with_suffix(".resume.npz")
    state.write_bytes(state.read_bytes()[:500])
    assert stopped.run("--resume") == 1
    assert "results_4.resume.npz: not readable" in capsys.readouterr().err


def test_resume_when_the_best_epoch_is_gone(stopped, capsys):
    stopped.model.unlink()
    assert stopped.run("--resume") == 1
    assert "expected the best epoch of the stopped training" in capsys.readouterr().err


def test_starting_over_says_so(stopped, capsys):
    assert stopped.run() == 0
    assert "left by a stopped training; starting over" in capsys.readouterr().err
    assert stopped.run("--overwrite", "--resume") == 0
    assert "no stopped training to continue" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(dict(precision="mixed_bfloat16"), marks=pytest.mark.slow),
        dict(precision="mixed_float16", schedule="cosine", warmup=0.1),
        pytest.param(dict(num_classes=2), marks=pytest.mark.slow),
        dict(loss="dice", steps_per_epoch=1, validation_steps=1),
        dict(data_format="channels_first", input_shape=[BANDS, SIDE, SIDE]),
        dict(rescale=1 / 65535),
    ],
)
def test_settings_that_change_the_network_or_its_training(project, changes):
    from unet.model_file import load_model

    assert project.set(**changes).run() == 0
    loaded = load_model(project.model)
    assert loaded.data_format == changes.get("data_format", "channels_last")
    assert loaded.num_classes == changes.get("num_classes", 1)
    assert {layer.compute_dtype for layer in loaded.model.layers} == {"float32"}


def test_rescaling_changes_nothing_but_the_scale(project):
    """Scaled pixels are normalised in the same way: no setting of rescale can starve the network."""
    from unet.model_file import load_model

    frame = np.full((1, SIDE, SIDE, BANDS), 900, "float32")
    inputs = []
    for rescale in (None, 1 / 65535):
        assert project.set(rescale=rescale, epochs=1).run() == 0
        model = load_model(project.model).model
        import keras

        inputs.append(keras.Model(model.input, model.get_layer("normalise").output).predict(frame, verbose=0))
    np.testing.assert_allclose(*inputs, atol=1e-3)


def test_keras_generator_trains_on_8_bit_rgb(project):
    for kind, count in (("train", 4), ("val", 2)):
        for i in range(count):
            path = project.path(f"{kind}_frames/{kind}_{i}.tif")
            with rasterio.open(path) as src:
                pixels, profile = (src.read() / 8).astype("uint8"), src.profile
            with rasterio.open(path, "w", **profile | {"dtype": "uint8", "photometric": "rgb"}) as dst:
                dst.write(pixels)
    assert project.set(custom=0).run() == 0


def test_keras_generator_on_16_bits_names_the_setting(project, capsys):
    assert project.set(custom=0).run() == 1
    assert "Set load_dataset_args.custom: 1." in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ several devices


SHARED = (
    "import sys, tensorflow as tf; cpu = tf.config.list_physical_devices('CPU')[0]; "
    "half = tf.config.LogicalDeviceConfiguration(); "
    "tf.config.set_logical_device_configuration(cpu, [half, half]); "
    "from train.train import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["group", "batch"])
def test_two_devices_learn_what_one_does(project, whole, normalization):
    """Each of two logical devices takes half of a batch; in float32 and normalised by groups, nothing else differs."""
    project.set(normalization=normalization, loss="bce", epochs=2, batch_size=4, zoom_range=0.0)
    assert project.run() == 0
    alone = project.weights()
    options = ["--settings", str(project.folder / "settings.json"), "--overwrite"]
    done = subprocess.run([sys.executable, "-c", SHARED, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "each batch is shared out over 2 devices" in done.stderr
    for one, two in zip(alone, project.weights(), strict=True):
        own_statistics = normalization == "batch"  # of each device
        np.testing.assert_allclose(one, two, atol=0.1 * max(1.0, np.abs(one).max()) if own_statistics else 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "batch"), [(3, 2), (3, 4), (1, 4)])
def test_two_devices_share_what_does_not_divide(project, count, batch):
    for kind, last in (("train", 4), ("val", 2)):
        for i in range(min(count, last - 1), last):
            for folder in ("frames", "masks"):
                (project.folder / f"data/{kind}_{folder}/{kind}_{i}.tif").unlink()
    project.set(batch_size=batch, epochs=2).run("--dry-run")
    options = ["--settings", str(project.folder / "settings.json")]
    done = subprocess.run([sys.executable, "-c", SHARED, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(project.history()) == 2


def test_a_batch_that_devices_cannot_share(project, capsys, monkeypatch):
    monkeypatch.setattr(stage, "num_devices", lambda: 3)
    assert project.run() == 1
    assert "error: load_dataset_args.batch_size: 2; expected a multiple of 3" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- pretrained


def test_pretrained_starts_from_the_checkpoint_and_is_then_kept(project, capsys):
    assert project.run() == 0
    assert project.set(pretrained=True, epochs=1).run() == 0
    fine = project.model.read_bytes()
    assert project.run() == 0
    assert "kept, finished" in capsys.readouterr().err
    assert project.model.read_bytes() == fine


def test_pretrained_with_another_number_of_bands(project):
    assert project.run() == 0
    before = project.weights()
    for kind in ("train_frames", "val_frames"):
        for path in project.path(kind).iterdir():
            with rasterio.open(path) as src:
                pixels, profile = src.read(), src.profile
            with rasterio.open(path, "w", **profile | {"count": 4}) as dst:
                dst.write(np.concatenate([pixels, pixels[:1]]))
    project.set(pretrained=True, channels=4, input_shape=[SIDE, SIDE, 4], epochs=1, learning_rate=1e-9, ema=0.0)
    assert project.run() == 0
    after = project.weights()
    mean = before[0].mean(axis=2, keepdims=True) * 3 / 4
    np.testing.assert_allclose(after[0], np.repeat(mean, 4, axis=2), atol=1e-5)
    np.testing.assert_allclose(after[2], before[2], atol=1e-5)


def test_pretrained_of_another_shape(project, capsys, whole):
    assert project.run() == 0
    assert project.set(pretrained=True, filters=5).run() == 1
    assert "Make model_args those of that model" in capsys.readouterr().err


def test_pretrained_without_a_checkpoint(project, capsys):
    assert project.set(pretrained=True).run() == 1
    assert "results_4.h5: no such file; expected a trained model" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- doctor


def test_doctor_warns_before_training(project, capsys):
    assert project.set(doctor=True, bachnorm_momentum=0.99, epochs=1).run() == 0
    assert "warning: model_args.bachnorm_momentum: 0.99: after 2 steps 98% of the first" in capsys.readouterr().err


def test_doctor_stops_a_network_that_is_beyond_help(project, capsys, monkeypatch, whole):
    from unet.learner import Learner

    start_from = Learner.start_from

    def dead(self, weights):
        weights[-3] = weights[-3] * 0 - 100.0  # the biases before the last layer: a ReLU that is always 0
        start_from(self, weights)

    monkeypatch.setattr(Learner, "start_from", dead)
    assert project.set(doctor=True).run() == 1
    error = capsys.readouterr().err
    assert "100% of the channels before the last layer have one value everywhere" in error
    assert not project.model.exists()
    assert project.set(doctor=False).run() == 0


# ----------------------------------------------------------------------------------------------------------- logs, time


def tags(folder):
    from tensorflow.core.util import event_pb2
    from tensorflow.python.lib.io import tf_record

    found = []
    for path in sorted(folder.iterdir()):
        for record in tf_record.tf_record_iterator(str(path)):
            event = event_pb2.Event.FromString(record)
            found += [(value.tag, event.step) for value in event.summary.value]
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:tf_record_iterator:DeprecationWarning")
def test_logs_for_tensorboard_begin_anew_with_each_training(project):
    assert project.set(tensorboard=True).run() == 0
    assert project.run("--overwrite") == 0
    found = tags(project.folder / "results/logs")
    assert sorted(found) == sorted({*found})
    assert {("val_iou", 1), ("val_iou", 2), ("loss", 2), ("learning_rate", 1)} <= {*found}


def test_minutes_plan_the_epochs_and_the_plan_outlives_a_stop(project, monkeypatch, capsys):
    from unet.learner import Learner

    monkeypatch.setattr(stage, "replanned", lambda rows, settings, planned: planned)

    monkeypatch.setattr(
        Learner, "measure", lambda self, train, val: (2.0, 1.0)
    )  # 2 steps and 1: 5 s an epoch, 3 in 18 s
    project.set(minutes=0.3, epochs=50, schedule="cosine", verbose=2)
    with stopped_at(2):
        project.run()
    monkeypatch.setattr(Learner, "measure", lambda self, train, val: (20.0, 1.0))  # a busy machine plans fewer
    assert project.run("--resume") == 0
    assert len(project.history()) == 3


@pytest.mark.parametrize(
    "changes",
    [
        dict(architecture="residual_unet", normalization="group", ema=0.9, schedule="cosine", warmup=0.1, dropout=0.2),
        dict(crop_size=[8, 8], roof_balance=0.5, rotation_range=45, cutouts=1, band_drop=0.2, gamma_range=0.1),
        pytest.param(dict(loss="lovasz"), marks=pytest.mark.slow),
        pytest.param(dict(loss="focal", label_smoothing=0.1), marks=pytest.mark.slow),
    ],
)
def test_what_else_can_be_set(project, changes):
    assert project.set(**changes).run() == 0
    assert len(project.history()) == 2


def test_resume_of_a_cosine_with_other_epochs(project, capsys):
    with stopped_at(2):
        project.set(schedule="cosine").run()
    assert project.set(epochs=5).run("--resume") == 1
    assert "training_args.epochs: 5, and 2 when training was stopped" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- errors


def clear(pixels):
    return pixels * 0


@pytest.mark.parametrize("kind", ["train", "val"])
def test_no_roof_in_any_mask(project, capsys, kind):
    for path in project.path(f"{kind}_masks").iterdir():
        project.rewrite(path.relative_to(project.path("")), clear)
    assert project.run() == 1
    assert f"{kind}_masks: no roof pixel in any mask" in capsys.readouterr().err
    assert not project.model.exists()


def test_no_valid_pixel_in_any_frame(project, capsys):
    for path in project.path("train_frames").iterdir():
        project.rewrite(path.relative_to(project.path("")), clear)
        with rasterio.open(path, "r+") as dst:
            dst.nodata = 0
    assert project.run() == 1
    assert "train_frames: no valid pixel in any frame" in capsys.readouterr().err


def test_empty_folder(project, capsys):
    for path in project.path("val_frames").iterdir():
        path.unlink()
    assert project.run() == 1
    assert "val_frames: an empty folder" in capsys.readouterr().err


def test_wrong_channels(project, capsys):
    assert project.set(channels=4, input_shape=[SIDE, SIDE, 4]).run() == 1
    assert "error: load_dataset_args.channels: 4; expected 3, as " in capsys.readouterr().err


def test_a_band_without_contrast_is_named(project, capsys):
    for path in project.path("train_frames").iterdir():
        project.rewrite(path.relative_to(project.path("")), lambda pixels: pixels * np.array([1, 0, 1])[:, None, None])
    assert project.run() == 0
    assert "warning: band 2 has one value in all training frames" in capsys.readouterr().err


def test_frames_that_break_while_training(project, capsys, monkeypatch):
    from unet import datagen

    monkeypatch.setattr(datagen, "CACHE_BYTES", 0)
    run_epoch = stage.Training.run_epoch

    def tear(self, epoch, epochs):
        self.train_pairs[0].frame.write_bytes(b"")
        return run_epoch(self, epoch, epochs)

    monkeypatch.setattr(stage.Training, "run_epoch", tear)
    assert project.run() == 1
    assert "train_0.tif: 0 bytes" in capsys.readouterr().err


def test_loss_that_is_no_number(project, capsys, monkeypatch):
    from unet import losses

    monkeypatch.setitem(losses.LOSSES, "bce_dice", (lambda *rest: losses.bce(*rest) * float("nan"),))
    assert project.run() == 1
    assert "error: training_args.learning_rate: 0.01, and the loss of epoch 1 is nan" in capsys.readouterr().err


def test_blank_results_are_said_aloud(project, capsys, monkeypatch):
    monkeypatch.setattr(stage, "BLANK", 2.0)
    assert project.run() == 0
    assert "masks will be blank or meaningless" in capsys.readouterr().err


def test_a_file_in_the_way_of_the_history(project, capsys):
    (project.folder / "results").mkdir()
    (project.folder / "results/history.csv").write_text("my,notes\n")
    assert project.run() == 1
    assert "history.csv: a file that this stage did not write" in capsys.readouterr().err


def test_a_model_in_the_way(project, capsys):
    project.model.parent.mkdir()
    project.model.write_bytes(b"mine")
    assert project.run() == 1
    assert "results_4.h5: a file that this stage did not write" in capsys.readouterr().err
    assert project.model.read_bytes() == b"mine"


def test_model_of_another_suffix(project, capsys):
    assert project.run(str(project.folder / "model.pt")) == 1
    assert "expected .h5 or .keras" in capsys.readouterr().err


def test_model_and_epochs_from_the_command_line(project):
    assert project.run(str(project.folder / "other.keras"), "--epochs", "1") == 0
    assert (project.folder / "other.keras").is_file()
    assert len(project.history()) == 1


def test_wrong_usage(project):
    with pytest.raises(SystemExit, match="2"):
        main(["--epochs", "0"])


def test_progress_lines(project, capsys, measured):
    path = project.folder / "settings.json"
    path.write_text(json.dumps(project.values))
    assert main(["--settings", str(path)]) == 0
    error = capsys.readouterr().err
    assert "an epoch on this machine" in error
    lines = [line for line in error.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "s left" in lines[0]
    project.set(verbose=0)
    path.write_text(json.dumps(project.values))
    assert main(["--settings", str(path), "--overwrite"]) == 0
    assert "epoch" not in capsys.readouterr().err


def test_help_is_quick_and_without_keras():
    code = "import sys, train.train; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signals_end_training_and_leave_the_best_epoch(project, number, status):
    from unet.model_file import load_model

    project.set(epochs=100_000, early_stopping=None)
    (project.folder / "settings.json").write_text(json.dumps(project.values))
    command = [sys.executable, str(ROOT / "train/train.py"), "--settings", str(project.folder / "settings.json")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
    state = project.model.with_suffix(".resume.npz")
    until = time.monotonic() + 120
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(number)
    started = time.monotonic()
    try:
        assert process.wait(60) == status
    finally:
        process.kill()
    assert time.monotonic() - started < 5
    assert load_model(project.model).frame_size == (SIDE, SIDE)
    assert input_digest(project.model)  # it may be used, though its card is not there
    names = sorted(p.name for p in project.model.parent.iterdir())
    assert names == [".train.results_4.h5.ledger.jsonl", "history.csv", "results_4.h5", "results_4.resume.npz"]


# ------------------------------------------------------------------------------------------------------------ real data


def test_real_eight_band_uint16_frames(project, capsys, compiled, whole):
    source = real("spacenet1_rio/8band")
    chosen = []
    for path in sorted(source.glob("*.tif")):
        labels = source.parent / "vectorData/geoJson" / f"{path.stem.replace('8band_', '')}_Geo.geojson"
        labels = labels if labels.exists() else next(iter(labels.parent.glob(f"*{path.stem[6:]}_*")), labels)
        shapes = [f["geometry"] for f in json.loads(labels.read_text())["features"]] if labels.exists() else []
        if shapes:
            chosen.append((path, shapes))
    assert len(chosen) >= 4, "footprints were not found beside the tiles"
    for kind, part in (("train", chosen[:-2]), ("val", chosen[-2:])):
        for folder in ("frames", "masks"):
            for path in project.path(f"{kind}_{folder}").iterdir():
                path.unlink()
        for i, (path, shapes) in enumerate(part):
            project.path(f"{kind}_frames/{kind}_{i}.tif").write_bytes(path.read_bytes())
            with rasterio.open(path) as src:
                profile = src.profile | dict(count=1, dtype="uint8", photometric="minisblack")
                roof = rasterio.features.rasterize(shapes, src.shape, transform=src.transform, default_value=255)
            with rasterio.open(project.path(f"{kind}_masks/{kind}_{i}.tif"), "w", **profile) as dst:
                dst.write(roof[None].astype("uint8"))
    project.set(target_size=[64, 64], input_shape=[64, 64, 8], channels=8, epochs=3, bachnorm_momentum=0.5)
    assert project.run("--json") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["val_iou"] > 0.02


@pytest.mark.parametrize(
    ("flags", "gpu", "expected"),
    [
        ("fpu avx512f avx512_bf16 vendor_id : AuthenticAMD", None, "mixed_bfloat16"),
        ("fpu avx512_bf16 amx_bf16 vendor_id : GenuineIntel", None, "mixed_bfloat16"),
        ("fpu avx512_bf16 vendor_id : GenuineIntel", None, "float32"),  # AMX hidden by a hypervisor, say
        ("fpu avx2", None, "float32"),
        ("fpu avx2", "9.0\n8.0\n", "mixed_bfloat16"),  # H100 and A100
        ("fpu avx2", "9.0\n7.5\n", "mixed_float16"),  # beside a T4
        ("fpu avx512_bf16", "6.1\n", "float32"),  # P4
        ("fpu avx2", "[N/A]\n", "float32"),
        ("fpu avx512_bf16 amx_bf16 vendor_id : GenuineIntel", "", "float32"),  # another maker's GPU
    ],
)
def test_the_precision_of_this_machine(monkeypatch, flags, gpu, expected):
    def ask(command, **options):
        if gpu is None:
            raise FileNotFoundError(command[0])
        return subprocess.CompletedProcess(command, 0, gpu)

    monkeypatch.setattr("unet.backend.gpu_count", lambda: int(gpu is not None))
    monkeypatch.setattr("unet.backend.subprocess.run", ask)
    monkeypatch.setattr("unet.backend.Path.read_text", lambda self, **options: f"flags : {flags}\n")
    assert best_precision() == expected


def test_a_gpu_that_keras_does_not_use_does_not_count(monkeypatch):
    monkeypatch.setattr("unet.backend.gpu_count", lambda: 0)
    monkeypatch.setattr("unet.backend.gpu_capability", lambda: 9.0)
    monkeypatch.setattr("unet.backend.Path.read_text", lambda self, **options: "flags : fpu avx2\n")
    assert best_precision() == "float32"


def test_where_the_processor_cannot_be_asked_it_is_float32(monkeypatch):
    def absent(self, **options):
        raise FileNotFoundError

    monkeypatch.setattr("unet.backend.gpu_count", lambda: 0)
    monkeypatch.setattr("unet.backend.Path.read_text", absent)
    assert best_precision() == "float32"
