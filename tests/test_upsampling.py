"""Transposed convolutions as JAX is to learn them: the same numbers and gradients as Keras' own."""

import numpy as np
import pytest

from unet.backend import start_keras

keras = start_keras()
from keras import layers

from roofkit.settings import ModelArgs, OutputArgs
from unet.network import build_unet
from unet.upsampling import SpreadTranspose, for_learning, spread

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
    changed = spread(network)
    kinds = [type(layer) for layer in changed.layers]
    assert (kinds.count(SpreadTranspose), kinds.count(layers.Conv2DTranspose)) == (3, 0)
    assert [w.path for w in changed.weights] == [w.path for w in network.weights]
    images = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(changed.predict(images, verbose=0), network.predict(images, verbose=0), atol=1e-5)


def test_only_jax_learns_another_network():
    network = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2DTranspose(1, 2)])
    assert (for_learning(network) is network) == (keras.backend.backend() != "jax")
