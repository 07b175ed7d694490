"""What torch has and keras.ops lacks; imported, and of use, only where torch is Keras' backend."""

from typing import Any

Tensor = Any


def batch_norm(
    x: Tensor, scale: Tensor, offset: Tensor, moments: tuple[Tensor, Tensor] | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What `roofkit.tensorflow_ops.batch_norm` does and gives, by torch's operation (oneDNN, or cuDNN on a GPU)."""
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
