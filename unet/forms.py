"""Layers in a form that a backend computes fast, with the same numbers and weights; a model is never saved in it."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers, ops
from keras.src.backend.common.backend_utils import compute_conv_transpose_padding_args_for_jax

from roofkit import tensorflow_ops


class SpreadTranspose(layers.Conv2DTranspose):  # type: ignore[misc]
    """Conv2DTranspose as an ordinary convolution of pixels with zeros between them; channels_last only. For JAX.

    JAX makes of the gradient of a transposed convolution's kernel one that XLA does not hand to cuDNN (its rewriter
    takes no base dilation) but computes by a kernel as large as the frame. In this form, an H100 trains the default
    network 5 times as fast (bench/gpu.py).
    """

    def call(self, inputs: Any) -> Any:
        """The upsampled (frames, rows, cols, filters) of (frames, rows, cols, channels)."""
        rows, cols, channels = inputs.shape[1:]
        down, across = self.strides
        x = ops.reshape(inputs, (-1, rows, 1, cols, 1, channels))
        x = ops.pad(x, ((0, 0), (0, 0), (0, down - 1), (0, 0), (0, across - 1), (0, 0)))
        x = ops.reshape(x, (-1, rows * down, cols * across, channels))
        sides = compute_conv_transpose_padding_args_for_jax(
            inputs.shape, self.kernel.shape, self.strides, self.padding, self.output_padding, self.dilation_rate
        )
        after = [right - (step - 1) for (_, right), step in zip(sides, self.strides)]  # zeros that are there already
        x = x[:, : x.shape[1] + min(after[0], 0), : x.shape[2] + min(after[1], 0)]
        x = ops.pad(x, ((0, 0), *((left, max(right, 0)) for (left, _), right in zip(sides, after)), (0, 0)))
        kernel = ops.transpose(ops.flip(self.kernel, (0, 1)), (0, 1, 3, 2))
        outputs = ops.conv(x, kernel, padding="valid", data_format="channels_last")
        return self.activation(outputs + self.bias)


class FusedNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """BatchNormalization as one operation of TensorFlow, forth and back, in the precision of its input.

    Keras puts it together from some thirty, in float32, each a pass through memory: two thirds of the time of a
    training step in bfloat16 on a processor (bench/networks.py).
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """The normalised (frames, rows, cols, channels), in the layer's precision."""
        learning = bool(training) and self.trainable
        last = self.axis in (-1, len(inputs.shape) - 1)
        if len(inputs.shape) != 4 or not last or mask is not None or self.renorm or (training and not learning):
            return super().call(inputs, training=training, mask=mask)
        channels = (inputs.shape[-1],)
        gamma = ops.cast(self.gamma, "float32") if self.scale else ops.ones(channels)
        beta = ops.cast(self.beta, "float32") if self.center else ops.zeros(channels)
        moving = None if learning else (self.moving_mean, self.moving_variance)
        outputs, mean, variance = tensorflow_ops.batch_norm(inputs, gamma, beta, moving, self.epsilon)
        if learning:
            for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.assign(average * self.momentum + value * (1.0 - self.momentum))
        return outputs


def fast(network: keras.Model, *, learning: bool) -> keras.Model:
    """A network with the same weights and numbers that is fast on this backend; itself, where none is known.

    Args:
        network: The network.
        learning: Whether it will learn, or only be asked.
    """
    if keras.backend.backend() == "tensorflow":
        return in_forms(network, {layers.BatchNormalization: FusedNormalization})
    if keras.backend.backend() == "jax" and learning:  # only the gradient is slow
        return in_forms(network, {layers.Conv2DTranspose: SpreadTranspose})
    return network


def in_forms(network: keras.Model, forms: Mapping[type, Any]) -> keras.Model:
    """The network with layers of other types in place of those that `forms` maps to them."""

    def form(layer: Any) -> Any:
        return forms.get(type(layer), type(layer)).from_config(layer.get_config())

    changed = keras.models.clone_model(network, clone_function=form)
    changed.set_weights(network.get_weights())
    return changed
