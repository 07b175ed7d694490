"""unet.metrics: counts by hand, exact far beyond what a float32 counts."""

import numpy as np
import pytest

from unet.backend import start_keras

keras = start_keras()
from unet import metrics
from unet.metrics import (
    BASE,
    THRESHOLDS,
    RoofF1,
    RoofIoU,
    ThresholdCounts,
    cooler,
    f1_of,
    iou_of,
)

#                  tp   fn   fp   tn   fp, invalid
TRUTH = np.array([1.0, 1.0, 0.0, 0.0, 0.0], "float32").reshape(1, 1, 5, 1)
PROBABILITY = np.array([0.5, 0.4, 0.9, 0.1, 0.99], "float32").reshape(1, 1, 5, 1)
WEIGHTS = np.array([1, 1, 1, 1, 0], "float32").reshape(1, 1, 5)
SCORES = {RoofIoU: 1 / 3, RoofF1: 1 / 2}


@pytest.mark.parametrize(("kind", "expected"), SCORES.items())
def test_scores_by_hand(kind, expected):
    metric = kind()
    metric.update_state(TRUTH, PROBABILITY, WEIGHTS)
    assert float(metric.result()) == pytest.approx(expected)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_a_set_is_counted_not_averaged():
    metric = RoofIoU()
    metric.update_state(np.ones((1, 1, 3, 1)), np.ones((1, 1, 3, 1)))  # IoU 1
    metric.update_state(np.zeros((1, 1, 1, 1)), np.ones((1, 1, 1, 1)))  # IoU 0
    assert float(metric.result()) == pytest.approx(3 / 4)


def test_blank_masks_score_zero_where_keras_mean_iou_does_not():
    metric = RoofIoU()
    metric.update_state(TRUTH, np.zeros_like(PROBABILITY))
    assert float(metric.result()) == 0.0


def test_other_threshold_and_description():
    metric = RoofIoU.from_config(RoofIoU("low", 0.4).get_config())
    metric.update_state(TRUTH, PROBABILITY, WEIGHTS)
    assert (metric.name, float(metric.result())) == ("low", pytest.approx(2 / 3))


def test_two_classes_and_weights_with_a_last_axis():
    metric = RoofF1()
    truth = np.concatenate([1 - TRUTH, TRUTH], axis=-1)
    probability = np.concatenate([1 - PROBABILITY, PROBABILITY], axis=-1)
    metric.update_state(truth, probability, WEIGHTS[..., None])
    assert float(metric.result()) == pytest.approx(1 / 2)


@pytest.mark.parametrize("kind", [RoofIoU, ThresholdCounts])
def test_counts_are_exact_beyond_float32_and_int32(kind):
    metric = kind()
    many = 2**31 - 5  # an ordinary float32 or int32 would stop or wrap here
    metric._low.assign(np.full(metric._low.shape, BASE - 1, "int32"))
    metric._high.assign(np.full(metric._high.shape, many // BASE, "int32"))
    before = metric.exact()
    for _ in range(3):
        metric.update_state(TRUTH, PROBABILITY, WEIGHTS)
    assert (metric.exact() - before).sum() == 3 * (3 if kind is RoofIoU else 4)
    assert metric.exact().max() > 2**24


def test_threshold_counts_by_hand():
    metric = ThresholdCounts()
    metric.update_state(TRUTH, PROBABILITY, WEIGHTS)
    tp, fp, fn = metric.counts()

    def at(threshold):
        index = int(np.searchsorted(THRESHOLDS, threshold))
        return tp[index], fp[index], fn[index]

    assert at(0.05) == (2, 2, 0)
    assert at(0.35) == (2, 1, 0)
    assert at(0.41) == (1, 1, 1)
    assert at(0.85) == (0, 1, 2)
    assert at(0.95) == (0, 0, 2)
    threshold, *scores = metric.best()
    assert 0.1 < threshold < 0.4  # the middle of those that find both roofs and one false pixel
    assert scores == [pytest.approx(2 / 3), pytest.approx(4 / 5)]
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_thresholds_agree_with_comparing_each():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (2, 20, 20, 1)).astype("float32")
    probability = (
        np.concatenate([THRESHOLDS, rng.random(800 - len(THRESHOLDS))]).astype("float32").reshape(2, 20, 20, 1)
    )
    metric = ThresholdCounts()
    metric.update_state(truth, probability)
    tp, fp, fn = metric.counts()
    for i, threshold in enumerate(THRESHOLDS):
        found = probability >= np.float32(threshold)
        assert tp[i] == (found & (truth > 0)).sum()
        assert fp[i] == (found & (truth == 0)).sum()
        assert fn[i] == (~found & (truth > 0)).sum()


def test_temperature_of_logits_that_are_twice_too_large():
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 1.5, (1, 200, 500, 1))
    truth = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype("float32")
    metric = ThresholdCounts()
    metric.update_state(truth, (1 / (1 + np.exp(-2 * logits))).astype("float32"))
    temperature = metric.temperature()
    assert temperature == pytest.approx(2.0, rel=0.03)
    assert metric.calibration_error(temperature) < 0.01 < 0.05 < metric.calibration_error()


def test_cooler_threshold_makes_the_same_mask():
    logits = np.linspace(-4, 4, 101)
    before = 1 / (1 + np.exp(-logits)) >= 0.3
    after = 1 / (1 + np.exp(-logits / 1.7)) >= cooler(0.3, 1.7)
    assert (before == after).all()
    assert cooler(0.3, 1.0) == pytest.approx(0.3)


def test_no_roof_at_all_is_zero():
    metric = ThresholdCounts()
    assert metric.best()[1:] == (0.0, 0.0)
    assert iou_of(0, 0, 0) == f1_of(0, 0, 0) == 0.0


def test_compiled_model_passes_weights_on():
    model = keras.Sequential([keras.Input((1, 5, 1)), keras.layers.Identity()])
    counts = ThresholdCounts()
    model.compile(loss="mse", weighted_metrics=[metrics.RoofIoU(), counts])
    values = model.evaluate(PROBABILITY, TRUTH, sample_weight=WEIGHTS, verbose=0, return_dict=True)
    assert values["iou"] == pytest.approx(1 / 3)
    assert counts.exact().sum() == 4
