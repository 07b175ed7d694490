"""Layers as a backend computes them fast: the same numbers, gradients and weights as Keras' own."""

import numpy as np
import pytest

from unet.backend import start_keras

keras = start_keras()
from keras import layers

from roofkit.settings import ModelArgs, OutputArgs
from unet.forms import (
    FixedScaling,
    FusedNormalization,
    SpreadTranspose,
    ViewedConv2D,
    ViewedPooling,
    ViewedTranspose,
    fast,
    in_forms,
    remade,
)
from unet.network import Preparation, build_unet

CASES = [
    dict(kernel_size=3, strides=2, padding="same", output_padding=1),
    dict(kernel_size=3, strides=2, padding="same"),
    dict(kernel_size=2, strides=2, padding="valid"),
    dict(kernel_size=2, strides=2, padding="same"),
    dict(kernel_size=4, strides=2, padding="same"),
    dict(kernel_size=(3, 5), strides=(3, 2), padding="same"),
    dict(kernel_size=2, strides=3, padding="valid"),
]


@pytest.mark.parametrize("options", CASES)
def test_the_same_numbers_and_the_same_learning(options):
    options = dict(activation="relu", data_format="channels_last") | options
    same_learning([kind(4, **options) for kind in (layers.Conv2DTranspose, SpreadTranspose)])


def same_learning(pair):
    """Check that two layers make the same of images, and of their gradients."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 5, 6, 3)).astype("float32")
    networks = []
    for layer in pair:
        first = layers.Conv2D(3, 1, data_format="channels_last")  # learns by the gradient of the layer's input
        network = keras.Sequential([keras.Input((5, 6, 3)), first, layer])
        network.compile(keras.optimizers.SGD(0.1), "mse")
        networks.append(network)
    own, other = networks
    other.set_weights([rng.normal(size=w.shape) for w in own.get_weights()])
    own.set_weights(other.get_weights())
    found = own.predict(images, verbose=0)
    np.testing.assert_allclose(other.predict(images, verbose=0), found, atol=1e-5)
    for network in networks:
        network.train_on_batch(images, np.zeros_like(found))
    for one, another in zip(own.get_weights(), other.get_weights()):
        np.testing.assert_allclose(another, one, atol=1e-5)


def test_a_whole_network_is_changed_and_keeps_its_weights():
    keras.utils.set_random_seed(0)
    network = build_unet(ModelArgs(input_shape=(32, 32, 3), filters=4, upconv_filters=6, num_layers=2), OutputArgs())
    changed = in_forms(network, {layers.Conv2DTranspose: SpreadTranspose})
    kinds = [type(layer) for layer in changed.layers]
    assert (kinds.count(SpreadTranspose), kinds.count(layers.Conv2DTranspose)) == (3, 0)
    assert [w.path for w in changed.weights] == [w.path for w in network.weights]
    images = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(changed.predict(images, verbose=0), network.predict(images, verbose=0), atol=1e-5)


def adapted(*after):
    """A network that begins with the mean and deviation of 16-bit values."""
    scaling = layers.Normalization(axis=-1)
    network = keras.Sequential([keras.Input((8, 8, 3)), scaling, *after])
    scaling.adapt(np.random.default_rng(0).normal(1000, 3, (40, 8, 8, 3)).astype("float32"))
    return network


@pytest.mark.parametrize("inner", [False, True])
def test_what_was_adapted_is_kept(inner):
    network = adapted(layers.BatchNormalization(), layers.Conv2D(1, 1, activation="sigmoid"))
    if inner:
        network = keras.Sequential([keras.Input((8, 8, 3)), network])
    images = np.random.default_rng(1).normal(1000, 3, (2, 8, 8, 3)).astype("float32")
    expected = network.predict(images, verbose=0)
    assert expected.std() > 0.02
    for forms in ({}, {layers.BatchNormalization: FusedNormalization}):
        np.testing.assert_allclose(in_forms(network, forms).predict(images, verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(remade(network).predict(images, verbose=0), expected, atol=1e-5)


fused = pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no such operation")
on_torch = pytest.mark.skipif(keras.backend.backend() != "torch", reason="Keras runs on another backend")


@pytest.mark.parametrize("learning", [True, False])
def test_each_backend_has_its_own_forms(learning):
    network = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2DTranspose(1, 2), layers.BatchNormalization()])
    found = [type(layer) for layer in fast(network, learning=learning).layers]
    slow = [layers.Conv2DTranspose, layers.BatchNormalization]
    assert (
        found
        == {
            "tensorflow": [layers.Conv2DTranspose, FusedNormalization],
            "jax": [SpreadTranspose, layers.BatchNormalization] if learning else slow,
            "torch": [ViewedTranspose, FusedNormalization],
        }[keras.backend.backend()]
    )


def normalised(kind, images, policy="float32", **options):
    """What a layer that learns once makes of images: values, gradients, weights, values after it."""
    layer = kind(dtype=policy, momentum=0.9, **options)
    layer.build(images.shape)
    layer.set_weights([np.linspace(0.5, 1.5, w.shape[0]) for w in layer.get_weights()])
    learnt = {"tensorflow": by_tensorflow, "torch": by_torch}[keras.backend.backend()](layer, images)
    asked = layer(images, training=False)
    assert keras.backend.standardize_dtype(asked.dtype) == layer.compute_dtype
    return [keras.ops.convert_to_numpy(keras.ops.cast(v, "float32")) for v in (*learnt, *layer.weights, asked)]


def by_tensorflow(layer, images):
    """The output of a layer that learns, and the gradients of its input and weights."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        x = tf.constant(images)
        tape.watch(x)
        learning = tf.cast(layer(x, training=True), "float32")
        cost = tf.reduce_sum(tf.sin(learning))
    return learning, *tape.gradient(cost, [x, *layer.trainable_variables])


def by_torch(layer, images):
    """The same with torch."""
    x = keras.ops.convert_to_tensor(images).requires_grad_()
    learning = layer(x, training=True).float()
    learning.sin().sum().backward()
    return learning.detach(), x.grad, *(v.value.grad for v in layer.trainable_variables)


@fused
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize(("policy", "apart"), [("float32", 1e-5), ("mixed_bfloat16", 0.02), ("mixed_float16", 0.003)])
def test_a_fused_normalisation_has_the_numbers_of_keras(channels, policy, apart):
    rng = np.random.default_rng(0)
    images = rng.normal(2.0, 3.0, (2, 5, 6, channels)).astype("float32")
    own, other = (normalised(kind, images, policy) for kind in (layers.BatchNormalization, FusedNormalization))
    assert len(own) == len(other) == 9
    for one, another in zip(own, other):
        np.testing.assert_allclose(another, one, atol=apart * np.abs(one).max(), rtol=0)


OTHERS = [dict(scale=False), dict(center=False), dict(renorm=True), dict(axis=1), dict(trainable=False), dict(axis=3)]


@fused
@pytest.mark.parametrize("options", OTHERS)
def test_a_fused_normalisation_heeds_every_option(options):
    images = np.random.default_rng(0).normal(2.0, 3.0, (2, 4, 4, 4)).astype("float32")
    own, other = (normalised(kind, images, **options) for kind in (layers.BatchNormalization, FusedNormalization))
    for one, another in zip(own, other):
        np.testing.assert_allclose(another, one, atol=1e-5 * max(np.abs(one).max(), 1), rtol=0)


@fused
def test_a_fused_normalisation_of_a_single_pixel_and_of_vectors():
    for shape in ((1, 1, 1, 3), (6, 3)):
        images = np.random.default_rng(0).normal(size=shape).astype("float32")
        own, other = (normalised(kind, images) for kind in (layers.BatchNormalization, FusedNormalization))
        for one, another in zip(own, other):
            np.testing.assert_allclose(another, one, atol=1e-5, rtol=0)


@fused
@pytest.mark.parametrize("architecture", ["satellite_unet", "residual_unet", "ResNet50V2", "EfficientNetV2B0"])
def test_a_network_with_fused_normalisations_keeps_its_weights(architecture):
    keras.utils.set_random_seed(0)
    args = ModelArgs(input_shape=(32, 32, 3), architecture=architecture, filters=4, upconv_filters=6, num_layers=2)
    network = build_unet(args, OutputArgs())
    changed = fast(network, learning=True)
    count = sum(type(layer) is layers.BatchNormalization for layer in network.layers)
    assert sum(type(layer) is FusedNormalization for layer in changed.layers) == count > 5
    assert not any(type(layer) is layers.BatchNormalization for layer in changed._flatten_layers())
    assert [w.path for w in changed.weights] == [w.path for w in network.weights]
    images = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(changed.predict(images, verbose=0), network.predict(images, verbose=0), atol=1e-4)


CONVOLUTIONS = [
    dict(kernel_size=3, padding="same"),
    dict(kernel_size=3, padding="same", strides=2),
    dict(kernel_size=2, padding="same"),
    dict(kernel_size=(3, 5), padding="same", dilation_rate=(2, 1)),
    dict(kernel_size=3, padding="valid", use_bias=False),
    dict(kernel_size=1, groups=3, filters=6),
]


@on_torch
@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_a_convolution_of_a_view_has_the_numbers_of_keras(options):
    same_learning([kind(**{"filters": 4, "activation": "relu"} | options) for kind in (layers.Conv2D, ViewedConv2D)])


@on_torch
@pytest.mark.parametrize("options", [*CASES, dict(kernel_size=3, strides=2, use_bias=False)])
def test_a_transposed_convolution_of_a_view_has_the_numbers_of_keras(options):
    same_learning([kind(4, activation="relu", **options) for kind in (layers.Conv2DTranspose, ViewedTranspose)])


@on_torch
@pytest.mark.parametrize("options", [{}, dict(padding="same"), dict(pool_size=3, strides=2, padding="same")])
def test_a_pooling_of_a_view_has_the_numbers_of_keras(options):
    same_learning([kind(**options) for kind in (layers.MaxPooling2D, ViewedPooling)])


@on_torch
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_fast_network_copies_no_image_into_another_order(precision):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Copies(TorchDispatchMode):
        """Counts copies of what is as large as an image."""

        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = str(function)
            large = args and getattr(args[0], "ndim", 0) == 4 and args[0].shape[0] == 2
            self.count += bool(large and ("clone" in name or name.startswith("aten.copy_")))
            return function(*args, **kwargs or {})

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        network = build_unet(ModelArgs(input_shape=(64, 64, 3), filters=4, upconv_filters=6), OutputArgs())
    finally:
        keras.config.set_dtype_policy(before)
    images = keras.ops.convert_to_tensor(np.zeros((2, 64, 64, 3), "float32"))
    counts = []
    for made in (network, fast(network, learning=True)):
        with Copies() as copies:
            made(images, training=True)
        counts.append(copies.count)
    assert counts[0] > 10
    assert counts[1] == 0


@on_torch
@pytest.mark.parametrize("offset", [[[[1.0, 2.0, 3.0]]], 0.5])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_fixed_scaling_has_the_numbers_of_keras(offset, policy):
    images = np.random.default_rng(0).integers(0, 200, (2, 4, 5, 3)).astype("float32")
    own, other = (kind([[[0.1, 0.2, 0.3]]], offset, dtype=policy) for kind in (layers.Rescaling, FixedScaling))
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(keras.ops.cast(one(images), "float32")) for one in (own, other))
    )
    assert other.get_config() | {"name": ""} == own.get_config() | {"name": ""}


@on_torch
def test_a_fast_network_is_one_graph_for_the_compiler_of_torch():
    import torch

    keras.utils.set_random_seed(0)
    args = ModelArgs(input_shape=(32, 32, 3), filters=4, upconv_filters=6, num_layers=2)
    network = fast(build_unet(args, OutputArgs(), preparation=Preparation(0.1, [5.0] * 3, [2.0] * 3)), learning=False)
    images = keras.ops.convert_to_tensor(np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32"))
    with torch.no_grad():
        found = torch.compile(lambda x: network(x, training=False), backend="eager", fullgraph=True)(images)
        torch.testing.assert_close(found, network(images, training=False))
