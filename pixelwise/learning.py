"""What forest and regression share: frames to pixels, the score on validation frames, and what is written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.classifier import Calibration, PixelClassifier, log_odds
from pixelwise.features import Features
from pixelwise.model_file import check_suffix, load_classifier, save_classifier
from pixelwise.models import Model, arrays_of
from pixelwise.sampling import PixelSample, check_bands, count_classes, draw, read_bands, read_truth
from roofkit import scores
from roofkit.artifacts import Outputs, committed, fingerprint
from roofkit.cli import Run, progress, say
from roofkit.ledger import input_digest
from roofkit.model_card import About, Array, card_keys, frame_scores, write_cards
from roofkit.pairs import Pair, check_pairs, named_pairs
from roofkit.raster import closed_digest, open_raster
from roofkit.settings import Block

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 30
NAMES = {"forest": "random forest", "regression": "logistic regression"}
USE = """```
python predict/predict.py {name} SCENES MASKS --probabilities PROBABILITIES --vectors footprints.gpkg
```

The file holds arrays and texts only; skops opens it (`skops.io.load`), and `pixelwise.model_file` says what they are.
"""
Histogram = NDArray[np.int64]


@dataclass(frozen=True)
class Chart:
    """Bars of numbers with names: the longest come first, and no more than fit.

    Args:
        names: Of the bars.
        values: Their lengths, (bars,).
        title: Of the picture.
        label: What is measured.
        spread: Standard deviations of the values, where they have any.
        signed: A long bar to the left counts as much as one to the right.
    """

    names: Sequence[str]
    values: NDArray[np.float64]
    title: str
    label: str
    spread: NDArray[np.float64] | None = None
    signed: bool = True

    def order(self) -> NDArray[np.int64]:
        """The bars that are shown, the longest first."""
        lengths = np.abs(self.values) if self.signed else self.values
        return np.argsort(-lengths, kind="stable")[:MOST_BARS]


@dataclass(frozen=True)
class Lesson:
    """What there is to learn from."""

    features: Features
    sample: PixelSample
    validation: list[Pair]
    run: Run

    def validation_sample(self, pixels: int) -> PixelSample:
        """So many validation pixels at most, half of them roof."""
        features = Features(self.features.settings.model_copy(update={"pixels": pixels}), self.features.bands)
        return draw(self.validation, features, workers=self.run.workers)


Fit = Callable[[Lesson], tuple[Model, dict[str, Any], Chart | None]]


def learn(
    run: Run, model_path: Path, kind: str, *, settings: Block, fit: Fit, charted: bool = True
) -> tuple[dict[str, Any], bool]:
    """Train a classifier on the project's frames, score it on its validation frames, and write it with its picture.

    Args:
        run: The project.
        model_path: Where the classifier goes; the picture has the same name and ends in .png.
        kind: forest or regression.
        settings: Of the kind, beside `pixel_args`.
        fit: Makes the model of the lesson, with facts about it for the report, and what the picture shows.
        charted: Whether there is a picture.

    Returns:
        The facts, and whether they are those of a finished model that was kept.

    Raises:
        RoofError: A child of it for each named problem with frames, masks or outputs.
    """
    check_suffix(model_path)
    paths, extension = run.paths, run.settings.extension_args.extension
    training = named_pairs(paths.train_frames, paths.train_masks, extension)
    validation = named_pairs(paths.val_frames, paths.val_masks, extension)
    made_from = [[p.frame.name, closed_digest(p.frame), input_digest(p.mask)] for p in (*training, *validation)]
    key = fingerprint(f"{kind} 2", settings, run.settings.pixel_args, len(training), made_from)
    name, picture = model_path.name, model_path.with_suffix(".png")
    cards = card_keys(model_path, key, run)
    with Outputs(model_path.parent, kind, name=name, overwrite=run.overwrite, keep_edits=run.keep_edits) as outputs:
        if not outputs.is_finished(name, key):
            check_pairs([*training, *validation])  # before `plan`, where a dry run ends
        todo = outputs.plan({name: key, **({picture.name: key} if charted else {}), **cards})
        missing = {card: own for card, own in cards.items() if card in todo}
        kept = not set(todo) - set(cards)
        if not kept:
            outputs.protect(name)
            outputs.protect(picture.name)
            lesson = _lesson(training, validation, run)
            model, facts, chart = fit(lesson)
            classifier, found, pixel_counts = judged(kind, lesson, model)
            if chart:
                draw_chart(chart, picture)
                outputs.record(picture.name, key)
            save_classifier(classifier, model_path)
            counts = {"train_frames": len(training), "val_frames": len(validation)}
            pixels = {"pixels": len(lesson.sample.roof), "features": len(lesson.features.names)}
            outputs.record(name, key, facts={**counts, **pixels, **facts, **found}, counts=pixel_counts.tolist())
        else:
            say(f"{model_path}: kept, finished with these frames and settings")
        own = {f"{kind}_args": settings, "pixel_args": run.settings.pixel_args}
        frames = training, validation
        write_cards(
            model_path, lambda: described(model_path, outputs.facts(name), own, frames, run), run, outputs, missing
        )
        outputs.finish()
        wrote = [str(path) for path in (model_path, *([picture] if charted else []))]
        return {"wrote": wrote, **outputs.facts(name)["facts"]}, kept


def _lesson(training: list[Pair], validation: list[Pair], run: Run) -> Lesson:
    features = Features(run.settings.pixel_args, read_bands(training))
    check_bands(validation, like=training[0])
    count_classes(validation)  # before the work rather than after it
    return Lesson(features, draw(training, features, workers=run.workers, quiet=run.quiet), validation, run)


def judged(kind: str, lesson: Lesson, model: Model) -> tuple[PixelClassifier, dict[str, float], NDArray[np.int64]]:
    """The classifier with calibration and threshold of the validation frames, its scores there, and counts (frames, 4).

    IoU and F1 are at the threshold where IoU is highest; so are the counts, as `roofkit.scores.pixel_counts` has them.
    """
    raw = PixelClassifier(kind, lesson.features, model)
    pairs = lesson.validation
    histograms = np.zeros((len(pairs), 2, scores.BINS), np.int64)
    for pair, histogram in zip(progress(pairs, len(pairs), "validation", quiet=lesson.run.quiet), histograms):
        roof, valid = read_truth(pair)
        with open_raster(pair.frame) as src:
            for window, probability, _ in raw.scan(src, lesson.run.workers):
                here = window.toslices()
                histogram += scores.frame_counts(probability, roof[here], valid[here])
    histogram = histograms.sum(axis=0)
    best, iou = scores.best_iou(histogram)
    calibration = calibrate(histogram)
    threshold = float(np.clip(calibration(np.asarray(just_below(float(best)))), 1e-6, 1 - 1e-6))
    after = rebinned(histogram, calibration)
    found = {
        "val_iou": float(iou), "val_f1": float(2 * iou / (1 + iou)),
        "val_pr_auc": float(scores.average_precision(histogram)),
        "val_ece": float(scores.expected_calibration_error(after)), "threshold": threshold,
    }  # fmt: skip
    below, above = np.split(histograms, [int(np.searchsorted(scores.EDGES, best))], axis=-1)
    (tn, fn), (fp, tp) = (part.sum(axis=-1).T for part in (below, above))
    counts = np.stack([tp, fp, fn, tn], axis=-1)
    return PixelClassifier(kind, lesson.features, model, calibration, threshold), found, counts


def described(
    path: Path,
    recorded: Mapping[str, Any],
    settings: Mapping[str, Block],
    frames: tuple[Sequence[Pair], Sequence[Pair]],
    run: Run,
) -> About:
    """What there is to say of the classifier in a file.

    Args:
        path: The classifier.
        recorded: What was recorded with it.
        settings: The blocks that it was made with.
        frames: Those for training, and those for validation.
        run: The project.
    """
    classifier = load_classifier(path)
    with open_raster(frames[0][0].frame) as src:
        dtype = src.dtypes[0]
    axes = ("bands", "height", "width")
    return About(
        architecture=NAMES[classifier.kind], framework=("scikit-learn", "scikit-learn"),
        parameters=sum(array.size for array in arrays_of(classifier.model).values()),
        bands=classifier.features.bands.names, taken=Array((classifier.channels, -1, -1), axes, dtype),
        given=Array((-1, -1), axes[1:]),
        preparation=f"It takes pixels in the file's own values, and {classifier.features.margin} more on every side: "
        "features, scaling and calibration are inside the model.",
        threshold=classifier.threshold, frames=frames,
        scored=frame_scores(np.array(recorded["counts"]), recorded["facts"]["val_ece"], run.settings.evaluate_args),
        settings={name: block.model_dump(mode="json") for name, block in settings.items()},
        artifact="skops.io.dump", use=USE.format(name=path.name),
    )  # fmt: skip


def just_below(threshold: float) -> float:
    """Half-way between the two float32 numbers that a threshold parts.

    Many pixels share a forest's probability, and it may be the threshold itself: rounding must not move them.
    """
    first = np.float32(threshold)
    if float(first) < threshold:
        first = np.nextafter(first, np.float32(1))
    return (float(first) + float(np.nextafter(first, np.float32(0)))) / 2


def calibrate(histogram: Histogram) -> Calibration:
    """The line through log-odds that suits the counts (2, BINS) of background and roof best; none where it falls."""
    from sklearn.linear_model import LogisticRegression

    odds = np.tile(log_odds(scores.CENTRES), 2)[:, None]
    line = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000)
    line.fit(odds, np.repeat([False, True], scores.BINS), sample_weight=histogram.ravel() / histogram.sum() * 1000)
    slope = float(line.coef_[0, 0])
    return Calibration(slope, float(line.intercept_[0])) if slope > 0 else Calibration()


def rebinned(histogram: Histogram, calibration: Calibration) -> Histogram:
    """The counts (2, BINS) after the calibration."""
    places = np.minimum(np.searchsorted(scores.EDGES, calibration(scores.CENTRES), side="right") - 1, scores.BINS - 1)
    out = np.zeros_like(histogram)
    for counts, row in zip(out, histogram):
        np.add.at(counts, places, row)
    return out


def draw_chart(chart: Chart, path: Path) -> None:
    """Write the picture, complete or not at all.

    Raises:
        OutputError: The disk is full, or the folder cannot be written to.
    """
    figure = _figure(chart)
    with committed(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})


def _figure(chart: Chart) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = chart.order()[::-1]
    figure = Figure(figsize=(9, 1.4 + 0.26 * len(order)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    values = chart.values[order]
    spread = None if chart.spread is None else chart.spread[order]
    colours = np.where(values >= 0, "#0072b2", "#d55e00")  # told apart by colour-blind people too
    axes.barh(np.arange(len(order)), values, xerr=spread, color=colours, ecolor="#555555", height=0.72)
    axes.set_yticks(np.arange(len(order)), [chart.names[i] for i in order], fontsize=9)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_title(chart.title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(chart.label)
    axes.axvline(0, color="#222222", linewidth=0.8)
    axes.grid(axis="x", color="#d9d9d9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure
