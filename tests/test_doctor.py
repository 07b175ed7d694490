"""doctor: the parts that its checks are made of, its command line, and real data, on which nothing may fail."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from imagery import real

import chip.chip
import doctor.doctor as stage
import mask.mask
import split.split
from roofkit.alignment import Scene, shrink
from roofkit.checks import (
    check_environment,
    check_labels,
    check_rasters,
    ground_width,
    is_scrambled,
    raster_facts,
    spread,
)
from roofkit.errors import BadInputError, MismatchError
from roofkit.findings import CAUSES, found, from_error, passed
from roofkit.labels import Labels
from roofkit.mask_checks import MaskFacts, check_score, check_training_masks, check_written_masks, mask_facts
from roofkit.settings import ModelArgs, OutputArgs, TrainingArgs
from unet.backend import start_keras

keras = start_keras()
from keras import layers

from unet.checks import check_batch, check_inputs, check_plan
from unet.frames import FrameStatistics, Sample
from unet.model_checks import check_dead, check_saved, check_threshold, examine_model
from unet.model_file import LoadedModel
from unet.network import Preparation, build_unet
from unet.probe import Probe, Windows, best_threshold, cut_windows, iou_at, window_side

ROOT = Path(__file__).resolve().parent.parent


def only(findings):
    (finding,) = findings
    return finding


# ------------------------------------------------------------------------------------------------------------- findings


def test_a_finding_is_a_line_and_an_error():
    finding = found("pairs", "wrong_pairs", "3 of 4", where="masks", expected="none", fix="Look.")
    sentence = CAUSES["wrong_pairs"].sentence
    assert finding.line() == f"masks: 3 of 4; expected none. {sentence} Look."
    assert isinstance(finding.error(), MismatchError)
    assert str(finding.error()) == finding.line()
    assert passed("pairs", "all").line() == "all."


def test_a_named_problem_becomes_a_finding():
    error = BadInputError("a.tif", "0 bytes", "a GTiff file", "Remove it.")
    finding = from_error("rasters", error, None)
    assert (finding.status, finding.line()) == ("fail", str(error))


# ------------------------------------------------------------------------------------------------------------ alignment


def scene(count=6, *, move=(0, 0), order=None, noise=0.1, side=64):
    """Frames with a bright roof each, and masks that are moved or of other frames."""
    rng = np.random.default_rng(3)
    roofs = np.zeros((count, side, side), bool)
    for roof in roofs:
        top, left = rng.integers(10, 42, 2)
        roof[top : top + rng.integers(6, 12), left : left + rng.integers(6, 12)] = True
    images = roofs[..., None] * np.array([1.0, -0.5]) + rng.normal(0, noise, (count, side, side, 2))
    masks = np.roll(roofs, move, (1, 2))[np.arange(count) if order is None else order]
    return Scene(list(images), list(masks), list(np.ones_like(masks)))


def test_no_shift_where_there_is_none():
    shift = scene().shift()
    assert (shift.rows, shift.cols, shift.iou, shift.sure) == (0, 0, 1.0, False)
    assert shift.score > 6


@pytest.mark.parametrize("move", [(5, 0), (-4, 7), (0, -3)])
def test_a_shift_is_measured(move):
    shift = scene(move=move).shift()
    assert (shift.rows, shift.cols) == move
    assert shift.sure
    assert shift.iou < 0.6


def test_nothing_is_claimed_where_image_and_mask_have_nothing_in_common():
    shift = scene(noise=20.0).shift()
    assert not shift.sure
    fit = scene(12, noise=20.0).fit()
    assert fit.elsewhere == []
    assert abs(fit.score) < 4


def test_images_without_edges():
    flat = Scene([np.zeros((20, 20, 1))] * 4, [np.eye(20, dtype=bool)] * 4, [np.ones((20, 20), bool)] * 4)
    assert not flat.shift().sure
    assert flat.fit().elsewhere == []
    invalid = Scene([np.ones((20, 20, 1))] * 4, [np.eye(20, dtype=bool)] * 4, [np.zeros((20, 20), bool)] * 4)
    assert not invalid.shift().sure


def test_masks_find_their_frames():
    assert scene(12).fit().own == 12
    order = np.roll(np.arange(12), 1)
    fit = scene(12, order=order).fit()
    assert fit.own == 0
    assert len(fit.elsewhere) >= 8
    assert set(fit.elsewhere) <= set(enumerate(order.tolist()))


def test_masks_find_their_frames_in_spite_of_a_shift():
    moved = scene(12, move=(5, -4))
    assert moved.fit(moved.shift()).own == 12


def test_shrink_averages_squares():
    array = np.array([[0, 4, 9], [4, 0, 9], [9, 9, 9]])
    assert shrink(array, 2).tolist() == [[2.0]]
    assert np.allclose(shrink(array[..., None], 3), [[[53 / 9]]])


# ---------------------------------------------------------------------------------------------------------------- files


def test_spread_takes_the_ends():
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread("ab", 5) == ["a", "b"]


def smooth(bands=4, side=32):
    rows, cols = np.mgrid[:side, :side]
    return np.stack([np.sin(rows / 5 + band) * 100 + np.cos(cols / 7) * 50 * band + 500 for band in range(bands)])


def test_scrambled_pixels_are_told_from_images():
    pixels = smooth()
    assert not is_scrambled(pixels)
    assert is_scrambled(pixels.transpose(1, 2, 0).reshape(pixels.shape))
    assert is_scrambled(pixels.reshape(32, 32, 4).transpose(2, 0, 1))
    assert not is_scrambled(np.zeros((3, 4, 4)))
    assert not is_scrambled(pixels[:1])


def test_rasters_without_fault(make_raster):
    facts = [raster_facts(make_raster(smooth().astype("uint16"), f"f/{i}.tif")) for i in range(2)]
    finding = only(check_rasters("frames", facts, 4))
    assert (finding.status, finding.measured) == ("pass", "2 with 4 bands of uint16; 100% valid")


def test_large_rasters_are_looked_at_in_windows(make_raster):
    facts = raster_facts(make_raster(np.full((1, 800, 10), 7, "uint8")))
    assert (facts.size, facts.same, facts.scrambled) == ((800, 10), (7.0,), False)


@pytest.mark.parametrize(
    ("arrays", "options", "cause", "status"),
    [
        ([smooth(3)] * 2, {}, "bands", "fail"),
        ([smooth().transpose(1, 2, 0)] * 2, {}, "axes_scrambled", "fail"),
        ([smooth()] * 2, {"valid": np.zeros((32, 32), bool)}, "nothing_valid", "fail"),
        ([smooth(), smooth().astype("float32")], {}, "images_scaled", "warn"),
        ([smooth() * (np.arange(32) < 8)] * 2, {}, "nothing_valid", "warn"),
        ([smooth() * np.array([1, 0, 1, 1])[:, None, None]] * 2, {}, "flat_band", "warn"),
    ],
)
def test_rasters_with_faults(make_raster, arrays, options, cause, status):
    kept = [a if a.dtype == np.float32 else a.astype("uint16") for a in arrays]
    facts = [raster_facts(make_raster(array, f"f/{i}.tif", **options)) for i, array in enumerate(kept)]
    bad = [finding for finding in check_rasters("frames", facts, 4) if finding.status != "pass"]
    assert [(finding.cause_id, finding.status) for finding in bad] == [(cause, status)]


def test_ground_width(make_raster):
    pixels = np.zeros((4, 6), "uint8")
    assert ground_width(make_raster(pixels, "a.tif")) == pytest.approx(3.0, rel=1e-3)
    degrees = Affine(1e-5, 0, 85.0, 0, -1e-5, 27.0)
    lonlat = make_raster(pixels, "b.tif", crs="EPSG:4326", transform=degrees)
    assert ground_width(lonlat) == pytest.approx(6 * 1.1132 * np.cos(np.deg2rad(27)), rel=1e-2)
    assert ground_width(make_raster(pixels, "c.tif", crs=None)) is None


def some_labels(path, *boxes):
    frame = gpd.GeoDataFrame({"id": [str(i) for i in range(len(boxes))]}, geometry=list(boxes), crs="EPSG:32644")
    return Labels(path, frame, frame.iloc[:0], len(boxes), len(boxes), 0, (), None)


def test_labels_and_masks_that_differ(make_raster, tmp_path):
    labels = some_labels(tmp_path, shapely.box(735000, 2959998, 735002, 2960000))  # the upper left 4 x 4 pixels
    whole = np.zeros((8, 8), "uint8")
    whole[:4, :4] = 255
    frame = make_raster(np.zeros((8, 8), "uint8"), "a.tif")
    for pixels, cause in ((whole, None), (whole[::-1, ::-1], "other_labels"), (whole * 0, MISS)):
        findings = check_labels(labels, [frame], {"a": make_raster(pixels, "m/a.tif")})
        assert [finding.cause_id for finding in findings] == [None, cause]
    assert only(check_labels(some_labels(tmp_path, shapely.box(0, 0, 1, 1)), [frame], {})).cause_id == MISS
    nowhere = make_raster(np.zeros((8, 8), "uint8"), "b.tif", crs=None)
    assert only(check_labels(labels, [nowhere], {})).status == "skip"


MISS = "labels_miss_imagery"
MASK = np.array([[0, 255], [0, 0]], "uint8")


@pytest.mark.parametrize(
    ("array", "cause", "status"),
    [
        (MASK, None, "pass"),
        (MASK // 255, "masks_scaled", "warn"),
        ((MASK / 65025).astype("float32"), "masks_scaled", "fail"),
        (MASK // 2, "masks_scaled", "fail"),
        (np.stack([MASK] * 3), "masks_scaled", "fail"),
        (MASK * 0, MISS, "fail"),
    ],
)
def test_masks_to_train_on(make_raster, array, cause, status):
    finding = only(check_training_masks("training", [mask_facts(make_raster(array))]))
    assert (finding.cause_id, finding.status) == (cause, status)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (MASK // 255, "0 and 1, or probabilities cut to whole numbers: uint8 0, 1"),
        ((MASK / 300).astype("float32"), "probabilities: float32 0, 0.85"),
        (np.array([[0, 3], [90, 254]], "uint8"), "shades of grey, as of probabilities times 255: uint8 0, 3, 90, 254"),
        (np.stack([MASK] * 3), "a picture: 3 bands of uint8"),
        (np.array([[0, 7]], "int16"), "no mask: int16 0, 7"),
        (np.zeros((3, 3), "uint8"), "3 x 3 pixels"),
    ],
)
def test_masks_that_were_written_wrong(make_raster, array, words):
    truth = {"scene": make_raster(MASK, "truth/scene.tif")}
    finding = only(check_written_masks([mask_facts(make_raster(array))], truth))
    assert (finding.cause_id, finding.status) == ("written_wrong", "fail")
    assert finding.measured.startswith(words)


def test_masks_that_were_written_well(make_raster):
    assert only(check_written_masks([mask_facts(make_raster(MASK))], {})).status == "pass"
    blank = only(check_written_masks([mask_facts(make_raster(MASK * 0))], {}))
    assert (blank.cause_id, blank.status) == ("blank", "warn")


@pytest.mark.parametrize(
    ("array", "model_iou", "cause"),
    [
        (MASK, 0.9, None),
        (MASK * 0, 0.0, "blank"),
        (MASK * 0, 0.9, "written_wrong"),
        (255 - MASK, 0.9, "preparation_differs"),
        (255 - MASK, 0.0, None),
    ],
)
def test_masks_against_truth_and_model(make_raster, array, model_iou, cause):
    truth = {"scene": make_raster(MASK, "truth/scene.tif")}
    assert only(check_score([make_raster(array)], truth, model_iou)).cause_id == cause
    assert list(check_score([make_raster(array, "other.tif")], truth, model_iou)) == []


def test_what_is_invalid_in_a_mask_does_not_count(make_raster):
    facts = mask_facts(make_raster(np.array([[0, 255], [99, 255]], "uint8"), nodata=99))
    assert (facts.values, facts.roof) == ((0, 255), 0.5)


def test_files_that_are_no_masks(tmp_path):
    (tmp_path / "a.tif").write_text("no raster")
    with pytest.raises(BadInputError, match=r"a\.tif: not readable"):
        mask_facts(tmp_path / "a.tif")


# --------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("size", "side"), [(640, 128), (512, 128), (256, 128), (128, 128), (96, 96), (64, 64), (650, 650)]
)
def test_window_side(size, side):
    assert window_side(size) == side


def test_best_threshold_by_hand():
    probability = np.array([0.9, 0.8, 0.8, 0.1], np.float32)
    truth = np.array([True, True, False, False])
    assert best_threshold(probability, truth) == (pytest.approx(0.8), pytest.approx(2 / 3))
    assert iou_at(probability, truth, 0.85) == 0.5
    assert iou_at(probability, ~truth & False, 0.95) == 0.0


def test_windows_lie_on_roofs():
    roof = np.zeros((256, 256), bool)
    roof[200:240, 10:50] = True
    image = np.arange(256)[:, None, None] + np.zeros((256, 256, 1))
    windows = cut_windows([Sample(image, roof, np.ones_like(roof)), Sample(image, roof & False, roof)], 4)
    assert windows.images.shape == (1, 128, 128, 1)
    assert windows.roof.sum() == roof.sum()
    assert windows.base == pytest.approx(40 * 40 / 128**2)


def net(*middle):
    x = inputs = keras.Input((16, 16, 2))
    for layer in middle:
        x = layer(x)
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))


def views(side=16, bands=2):
    rng = np.random.default_rng(1)
    roof = np.zeros((2, side, side), bool)
    roof[:, 2:9, 3:12] = True
    images = rng.normal(3, 2, (2, side, side, bands)).astype("float32")
    return Windows(images, roof, np.ones_like(roof))


def test_probe_leaves_the_model_as_it_is_and_takes_any_size():
    model = net(layers.Rescaling(0.5, -1.0), layers.Conv2D(3, 3, padding="same"), layers.BatchNormalization())
    model.compile("adam", "mse")
    before, windows = model.get_weights(), views(12)
    probe = Probe(model)
    assert probe.prepares
    assert np.allclose(probe.inputs(windows.images), windows.images / 2 - 1)
    first = probe.answer(windows.images)
    assert first.shape == (2, 12, 12)
    assert not np.allclose(probe.answer(windows.images, training=True), first)
    assert np.array_equal(probe.answer(windows.images), first)
    ((stored, measured),) = probe.variances(windows.images)
    assert np.allclose(stored, 1.001)
    assert not np.allclose(measured, 1.0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def test_probe_of_a_model_that_adapted_to_its_frames():
    scaling, windows = layers.Normalization(), views()
    model = net(scaling)
    scaling.adapt(windows.images)
    probe = Probe(model)
    assert np.allclose(probe.inputs(windows.images).mean(axis=(0, 1, 2)), 0, atol=1e-3)
    assert np.allclose(probe.answer(windows.images), model.predict(windows.images, verbose=0)[..., 0], atol=1e-5)


def test_probe_of_a_model_with_channels_first():
    sizes = ModelArgs(input_shape=(2, 16, 16), num_layers=0, filters=2, upconv_filters=2)
    probe = Probe(
        build_unet(sizes, OutputArgs(), "channels_first", Preparation(None, [3, 3], [2, 2])), "channels_first"
    )
    windows = views(8)
    assert np.allclose(probe.inputs(windows.images), (windows.images - 3) / 2, atol=1e-6)
    assert probe.answer(windows.images).shape == (2, 8, 8)
    assert probe.features(windows.images).shape == (2, 8, 8, 2)


def test_a_model_of_one_size_is_left_alone():
    x = inputs = keras.Input((4, 4, 2))
    x = layers.Dense(16, activation="sigmoid")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Reshape((4, 4, 1))(x))
    loaded = LoadedModel(model, 0.5, (4, 4), (4, 4), (), "channels_last", 1, 2)
    findings, iou = examine_model(loaded, [], Path("m.h5"))
    assert (only(findings).status, iou) == ("skip", 0.0)


@pytest.mark.parametrize(
    ("images", "masks", "disk", "cause"),
    [
        ([[1.0]], [[1.0]], 1.0, None),
        ([[np.nan]], [[1.0]], 1.0, "unreadable"),
        ([[1.0]], [[1 / 255]], 1.0, "masks_scaled"),
        ([[1.0]], [[0.0]], 0.3, "masks_scaled"),
    ],
)
def test_what_the_generator_yields(images, masks, disk, cause):
    batch = [np.asarray(part, np.float32)[None, ..., None] for part in (images, masks)]
    fact = MaskFacts(Path("m.tif"), 1, "uint8", (1, 1), (0.0, 255.0), disk)
    assert only(check_batch("training", (*batch, np.ones((1, 1, 1), np.float32)), [fact])).cause_id == cause


@pytest.mark.parametrize(("scale", "status"), [(1.0, "pass"), (1e-3, "fail"), (1e3, "warn")])
def test_network_input(scale, status):
    windows = views()
    assert check_inputs("training", windows.images * scale, windows.valid, where="m.h5").status == status
    assert check_inputs("training", windows.images, ~windows.valid, where="m.h5").status == "skip"


def test_plan():
    def causes(**options):
        facts = FrameStatistics((1.0,), (1.0,), 1000, options.pop("roof", 10), 1000)
        steps, balance = options.pop("steps", 500), options.pop("balance", 0.0)
        model = ModelArgs(bachnorm_momentum=options.pop("momentum", 0.9), normalization=options.pop("norm", "batch"))
        return [finding.cause_id for finding in check_plan(facts, steps, TrainingArgs(**options), model, balance)]

    assert causes() == causes(loss="bce", roof=100) == causes(loss="bce", balance=0.5) == [None]
    assert causes(loss="bce") == ["imbalance"]
    assert causes(momentum=0.99, steps=20) == ["batch_statistics"]
    assert causes(momentum=0.99, steps=20, norm="group") == [None]


def test_dead_units():
    relu = layers.Conv2D(4, 1, activation="relu")
    model = net(relu)
    kernel, bias = relu.get_weights()
    for biases, status in (([0] * 4, "pass"), ([-99, -99, -99, 0], "warn"), ([-99] * 4, "fail")):
        relu.set_weights([np.abs(kernel) / 9, bias + biases])
        assert check_dead(Probe(model), views()).status == status


def test_threshold_of_answers():
    windows = views()
    good = np.where(windows.roof, 0.3, 0.1).astype("float32")
    answers = [(good, 0.2, None), (good, 0.5, "threshold"), (good * 0 + 0.1, 0.5, "unlearnt"), (good, 0.25, None)]
    for answer, threshold, cause in answers:
        assert check_threshold(answer, windows, threshold, 0.3, Path("m.h5")).cause_id == cause
    assert check_threshold(good * 0, windows, 0.5, 0.01, Path("m.h5")).cause_id == "imbalance"


@pytest.mark.parametrize(
    ("scale", "share", "trainable", "expected"),
    [
        (1.0, 0.2, True, {"unlearnt"}),  # right scale, but it knows no roof from another pixel
        (1.0, 0.2 / 255, True, {"masks_scaled"}),
        (1 / 65535 / 255, 0.2 / 255, True, {"images_scaled", "masks_scaled"}),
        (1 / 65535 / 255, 0.2 / 255, False, {"images_scaled", "unlearnt"}),  # nothing tells what scale it was taught
    ],
)
def test_why_a_model_has_not_learnt(scale, share, trainable, expected):
    rng = np.random.default_rng(0)
    deviation = 1 if scale == 1 else 300
    roof = np.zeros((4, 16, 16), bool)
    roof[:, 2:9, 3:10] = True
    images = rng.normal(3 * deviation, deviation, (4, 16, 16, 2)).astype("float32")
    norm = layers.BatchNormalization(epsilon=1e-14, trainable=trainable)
    model = net(norm)
    norm.moving_mean.assign(np.full(2, 3 * deviation * scale))
    norm.moving_variance.assign(np.full(2, (deviation * scale) ** 2))
    model.layers[-1].set_weights([np.full((1, 1, 2, 1), 1e-3), np.log([share / (1 - share)])])
    loaded = LoadedModel(model, 0.5, (16, 16), (16, 16), (), "channels_last", 1, 2)
    samples = [Sample(image, mask, np.ones_like(mask)) for image, mask in zip(images, roof)]
    findings = examine_model(loaded, samples, Path("m.h5"))[0]
    assert {finding.cause_id for finding in findings if finding.status == "fail"} == expected


def test_saving_and_loading(monkeypatch):
    model = net(layers.Conv2D(2, 3, padding="same"))
    facts = {"threshold": 0.5, "frame_size": [16, 16], "band_names": [], "data_format": "channels_last"}
    assert check_saved(model, facts, views(), "channels_last").status == "pass"
    other = net(layers.Conv2D(2, 3, padding="same"))
    monkeypatch.setattr(
        "unet.model_checks.save_model", lambda model, path, facts: other.save(path.with_suffix(".keras"))
    )
    monkeypatch.setattr("unet.model_checks.load_model", lambda path: type("Loaded", (), {"model": other}))
    assert check_saved(model, facts, views(), "channels_last").cause_id == "not_saved"


# --------------------------------------------------------------------------------------------------------- command line


def run(tmp_path, *options):
    settings = tmp_path / "settings.json"
    if not settings.exists():
        settings.write_text("{}")
    return stage.main(["--settings", str(settings), *map(str, options)])


def test_help_is_quick():
    started = time.monotonic()
    done = subprocess.run([sys.executable, ROOT / "doctor/doctor.py", "-h"], capture_output=True, text=True, check=True)
    assert "MASKS" in done.stdout
    assert time.monotonic() - started < 5  # a second on a machine that does nothing else


def test_nothing_to_look_at(tmp_path, capsys):
    assert run(tmp_path, "--quiet") == 1
    assert "no imagery, frames or masks" in capsys.readouterr().err


def test_two_models(tmp_path, capsys):
    assert run(tmp_path, "a.h5", "b.keras") == 1
    assert "b.keras: a second model" in capsys.readouterr().err
    assert run(tmp_path, str(tmp_path / "forest.skops")) == 1
    assert "forest.skops: a pixel classifier; expected a network" in capsys.readouterr().err


def test_masks_alone(make_raster, tmp_path, capsys):
    make_raster(MASK // 255, "out/a.tif")
    assert run(tmp_path, tmp_path / "out", "--json") == 1
    printed = capsys.readouterr()
    assert "error: " in printed.err
    report = json.loads(printed.out.splitlines()[-1])
    assert (report["stage"], report["failed"], report["warned"]) == ("doctor", 1, 0)
    assert [finding["check"] for finding in report["findings"]] == ["environment", "masks written"]
    assert "fail masks written: 0 and 1" in printed.out
    assert run(tmp_path, make_raster(MASK, "b.tif"), "--quiet") == 0


def test_an_absent_model_and_frames_without_masks(make_raster, tmp_path, capsys):
    for kind in ("train", "val"):
        for i in range(2):
            make_raster(smooth(3).astype("uint8"), f"data/{kind}_frames/{i}.tif")
        make_raster(np.eye(32, dtype="uint8") * 255, f"data/{kind}_masks/0.tif")
    (tmp_path / "settings.json").write_text(
        json.dumps({"load_dataset_args": {"target_size": [32, 32]}, "model_args": {"input_shape": [32, 32, 3]}})
    )
    assert run(tmp_path, "absent.h5", "--json") == 1
    findings = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    failed = {finding["check"]: finding["cause_id"] for finding in findings if finding["status"] == "fail"}
    assert failed == {"names": "wrong_pairs"}
    assert {"pairs", "generator", "network", "model"} <= {f["check"] for f in findings if f["status"] == "skip"}


def test_an_environment_that_lacks_something(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("roofkit.checks.NEEDED", ("numpy", "no_such_package"))
    assert run(tmp_path, "--quiet", "--json", tmp_path) == 1
    printed = capsys.readouterr()
    assert "error: .venv: No module named 'no_such_package'" in printed.err
    assert len(json.loads(printed.out.splitlines()[-1])["findings"]) == 1


def test_little_space_and_an_idle_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("roofkit.checks._free_disk", lambda folder: 2**20)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    findings = list(check_environment(tmp_path, 0))
    assert [finding.status for finding in findings] == ["pass", "warn", "warn"]
    assert "GiB of memory" in findings[0].measured


# ------------------------------------------------------------------------------------------------------------ real data


def prepare_real(tmp_path, scenes, labels, settings):
    """Chips, masks and frames of real imagery, as the stages make them; the options of all of them."""
    if isinstance(settings, dict):
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        settings = tmp_path / "settings.json"
    for source, name in ((scenes, "scenes"), (labels, "labels")):
        shutil.copytree(source, tmp_path / "data" / name)
    options = ["--settings", str(settings), "--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    for part in (chip.chip, mask.mask, split.split):
        assert part.main([*options, "--quiet"]) == 0
    return options


RGB = {
    "path_args": {"labels": "labels"},
    "load_dataset_args": {"target_size": [128, 128]},
    "model_args": {"input_shape": [128, 128, 3], "num_layers": 3, "filters": 16, "upconv_filters": 24},
    "chip_args": {"size": [128, 128]},
}
REAL = {
    "rio in colour": ("spacenet1_rio/3band", "spacenet1_rio/vectorData/geoJson", RGB),
    "banepa": ("banepa/scenes", "banepa/labels", ROOT / "bench/banepa.json"),
    "rio": ("spacenet1_rio/8band", "spacenet1_rio/vectorData/geoJson", ROOT / "bench/spacenet1.json"),
}


@pytest.mark.parametrize("name", [pytest.param("rio in colour", marks=pytest.mark.slow), "banepa", "rio"])
def test_real_data_has_no_failure(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(stage, "CHECKS", [check for check in stage.CHECKS if check.run is not stage.network])
    scenes, labels, settings = REAL[name]
    options = prepare_real(tmp_path, real(scenes), real(labels), settings)
    assert stage.main([*options, "--json", "--quiet"]) == 0
    findings = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert {"shift: training", "pairs: training"} <= {f["check"] for f in findings if f["status"] == "pass"}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_networks_for_real_data_learn_by_heart(tmp_path, name):
    scenes, labels, settings = REAL[name]
    assert stage.main(prepare_real(tmp_path, real(scenes), real(labels), settings)) == 0
