"""Losses for roof masks: one number for a batch, over its valid pixels only.

Arrays are (frames, rows, cols, classes); one class is the roof, two are background and roof. Weights are
(frames, rows, cols): 1 for a valid pixel, 0 for an invalid one. A batch without a valid pixel costs 0.
"""

from typing import Any

import keras
from keras import ops

SMOOTH = 1.0  # pixels added to both sides of the Dice ratio, so that frames without roofs have one


def bce(truth: Any, probability: Any, weights: Any = None) -> Any:
    """Binary cross-entropy: the weighted mean over pixels of the mean over classes.

    Args:
        truth: 0 or 1, (frames, rows, cols, classes).
        probability: 0..1, the same shape.
        weights: (frames, rows, cols), 0 or more; None: 1 everywhere.

    Returns:
        A float32 scalar, 0 or more; 0 when all weights are 0.
    """
    truth, probability = ops.cast(truth, "float32"), ops.cast(probability, "float32")
    cost = ops.mean(ops.binary_crossentropy(truth, probability), axis=-1)
    weights = _weights(weights, cost)
    return ops.sum(cost * weights) / ops.maximum(ops.sum(weights), 1.0)


def dice(truth: Any, probability: Any, weights: Any = None) -> Any:
    """1 - Dice coefficient of the roof class over all pixels of the batch (Milletari et al. 2016, arXiv:1606.04797).

    It does not see how rare roofs are, which is why it goes with cross-entropy. Arguments as for `bce`.

    Returns:
        A float32 scalar in 0..1; 0 when all weights are 0.
    """
    truth = ops.cast(truth, "float32")[..., -1]
    probability = ops.cast(probability, "float32")[..., -1]
    weights = _weights(weights, truth)
    both = ops.sum(truth * probability * weights)
    total = ops.sum((truth + probability) * weights)
    return 1.0 - (2.0 * both + SMOOTH) / (total + SMOOTH)


def bce_dice(truth: Any, probability: Any, weights: Any = None) -> Any:
    """The sum of both; arguments as for `bce`."""
    return bce(truth, probability, weights) + dice(truth, probability, weights)


def _weights(weights: Any, like: Any) -> Any:
    """Weights in the shape of `like` (frames, rows, cols); a last axis of length 1 is dropped."""
    if weights is None:
        return ops.ones_like(like)
    weights = ops.cast(weights, "float32")
    if len(weights.shape) == len(like.shape) + 1:
        weights = ops.squeeze(weights, axis=-1)
    return ops.broadcast_to(weights, ops.shape(like))


LOSSES = {"bce": bce, "dice": dice, "bce_dice": bce_dice}


class RoofLoss(keras.losses.Loss):  # type: ignore[misc]
    """One of the losses above in the form that `compile` takes.

    Keras' own reduction divides by all pixels, invalid ones included, and cannot express Dice of a whole batch;
    so the call is replaced, not only its inner function.

    Args:
        name: bce, dice or bce_dice, as `training_args.loss` says.
    """

    def __init__(self, name: str = "bce_dice") -> None:
        super().__init__(name=name)
        self._function = LOSSES[name]

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss of a batch, as Keras asks for it."""
        return self._function(y_true, y_pred, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """What a saved model needs to build it again."""
        return {"name": self.name}
