"""unet.losses: worked by hand, and silent about invalid pixels."""

import math

import numpy as np
import pytest

from unet.backend import start_keras

keras = start_keras()
from unet.losses import LOSSES, RoofLoss, bce, dice, focal, lovasz, tversky

TRUTH = np.array([1, 0, 1, 0], "float32").reshape(1, 2, 2, 1)
PROBABILITY = np.array([0.5, 0.25, 1.0, 0.0], "float32").reshape(1, 2, 2, 1)
WEIGHTS = np.array([1, 1, 0, 0], "float32").reshape(1, 2, 2)


def test_bce_by_hand():
    expected = (math.log(2) + math.log(4 / 3)) / 2  # -log 0.5, -log 0.75 over the two valid pixels
    assert float(bce(TRUTH, PROBABILITY, WEIGHTS)) == pytest.approx(expected, rel=1e-5)
    assert float(bce(TRUTH, PROBABILITY)) == pytest.approx(expected / 2, rel=1e-5)


def test_dice_by_hand():
    assert float(dice(TRUTH, PROBABILITY)) == pytest.approx(1 - (2 * 1.5 + 1) / (2 + 1.75 + 1))
    assert float(dice(TRUTH, PROBABILITY, WEIGHTS)) == pytest.approx(1 - (2 * 0.5 + 1) / (1 + 0.75 + 1))


@pytest.mark.parametrize(("name", "second"), [("bce_dice", dice), ("bce_lovasz", lovasz)])
def test_two_names_are_the_sum(name, second):
    both = bce(TRUTH, PROBABILITY, WEIGHTS) + second(TRUTH, PROBABILITY, WEIGHTS)
    assert float(RoofLoss(name)(TRUTH, PROBABILITY, WEIGHTS)) == pytest.approx(float(both))


def test_smoothed_labels_by_hand():
    expected = -0.9 * math.log(0.5) - 0.1 * math.log(0.5) - 0.1 * math.log(0.25) - 0.9 * math.log(0.75)
    assert float(bce(TRUTH, PROBABILITY, WEIGHTS, smoothing=0.1)) == pytest.approx(expected / 2, rel=1e-5)


def test_focal_by_hand():
    expected = (0.5**2 * math.log(2) + 0.25**2 * math.log(4 / 3)) / 2
    assert float(focal(TRUTH, PROBABILITY, WEIGHTS)) == pytest.approx(expected, rel=1e-5)
    assert float(focal(TRUTH, PROBABILITY, WEIGHTS, gamma=0)) == float(bce(TRUTH, PROBABILITY, WEIGHTS))


def test_focal_with_smoothed_labels_is_lowest_at_the_label():
    costs = [float(focal(TRUTH[:, :1, :1], np.full((1, 1, 1, 1), p), smoothing=0.1)) for p in (0.8, 0.9, 0.99)]
    assert costs[1] == min(costs) == pytest.approx(0, abs=1e-6)


def test_tversky_by_hand():
    both, alarms, missed = 0.5, 0.25, 0.5
    expected = 1 - (both + 0.5) / (both + 0.3 * alarms + 0.7 * missed + 0.5)
    assert float(tversky(TRUTH, PROBABILITY, WEIGHTS)) == pytest.approx(expected)


def test_lovasz_by_hand():
    # Errors .5 (roof), .25, 0, 0; two roofs: IoU 1, then 1/2 without the first roof, then 1/3 with a false alarm too.
    assert float(lovasz(TRUTH, PROBABILITY)) == pytest.approx(0.5 * (1 / 2) + 0.25 * (2 / 3 - 1 / 2))
    # Of the valid two only: IoU 1, 0, 0.
    assert float(lovasz(TRUTH, PROBABILITY, WEIGHTS)) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(8))
def test_lovasz_of_hard_predictions_is_one_minus_iou(seed):
    rng = np.random.default_rng(seed)
    truth, found, valid = rng.random((3, 2, 8, 8)) < np.array([0.2, 0.3, 0.7])[:, None, None, None]
    iou = (truth & found & valid).sum() / ((truth | found) & valid).sum()
    cost = lovasz(*(array[..., None].astype("float32") for array in (truth, found)), valid)
    assert float(cost) == pytest.approx(1 - iou, abs=1e-5)


def test_lovasz_without_roofs_is_the_worst_false_alarm():
    assert float(lovasz(np.zeros_like(TRUTH), PROBABILITY, WEIGHTS)) == pytest.approx(0.5)


def test_two_classes_cost_what_one_does():
    truth = np.concatenate([1 - TRUTH, TRUTH], axis=-1)
    probability = np.concatenate([1 - PROBABILITY, PROBABILITY], axis=-1)
    for loss in map(RoofLoss, LOSSES):
        one = float(loss(TRUTH, PROBABILITY, WEIGHTS))
        assert float(loss(truth, probability, WEIGHTS)) == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_invalid_pixels_cost_nothing(name):
    other = np.where(WEIGHTS[..., None] > 0, PROBABILITY, 1 - PROBABILITY)
    cost = float(RoofLoss(name)(TRUTH, PROBABILITY, WEIGHTS))
    assert float(RoofLoss(name)(TRUTH, other, WEIGHTS)) == pytest.approx(cost, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_no_valid_pixel_costs_zero(name):
    assert float(RoofLoss(name)(TRUTH, PROBABILITY, np.zeros((1, 2, 2)))) == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_perfect_is_zero_and_wrong_is_not(name):
    assert float(RoofLoss(name)(TRUTH, TRUTH)) == pytest.approx(0, abs=1e-5)
    assert float(RoofLoss(name)(TRUTH, 1 - TRUTH)) > 0.5


def test_weights_may_have_a_last_axis():
    assert float(bce(TRUTH, PROBABILITY, WEIGHTS[..., None])) == float(bce(TRUTH, PROBABILITY, WEIGHTS))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_widened(name, dtype):
    cost = RoofLoss(name)(TRUTH, keras.ops.cast(PROBABILITY, dtype), WEIGHTS)
    assert keras.backend.standardize_dtype(cost.dtype) == "float32"
    assert float(cost) == pytest.approx(float(RoofLoss(name)(TRUTH, PROBABILITY, WEIGHTS)))


class Probabilities(keras.layers.Layer):
    """Answers with its weights, whatever comes in."""

    def __init__(self, values):
        super().__init__()
        self.values = self.add_weight(shape=values.shape)
        self.values.assign(values)

    def call(self, inputs):
        return inputs * 0 + self.values


def gradient_of(loss, probability, weights=WEIGHTS):
    """The loss by the probabilities, as one step of a compiled model shows it: with any backend."""
    layer = Probabilities(probability)
    model = keras.Sequential([keras.Input(probability.shape[1:]), layer])
    model.compile(keras.optimizers.SGD(1.0), loss=loss)
    model.train_on_batch(TRUTH, TRUTH, sample_weight=weights)
    return probability - keras.ops.convert_to_numpy(layer.values)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_and_none_comes_from_invalid_pixels(name):
    for probability in (PROBABILITY, TRUTH, 1 - TRUTH):
        gradient = gradient_of(RoofLoss(name), probability)
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[0, 1], 0)


@pytest.mark.parametrize("name", LOSSES)
def test_no_valid_pixel_has_no_gradient(name):
    np.testing.assert_array_equal(gradient_of(RoofLoss(name), PROBABILITY, np.zeros_like(WEIGHTS)), 0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_point_to_the_truth(name):
    gradient = gradient_of(RoofLoss(name), np.full_like(TRUTH, 0.5), np.ones_like(WEIGHTS))[0, :, :, 0]
    assert (gradient[:, 0] < 0).all()  # roofs: more probable costs less
    assert (gradient[:, 1] >= 0).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_focal_has_a_gradient_for_any_gamma(gamma):
    assert np.isfinite(gradient_of(RoofLoss("focal", focal_gamma=gamma), TRUTH)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_model_weighs_with_sample_weights(name):
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Identity()])
    model.compile(loss=RoofLoss(name))
    value = model.evaluate(PROBABILITY, TRUTH, sample_weight=WEIGHTS, verbose=0)
    assert value == pytest.approx(float(RoofLoss(name)(TRUTH, PROBABILITY, WEIGHTS)))


def test_loss_is_described_by_its_name():
    numbers = dict(label_smoothing=0.1, focal_gamma=1.5, tversky_alpha=0.4)
    for name in LOSSES:
        again = RoofLoss.from_config(RoofLoss(name, **numbers).get_config())
        assert again.get_config() == {"name": name, **numbers}


def test_each_number_reaches_its_loss():
    def cost(name, **numbers):
        return float(RoofLoss(name, **numbers)(TRUTH, PROBABILITY, WEIGHTS))

    assert cost("focal", focal_gamma=3.0, label_smoothing=0.1) == pytest.approx(
        float(focal(TRUTH, PROBABILITY, WEIGHTS, gamma=3.0, smoothing=0.1))
    )
    assert cost("tversky", tversky_alpha=0.9) == pytest.approx(float(tversky(TRUTH, PROBABILITY, WEIGHTS, alpha=0.9)))
    smoothed = float(bce(TRUTH, PROBABILITY, WEIGHTS, smoothing=0.1) + dice(TRUTH, PROBABILITY, WEIGHTS))
    assert cost("bce_dice", label_smoothing=0.1) == pytest.approx(smoothed)
