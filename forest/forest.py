"""Train a random forest that tells metal roof from the rest, pixel by pixel.

Reads  data/train_frames, data/train_masks, data/val_frames, data/val_masks
Writes MODEL.skops  (default: results/forest.skops), with its features, calibration and threshold; and beside it
       MODEL.png, which features it needs: by how much average precision on validation pixels falls when one is shuffled
       MODEL.md, a model card, and MODEL.stac.json, a STAC item with the machine-learning extension
pixel_args in the settings says what it sees of a pixel and how many pixels it learns from; forest_args what it is.
predict/predict.py MODEL.skops SRC DST applies it, to frames and whole scenes.
"""

import argparse
from pathlib import Path

from roofkit.options import answer, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__)
    made.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="the .skops file to write")
    made.add_argument("--seed", type=int, metavar="N", help="of the trees")
    return made


if __name__ == "__main__":
    answer(parser())

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from roofkit.cli import Run, leave, run_stage
from roofkit.settings import ForestArgs
from roofkit.stopping import raise_if_stopped
from roofkit.workers import cores

if TYPE_CHECKING:
    from pixelwise.learning import Chart, Lesson
    from pixelwise.models import Forest
    from pixelwise.sampling import PixelSample

REPEATS = 3  # shuffles of each feature


@dataclass(frozen=True)
class ForestReport:
    """What forest did; scores are those of the validation frames, oob_accuracy that of pixels that a tree has not seen.

    Pixels beside each other are alike, so oob_accuracy says little about other places.
    """

    wrote: list[str]
    train_frames: int
    val_frames: int
    pixels: int
    features: int
    nodes: int
    oob_accuracy: float
    most_important: list[str]
    val_iou: float
    val_f1: float
    val_pr_auc: float
    val_ece: float
    threshold: float
    kept: bool


def importance(model: "Forest", sample: "PixelSample", *, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By how much average precision falls when a feature is shuffled (Breiman 2001): mean and deviation, (features,).

    Features that say the same stand in for each other: of two alike, neither seems important, so few fall by much.
    """
    from sklearn.metrics import average_precision_score

    pixels = np.ascontiguousarray(sample.features.T)
    whole = average_precision_score(sample.roof, model.probability(pixels))
    rng = np.random.default_rng(seed)
    losses = np.zeros((len(pixels), REPEATS))
    for feature, row in enumerate(pixels):
        raise_if_stopped()
        kept = row.copy()
        for repeat in range(REPEATS):
            row[:] = rng.permutation(kept)
            losses[feature, repeat] = whole - average_precision_score(sample.roof, model.probability(pixels))
        row[:] = kept
    return losses.mean(axis=1), losses.std(axis=1)


def fit(lesson: "Lesson", settings: ForestArgs) -> "tuple[Forest, dict[str, Any], Chart | None]":
    """The forest, facts about it, and the picture of its features."""
    from sklearn.ensemble import RandomForestClassifier

    from pixelwise.learning import Chart
    from pixelwise.models import Forest

    trees = RandomForestClassifier(
        settings.trees, max_depth=settings.depth, min_samples_leaf=settings.leaf, max_features=settings.share,
        oob_score=True, n_jobs=lesson.run.workers or cores(), random_state=settings.seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some inputs do not have OOB scores", UserWarning)  # few trees
        trees.fit(lesson.sample.features, lesson.sample.roof)
    model, names = Forest.of(trees), lesson.features.names
    facts = {"nodes": len(model.thresholds), "oob_accuracy": float(trees.oob_score_), "most_important": []}
    if not settings.importance:
        return model, facts, None
    loss, spread = importance(model, lesson.validation_sample(settings.importance), seed=settings.seed)
    chart = Chart(names, loss, "What the forest needs", "fall of average precision when shuffled", spread, signed=False)
    return model, facts | {"most_important": [names[i] for i in chart.order()[:5]]}, chart


def forest(options: argparse.Namespace, run: Run) -> ForestReport:
    """The stage, with what the command line says."""
    from pixelwise.learning import learn

    settings = run.block("forest_args", {"seed": options.seed})
    path = options.model.absolute() if options.model else run.paths.forest
    facts, kept = learn(
        run,
        path,
        "forest",
        settings=settings,
        fit=lambda lesson: fit(lesson, settings),
        charted=bool(settings.importance),
    )
    return ForestReport(**facts, kept=kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, forest)


if __name__ == "__main__":
    leave(main())
