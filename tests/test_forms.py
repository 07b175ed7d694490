"""Layers as a backend computes them fast: the same numbers, gradients and weights as Keras' own."""

import numpy as np
import pytest

from unet.backend import start_keras

keras = start_keras()
from keras import layers

from roofkit.settings import ModelArgs, OutputArgs
from unet.forms import FusedNormalization, SpreadTranspose, fast, in_forms
from unet.network import build_unet

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
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 5, 6, 3)).astype("float32")
    networks = []
    for kind in (layers.Conv2DTranspose, SpreadTranspose):
        layer = kind(4, activation="relu", data_format="channels_last", **options)
        network = keras.Sequential([keras.Input((5, 6, 3)), layer])
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


on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras runs on another backend")


@pytest.mark.parametrize("learning", [True, False])
def test_each_backend_has_its_own_forms(learning):
    network = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2DTranspose(1, 2), layers.BatchNormalization()])
    found = [type(layer) for layer in fast(network, learning=learning).layers]
    upsampling, normalisation = layers.Conv2DTranspose, layers.BatchNormalization
    if keras.backend.backend() == "jax" and learning:
        upsampling = SpreadTranspose
    if keras.backend.backend() == "tensorflow":
        normalisation = FusedNormalization
    assert found == [upsampling, normalisation]


def normalised(kind, images, policy="float32", **options):
    """What a layer that learns once makes of images: values, gradients, weights, values after it."""
    import tensorflow as tf

    layer = kind(dtype=policy, momentum=0.9, **options)
    layer.build(images.shape)
    layer.set_weights([np.linspace(0.5, 1.5, w.shape[0]) for w in layer.get_weights()])
    with tf.GradientTape() as tape:
        x = tf.constant(images)
        tape.watch(x)
        learning = tf.cast(layer(x, training=True), "float32")
        cost = tf.reduce_sum(tf.sin(learning))
    gradients = tape.gradient(cost, [x, *layer.trainable_variables])
    asked = layer(images, training=False)
    assert str(asked.dtype)[9:-2] == layer.compute_dtype
    return [np.array(keras.ops.cast(v, "float32")) for v in (learning, *gradients, *layer.weights, asked)]


@on_tensorflow
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


@on_tensorflow
@pytest.mark.parametrize("options", OTHERS)
def test_a_fused_normalisation_heeds_every_option(options):
    images = np.random.default_rng(0).normal(2.0, 3.0, (2, 4, 4, 4)).astype("float32")
    own, other = (normalised(kind, images, **options) for kind in (layers.BatchNormalization, FusedNormalization))
    for one, another in zip(own, other):
        np.testing.assert_allclose(another, one, atol=1e-5 * max(np.abs(one).max(), 1), rtol=0)


@on_tensorflow
def test_a_fused_normalisation_of_a_single_pixel_and_of_vectors():
    for shape in ((1, 1, 1, 3), (6, 3)):
        images = np.random.default_rng(0).normal(size=shape).astype("float32")
        own, other = (normalised(kind, images) for kind in (layers.BatchNormalization, FusedNormalization))
        for one, another in zip(own, other):
            np.testing.assert_allclose(another, one, atol=1e-5, rtol=0)


@on_tensorflow
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
