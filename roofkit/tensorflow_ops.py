"""What TensorFlow has and keras.ops lacks; imported, and of use, only where TensorFlow is Keras' backend."""

from collections.abc import Callable
from typing import Any

VECTOR = 16  # oneDNN is slow in half precision for other than multiples of so many channels
Tensor = Any


def batch_norm(
    x: Tensor, scale: Tensor, offset: Tensor, moments: tuple[Tensor, Tensor] | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation by one operation, as is its gradient (oneDNN on a processor, cuDNN on a GPU).

    Args:
        x: (frames, rows, cols, channels) float32, bfloat16 or float16.
        scale: (channels,) float32.
        offset: The same.
        moments: Mean and variance to normalise by, each (channels,) float32; None: those of `x`.
        epsilon: Is added to the variance; 1.001e-5 or more.

    Returns:
        What is normalised, in the type of `x`; and mean and variance of `x`, without Bessel's correction, or `moments`.
    """
    import tensorflow as tf

    if x.dtype != tf.float32 and x.shape[-1] % VECTOR:
        outputs, mean, variance = batch_norm(tf.cast(x, tf.float32), scale, offset, moments, epsilon)
        return tf.cast(outputs, x.dtype), mean, variance
    if moments:
        outputs, *_ = tf.compat.v1.nn.fused_batch_norm(x, scale, offset, *moments, epsilon, is_training=False)
        return outputs, *moments
    outputs, mean, corrected = tf.compat.v1.nn.fused_batch_norm(x, scale, offset, epsilon=epsilon)
    count = tf.cast(tf.size(x) / tf.size(scale), tf.float32)
    return outputs, mean, corrected * (count - 1.0) / count


def traced(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Any:
    """The function of one float32 tensor of that shape as a concrete TensorFlow function, with its graph."""
    import tensorflow as tf

    return tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.float32))
