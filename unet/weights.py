"""Weights as lists of arrays: fitted to another number of bands, averaged over steps, calibrated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = list[NDArray[Any]]


def adapt(
    weights: Weights, shapes: Sequence[tuple[int, ...]], before: Sequence[str] = (), after: Sequence[str] = ()
) -> Weights:
    """Weights for a network that differs in its number of bands alone.

    The first kernel (rows, cols, bands, filters) gets each new band from the old one of the same name, and where there
    is none from the mean over the old ones; then it is scaled so that its sum over bands stays what it was.

    Args:
        weights: Of the trained network.
        shapes: Of the new network's weights.
        before: Band names of the trained network; may be empty.
        after: Of the new one.

    Raises:
        ValueError: Another difference.
    """
    if [w.shape for w in weights] == list(shapes):
        return list(weights)
    different = [i for i, (w, shape) in enumerate(zip(weights, shapes)) if w.shape != shape]
    if len(weights) != len(shapes) or len(different) != 1:
        raise ValueError("another network")
    index = different[0]
    old, shape = weights[index], shapes[index]
    if old.ndim != 4 or len(shape) != 4 or (*old.shape[:2], old.shape[3]) != (*shape[:2], shape[3]):
        raise ValueError("another first layer")
    return [*weights[:index], _spread(old, shape[2], before, after), *weights[index + 1 :]]


def _spread(kernel: NDArray[Any], bands: int, before: Sequence[str], after: Sequence[str]) -> NDArray[Any]:
    mean = kernel.mean(axis=2)
    known = {n: k for n, k in zip(before, np.moveaxis(kernel, 2, 0)) if not n.startswith("band ")}  # a mere number
    names = after if len(after) == bands else [""] * bands
    new = np.stack([known.get(name, mean) for name in names], axis=2)
    spread: NDArray[Any] = (new * (kernel.shape[2] / bands)).astype(kernel.dtype)
    return spread


def cooled(weights: Weights, temperature: float) -> Weights:
    """Weights whose last layer (kernel and bias, the last two arrays) answers with logits divided by `temperature`.

    With it the probabilities are calibrated, and no file format or reader has to know (Guo et al. 2017,
    arXiv:1706.04599).
    """
    return [*weights[:-2], *((w / temperature).astype(w.dtype) for w in weights[-2:])]


class WeightAverage:
    """The exponential moving average of weights over steps, batch statistics included.

    Args:
        decay: 0 to below 1, for one step; early steps count more, so that the start is soon forgotten.
        steps: Taken in so far.
        weights: Their average.
    """

    def __init__(self, decay: float, steps: int = 0, weights: Weights | None = None) -> None:
        self.decay = decay
        self.steps = steps
        self.weights = weights or []

    def add(self, weights: Weights, steps: int) -> None:
        """Take in the weights after that many more steps."""
        self.steps += steps
        share = max(1.0 - self.decay**steps, steps / (self.steps + 10.0))
        if not self.weights:
            self.weights = [np.array(w) for w in weights]
            return
        for mean, new in zip(self.weights, weights):
            mean += (share * (new - mean)).astype(mean.dtype)
