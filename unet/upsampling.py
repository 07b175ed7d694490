"""Learnt upsampling in a form whose gradient is fast on JAX.

JAX makes of the gradient of a transposed convolution's kernel one that XLA does not hand to cuDNN (its rewriter takes
no base dilation) but computes by a kernel as large as the frame. In this form, an H100 trains the default network 5
times as fast (bench/gpu.py).
"""

from typing import Any

import keras
from keras import layers, ops
from keras.src.backend.common.backend_utils import compute_conv_transpose_padding_args_for_jax


class SpreadTranspose(layers.Conv2DTranspose):  # type: ignore[misc]
    """Conv2DTranspose as an ordinary convolution of pixels with zeros between them: the same numbers.

    It takes channels_last, and stands for a Conv2DTranspose while a network learns; it is never saved.
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


def for_learning(network: keras.Model) -> keras.Model:
    """A network that computes the same, with the same weights, and learns fast on this backend; on most: itself."""
    if keras.backend.backend() != "jax":
        return network
    return spread(network)


def spread(network: keras.Model) -> keras.Model:
    """The network with `SpreadTranspose` in place of each Conv2DTranspose."""
    changed = keras.models.clone_model(network, clone_function=_spread_layer)
    changed.set_weights(network.get_weights())
    return changed


def _spread_layer(layer: Any) -> Any:
    kind = SpreadTranspose if type(layer) is layers.Conv2DTranspose else type(layer)
    return kind.from_config(layer.get_config())
