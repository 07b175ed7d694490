"""Metrics of the roof class from pixel counts over a whole set.

A mean of batch values is not the value of the set, and Keras' `MeanIoU` on a sigmoid output counts every probability
below 1 as background; so pixels are counted, at a threshold, and divided once at the end. Counts are two 32-bit
integers each: a float32 stops counting at 16.7 million, which 41 frames of 640 x 640 reach.
"""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

BASE = 1 << 24  # what the low integer of a count holds; with the high one, counts go up to 2**55
LOGITS = np.linspace(-12.0, 12.0, 481)  # evenly spread where probabilities are near 0 or 1, too
THRESHOLDS = 1.0 / (1.0 + np.exp(-LOGITS))
BINS = len(THRESHOLDS) + 1
CALIBRATION_BINS = 15
MIDDLES = np.concatenate([LOGITS[:1], (LOGITS[:-1] + LOGITS[1:]) / 2, LOGITS[-1:]])
Counts = NDArray[np.int64]


def iou_of(tp: Any, fp: Any, fn: Any) -> Any:
    """Intersection over union, tp / (tp + fp + fn), of counts or arrays of them; 0 where there is no roof at all."""
    return np.asarray(tp) / np.maximum(np.asarray(tp) + fp + fn, 1)


def f1_of(tp: Any, fp: Any, fn: Any) -> Any:
    """F1 = Dice, 2 tp / (2 tp + fp + fn), in the same way."""
    return 2 * np.asarray(tp) / np.maximum(2 * np.asarray(tp) + fp + fn, 1)


class _Counter(keras.metrics.Metric):  # type: ignore[misc]
    """Integer counts that grow without loss."""

    def __init__(self, size: int, name: str) -> None:
        super().__init__(name=name)
        self._low = self.add_variable((size,), initializer="zeros", dtype="int32", name="low")
        self._high = self.add_variable((size,), initializer="zeros", dtype="int32", name="high")

    def _add(self, counts: Any) -> None:
        low = self._low + counts
        carry = low // BASE
        self._high.assign(self._high + carry)
        self._low.assign(low - carry * BASE)

    def _totals(self) -> Any:
        """The counts as float32, each right to seven digits."""
        return ops.cast(self._high, "float32") * BASE + ops.cast(self._low, "float32")

    def exact(self) -> Counts:
        """The counts, outside any compiled function."""
        low, high = self._low.numpy(), self._high.numpy()
        return np.asarray(high, np.int64) * BASE + np.asarray(low, np.int64)


def _flat(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Truth (bool), probability (float32) and whether a pixel counts (bool) of the roof class, each one-dimensional."""
    probability = ops.cast(y_pred, "float32")[..., -1]
    counts = ops.ones_like(probability) if sample_weight is None else ops.cast(sample_weight, "float32")
    if len(counts.shape) == len(probability.shape) + 1:
        counts = ops.squeeze(counts, axis=-1)
    counts = ops.broadcast_to(counts, ops.shape(probability))
    truth = ops.cast(y_true, "float32")[..., -1]
    return ops.reshape(truth, (-1,)) > 0.5, ops.reshape(probability, (-1,)), ops.reshape(counts, (-1,)) > 0


class _RoofScore(_Counter):
    """Counts of true positives, false positives and false negatives at one threshold."""

    def __init__(self, name: str, threshold: float = 0.5) -> None:
        super().__init__(3, name)
        self.threshold = threshold

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch; a pixel whose weight is 0 does not count."""
        truth, probability, counts = _flat(y_true, y_pred, sample_weight)
        found = probability >= self.threshold
        cases = (truth & found, ops.logical_not(truth) & found, truth & ops.logical_not(found))
        self._add(ops.stack([ops.sum(ops.cast(case & counts, "int32")) for case in cases]))

    def get_config(self) -> dict[str, Any]:
        """What a saved model needs to build it again."""
        return {"name": self.name, "threshold": self.threshold}


class RoofIoU(_RoofScore):
    """Intersection over union of the roof class over the set, 0..1."""

    def __init__(self, name: str = "iou", threshold: float = 0.5) -> None:
        super().__init__(name, threshold)

    def result(self) -> Any:
        """The value so far."""
        tp, fp, fn = ops.unstack(self._totals())
        return tp / ops.maximum(tp + fp + fn, 1.0)


class RoofF1(_RoofScore):
    """F1 of the roof class over the set, 0..1."""

    def __init__(self, name: str = "f1", threshold: float = 0.5) -> None:
        super().__init__(name, threshold)

    def result(self) -> Any:
        """The value so far."""
        tp, fp, fn = ops.unstack(self._totals())
        return 2.0 * tp / ops.maximum(2.0 * tp + fp + fn, 1.0)


class ThresholdCounts(_Counter):
    """Counts at 481 thresholds in one pass, from a histogram of logits; `result` is the best IoU."""

    def __init__(self, name: str = "best_iou") -> None:
        super().__init__(2 * BINS, name)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch; a pixel whose weight is 0 does not count."""
        truth, probability, counts = _flat(y_true, y_pred, sample_weight)
        reached = ops.searchsorted(THRESHOLDS.astype("float32"), probability, side="right")  # thresholds <= value
        places = ops.cast(reached, "int32") + BINS * ops.cast(truth, "int32")
        self._add(ops.segment_sum(ops.cast(counts, "int32"), places, num_segments=2 * BINS))

    def result(self) -> Any:
        """The IoU at the threshold where it is highest, so far."""
        background, roof = ops.split(self._totals(), 2)
        tp = ops.flip(ops.cumsum(ops.flip(roof)))[1:]
        fp = ops.flip(ops.cumsum(ops.flip(background)))[1:]
        return ops.max(tp / ops.maximum(ops.sum(roof) + fp, 1.0))

    def counts(self) -> tuple[Counts, Counts, Counts]:
        """Exact true positives, false positives and false negatives at each of `THRESHOLDS`."""
        background, roof = np.split(self.exact(), 2)
        tp, fp = (np.cumsum(part[::-1])[::-1][1:] for part in (roof, background))
        return tp, fp, roof.sum() - tp

    def best(self) -> tuple[float, float, float]:
        """The threshold where IoU is highest (the middle one of several), and IoU and F1 there."""
        tp, fp, fn = self.counts()
        iou = iou_of(tp, fp, fn)
        highest = np.flatnonzero(iou == iou.max())
        index = int(highest[len(highest) // 2])
        return float(THRESHOLDS[index]), float(iou[index]), float(f1_of(tp, fp, fn)[index])

    def temperature(self) -> float:
        """What logits have to be divided by to be calibrated: the temperature of least cross-entropy, 0.1 to 10.

        Source: Guo et al. 2017, arXiv:1706.04599. Logits are those of the middles of the histogram's bins.
        """
        from scipy.optimize import minimize_scalar

        background, roof = np.split(self.exact().astype(float), 2)
        total = max(background.sum() + roof.sum(), 1.0)

        def cost(log_temperature: float) -> float:
            logits = MIDDLES / np.exp(log_temperature)
            return float((background * np.logaddexp(0, logits) + roof * np.logaddexp(0, -logits)).sum() / total)

        return float(np.exp(minimize_scalar(cost, bounds=(-np.log(10), np.log(10)), method="bounded").x))

    def calibration_error(self, temperature: float = 1.0) -> float:
        """Expected calibration error, 0..1, of the roof probability in 15 bins, after that temperature."""
        background, roof = np.split(self.exact().astype(float), 2)
        probability = 1.0 / (1.0 + np.exp(-MIDDLES / temperature))
        bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        gap = np.bincount(bins, (background + roof) * probability - roof, CALIBRATION_BINS)
        return float(np.abs(gap).sum() / max(background.sum() + roof.sum(), 1.0))


def cooler(threshold: float, temperature: float) -> float:
    """The threshold, 0..1, that makes the same mask of probabilities whose logits were divided by `temperature`."""
    return float(1.0 / (1.0 + (1.0 / threshold - 1.0) ** (1.0 / temperature)))
