"""Layers in a form that a backend computes fast, with the same numbers and weights; a model is never saved in it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from keras.src.backend.common.backend_utils import compute_conv_transpose_padding_args_for_jax

from roofkit import tensorflow_ops, torch_ops


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
    """BatchNormalization as one operation of TensorFlow or torch, forth and back, in the precision of its input.

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
        kept = (ops.convert_to_tensor(v) for v in (self.moving_mean, self.moving_variance))
        native = torch_ops if keras.backend.backend() == "torch" else tensorflow_ops
        outputs, mean, variance = native.batch_norm(inputs, gamma, beta, None if learning else (*kept,), self.epsilon)
        if learning:
            for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.assign(average * self.momentum + value * (1.0 - self.momentum))
        return outputs


class FixedScaling(layers.Rescaling):  # type: ignore[misc]
    """Rescaling whose numbers are tensors from the start. For torch.

    Keras keeps lists in a kind of its own, and asks TensorFlow whether the layer is part of a data pipeline. torch can
    compile neither, and each step would bring the numbers to the GPU again.
    """

    __call__ = layers.Layer.__call__

    def __init__(self, scale: Any, offset: Any = 0.0, **options: Any) -> None:
        super().__init__(scale, offset, **options)
        self._scale, self._offset = (ops.convert_to_tensor(n, self.compute_dtype) for n in (scale, offset))

    def call(self, inputs: Any) -> Any:
        """The scaled (frames, rows, cols, bands)."""
        return ops.cast(inputs, self.compute_dtype) * self._scale + self._offset


class ViewedConv2D(layers.Conv2D):  # type: ignore[misc]
    """Conv2D without a copy of its input. For torch.

    For channels_last layers, Keras copies the input of each into channels_first order, and for a convolution back.
    torch computes what is a view of the other order as fast, and its result is one again.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """The (frames, rows, cols, filters) of (frames, rows, cols, channels), before bias and activation."""
        if self.data_format != "channels_last":
            return super().convolution_op(inputs, kernel)
        options = dict(strides=self.strides, padding=self.padding, dilation_rate=self.dilation_rate)
        return _viewed(ops.conv, inputs, kernel, **options)


class ViewedTranspose(layers.Conv2DTranspose):  # type: ignore[misc]
    """Conv2DTranspose without a copy of its input. For torch."""

    def call(self, inputs: Any) -> Any:
        """The upsampled (frames, rows, cols, filters) of (frames, rows, cols, channels)."""
        if self.data_format != "channels_last":
            return super().call(inputs)
        options = dict(strides=self.strides, padding=self.padding, output_padding=self.output_padding)
        outputs = _viewed(ops.conv_transpose, inputs, self.kernel, dilation_rate=self.dilation_rate, **options)
        return self.activation(outputs + self.bias if self.use_bias else outputs)


class ViewedPooling(layers.MaxPooling2D):  # type: ignore[misc]
    """MaxPooling2D without a copy of its input. For torch."""

    def call(self, inputs: Any) -> Any:
        """The largest of each pool, (frames, rows, cols, channels)."""
        if self.data_format != "channels_last":
            return super().call(inputs)
        return _viewed(ops.max_pool, inputs, self.pool_size, strides=self.strides, padding=self.padding)


def _viewed(operation: Callable[..., Any], inputs: Any, *args: Any, **options: Any) -> Any:
    """An operation of channels_first on a view of an input of channels_last, its output seen as channels_last."""
    view = ops.transpose(inputs, (0, 3, 1, 2))
    return ops.transpose(operation(view, *args, data_format="channels_first", **options), (0, 2, 3, 1))


FORMS: dict[str, dict[type, Any]] = {  # by backend; of JAX only while a network learns: its gradient is slow
    "tensorflow": {layers.BatchNormalization: FusedNormalization},
    "torch": {
        layers.BatchNormalization: FusedNormalization,
        layers.Conv2D: ViewedConv2D,
        layers.Conv2DTranspose: ViewedTranspose,
        layers.MaxPooling2D: ViewedPooling,
        layers.Rescaling: FixedScaling,
    },
    "jax": {layers.Conv2DTranspose: SpreadTranspose},
}


def fast(network: keras.Model, *, learning: bool) -> keras.Model:
    """A network with the same weights and numbers that is fast on this backend; itself, where none is known.

    Args:
        network: The network.
        learning: Whether it will learn, or only be asked.
    """
    backend = keras.backend.backend()
    forms = FORMS.get(backend) if learning or backend != "jax" else None
    return in_forms(network, forms) if forms else network


def in_forms(network: keras.Model, forms: Mapping[type, Any]) -> keras.Model:
    """The network with layers of other types in place of those that `forms` maps to them."""

    def form(layer: Any) -> Any:
        return forms.get(type(layer), type(layer)).from_config(layer.get_config())

    return remade(network, form)


def remade(network: keras.Model, make: Callable[[Any], Any] | None = None, **options: Any) -> keras.Model:
    """The same network of new layers, with the same numbers.

    Args:
        network: The network.
        make: Makes a layer after one of the network's, or of a network in it; None: the same.
        options: Of `keras.models.clone_model`.
    """
    changed = keras.models.clone_model(network, clone_function=make, recursive=make is not None, **options)
    changed.set_weights([np.asarray(weight, np.float32) for weight in network.get_weights()])
    for layer in all_layers(changed):
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()  # it computes with numbers that it makes of its weights only here
    return changed


def all_layers(network: keras.Model) -> Iterator[Any]:
    """The layers of a network, and of the networks in it."""
    for layer in network.layers:
        yield from all_layers(layer) if hasattr(layer, "layers") else (layer,)
