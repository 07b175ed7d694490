"""unet.inference: OpenVINO's probabilities are those of Keras, in order, alone or in company; and the ways back."""

import importlib.util
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from roofkit import stopping
from roofkit.errors import BadInputError, SettingsError
from roofkit.settings import ModelArgs, OutputArgs
from unet.backend import gpu_count, start_keras

keras = start_keras()
from keras import layers

from unet import inference
from unet.inference import KerasInference, open_inference
from unet.learner import precision
from unet.model_file import LoadedModel, load_model, save_model
from unet.network import Preparation, build_unet
from unet.weights import cooled

INSTALLED = importlib.util.find_spec("openvino") is not None
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
on_tensorflow = pytest.mark.skipif(not ON_TENSORFLOW, reason="Keras runs on another backend")
needs_openvino = pytest.mark.skipif(not (INSTALLED and ON_TENSORFLOW), reason="no OpenVINO beside TensorFlow")
SIDE, BANDS = 32, 3
ROOT = Path(__file__).resolve().parent.parent


def frames(count, side=SIDE, bands=BANDS, seed=0):
    """Dark ground with bright squares, in the values of 11 bits: float32 (count, side, side, bands), 0 or 1 of each."""
    rng = np.random.default_rng(seed)
    roofs = np.zeros((count, side, side, 1), np.float32)
    for roof in roofs:
        top, left = rng.integers(0, side // 2, 2)
        roof[top : top + side // 3, left : left + side // 2] = 1
    return (rng.normal(600, 150, (count, side, side, bands)) + 400 * roofs).astype(np.float32), roofs


def network(architecture="residual_unet", data_format="channels_last", classes=1, normalization="batch"):
    """One whose statistics are not those of the start, and whose probabilities fill 0 to 1."""
    first, shape = data_format == "channels_first", (SIDE, SIDE, BANDS)
    args = ModelArgs(
        input_shape=(BANDS, SIDE, SIDE) if first else shape, architecture=architecture, num_layers=1, filters=4,
        upconv_filters=6, num_classes=classes, normalization=normalization,
    )  # fmt: skip
    keras.utils.set_random_seed(3)
    output = OutputArgs(activation="softmax" if classes == 2 else "sigmoid")
    model = build_unet(args, output, data_format, Preparation(0.01, [6.0] * BANDS, [1.5] * BANDS))
    rng = np.random.default_rng(4)
    model.set_weights([w + rng.uniform(0, 0.3, w.shape) * (w.ndim == 1) for w in model.get_weights()])
    model.set_weights(cooled(model.get_weights(), 0.3))
    return model


def ready(model, data_format="channels_last", side=SIDE, bands=BANDS):
    """What load_model makes of such a model, without the way through a file."""
    rows, cols = model.input_shape[1:3] if data_format == "channels_last" else model.input_shape[2:]
    classes = model.output_shape[-1 if data_format == "channels_last" else 1]
    return LoadedModel(model, 0.5, (side, side), (rows, cols), (), data_format, classes, bands)


def reload(model, path):
    facts = dict(threshold=0.5, frame_size=[SIDE, SIDE], band_names=[], data_format="channels_last")
    save_model(model, path, facts)
    return load_model(path)


def mapped(runner, batches):
    return np.concatenate(list(runner.map(iter(batches))))


@pytest.fixture
def exact(monkeypatch):
    """What differs in float32 is no matter of rounding."""
    monkeypatch.setattr(inference, "best_precision", lambda: "float32")


@pytest.fixture(scope="module")
def small():
    """A model that is converted in no time."""
    inputs = keras.Input((8, 8, 2))
    hidden = layers.Conv2D(4, 3, padding="same", activation="relu", kernel_initializer="ones")(inputs)
    model = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid", kernel_initializer="ones")(hidden))
    return ready(model, side=8, bands=2)


def small_batches(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.1, (size, 8, 8, 2)).astype(np.float32) for size in sizes]


# ------------------------------------------------------------------------------------------------------ the same answer


@needs_openvino
@pytest.mark.parametrize(
    ("architecture", "classes", "normalization", "data_format"),
    [
        ("satellite_unet", 1, "batch", "channels_last"),
        ("satellite_unet", 2, "batch", "channels_first"),
        ("residual_unet", 2, "group", "channels_last"),
        ("residual_unet", 1, "batch", "channels_first"),
        pytest.param("MobileNetV2", 1, "batch", "channels_last", marks=pytest.mark.slow),
    ],
)
def test_same_as_keras(exact, architecture, classes, normalization, data_format):
    loaded = ready(network(architecture, data_format, classes, normalization), data_format)
    images, first = frames(3)[0], data_format == "channels_first"
    expected = loaded.model.predict_on_batch(images.transpose(0, 3, 1, 2) if first else images)
    expected = expected[:, -1] if first else expected[..., -1]
    assert expected.std() > 0.02
    found = mapped(open_inference(loaded, runtime="openvino"), [images[:2], images[2:]])
    assert (found.shape, found.dtype) == ((3, SIDE, SIDE), np.float32)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_keras_and_channels_first():
    inputs = keras.Input((BANDS, 8, 8))
    moved = layers.Conv2D(2, 3, padding="same", activation="softmax")(layers.Permute((2, 3, 1))(inputs))
    loaded = ready(keras.Model(inputs, layers.Permute((3, 1, 2))(moved)), "channels_first", 8)
    images = frames(3, 8)[0] / 1000
    found = mapped(open_inference(loaded, runtime="keras"), [images])
    np.testing.assert_allclose(found, loaded.model.predict_on_batch(images.transpose(0, 3, 1, 2))[:, 1])


@needs_openvino
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("side", [32, 48])
def test_foreign_model_of_any_size(tmp_path, exact, suffix, side):
    inputs = keras.Input((None, None, BANDS))
    half = layers.Conv2D(4, 3, 2, padding="same", activation="relu")(layers.Rescaling(1 / 1000)(inputs))
    half = layers.SeparableConv2D(4, 3, padding="same")(half)  # leaves loose ends in TensorFlow's graph
    outputs = layers.Conv2D(2, 1, activation="softmax")(layers.UpSampling2D(interpolation="bilinear")(half))
    loaded = reload(keras.Model(inputs, outputs), tmp_path / f"m{suffix}")
    images = frames(2, side)[0]
    found = mapped(open_inference(loaded, runtime="openvino"), [images])
    np.testing.assert_allclose(found, loaded.model.predict_on_batch(images)[..., -1], atol=1e-5)
    assert loaded.input_size == (None, None)


@needs_openvino
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_model_of_mixed_precision_with_a_model_inside(tmp_path, policy):
    with precision(policy):
        inputs, core = keras.Input((SIDE, SIDE, BANDS)), keras.Input((SIDE, SIDE, 4))
        inner = keras.Model(core, layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(core)))
        hidden = inner(layers.Conv2D(4, 3, padding="same", activation="relu")(inputs))
        model = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid", dtype="float32")(hidden))
    loaded = reload(model, tmp_path / "m.keras")
    images = frames(2)[0] / 1000
    found = mapped(open_inference(loaded, runtime="openvino"), [images])
    assert abs(found - loaded.model.predict_on_batch(images)[..., -1]).mean() < 0.005


@needs_openvino
def test_trained_model_in_the_precision_of_this_machine(tmp_path):
    keras.utils.set_random_seed(5)
    inputs = keras.Input((SIDE, SIDE, BANDS))
    hidden = layers.Rescaling(0.005, -3.0)(inputs)
    for _ in range(2):
        hidden = layers.BatchNormalization(momentum=0.8)(layers.Conv2D(8, 3, padding="same", activation="relu")(hidden))
    model = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(hidden))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", jit_compile=False)
    model.fit(*frames(64), batch_size=8, epochs=6, verbose=0)
    loaded, (images, roofs) = reload(model, tmp_path / "m.h5"), frames(16, seed=1)
    expected = loaded.model.predict_on_batch(images)[..., -1]
    assert ((expected > 0.5) == roofs[..., 0]).mean() > 0.95
    found = mapped(open_inference(loaded, runtime="openvino"), [images[:8], images[8:]])
    assert abs(found - expected).mean() < 0.005
    assert 0 <= found.min() <= found.max() <= 1


@needs_openvino
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_small_differences_of_large_values(data_format):
    keras.utils.set_random_seed(6)
    first = data_format == "channels_first"
    inputs = keras.Input((BANDS, SIDE, SIDE) if first else (SIDE, SIDE, BANDS))
    scaling = layers.Rescaling([[[0.5] * BANDS]], [[[-150.0] * BANDS]])
    scaled = scaling(layers.Permute((2, 3, 1))(inputs) if first else inputs)
    hidden = layers.Conv2D(8, 3, padding="same", activation="relu")(scaled)
    outputs = layers.Conv2D(1, 1, activation="sigmoid")(hidden)
    model = keras.Model(inputs, layers.Permute((3, 1, 2))(outputs) if first else outputs)
    kelvins = np.random.default_rng(0).normal(300, 2, (2, SIDE, SIDE, BANDS)).astype(np.float32)
    expected = mapped(open_inference(ready(model, data_format), runtime="keras"), [kelvins])
    assert expected.std() > 0.05
    found = mapped(open_inference(ready(model, data_format), runtime="openvino"), [kelvins])
    assert abs(found - expected).mean() < 0.002


# --------------------------------------------------------------------------------------------------- order and company


@pytest.mark.parametrize("runtime", ["keras", pytest.param("openvino", marks=needs_openvino)])
def test_order_and_short_batches(small, runtime):
    runner, batches = open_inference(small, runtime=runtime), small_batches(4, 4, 1, 4, 3, 4, 4, 2)
    found = list(runner.map(iter(batches)))
    assert [len(batch) for batch in found] == [len(batch) for batch in batches]
    for result, batch in zip(found, batches):
        np.testing.assert_allclose(result, small.model.predict_on_batch(batch)[..., -1], atol=0.01)
    assert list(runner.map([])) == []


@pytest.mark.parametrize("runtime", ["keras", pytest.param("openvino", marks=needs_openvino)])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float64"])
def test_batches_of_any_dtype(small, runtime, dtype):
    runner = open_inference(small, runtime=runtime)
    batch = np.random.default_rng(0).integers(0, 3, (3, 8, 8, 2)).astype(dtype)
    np.testing.assert_array_equal(mapped(runner, [batch]), mapped(runner, [batch.astype(np.float32)]))


@needs_openvino
def test_same_bytes_in_any_company():
    loaded = ready(network("satellite_unet"))
    images = frames(9)[0]
    runner = open_inference(loaded, runtime="openvino")
    alone = mapped(runner, images[:, None])
    for batches in ([images], [images[:4], images[4:8], images[8:]], [images[:1], images[1:]]):
        np.testing.assert_array_equal(mapped(runner, batches), alone)
    np.testing.assert_array_equal(mapped(runner, [images[::-1]])[::-1], alone)
    np.testing.assert_array_equal(mapped(open_inference(loaded, runtime="openvino", threads=1), [images]), alone)


@needs_openvino
def test_a_batch_may_be_a_view_or_used_again(small):
    batches = small_batches(3, 3, 3, 3)
    runner = open_inference(small, runtime="openvino")
    expected = mapped(runner, batches)

    def reused():
        buffer = np.empty_like(batches[0])
        for batch in batches:
            buffer[:] = batch
            yield buffer

    np.testing.assert_array_equal(mapped(runner, reused()), expected)
    turned = [np.rot90(batch, axes=(1, 2))[:, :, ::-1] for batch in batches]
    np.testing.assert_array_equal(mapped(runner, turned), mapped(runner, [batch.copy() for batch in turned]))


@needs_openvino
def test_reads_ahead_but_not_far(small):
    runner, taken = open_inference(small, runtime="openvino", threads=2), []

    def read():
        for batch in small_batches(*[2] * 40):
            taken.append(1)
            yield batch

    ahead = [len(taken) - done for done, _ in enumerate(runner.map(read()))]
    assert min(ahead[:20]) > 1
    assert max(ahead) <= 2 + 2  # two streams are one batch


# -------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("runtime", ["keras", pytest.param("openvino", marks=needs_openvino)])
def test_consumer_that_stops_early(small, runtime):
    runner, batches, closed = open_inference(small, runtime=runtime), small_batches(*[3] * 12), []

    def read():
        try:
            yield from batches
        finally:
            closed.append(True)

    results = runner.map(read())
    assert len(list(islice(results, 2))) == 2
    results.close()
    assert closed
    assert len(mapped(runner, batches)) == 36


@pytest.mark.parametrize("runtime", ["keras", pytest.param("openvino", marks=needs_openvino)])
def test_errors_of_the_reader_come_through(small, runtime):
    def read():
        yield from small_batches(2, 2, 2)
        raise BadInputError("scene.tif", "torn", "a whole file", "Copy it again.")

    runner = open_inference(small, runtime=runtime)
    with pytest.raises(BadInputError, match="torn"):
        list(runner.map(read()))
    assert len(mapped(runner, small_batches(2))) == 2


@needs_openvino
def test_other_bands_are_an_error(small):
    runner = open_inference(small, runtime="openvino")
    with pytest.raises(ValueError, match="incompatible with the layer"):
        list(runner.map([*small_batches(3), np.zeros((1, 8, 8, 1), np.float32)]))
    assert len(mapped(runner, small_batches(2))) == 2


@pytest.mark.parametrize("runtime", ["keras", pytest.param("openvino", marks=needs_openvino)])
def test_a_signal_that_was_swallowed_ends_it(small, runtime, monkeypatch):
    runner = open_inference(small, runtime=runtime)
    results = runner.map(iter(small_batches(*[2] * 8)))
    next(results)
    monkeypatch.setattr(stopping, "_asked_to_stop", [stopping.Terminated])
    with pytest.raises(stopping.Terminated):
        next(results)
    monkeypatch.undo()
    assert list(results) == []
    assert len(mapped(runner, small_batches(2))) == 2


# -------------------------------------------------------------------------------------------------------- which is used


@needs_openvino
def test_auto_is_openvino_where_it_is_installed(small):
    assert open_inference(small).runtime == "openvino"
    assert open_inference(small, runtime="keras").runtime == "keras"


@on_tensorflow
def test_without_openvino(small, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert open_inference(small).runtime == "keras"
    with pytest.raises(SettingsError, match=r"predict_args\.runtime: openvino, which is not installed.* pip install"):
        open_inference(small, runtime="openvino")
    assert capsys.readouterr().err == ""


def test_with_a_gpu(small, monkeypatch):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0"])
    assert open_inference(small).runtime == "keras"


@pytest.fixture
def on_gpu(monkeypatch):
    """As if Keras computed on a GPU that is fast in bfloat16."""
    monkeypatch.setattr(inference, "gpu_count", lambda: 1)
    monkeypatch.setattr(inference, "best_precision", lambda: "mixed_bfloat16")


@pytest.mark.parametrize(
    ("architecture", "classes", "normalization", "data_format"),
    [
        ("satellite_unet", 1, "batch", "channels_last"),
        ("satellite_unet", 2, "batch", "channels_first"),
        ("residual_unet", 2, "group", "channels_last"),
    ],
)
def test_a_gpu_computes_in_bfloat16(on_gpu, architecture, classes, normalization, data_format):
    loaded = ready(network(architecture, data_format, classes, normalization), data_format)
    images = frames(3)[0]
    expected = mapped(KerasInference(loaded, "m.h5"), [images])
    assert expected.std() > 0.02
    runner = open_inference(loaded)
    found = mapped(runner, [images])
    assert 0 < abs(found - expected).mean() < 0.005
    assert len(np.unique(found)) > 1000  # not the 256 steps that bfloat16 has
    policies = [layer.compute_dtype for layer in runner.loaded.model.layers]
    inside = policies.index("bfloat16"), len(policies) - policies[::-1].index("bfloat16")
    assert set(policies[: inside[0]] + policies[inside[1] :]) == {"float32"}
    assert len({*policies[slice(*inside)]}) == 1
    assert [w.dtype for w in runner.loaded.model.weights] == ["float32"] * len(loaded.model.weights)
    assert {layer.compute_dtype for layer in loaded.model.layers} == {"float32"}
    exactly = mapped(open_inference(loaded, precision="float32"), [images])
    np.testing.assert_allclose(exactly, expected, atol=1e-5)


def test_a_gpu_tells_300_kelvins_from_301(on_gpu):
    inputs = keras.Input((SIDE, SIDE, BANDS))
    scaled = layers.Rescaling([[[0.5] * BANDS]], [[[-150.0] * BANDS]])(inputs)
    outputs = layers.Conv2D(1, 1, activation="sigmoid")(layers.Conv2D(8, 3, padding="same", activation="relu")(scaled))
    loaded = ready(keras.Model(inputs, outputs))
    kelvins = np.random.default_rng(0).normal(300, 2, (2, SIDE, SIDE, BANDS)).astype(np.float32)
    expected = mapped(KerasInference(loaded, "m.h5"), [kelvins])
    assert expected.std() > 0.05
    assert abs(mapped(open_inference(loaded), [kelvins]) - expected).mean() < 0.002


def beginning_with(*first):
    """A network for values around 1000 that differ by a few, which begins with these layers."""
    keras.utils.set_random_seed(1)
    body = [layers.Conv2D(8, 3, padding="same", activation="relu"), layers.Conv2D(1, 1, activation="sigmoid")]
    network = keras.Sequential([keras.Input((SIDE, SIDE, BANDS)), *first, *body])
    values = np.random.default_rng(0).normal(1000, 3, (2, SIDE, SIDE, BANDS)).astype(np.float32)
    for layer in first:
        if isinstance(layer, layers.Normalization):
            layer.adapt(values)
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([np.full(BANDS, value, np.float32) for value in (1, 0, 1000, 9)])
    return network, values


def scaling():
    return layers.Rescaling(1 / 3, -1000 / 3)


BEGINNINGS = {
    "normalization": lambda: [layers.Normalization()],
    "batch normalization": lambda: [layers.BatchNormalization(epsilon=1e-6)],
    "padding": lambda: [layers.ZeroPadding2D(1), layers.Cropping2D(1), scaling()],
    "a model": lambda: [keras.Sequential([keras.Input((SIDE, SIDE, BANDS)), scaling()])],
}


@pytest.mark.parametrize("first", BEGINNINGS)
def test_a_gpu_does_not_round_what_a_model_begins_with(on_gpu, first):
    network, values = beginning_with(*BEGINNINGS[first]())
    expected = mapped(KerasInference(ready(network), "m.h5"), [values])
    assert expected.std() > 0.05
    assert abs(mapped(open_inference(ready(network)), [values]) - expected).max() < 0.02


@needs_openvino
@pytest.mark.parametrize("first", BEGINNINGS)
def test_nor_does_openvino(monkeypatch, first):
    monkeypatch.setattr(inference, "best_precision", lambda: "mixed_bfloat16")
    network, values = beginning_with(*BEGINNINGS[first]())
    expected = mapped(KerasInference(ready(network), "m.h5"), [values])
    assert abs(mapped(open_inference(ready(network), runtime="openvino"), [values]) - expected).max() < 0.02


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_model_of_mixed_precision_keeps_what_it_adapted_to(tmp_path, policy):
    with precision(policy):
        network, values = beginning_with(layers.Normalization(dtype="float32"))
    loaded = reload(network, tmp_path / "m.keras")
    expected = mapped(KerasInference(loaded, "m.keras"), [values])
    assert 0.05 < expected.std() < 0.45
    assert abs(mapped(open_inference(loaded), [values]) - expected).max() < 0.02


class Once(layers.Layer):
    """A layer that cannot be made again from its configuration."""

    def call(self, inputs):
        return inputs * 0.5

    def get_config(self):
        raise NotImplementedError("nobody wrote it")


def test_a_model_that_cannot_be_made_again_is_used_as_it_is(on_gpu, capsys):
    inputs = keras.Input((8, 8, 2))
    loaded = ready(keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(Once()(inputs))), side=8, bands=2)
    runner = open_inference(loaded, name="m.keras")
    line = capsys.readouterr().err
    assert line.startswith("m.keras: used as it is, which is slower on a GPU (")
    assert line.count("\n") == 1
    (batch,) = small_batches(3)
    np.testing.assert_array_equal(mapped(runner, [batch]), loaded.model.predict_on_batch(batch)[..., -1])


@needs_openvino
def test_float32_by_openvino(monkeypatch):
    monkeypatch.setattr(inference, "best_precision", lambda: "mixed_bfloat16")
    loaded, images = ready(network("satellite_unet")), frames(3)[0]
    runner = open_inference(loaded, runtime="openvino", precision="float32")
    expected = mapped(KerasInference(loaded, "m.h5"), [images])
    np.testing.assert_allclose(mapped(runner, [images]), expected, atol=2e-4)


@pytest.mark.parametrize(
    ("backend", "devices", "expected"),
    [
        ("tensorflow", ["gpu:0", "gpu:1"], 2),
        ("tensorflow", ["cpu:0", "cpu:1"], 0),
        ("jax", ["gpu:0"], 1),
        ("jax", ["tpu:0"], 0),
    ],
)
def test_gpus_are_counted(monkeypatch, backend, devices, expected):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: devices)
    assert gpu_count() == expected


@pytest.mark.parametrize(("device", "expected"), [("cuda:0", 1), ("cpu", 0)])
def test_the_gpu_of_torch_is_counted(monkeypatch, device, expected):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    monkeypatch.setattr(keras.ops, "ones", lambda shape: SimpleNamespace(device=device))
    assert gpu_count() == expected


@on_tensorflow
def test_with_another_backend(small, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert open_inference(small).runtime == "keras"
    with pytest.raises(SettingsError, match="openvino, with Keras on jax"):
        open_inference(small, runtime="openvino")


@needs_openvino
def test_a_model_that_openvino_cannot_convert(tmp_path, capfd):
    inputs = keras.Input((8, 8, 2))
    outputs = layers.Conv2D(1, 1, activation="sigmoid")(layers.Resizing(8, 8, "lanczos3")(inputs))
    loaded = reload(keras.Model(inputs, outputs), tmp_path / "m.keras")
    with pytest.raises(
        BadInputError, match=r"m\.keras: not usable by OpenVINO \(.+\); expected .* to keras\."
    ) as caught:
        open_inference(loaded, runtime="openvino", name="m.keras")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
    runner = open_inference(loaded, name="m.keras")
    line = capfd.readouterr().err
    assert line.startswith("m.keras: not usable by OpenVINO (")
    assert line.count("\n") == 1
    images = np.ones((1, 8, 8, 2), np.float32)
    np.testing.assert_allclose(mapped(runner, [images]), loaded.model.predict_on_batch(images)[..., -1])


@needs_openvino
def test_a_model_that_openvino_cannot_compile(small, monkeypatch, capsys):
    monkeypatch.setattr(inference, "_converted", lambda loaded, shape: "no\nmodel")
    assert open_inference(small).runtime == "keras"
    assert capsys.readouterr().err.count("\n") == 1


SIGNALLED = """
import os, signal
import numpy as np
from unet.backend import start_keras
keras = start_keras()
from unet.inference import open_inference
from unet.model_file import LoadedModel
inputs = keras.Input((8, 8, 2))
model = keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(inputs))
loaded = LoadedModel(model, 0.5, (8, 8), (8, 8), (), "channels_last", 1, 2)
runners = [open_inference(loaded, runtime="openvino") for _ in range(2)]
for runner in runners:
    next(runner.map([np.zeros((1, 8, 8, 2), np.float32)]))
del runner
runners.pop(0)
runners.clear()
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
os.kill(os.getpid(), signal.SIGTERM)
assert heard
"""


@needs_openvino
def test_a_signal_after_the_work_is_heard():
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


ALONE = """
import sys
from unet.inference import _import_openvino
assert not {"tensorflow", "keras", "openvino"} & set(sys.modules)
openvino = _import_openvino()
openvino.Core()
assert not {"openvino_telemetry", "openvino.tools.ovc"} & set(sys.modules)
"""


@needs_openvino
def test_openvino_reports_nothing(tmp_path):
    (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('a report over the network')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


class Failing:
    """Stands for a network that fails at work."""

    def __init__(self, error):
        self.error = error

    def predict_on_batch(self, batch):
        raise self.error


def test_a_network_that_fails_at_work_is_named():
    loaded = SimpleNamespace(model=Failing(OverflowError("\x1b[1mtoo large\x1b[0m")), data_format="channels_last")
    with pytest.raises(BadInputError, match=r"m\.h5: it fails at 4 x 5 pixels \(OverflowError: too large\); expected"):
        next(KerasInference(loaded, "m.h5").map([np.zeros((1, 4, 5, 3), np.float32)]))


def test_memory_that_runs_out_at_work_is_no_fault_of_the_network():
    loaded = SimpleNamespace(model=Failing(MemoryError("no room")), data_format="channels_last")
    with pytest.raises(MemoryError, match="no room"):
        next(KerasInference(loaded, "m.h5").map([np.zeros((1, 4, 5, 3), np.float32)]))
