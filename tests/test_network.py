"""unet.network: keras-unet's satellite_unet, layer by layer, and what the settings make of it."""

import numpy as np
import pytest

from roofkit.errors import MissingInputError, SettingsError
from roofkit.settings import ENCODERS, ModelArgs, OutputArgs
from unet.backend import start_keras

keras = start_keras()
from unet.network import Preparation, build_unet

TINY = dict(input_shape=(8, 8, 2), num_layers=1, filters=2, upconv_filters=3)
NORM, CONV, POOL, UP, JOIN = "BatchNormalization", "Conv2D", "MaxPooling2D", "Conv2DTranspose", "Concatenate"
DOWN = [NORM, CONV, NORM, CONV, NORM, CONV, POOL]
JOINED = [JOIN, NORM, CONV, NORM, CONV]
LAYERS = (
    ["InputLayer", CONV, NORM, CONV, NORM, CONV, POOL]
    + DOWN * 4
    + [NORM, CONV, NORM, CONV, NORM, UP]
    + [*JOINED, NORM, UP] * 4
    + JOINED
    + [CONV]
)


def tiny(**changes):
    return ModelArgs(**TINY | changes)


def kinds(network):
    return [type(layer).__name__ for layer in network.layers]


def config(layer):
    return {key: value for key, value in layer.get_config().items() if key != "name"}


@pytest.fixture(scope="module")
def network():
    return build_unet(ModelArgs(), OutputArgs())


def test_default_network_is_satellite_unet(network):
    assert network.count_params() == 1_617_441
    assert kinds(network) == LAYERS
    assert (network.input_shape, network.output_shape) == ((None, 640, 640, 3), (None, 640, 640, 1))


def test_default_numbers_of_each_layer(network):
    shared = {"kernel_size": (3, 3), "strides": (1, 1), "padding": "same", "activation": "relu"}
    convolutions = [layer.get_config() for layer in network.layers if type(layer) is keras.layers.Conv2D]
    assert [c["filters"] for c in convolutions] == [64] * 3 + [64] * 12 + [64] * 2 + [96, 64] * 5 + [1]
    assert all(c.items() >= shared.items() for c in convolutions[:-1])
    assert all(c["kernel_initializer"]["class_name"] == "HeNormal" for c in convolutions[:-1])
    last = {"kernel_size": (1, 1), "strides": (1, 1), "padding": "valid", "activation": "sigmoid"}
    assert convolutions[-1].items() >= last.items()
    ups = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2DTranspose)]
    up = shared | {"filters": 64, "strides": (2, 2)}
    assert len(ups) == 5
    assert all(layer.get_config().items() >= up.items() for layer in ups)
    assert all(layer.output_padding == (1, 1) for layer in ups)  # Keras 3.12 leaves it out of the description
    assert {n.momentum for n in network.layers if isinstance(n, keras.layers.BatchNormalization)} == {0.01}
    pool = {"pool_size": (2, 2), "strides": (2, 2), "padding": "valid"}
    assert all(p.get_config().items() >= pool.items() for p in network.layers if type(p).__name__ == POOL)


def test_same_as_keras_unet(network):
    models = pytest.importorskip("keras_unet.models", reason="keras-unet is not installed")
    theirs = models.satellite_unet((640, 640, 3))
    assert [(type(a).__name__, config(a)) for a in network.layers] == [
        (type(b).__name__, config(b)) for b in theirs.layers
    ]


def test_parameters_of_a_tiny_network_by_hand():
    # entry 2→2: 38; norm(2) 8 + conv 2→2 38 = 46, eight times; up: norm 8 + 38 = 46, twice;
    # joined twice: norm(4) 16 + conv 4→3 111 + norm(3) 12 + conv 3→2 56 = 195; last 2→1: 3
    # (2 in the entry block, 3 down, 2 at the bottom: 7 of the eight; the eighth is an up)
    assert build_unet(tiny(), OutputArgs()).count_params() == 38 + 7 * 46 + 2 * 46 + 2 * 195 + 3


@pytest.mark.parametrize(
    ("changes", "output"),
    [
        ({"num_layers": 0}, {}),
        ({"kernel_size": (5, 3)}, {}),
        ({"kernel_size": (2, 2)}, {}),
        ({"kernel_size": (1, 1), "padding": "valid"}, {}),
        ({"pool_size": (4, 4), "pool_strides": (4, 4), "input_shape": (16, 16, 2)}, {}),
        ({"pool_size": (3, 3), "pool_padding": "same"}, {}),
        ({"pool_strides": (1, 1), "pool_size": (1, 1)}, {}),
        ({"activation": "elu", "kernel_initializer": "glorot_uniform", "bachnorm_momentum": 0.9}, {}),
        ({"num_classes": 2}, {"activation": "softmax"}),
        ({"num_classes": 2}, {"kernel_size": (3, 3), "padding": "same"}),
    ],
)
def test_other_numbers_make_masks_of_the_same_size(changes, output):
    network = build_unet(tiny(**changes), OutputArgs(**output))
    side = changes.get("input_shape", (8, 8, 2))[0]
    probability = network.predict(np.ones((1, side, side, 2), "float32"), verbose=0)
    assert probability.shape == (1, side, side, changes.get("num_classes", 1))
    assert probability.min() >= 0
    assert probability.max() <= 1


@pytest.mark.parametrize(
    ("changes", "output", "message"),
    [
        ({"padding": "valid"}, {}, r"model_args\.padding: valid"),
        ({"padding": "valid", "num_layers": 3}, {}, r"model_args\.padding: valid"),
        ({"strides": (2, 2)}, {}, r"model_args\.strides: \[2, 2\]"),
        ({"pool_strides": (3, 3)}, {}, r"model_args\.pool_size: \[2, 2\]"),
        ({"pool_size": (3, 3), "pool_strides": (3, 3)}, {}, r"model_args\.pool_strides: \[3, 3\]"),
        ({"activation": "reluu"}, {}, r"model_args\.activation: 'reluu'; expected a name that Keras knows"),
        ({"kernel_initializer": "he_norm"}, {}, r"model_args\.kernel_initializer: 'he_norm'"),
        ({}, {"strides": (2, 2)}, r"output_args\.strides: \[2, 2\], which makes the mask \[4, 4\]"),
        ({}, {"kernel_size": (3, 3)}, r"output_args\.padding: valid, which makes the mask \[6, 6\]"),
    ],
)
def test_sizes_that_do_not_fit_name_their_key(changes, output, message):
    with pytest.raises(SettingsError, match=message):
        build_unet(tiny(**changes), OutputArgs(**output))


def test_channels_first_gives_the_same_values():
    last = build_unet(tiny(), OutputArgs(), preparation=Preparation(None, [1, 2], [3, 4]))
    first = build_unet(tiny(input_shape=(2, 8, 8)), OutputArgs(), "channels_first", Preparation(None, [1, 2], [3, 4]))
    first.set_weights(last.get_weights())
    assert (first.input_shape, first.output_shape) == ((None, 2, 8, 8), (None, 1, 8, 8))
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 2)).astype("float32")
    moved = first.predict(np.moveaxis(image, -1, 1), verbose=0)
    np.testing.assert_array_equal(np.moveaxis(moved, 1, -1), last.predict(image, verbose=0))


def test_preparation_scales_each_band_without_weights():
    network = build_unet(tiny(), OutputArgs(), preparation=Preparation(0.5, [10, 0], [2, 4]))
    assert network.count_params() == build_unet(tiny(), OutputArgs()).count_params()
    assert kinds(network)[:4] == ["InputLayer", "Rescaling", "Rescaling", "Conv2D"]
    prepared = keras.Model(network.input, network.get_layer("normalise").output)
    pixels = np.broadcast_to(np.array([40.0, 16.0], "float32"), (1, 8, 8, 2))
    np.testing.assert_allclose(prepared(pixels)[0, 0, 0], [(20 - 10) / 2, (8 - 0) / 4])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_ends_are_float32_under_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        network = build_unet(tiny(), OutputArgs(), preparation=Preparation(1 / 255, [0, 0], [1, 1]))
    finally:
        keras.config.set_dtype_policy("float32")
    assert network.get_layer("rescale").compute_dtype == "float32"
    assert network.get_layer("normalise").compute_dtype == "float32"
    assert network.layers[3].compute_dtype == policy.removeprefix("mixed_")
    assert network.layers[-1].compute_dtype == "float32"
    assert network.output.dtype == "float32"


# ---------------------------------------------------------------------------------------------- stronger architectures

SMALL = dict(input_shape=(32, 32, 5), num_layers=2, filters=4, bachnorm_momentum=0.9)


def test_residual_unet_halves_at_once_and_comes_back_to_full_size():
    network = build_unet(ModelArgs(architecture="residual_unet", **SMALL), OutputArgs())
    assert (network.input_shape, network.output_shape) == ((None, 32, 32, 5), (None, 32, 32, 1))
    first = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    assert (first.kernel_size, first.strides, first.filters) == ((4, 4), (2, 2), 4)
    assert min(layer.output.shape[1] for layer in network.layers) == 4  # 32 halved three times
    assert network.name == "residual_unet"


def test_residual_unet_of_the_default_size_is_small_enough_for_a_laptop():
    network = build_unet(ModelArgs(architecture="residual_unet", filters=32, num_layers=3), OutputArgs())
    assert 3_500_000 < network.count_params() < 4_500_000


@pytest.mark.parametrize(
    "encoder", [pytest.param(name, marks=[pytest.mark.slow] * (name != "MobileNetV2")) for name in ENCODERS]
)
def test_every_encoder_takes_any_number_of_bands_and_survives_its_file(encoder, tmp_path):
    from unet.model_file import load_model, save_model

    args = ModelArgs(architecture=encoder, input_shape=(64, 32, 5), filters=8, bachnorm_momentum=0.8)
    network = build_unet(args, OutputArgs(), preparation=Preparation(None, [0.0] * 5, [1.0] * 5))
    frame = np.random.default_rng(0).normal(0, 1, (1, 64, 32, 5)).astype("float32")
    out = keras.ops.convert_to_numpy(network(frame))
    assert out.shape == (1, 64, 32, 1)
    assert np.isfinite(out).all()
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} == {0.8}
    assert not [layer for layer in network.layers if type(layer).__name__ == "Rescaling" and layer.name != "normalise"]
    facts = {"threshold": 0.5, "frame_size": [64, 32], "band_names": [], "data_format": "channels_last"}
    save_model(network, tmp_path / "m.h5", facts)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(load_model(tmp_path / "m.h5").model(frame)), out, atol=1e-5)


def test_encoder_weights_from_a_file_are_spread_over_the_bands(tmp_path):
    trained = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    path = tmp_path / "encoder.weights.h5"
    trained.save_weights(path)
    args = ModelArgs(architecture="MobileNetV2", input_shape=(32, 32, 6), filters=8, encoder_weights=str(path))
    network = build_unet(args, OutputArgs())
    ours = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)).get_weights()[0]
    theirs = next(layer for layer in trained.layers if isinstance(layer, keras.layers.Conv2D)).get_weights()[0]
    np.testing.assert_allclose(ours, np.repeat(theirs.mean(axis=2, keepdims=True), 6, axis=2) / 2, rtol=1e-5)


def test_encoder_weights_that_are_not_there_or_do_not_fit(tmp_path):
    args = ModelArgs(architecture="MobileNetV2", input_shape=(32, 32, 3), encoder_weights="absent.h5")
    with pytest.raises(MissingInputError, match=r"absent.h5: no such file"):
        build_unet(args, OutputArgs())
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(tmp_path / "x.weights.h5")
    wrong = args.model_copy(update={"encoder_weights": str(tmp_path / "x.weights.h5")})
    with pytest.raises(SettingsError, match=r"model_args.encoder_weights: .* does not fit"):
        build_unet(wrong, OutputArgs())


@pytest.mark.parametrize("architecture", ["satellite_unet", "residual_unet"])
def test_group_normalisation_knows_no_batch(architecture):
    args = ModelArgs(architecture=architecture, **SMALL | {"normalization": "group", "num_layers": 1})
    network = build_unet(args, OutputArgs())
    assert not [layer for layer in network.layers if type(layer).__name__ == NORM]
    frames = np.random.default_rng(0).normal(0, 1, (2, 32, 32, 5)).astype("float32")
    together = keras.ops.convert_to_numpy(network(frames, training=True))
    np.testing.assert_allclose(together[:1], keras.ops.convert_to_numpy(network(frames[:1], training=False)), atol=1e-3)


def test_dropout_only_in_training():
    network = build_unet(ModelArgs(architecture="residual_unet", dropout=0.9, **SMALL), OutputArgs())
    frame = np.ones((1, 32, 32, 5), "float32")
    first, second = (keras.ops.convert_to_numpy(network(frame)) for _ in range(2))
    assert np.array_equal(first, second)
    first, second = (keras.ops.convert_to_numpy(network(frame, training=True)) for _ in range(2))
    assert not np.array_equal(first, second)
