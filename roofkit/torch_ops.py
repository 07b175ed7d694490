"""What torch has and keras.ops lacks; imported, and of use, only where torch is Keras' backend."""

from typing import Any

Tensor = Any


def batch_norm(
    x: Tensor, scale: Tensor, offset: Tensor, moments: tuple[Tensor, Tensor] | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `roofkit.tensorflow_ops.batch_norm`, by torch's operation (oneDNN on a processor, cuDNN on a GPU).

    Args:
        x: (frames, rows, cols, channels) float32, bfloat16 or float16.
        scale: (channels,) float32.
        offset: The same.
        moments: Mean and variance to normalise by, each (channels,) float32; None: those of `x`.
        epsilon: Is added to the variance.

    Returns:
        What is normalised, in the type of `x`; and mean and variance of `x`, without Bessel's correction, or `moments`.
    """
    import torch

    if moments is None and x.numel() == scale.numel():  # a value is its own mean, and torch refuses it
        return (0 * x * scale + offset).to(x.dtype), x.float().flatten(), torch.zeros_like(scale)
    mean, variance = moments or (torch.zeros_like(scale), torch.zeros_like(scale))
    outputs = torch.nn.functional.batch_norm(
        x.permute(0, 3, 1, 2), mean, variance, scale, offset, training=moments is None, momentum=1.0, eps=epsilon
    )
    if moments is None:  # they are filled
        count = x.numel() // scale.numel()
        variance = variance * ((count - 1) / count)
    return outputs.permute(0, 2, 3, 1), mean, variance
