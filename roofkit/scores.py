"""Scores of roof maps, from counts that add up: over the windows of a frame, over frames, over draws of a bootstrap.

Count each frame once (`pixel_counts`, `frame_counts`, `boundary_counts`, `building_counts`), add the counts of several,
and let `summarise` turn them into scores. Whatever takes counts takes leading axes too, (…, k), so that all draws of a
bootstrap are scored at once. A score that has nothing to divide by is NaN.

`predicted`, `truth` and `valid` are (rows, cols) bool, `probability` is (rows, cols), 0 to 1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

CALIBRATION_BINS = 15
_EVEN = np.linspace(0.0, 1.0, 100 * CALIBRATION_BINS + 1)
_ODDS = 1 / (1 + np.exp(-np.linspace(-16.7, 16.7, 1501)))  # the last one: only 1 itself is a float32 beyond it
EDGES: Floats = np.union1d(_EVEN, _ODDS)
"""Bins of probabilities: even ones, cut finer and finer towards 0 and 1, where trained networks crowd."""
BINS = len(EDGES) - 1
CENTRES = (EDGES[:-1] + EDGES[1:]) / 2
_FROM_HALF = np.argsort(np.abs(EDGES[:-1] - 0.5), kind="stable")
_CALIBRATION_STARTS = np.searchsorted(EDGES, _EVEN[:-1:100])
DRAWS_AT_A_TIME = 100


def pixel_counts(predicted: Bools, truth: Bools, valid: Bools) -> Counts:
    """True and false positives, false and true negatives (4,) of the valid pixels."""
    p, t = predicted[valid], truth[valid]
    tp = np.count_nonzero(p & t)
    fp, fn = np.count_nonzero(p) - tp, np.count_nonzero(t) - tp
    return np.array([tp, fp, fn, p.size - tp - fp - fn], np.int64)


def frame_counts(probability: NDArray[Any], truth: Bools, valid: Bools) -> Counts:
    """Histogram (2, BINS) of the probabilities of valid pixels: of background, and of roof."""
    bins = np.minimum(np.searchsorted(EDGES, probability[valid], side="right") - 1, BINS - 1)
    return np.bincount(bins + BINS * truth[valid], minlength=2 * BINS).astype(np.int64).reshape(2, BINS)


def level_counts(probability: NDArray[Any], truth: Bools, valid: Bools, levels: NDArray[np.float32]) -> Counts:
    """How many valid pixels, of background and of roof, reach how many of the levels: (2, len(levels) + 1).

    A pixel reaches a level as in predict: `probability >= level` in float32, in which probabilities are written.

    Args:
        probability: (rows, cols) float32.
        truth: Where there is roof.
        valid: Which pixels count.
        levels: Thresholds in ascending order.
    """
    bins = len(levels) + 1
    reached = np.searchsorted(levels, probability[valid].astype(np.float32), side="right")
    return np.bincount(reached + bins * truth[valid], minlength=2 * bins).astype(np.int64).reshape(2, bins)


def counts_at_levels(reached: NDArray[Any]) -> Counts:
    """What `pixel_counts` gives at each level (…, levels, 4), from what `level_counts` gives (…, 2, levels + 1)."""
    above = np.flip(np.flip(reached, axis=-1).cumsum(axis=-1), axis=-1)
    fp, tp = above[..., 0, 1:], above[..., 1, 1:]
    return np.stack([tp, fp, above[..., 1, :1] - tp, above[..., 0, :1] - fp], axis=-1)


def boundary(roof: Bools, width: int) -> Bools:
    """The pixels of `roof` that have, within `width` pixels in rows and cols, one that is not; beyond the edge is none.

    As the reference implementation of Cheng et al. 2021 (arXiv:2103.16562): roof less its erosion by a 3 x 3 square,
    `width` times.
    """
    return np.asarray(roof & ~_eroded(_eroded(roof, width).T, width).T)


def _eroded(roof: Bools, width: int) -> Bools:
    """Where all pixels within `width` rows are roof."""
    total = np.cumsum(np.pad(roof, ((width + 1, width), (0, 0))), axis=0, dtype=np.int32)
    span = 2 * width + 1
    return np.asarray(total[span:] - total[:-span] == span)


def boundary_counts(predicted: Bools, truth: Bools, valid: Bools, width: int) -> Counts:
    """Intersection and union (2,) of the two boundaries, for boundary IoU; what is not valid is no roof."""
    p, t = boundary(predicted & valid, width), boundary(truth & valid, width)
    return np.array([np.count_nonzero(p & t), np.count_nonzero(p | t)], np.int64)


def patches(roof: Bools) -> NDArray[np.int32]:
    """A number from 1 for each patch of roof pixels that share edges, 0 elsewhere."""
    from scipy import ndimage

    return np.asarray(ndimage.label(roof)[0], np.int32)


def building_counts(
    predicted: NDArray[Any], truth: NDArray[Any], *, iou: float = 0.5, min_pixels: float = 0.0
) -> Counts:
    """Found buildings, false alarms and missed buildings (3,).

    A building is found when a prediction overlaps it with at least `iou`, and each prediction finds one building at
    most, as in SpaceNet (arXiv:1807.01232). Pairs are taken from the highest IoU down; from an `iou` of 0.5 on no
    other order finds another number, as buildings on one side do not overlap.

    Args:
        predicted: (rows, cols) integers, a number for each building, 0 elsewhere.
        truth: The same of the true buildings.
        iou: From this IoU on a building is found.
        min_pixels: Smaller buildings do not count, on either side.
    """
    areas_p, areas_t = np.bincount(predicted.ravel()), np.bincount(truth.ravel())
    both = (predicted > 0) & (truth > 0)
    pairs, shared = np.unique(truth[both].astype(np.int64) * len(areas_p) + predicted[both], return_counts=True)
    t, p = np.divmod(pairs, len(areas_p))
    counted_p, counted_t = (areas >= max(min_pixels, 1) for areas in (areas_p, areas_t))
    counted_p[0] = counted_t[0] = False
    overlap = shared / (areas_t[t] + areas_p[p] - shared)
    candidates = counted_t[t] & counted_p[p] & (overlap >= iou)
    found = matches(t[candidates], p[candidates], overlap[candidates])
    return np.array([found, np.count_nonzero(counted_p) - found, np.count_nonzero(counted_t) - found], np.int64)


def matches(truth: NDArray[Any], predicted: NDArray[Any], overlap: Floats) -> int:
    """How many pairs remain when they are taken from the highest overlap down and neither side is taken twice."""
    taken_t: set[int] = set()
    taken_p: set[int] = set()
    for i in np.argsort(-overlap, kind="stable"):
        if truth[i] not in taken_t and predicted[i] not in taken_p:
            taken_t.add(truth[i])
            taken_p.add(predicted[i])
    return len(taken_t)


def pixel_scores(pixels: NDArray[Any]) -> dict[str, Floats]:
    """IoU, F1, precision and recall of the roof class from counts (…, 4)."""
    tp, fp, fn = np.moveaxis(pixels, -1, 0)[:3]
    return {"iou": _ratio(tp, tp + fp + fn), **_detection(tp, fp, fn)}


def boundary_scores(counts: NDArray[Any]) -> dict[str, Floats]:
    """Boundary IoU from counts (…, 2)."""
    return {"boundary_iou": _ratio(counts[..., 0], counts[..., 1])}


def building_scores(counts: NDArray[Any]) -> dict[str, Floats]:
    """Precision, recall and F1 of whole buildings from counts (…, 3)."""
    return {f"building_{name}": value for name, value in _detection(*np.moveaxis(counts, -1, 0)).items()}


def probability_scores(histogram: NDArray[Any]) -> dict[str, Floats]:
    """Area under the precision-recall curve, calibration, Brier score and best threshold from counts (…, 2, BINS)."""
    threshold, iou = best_iou(histogram)
    return {
        "pr_auc": average_precision(histogram),
        "ece": expected_calibration_error(histogram),
        "brier": brier_score(histogram),
        "best_threshold": threshold,
        "best_iou": iou,
    }


SCORES = {
    "pixels": pixel_scores,
    "boundary": boundary_scores,
    "buildings": building_scores,
    "histogram": probability_scores,
}


def summarise(counts: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
    """The scores that can be had from counts: `pixels`, `boundary`, `buildings`, `histogram`, or some of these."""
    return {name: value for kind, values in counts.items() for name, value in SCORES[kind](values).items()}


def average_precision(histogram: NDArray[Any]) -> Floats:
    """Area under the precision-recall curve, as scikit-learn's average_precision_score counts it: no interpolation.

    All probabilities in one bin count as equal; `average_precision_bounds` says how much that can matter.
    """
    tp, fp = _found(histogram)
    roof = histogram[..., 1, :]
    return _ratio(np.nansum(roof * _ratio(tp, tp + fp), axis=-1), roof.sum(axis=-1))


def average_precision_bounds(histogram: NDArray[Any]) -> tuple[Floats, Floats]:
    """The lowest and highest average precision that the probabilities in these bins can have.

    At the k-th roof pixel of a bin, precision is lowest when all background of that bin comes before it, and highest
    when none does and the roof pixels are tied; the sum over k of the former is bounded by an integral.
    """
    tp, fp = _found(histogram)
    background, roof = histogram[..., 0, :], histogram[..., 1, :]
    missed = np.log1p(_ratio(roof, tp - roof + fp))  # at least the sum of 1 / (tp before + fp + k)
    low = np.nansum(roof - np.where(fp > 0, fp * missed, 0.0), axis=-1)
    high = np.nansum(roof * _ratio(tp, tp + fp - background), axis=-1)
    total = roof.sum(axis=-1)
    return _ratio(low, total), _ratio(high, total)


def expected_calibration_error(histogram: NDArray[Any]) -> Floats:
    """Mean distance of the probability of roof from the share of roof, in 15 even bins weighted by their pixels.

    Guo et al. 2017 (arXiv:1706.04599) compare the confidence in the likelier class with its accuracy. A map of one
    class has a probability to compare: that of roof, with how often there is roof. Probabilities count as the middle
    of their bin, which changes the result by 1/3000 at most.
    """
    expected, roof, _ = calibration_bins(histogram)
    return _ratio(np.abs(expected - roof).sum(axis=-1), histogram.sum(axis=(-2, -1)))


def calibration_bins(histogram: NDArray[Any]) -> tuple[Floats, NDArray[Any], NDArray[Any]]:
    """In each of 15 even bins (…, 15): the sum of probabilities, pixels of roof, and all pixels."""
    weighed = histogram.sum(axis=-2) * CENTRES, histogram[..., 1, :], histogram.sum(axis=-2)
    expected, roof, pixels = (np.add.reduceat(values, _CALIBRATION_STARTS, axis=-1) for values in weighed)
    return expected, roof, pixels


def brier_score(histogram: NDArray[Any]) -> Floats:
    """Mean squared distance of the probability from 0 or 1 (Brier 1950), to 1/1500."""
    squared = np.stack([CENTRES**2, (1 - CENTRES) ** 2])
    return _ratio((histogram * squared).sum(axis=(-2, -1)), histogram.sum(axis=(-2, -1)))


def best_iou(histogram: NDArray[Any]) -> tuple[Floats, Floats]:
    """The threshold (roof from it on) among `EDGES` with the highest IoU, of several the nearest to 0.5, and that IoU.

    Chosen and scored on the same pixels: an upper limit for what another threshold would give.
    """
    tp, fp = _found(histogram)
    total = histogram[..., 1, :].sum(axis=-1)
    iou = tp / np.maximum(total[..., None] + fp, 1)
    best = EDGES[_FROM_HALF[iou[..., _FROM_HALF].argmax(axis=-1)]]
    return np.where(total > 0, best, np.nan), np.where(total > 0, iou.max(axis=-1), np.nan)


def intervals(
    frames: Mapping[str, NDArray[Any]], *, draws: int, confidence: float, seed: int
) -> dict[str, tuple[float, float] | None]:
    """Bootstrap intervals of every score, by the percentile method (Efron & Tibshirani 1993, chapter 13).

    A draw takes as many frames as there are, with replacement, and is scored by its summed counts. Draws in which a
    score has nothing to divide by are left out of its interval. Frames that adjoin resemble each other, so that the
    intervals of a single place say little about other places.

    Args:
        frames: What `summarise` takes, with the frames as first axis.
        draws: How many; 0: all intervals are None, as they are with fewer than two frames.
        confidence: Share of the draws between the two ends.
        seed: Of the draws.
    """
    exact = {kind: np.asarray(counts, np.float64) for kind, counts in frames.items()}
    number = len(next(iter(exact.values())))
    if number < 2 or not draws:
        return dict.fromkeys(summarise({kind: counts[:0] for kind, counts in exact.items()}))
    generator, scored = np.random.default_rng(seed), []
    for start in range(0, draws, DRAWS_AT_A_TIME):
        size = min(DRAWS_AT_A_TIME, draws - start)
        times = generator.multinomial(number, np.full(number, 1 / number), size=size).astype(np.float64)
        scored.append(summarise({kind: np.tensordot(times, counts, 1) for kind, counts in exact.items()}))
    return {name: _middle(np.concatenate([draw[name] for draw in scored]), confidence) for name in scored[0]}


def _middle(values: Floats, confidence: float) -> tuple[float, float] | None:
    """The two quantiles between which that share of the values lies; NaN is no value."""
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _detection(tp: NDArray[Any], fp: NDArray[Any], fn: NDArray[Any]) -> dict[str, Floats]:
    return {"f1": _ratio(2 * tp, 2 * tp + fp + fn), "precision": _ratio(tp, tp + fp), "recall": _ratio(tp, tp + fn)}


def _found(histogram: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """True and false positives (…, BINS) at a threshold at the lower edge of each bin."""
    above = np.flip(np.flip(histogram, axis=-1).cumsum(axis=-1), axis=-1)
    return above[..., 1, :], above[..., 0, :]


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """`part / whole`, NaN where `whole` is 0."""
    out: Floats = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=out, where=np.asarray(whole) > 0)
    return out
