"""Losses for roof masks: one number for a batch, over its valid pixels only.

Arrays are (frames, rows, cols, classes); one class is the roof, two are background and roof. Weights are
(frames, rows, cols): 1 for a valid pixel, 0 for an invalid one. A batch without a valid pixel costs 0.
"""

import functools
from typing import Any

import keras
from keras import ops
from keras.src.losses.loss import scale_loss_for_distribution  # Keras keeps it nowhere else

SMOOTH = 1.0  # pixels added to both sides of the Dice ratio, so that frames without roofs have one
TINY = 1e-6


def bce(truth: Any, probability: Any, weights: Any = None, *, smoothing: float = 0.0) -> Any:
    """Binary cross-entropy: the weighted mean over pixels of the mean over classes.

    Args:
        truth: 0 or 1, (frames, rows, cols, classes).
        probability: 0..1, the same shape.
        weights: (frames, rows, cols), 0 or more; None: 1 everywhere.
        smoothing: How far targets stay from 0 and 1, for labels with errors (Szegedy et al. 2016, arXiv:1512.00567).

    Returns:
        A float32 scalar, 0 or more; 0 when all weights are 0.
    """
    return focal(truth, probability, weights, gamma=0.0, smoothing=smoothing)


def focal(truth: Any, probability: Any, weights: Any = None, *, gamma: float = 2.0, smoothing: float = 0.0) -> Any:
    """Cross-entropy times |target - probability|**gamma, which hardly counts what is known (Lin et al. 2017).

    arXiv:1708.02002, without its weight alpha for classes; in the form for targets between 0 and 1 of Li et al. 2020,
    arXiv:2006.04388. Other arguments and result as for `bce`, which is its case gamma = 0.
    """
    target = ops.cast(truth, "float32") * (1.0 - 2.0 * smoothing) + smoothing
    probability = ops.cast(probability, "float32")
    cost = ops.binary_crossentropy(target, probability)
    if gamma:
        cost = cost * ops.power(ops.maximum(ops.abs(target - probability), TINY), gamma)  # a power of 0 has no gradient
    cost = ops.mean(cost, axis=-1)
    weights = _weights(weights, cost)
    return ops.sum(cost * weights) / ops.maximum(ops.sum(weights), 1.0)


def tversky(truth: Any, probability: Any, weights: Any = None, *, alpha: float = 0.3) -> Any:
    """1 - Tversky index of the roof class over all pixels of the batch (Salehi et al. 2017, arXiv:1706.05721).

    Args:
        truth: As for `bce`.
        probability: As for `bce`.
        weights: As for `bce`.
        alpha: 0..1, the weight of false alarms; 1 - alpha is that of missed roofs.

    Returns:
        A float32 scalar in 0..1; 0 when all weights are 0.
    """
    truth, probability = _roof(truth), _roof(probability)
    weights = _weights(weights, truth)
    both = ops.sum(truth * probability * weights)
    alarms = ops.sum((1.0 - truth) * probability * weights)
    missed = ops.sum(truth * (1.0 - probability) * weights)
    return 1.0 - (both + SMOOTH / 2) / (both + alpha * alarms + (1.0 - alpha) * missed + SMOOTH / 2)


def dice(truth: Any, probability: Any, weights: Any = None) -> Any:
    """1 - Dice coefficient of the roof class over all pixels of the batch (Milletari et al. 2016, arXiv:1606.04797).

    It does not see how rare roofs are, which is why it goes with cross-entropy. Arguments and result as for `tversky`,
    whose case alpha = 0.5 it is.
    """
    return tversky(truth, probability, weights, alpha=0.5)


def lovasz(truth: Any, probability: Any, weights: Any = None) -> Any:
    """The Lovász extension of 1 - IoU of the roof class over all pixels of the batch (Berman et al. 2018).

    arXiv:1705.08790, in its softmax form, which takes probabilities: with those at 0 and 1 it is 1 - IoU, and between
    them it is linear while the order of errors stays. Arguments and result as for `dice`.
    """
    truth = _roof(truth)
    weights = _weights(weights, truth)
    errors = ops.reshape(ops.abs(truth - _roof(probability)), (-1,))
    order = ops.argsort(-errors)
    steps = _iou_steps(ops.take(ops.reshape(truth, (-1,)), order), ops.take(ops.reshape(weights, (-1,)), order))
    return ops.sum(ops.take(errors, order) * ops.stop_gradient(steps))


def _iou_steps(truth: Any, weights: Any) -> Any:
    """By how much 1 - IoU grows as one pixel after another (count,) becomes wrong.

    Written out, as differences of its values would be lost in float32 for a million pixels. TINY lets the first false
    alarm cost 1 where there is no roof.
    """
    background = (1.0 - truth) * weights
    after = ops.cumsum(background)
    roof = ops.sum(truth * weights) + TINY
    missed = ops.cumsum(truth * weights)
    union, union_before = roof + after, roof + (after - background)
    return truth * weights / union + background * (roof - missed) / (union * union_before)


def _roof(classes: Any) -> Any:
    """The roof class, (frames, rows, cols), float32."""
    return ops.cast(classes, "float32")[..., -1]


def _weights(weights: Any, like: Any) -> Any:
    """Weights in the shape of `like` (frames, rows, cols); a last axis of length 1 is dropped."""
    if weights is None:
        return ops.ones_like(like)
    weights = ops.cast(weights, "float32")
    if len(weights.shape) == len(like.shape) + 1:
        weights = ops.squeeze(weights, axis=-1)
    return ops.broadcast_to(weights, ops.shape(like))


LOSSES = {
    "bce": (bce,), "dice": (dice,), "bce_dice": (bce, dice), "focal": (focal,), "tversky": (tversky,),
    "lovasz": (lovasz,), "bce_lovasz": (bce, lovasz),
}  # fmt: skip


class RoofLoss(keras.losses.Loss):  # type: ignore[misc]
    """One of the losses above, or the sum of two, in the form that `compile` takes.

    Keras' own reduction divides by all pixels, invalid ones included, and cannot express Dice of a whole batch;
    so the call is replaced, not only its inner function.

    Args:
        name: A key of `LOSSES`, as `training_args.loss` says.
        label_smoothing: 0..0.5, of the cross-entropies (bce and focal); Dice, Tversky and Lovász compare areas, which
            smoothed targets would change, and take labels as they are.
        focal_gamma: 0 or more.
        tversky_alpha: 0..1.
    """

    def __init__(
        self,
        name: str = "bce_dice",
        label_smoothing: float = 0.0,
        focal_gamma: float = 2.0,
        tversky_alpha: float = 0.3,
    ) -> None:
        super().__init__(name=name)
        self.numbers = dict(label_smoothing=label_smoothing, focal_gamma=focal_gamma, tversky_alpha=tversky_alpha)
        options: dict[Any, dict[str, float]] = {
            bce: dict(smoothing=label_smoothing),
            focal: dict(gamma=focal_gamma, smoothing=label_smoothing),
            tversky: dict(alpha=tversky_alpha),
        }
        self._terms: list[Any] = [functools.partial(term, **options.get(term, {})) for term in LOSSES[name]]

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss of a batch, as Keras asks for it: of several devices, which add up, each gives its share."""
        return scale_loss_for_distribution(sum(term(y_true, y_pred, sample_weight) for term in self._terms))

    def get_config(self) -> dict[str, Any]:
        """What a saved model needs to build it again."""
        return {"name": self.name, **self.numbers}
