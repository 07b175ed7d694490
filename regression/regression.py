"""Train a logistic regression that tells metal roof from the rest, pixel by pixel.

Reads  data/train_frames, data/train_masks, data/val_frames, data/val_masks
Writes MODEL.skops  (default: results/regression.skops), with its features, calibration and threshold; and beside it
       MODEL.png, the weights of its standardised features
       MODEL.md, a model card, and MODEL.stac.json, a STAC item with the machine-learning extension
pixel_args in the settings says what it sees of a pixel and how many pixels it learns from; regression_args what it is.
The penalty is chosen by cross-validation in which all pixels of a frame are on one side.
predict/predict.py MODEL.skops SRC DST applies it, to frames and whole scenes.
"""

import argparse
from pathlib import Path

from roofkit.options import answer, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__)
    made.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="the .skops file to write")
    made.add_argument("--seed", type=int, metavar="N", help="of the folds")
    return made


if __name__ == "__main__":
    answer(parser())

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from roofkit.cli import Run, leave, run_stage, say
from roofkit.errors import SettingsError
from roofkit.settings import RegressionArgs
from roofkit.stopping import raise_if_stopped

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

    from pixelwise.learning import Chart, Lesson
    from pixelwise.models import Regression
    from pixelwise.sampling import PixelSample

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class RegressionReport:
    """What regression did; scores are those of the validation frames, log_loss that of frames left out in choosing."""

    wrote: list[str]
    train_frames: int
    val_frames: int
    pixels: int
    features: int
    strength: float
    log_loss: dict[str, float]
    heaviest: list[str]
    val_iou: float
    val_f1: float
    val_pr_auc: float
    val_ece: float
    threshold: float
    kept: bool


def with_squares(scaled: NDArray[np.float32], squares: bool) -> Floats:
    """Features (pixels, features), and behind them their squares where these are asked for.

    In float64: features of neighbouring scales are so alike that float32 cannot tell them apart in solving.
    """
    columns = scaled.astype(np.float64)
    return np.concatenate([columns, columns**2], axis=1) if squares else columns


def folds(sample: "PixelSample", count: int, seed: int) -> Iterator[tuple[Bools, Bools]]:
    """Which pixels to learn from and which to check on, (pixels,) each: no frame is on both sides.

    A part of the frames without which one of the classes is missing is left out.
    """
    frames = np.random.default_rng(seed).permutation(np.unique(sample.frame))
    if len(frames) < 2:
        return
    for part in np.array_split(frames, min(count, len(frames))):
        held = np.isin(sample.frame, part)
        if len(np.unique(sample.roof[~held])) == 2:
            yield ~held, held


def solved(columns: Floats, roof: Bools, strength: float, settings: RegressionArgs) -> "LogisticRegression":
    """The regression of that inverse penalty."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    raise_if_stopped()
    line = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=settings.iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return line.fit(columns, roof)
        except ConvergenceWarning:
            found = f"{settings.iterations}, and the penalty {strength:g} is not solved after that many"
            raise SettingsError("regression_args.iterations", found, "enough to end", "Raise it.") from None


def losses(columns: Floats, sample: "PixelSample", settings: RegressionArgs) -> dict[float, float]:
    """Mean log loss on frames left out, for each inverse penalty; empty where no frame can be left out."""
    from sklearn.metrics import log_loss

    found: dict[float, list[float]] = {}
    for learn, check in folds(sample, settings.folds, settings.seed):
        for strength in settings.strengths:
            line = solved(columns[learn], sample.roof[learn], strength, settings)
            probability = line.predict_proba(columns[check])
            found.setdefault(strength, []).append(log_loss(sample.roof[check], probability, labels=[False, True]))
    return {strength: float(np.mean(values)) for strength, values in found.items()}


def fit(lesson: "Lesson", settings: RegressionArgs) -> "tuple[Regression, dict[str, Any], Chart]":
    """The regression, facts about it, and the picture of its weights."""
    from pixelwise.learning import Chart
    from pixelwise.models import Regression, standardised

    sample, names = lesson.sample, lesson.features.names
    mean = sample.features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = sample.features.std(axis=0, dtype=np.float64).astype(np.float32)
    deviation[deviation == 0] = 1.0
    columns = with_squares(standardised(sample.features, mean, deviation), settings.squares)
    loss = losses(columns, sample, settings)
    if not loss:
        say("regression: no frame can be left out to choose the penalty by; the strongest is taken.")
    strength = min(loss, key=lambda c: loss[c]) if loss else min(settings.strengths)
    line = solved(columns, sample.roof, strength, settings)
    weights, squares = np.split(line.coef_[0].astype(np.float32), [len(names)])
    model = Regression(mean, deviation, weights, squares, line.intercept_.astype(np.float32))
    shown = [*names, *(f"{name}, squared" for name in names)][: columns.shape[1]]
    label = "change of the log-odds of roof for one deviation"
    chart = Chart(shown, line.coef_[0], "What the regression weighs", label)
    heaviest = [shown[i] for i in chart.order()[:5]]
    table = {f"{c:g}": value for c, value in loss.items()}
    return model, {"strength": strength, "log_loss": table, "heaviest": heaviest}, chart


def regression(options: argparse.Namespace, run: Run) -> RegressionReport:
    """The stage, with what the command line says."""
    from pixelwise.learning import learn

    settings = run.block("regression_args", {"seed": options.seed})
    path = options.model.absolute() if options.model else run.paths.regression
    facts, kept = learn(run, path, "regression", settings=settings, fit=lambda lesson: fit(lesson, settings))
    return RegressionReport(**facts, kept=kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, regression)


if __name__ == "__main__":
    leave(main())
