"""Score predicted masks: IoU, F1, precision and recall of the roof class over all valid pixels, and for each frame.

Reads  PREDICTIONS  masks (0, 255) as predict writes them (default: results/predictions)
       MASKS        the true masks of the same names and grids (default: data/val_masks)
Writes DST.json     (default: results/metrics.json)
A pixel counts when both files call it valid. A score whose denominator is 0 is null.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roofkit.artifacts import Outputs, digests, fingerprint, write_json
from roofkit.cli import Run, progress, run_stage, stage_parser
from roofkit.pairs import check_grid, mask_files, pair_rasters, read_mask
from roofkit.raster import Valid, open_raster, windows
from roofkit.workers import map_items

WINDOW = 2048


@dataclass(frozen=True)
class Counts:
    """Pixels by truth and prediction: true and false positives and negatives."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    def scores(self) -> dict[str, float | None]:
        """IoU, F1, precision and recall of the roof class, 0 to 1; None where there is nothing to divide by."""
        return {
            "iou": ratio(self.tp, self.tp + self.fp + self.fn),
            "f1": ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn),
            "precision": ratio(self.tp, self.tp + self.fp),
            "recall": ratio(self.tp, self.tp + self.fn),
        }


@dataclass(frozen=True)
class EvaluateReport:
    """The scores over all frames."""

    wrote: str
    frames: int
    valid_pixels: int
    iou: float | None
    f1: float | None
    precision: float | None
    recall: float | None
    kept: bool = False


def ratio(part: int, whole: int) -> float | None:
    """`part / whole`, or None when `whole` is 0."""
    return part / whole if whole else None


def count(predicted: Valid, truth: Valid, valid: Valid) -> Counts:
    """Compare two bool arrays of one shape where `valid`."""
    p, t = predicted[valid], truth[valid]
    tp = int(np.count_nonzero(p & t))
    fp, fn = int(np.count_nonzero(p)) - tp, int(np.count_nonzero(t)) - tp
    return Counts(tp, fp, fn, p.size - tp - fp - fn)


def compare(pair: tuple[Path, Path]) -> Counts:
    """Counts of a predicted and a true mask.

    Raises:
        MismatchError: Their grids differ.
        BadInputError: One of them is not a mask.
    """
    check_grid(pair[0], like=pair[1])
    total = Counts()
    with open_raster(pair[0]) as predicted, open_raster(pair[1]) as truth:
        for window in windows(predicted.height, predicted.width, WINDOW):
            (p, p_valid), (t, t_valid) = read_mask(predicted, window), read_mask(truth, window)
            total += count(p, t, p_valid & t_valid)
    return total


def evaluate_masks(predictions: Path, masks: Path, dst: Path, *, run: Run) -> EvaluateReport:
    """Score all pairs and write the JSON.

    Raises:
        MissingInputError, MismatchError, BadInputError: The pairs are not complete, not on one grid, or not masks.
    """
    pairs = pair_rasters(mask_files(predictions), mask_files(masks), kinds=("prediction", "mask"))
    names = [pair[0].stem for pair in pairs]
    key = fingerprint("evaluate", names, digests(path for pair in pairs for path in pair))
    with Outputs(dst.parent, "evaluate", name=dst.name, overwrite=run.overwrite) as outputs:
        todo = outputs.plan({dst.name: key})
        if todo:
            with closing(map_items(compare, pairs, workers=run.workers)) as done:
                frames = dict(zip(names, progress(done, len(pairs), "evaluate", quiet=run.quiet)))
            total = sum(frames.values(), Counts())
            values = {**total.scores(), "counts": vars(total), "frames": {n: _entry(c) for n, c in frames.items()}}
            write_json(dst, values)
            outputs.record(dst.name, key, counts=vars(total))
        outputs.finish()
        total = Counts(**outputs.facts(dst.name)["counts"])
    valid_pixels = total.tp + total.fp + total.fn + total.tn
    return EvaluateReport(str(dst), len(pairs), valid_pixels, kept=not todo, **total.scores())


def _entry(counts: Counts) -> dict[str, object]:
    return {**counts.scores(), "counts": vars(counts)}


def evaluate(options: argparse.Namespace, run: Run) -> EvaluateReport:
    """The stage, with what the command line says."""
    predictions = options.predictions or run.paths.predictions
    return evaluate_masks(predictions, options.masks or run.paths.val_masks, options.dst or run.paths.metrics, run=run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    parser = stage_parser(__doc__)
    parser.add_argument("predictions", nargs="?", type=Path, metavar="PREDICTIONS", help="folder of predicted masks")
    parser.add_argument("masks", nargs="?", type=Path, metavar="MASKS", help="folder of true masks")
    parser.add_argument("dst", nargs="?", type=Path, metavar="DST.json", help="where the scores go")
    return run_stage(parser, argv, evaluate)


if __name__ == "__main__":
    sys.exit(main())
