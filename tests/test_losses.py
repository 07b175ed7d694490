"""unet.losses: worked by hand, and silent about invalid pixels."""

import math

import numpy as np
import pytest

from unet.backend import start_keras

keras = start_keras()
from unet.losses import LOSSES, RoofLoss, bce, bce_dice, dice

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


def test_bce_dice_is_the_sum():
    both = bce(TRUTH, PROBABILITY, WEIGHTS) + dice(TRUTH, PROBABILITY, WEIGHTS)
    assert float(bce_dice(TRUTH, PROBABILITY, WEIGHTS)) == pytest.approx(float(both))


def test_two_classes_cost_what_one_does():
    truth = np.concatenate([1 - TRUTH, TRUTH], axis=-1)
    probability = np.concatenate([1 - PROBABILITY, PROBABILITY], axis=-1)
    for loss in LOSSES.values():
        one = float(loss(TRUTH, PROBABILITY, WEIGHTS))
        assert float(loss(truth, probability, WEIGHTS)) == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_invalid_pixels_cost_nothing(name):
    other = np.where(WEIGHTS[..., None] > 0, PROBABILITY, 1 - PROBABILITY)
    assert float(LOSSES[name](TRUTH, PROBABILITY, WEIGHTS)) == float(LOSSES[name](TRUTH, other, WEIGHTS))


@pytest.mark.parametrize("name", LOSSES)
def test_no_valid_pixel_costs_zero(name):
    assert float(LOSSES[name](TRUTH, PROBABILITY, np.zeros((1, 2, 2)))) == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_perfect_is_zero_and_wrong_is_not(name):
    assert float(LOSSES[name](TRUTH, TRUTH)) == pytest.approx(0, abs=1e-5)
    assert float(LOSSES[name](TRUTH, 1 - TRUTH)) > 0.5


def test_weights_may_have_a_last_axis():
    assert float(bce(TRUTH, PROBABILITY, WEIGHTS[..., None])) == float(bce(TRUTH, PROBABILITY, WEIGHTS))


def test_half_precision_is_widened():
    assert keras.backend.standardize_dtype(bce(TRUTH, PROBABILITY.astype("float16")).dtype) == "float32"


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_model_weighs_with_sample_weights(name):
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Identity()])
    model.compile(loss=RoofLoss(name))
    value = model.evaluate(PROBABILITY, TRUTH, sample_weight=WEIGHTS, verbose=0)
    assert value == pytest.approx(float(LOSSES[name](TRUTH, PROBABILITY, WEIGHTS)))


def test_loss_is_described_by_its_name():
    assert RoofLoss.from_config(RoofLoss("dice").get_config()).name == "dice"
