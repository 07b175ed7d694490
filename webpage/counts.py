"""Counts of the validation frames at every threshold: what `evaluate` would count with masks of that threshold."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roofkit import scores
from roofkit.pairs import ScoredFrame, check_grid, read_mask, read_probability
from roofkit.raster import open_raster, windows

WINDOW = 2048
STEPS = 500  # even steps from 0 to 1
ROUNDED = 6  # digits of what people read
Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Frame(ScoredFrame):
    """The files of a validation frame, and its name."""

    name: str


@dataclass(frozen=True)
class Tally:
    """Of one frame, or of several: pixels of the masks as they lie there, and of the probabilities."""

    pixels: Counts
    """What `roofkit.scores.pixel_counts` gives (4,)."""
    reached: Counts
    """What `roofkit.scores.level_counts` gives (2, levels + 1)."""
    histogram: Counts
    """What `roofkit.scores.frame_counts` gives (2, BINS)."""

    def plus(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(self.pixels + other.pixels, self.reached + other.reached, self.histogram + other.histogram)


def empty(levels: NDArray[np.float32]) -> Tally:
    """Nothing counted yet."""
    shapes = (4, (2, len(levels) + 1), (2, scores.BINS))
    return Tally(*(np.zeros(shape, np.int64) for shape in shapes))


def thresholds(own: float | None) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The thresholds of the slider, even ones and the project's own: as people write them, and as predict uses them."""
    even = [round(step / STEPS, ROUNDED) for step in range(1, STEPS)]
    every = {float(np.float32(value)): value for value in even}
    if own is not None:
        every[float(np.float32(own))] = own
    shown = np.array([every[value] for value in sorted(every)])
    return shown, shown.astype(np.float32)


def tally(frame: Frame, *, levels: NDArray[np.float32]) -> Tally:
    """Count one frame, window by window; a pixel counts where all its files call it valid.

    Raises:
        MismatchError: The grids of its files differ.
        BadInputError: One of them is not a mask, or holds no probabilities.
    """
    for path in frame.files[::2]:
        check_grid(path, like=frame.mask)
    none = empty(levels)
    pixels, reached, histogram = none.pixels, none.reached, none.histogram
    with ExitStack() as stack:
        predicted, truth, *probability = (stack.enter_context(open_raster(path)) for path in frame.files)
        for window in windows(truth.height, truth.width, WINDOW):
            (p, p_valid), (t, t_valid) = read_mask(predicted, window), read_mask(truth, window)
            valid = p_valid & t_valid
            pixels += scores.pixel_counts(p, t, valid)
            for src in probability:
                values, known = read_probability(src, window)
                reached += scores.level_counts(values, t, valid & known, levels)
                histogram += scores.frame_counts(values, t, valid & known)
    return Tally(pixels, reached, histogram)


def curve(counted: Tally) -> dict[str, list[int]] | None:
    """True and false positives and missed pixels at each threshold; None without probabilities."""
    if not counted.reached.any():
        return None
    tp, fp, fn, _ = np.moveaxis(scores.counts_at_levels(counted.reached), -1, 0).tolist()
    return {"tp": tp, "fp": fp, "fn": fn}


def score_of(pixels: NDArray[Any]) -> dict[str, float | None]:
    """IoU, F1, precision and recall; None where there is nothing to divide by."""
    return {name: None if np.isnan(value) else float(value) for name, value in scores.pixel_scores(pixels).items()}


def ranked(frames: Sequence[Frame], pixels: Sequence[Counts]) -> list[tuple[str, int]]:
    """Which frames are best, median and worst by IoU, as (word, place in the list).

    Frames without roofs in their labels have little to say, and come in only where there are no others.
    """
    scored = [(score_of(counts)["iou"], frame.name, i) for i, (frame, counts) in enumerate(zip(frames, pixels))]
    known = [(iou, name, i) for iou, name, i in scored if iou is not None]
    labelled = [row for row in known if pixels[row[2]][[0, 2]].any()]
    order = sorted(labelled or known)
    if not order:
        return []
    chosen = {"best": order[-1], "median": order[(len(order) - 1) // 2], "worst": order[0]}
    words = ("best", "median", "worst") if len(order) > 2 else ("best", "worst")[: len(order)]
    return [(word, chosen[word][2]) for word in words]


def precision_recall(histogram: Counts) -> dict[str, list[float]]:
    """Recall and precision from the highest threshold to the lowest, where there is something to divide by."""
    above = np.flip(np.flip(histogram, axis=-1).cumsum(axis=-1), axis=-1)
    fp, tp = above[0][::-1], above[1][::-1]
    keep = np.flatnonzero(((tp + fp) > 0) & np.diff(tp + fp, prepend=0).astype(bool))
    if not keep.size or not tp[-1]:
        return {"recall": [], "precision": []}
    keep = keep[np.unique(np.linspace(0, len(keep) - 1, 400).round().astype(int))]
    recall, precision = tp[keep] / tp[-1], tp[keep] / (tp[keep] + fp[keep])
    return {"recall": np.round(recall, 5).tolist(), "precision": np.round(precision, 5).tolist()}


def calibration(histogram: Counts) -> dict[str, list[float]]:
    """For each of 15 even bins that is not empty: mean probability, share of roof, and share of all pixels."""
    expected, roof, pixels = scores.calibration_bins(histogram)
    some = pixels > 0
    return {
        "expected": np.round(expected[some] / pixels[some], 5).tolist(),
        "found": np.round(roof[some] / pixels[some], 5).tolist(),
        "share": np.round(pixels[some] / max(pixels.sum(), 1), 6).tolist(),
    }
