"""unet.learner, unet.plan, unet.weights: the pace of a training, its weights, and what of them is kept."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from roofkit.settings import LoadDatasetArgs, ModelArgs, OutputArgs, TrainingArgs
from unet.backend import start_keras
from unet.plan import TrainSettings, duration, epochs_that_fit, rate_factor
from unet.weights import WeightAverage, adapt, cooled

keras = start_keras()
from contextlib import nullcontext

from unet.forms import FusedNormalization
from unet.learner import Learner
from unet.network import Preparation

ROOT = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------------------------------------------------- memory


FAULTS = """
import ctypes, resource, sys
from roofkit.memory import reuse_memory
if sys.argv[1] == "reuse":
    reuse_memory()
libc, size = ctypes.CDLL(None), 40 << 20
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    place = libc.malloc(size)
    libc.memset(place, 1, size)
    libc.free(place)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_was_freed_is_used_again():
    def pages(how):
        line = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT).stdout)

    assert pages("plain") > 15 * pages("reuse") + 15


# ------------------------------------------------------------------------------------------------------------ the pace


def test_rate_rises_in_a_line_then_falls_as_half_a_cosine():
    settings = TrainingArgs(schedule="cosine", warmup=0.2)
    factors = [rate_factor(step, 10, settings) for step in range(11)]
    assert factors[:3] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]
    assert factors[6] == pytest.approx(0.5)
    assert factors[10] == pytest.approx(0.0)
    assert factors[2:] == sorted(factors[2:], reverse=True)


@pytest.mark.parametrize("schedule", ["plateau", "constant"])
def test_rate_stays_after_the_warm_up(schedule):
    settings = TrainingArgs(schedule=schedule, warmup=0.5)
    assert [rate_factor(step, 4, settings) for step in range(4)] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1, 1]


def test_epochs_that_fit():
    assert epochs_that_fit(None, 100.0, 50) == 50
    assert epochs_that_fit(10, 100.0, 50) == 6
    assert epochs_that_fit(10, 1.0, 50) == 50
    assert epochs_that_fit(0.1, 100.0, 50) == 1


def test_durations_as_people_say_them():
    assert [duration(s) for s in (0.4, 89, 91, 7200, 200_000)] == ["0 s", "89 s", "2 min", "2.0 h", "2.3 days"]


# ------------------------------------------------------------------------------------------------------------- weights


def test_adapt_to_more_bands_by_name_then_by_the_mean():
    kernel = np.array([2.0, 4.0]).reshape(1, 1, 2, 1)
    other = np.ones(3)
    new = adapt([kernel, other], [(1, 1, 3, 1), (3,)], ["red", "green"], ["nir", "green", "red"])
    np.testing.assert_allclose(new[0].ravel(), np.array([3, 4, 2]) * 2 / 3)
    assert new[1] is other


def test_adapt_without_names_takes_the_mean():
    kernel = np.array([2.0, 4.0]).reshape(1, 1, 2, 1)
    new = adapt([kernel], [(1, 1, 4, 1)], ["band 1", "band 2"], ["band 1", "band 2", "band 3", "band 4"])
    np.testing.assert_allclose(new[0].ravel(), [1.5] * 4)


@pytest.mark.parametrize("shapes", [[(3, 3, 4, 6), (5,)], [(3, 3, 4, 5), (6,)], [(3, 3, 4, 5)], [(1, 1, 4, 5), (5,)]])
def test_adapt_refuses_another_network(shapes):
    with pytest.raises(ValueError, match="another"):
        adapt([np.zeros((3, 3, 3, 5)), np.zeros(5)], shapes)


def test_average_is_of_all_early_steps_and_then_of_the_last_ones():
    average = WeightAverage(0.9)
    average.add([np.array([1.0])], 1)
    average.add([np.array([2.0])], 1)
    assert average.weights[0] == pytest.approx(1 + 1 / 10 * 1.0 + (1 / 12 - 1 / 10) * 0, abs=0.03)
    for _ in range(200):
        average.add([np.array([5.0])], 4)
    assert average.weights[0] == pytest.approx(5.0)
    assert average.steps == 802


def test_cooled_divides_the_last_logits():
    weights = [np.ones(3), np.array([4.0]), np.array([2.0])]
    assert [w.tolist() for w in cooled(weights, 2.0)] == [[1, 1, 1], [2.0], [1.0]]


# ------------------------------------------------------------------------------------------------------------- learner


@pytest.fixture
def settings():
    return TrainSettings(
        LoadDatasetArgs(target_size=(16, 16), crop_size=(8, 8), channels=2),
        ModelArgs(architecture="residual_unet", input_shape=(16, 16, 2), num_layers=1, filters=4, dropout=0.5),
        OutputArgs(),
        TrainingArgs(precision="float32", ema=0.9),
    )


@pytest.fixture
def frames():
    """Stands for RoofFrames: batches of windows, or of whole frames."""

    class Frames(keras.utils.PyDataset):
        error = None

        def __init__(self, size):
            super().__init__(workers=1)
            self.size, self.steps, self.epoch = size, 3, 0

        def __len__(self):
            return self.steps

        def __getitem__(self, index):
            rng = np.random.default_rng([self.epoch, index])
            roof = rng.random((2, self.size, self.size, 1)) < 0.3
            image = np.concatenate([roof, ~roof], axis=-1) + rng.normal(0, 0.2, (2, self.size, self.size, 2))
            return image.astype("float32"), roof.astype("float32"), np.ones(roof.shape[:3], "float32")

    return Frames


def learner_of(settings):
    keras.utils.set_random_seed(1)
    return Learner(settings, Preparation(None, [0.5, 0.5], [0.5, 0.5]), nullcontext())


def same(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other))


def test_measuring_the_speed_leaves_no_trace(little, settings, frames):
    learner, train, val = learner_of(settings), frames(8), frames(16)
    before = learner.state()
    step, check = learner.measure(train, val)
    assert step > 0
    assert check > 0
    assert same(learner.state(), before)
    assert (train.steps, val.steps) == (3, 3)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras runs on another backend")
def test_it_learns_and_judges_with_fused_layers_and_saves_those_of_keras(settings):
    learner, fused = learner_of(settings), FusedNormalization
    kinds = [{type(layer) for layer in part.layers} for part in (learner.network, learner.judge, learner.shipped)]
    assert [fused in found for found in kinds] == [True, True, False]
    assert [keras.layers.BatchNormalization in found for found in kinds] == [False, False, True]


@pytest.mark.slow  # test_train resumes whole trainings
def test_a_restored_learner_goes_on_bit_for_bit(little, settings, frames):
    learner, train = learner_of(settings), frames(8)
    learner.learn(train, 1, epochs=2, live=False)
    state = learner.state()
    learner.learn(train, 2, epochs=2, live=False)
    fresh = learner_of(settings)
    fresh.restore(state)
    fresh.learn(train, 2, epochs=2, live=False)
    assert same(fresh.state(), learner.state())
    assert same(fresh.weights, learner.weights)


def test_restoring_another_network(settings):
    with pytest.raises(ValueError, match="another network"):
        learner_of(settings).restore([np.zeros(3)])


def test_what_is_validated_is_what_is_saved(little, settings, frames, tmp_path):
    from unet.model_file import load_model

    learner, val = learner_of(settings), frames(16)
    for epoch in (1, 2):
        learner.learn(frames(8), epoch, epochs=2, live=False)
    row = learner.validate(val)
    facts = {"frame_size": [16, 16], "band_names": ["a", "b"], "data_format": "channels_last", **row}
    learner.save(tmp_path / "m.h5", facts)
    loaded = load_model(tmp_path / "m.h5")
    images, roofs, _ = zip(*(val[i] for i in range(3)))
    found = loaded.model.predict(np.concatenate(images), verbose=0) >= loaded.threshold
    truth = np.concatenate(roofs) > 0
    assert (found & truth).sum() / (found | truth).sum() == pytest.approx(row["val_iou"], abs=0.002)
    assert not same(learner.weights, learner.network.get_weights())  # the average


def test_a_live_line(little, settings, frames, capsys):
    learner_of(settings).learn(frames(8), 1, epochs=2, live=True)
    text = capsys.readouterr().err
    assert "epoch 1/2, step 3/3: loss " in text
    assert " left" in text
    assert text.endswith("\r\x1b[K")
