"""Score predicted masks against true ones: pixels, outlines, buildings and probabilities, with bootstrap intervals.

Reads  PREDICTIONS  masks (0, 255) as predict writes them (default: results/predictions)
       MASKS        the true masks of the same names and grids (default: data/val_masks)
       with --probabilities DIR  roof probabilities of the same names (default, for the project's own predictions:
       results/probabilities, where they are)
       with --labels FILE  the roof polygons that the masks were drawn from (default, for the project's own masks: its
       labels, where they are), to tell apart roofs that touch; mask_args says which are roofs
       results/forest_predictions, results/regression_predictions and their probabilities, where they are, beside the
       project's own predictions
Writes DST.json     (default: results/metrics.json)

iou f1 precision recall       of the roof class, from pixel counts over all frames
boundary_iou                  IoU of the pixels near an outline (Cheng et al. 2021); evaluate_args.boundary is the width
buildings                     precision, recall and F1 of whole roofs; one is found from an IoU of building_iou on. A
                              predicted roof is a patch of pixels that share edges; so is a true one without labels
pr_auc ece brier              of the probabilities: average precision, expected calibration error (of the probability of
                              roof, 15 bins), Brier score. pr_auc_error: what the histogram behind pr_auc may hide
best_threshold best_iou       the threshold that would have suited these frames best, and its IoU
models                        the same of forest and regression beside the network's (see predict)
intervals                     of all these: evaluate_args.bootstrap draws of frames with replacement, percentiles

A pixel counts when the files that are compared call it valid. A score whose denominator is 0 is null; so are the
intervals of a single frame.
"""

import argparse
from pathlib import Path

from roofkit.options import answer, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__)
    made.add_argument("predictions", nargs="?", type=Path, metavar="PREDICTIONS", help="folder of predicted masks")
    made.add_argument("masks", nargs="?", type=Path, metavar="MASKS", help="folder of true masks")
    made.add_argument("dst", nargs="?", type=Path, metavar="DST.json", help="where the scores go")
    made.add_argument("--probabilities", type=Path, metavar="DIR", help="folder of roof probabilities")
    made.add_argument("--labels", type=Path, metavar="FILE", help="roof polygons, to tell apart roofs that touch")
    return made


if __name__ == "__main__":
    answer(parser())

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roofkit import scores
from roofkit.artifacts import Outputs, fingerprint, write_json
from roofkit.cli import Run, leave, progress, run_stage, say
from roofkit.errors import BadInputError, MismatchError, MissingInputError, RoofError
from roofkit.ledger import input_digests, label_digests
from roofkit.pairs import ScoredFrame, by_stem, check_grid, mask_files, pair_rasters, read_mask, read_probability
from roofkit.paths import find_labels, holds_files
from roofkit.raster import Grid, Valid, grid_of, open_raster, raster_files, windows
from roofkit.settings import EvaluateArgs, MaskArgs
from roofkit.workers import map_items

WINDOW = 2048
NETWORK = "network"  # among the models that are compared: what train makes
LARGEST = 64 * 2**20  # pixels of a frame that is held in memory, for outlines and buildings
SHOWN = ("iou", "f1", "precision", "recall", "boundary_iou", "pr_auc", "ece", "brier", "best_threshold", "best_iou")
Counts = dict[str, NDArray[np.int64]]


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
    boundary_iou: float | None
    buildings: dict[str, Any]
    pr_auc: float | None
    ece: float | None
    brier: float | None
    best_threshold: float | None
    best_iou: float | None
    interval_confidence: float
    models: dict[str, Any]
    too_large: list[str]
    kept: bool = False


class Score(float):
    """A number that is shown to people with its interval."""

    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{float(self):{spec}} ({self.low:{spec}} to {self.high:{spec}})"


@dataclass(frozen=True, kw_only=True)
class Frame(ScoredFrame):
    """The files of one frame, and the roofs that touch it as WKB in its CRS: one task for a worker."""

    grid: Grid
    roofs: tuple[bytes, ...] = ()

    @property
    def is_large(self) -> bool:
        """Whether outlines and buildings are left out."""
        return self.grid.height * self.grid.width > LARGEST


@dataclass(frozen=True)
class LabelFiles:
    """A file or folder of polygons, which is read only where there is something to score."""

    path: Path
    digests: list[tuple[str, str]]
    needed: bool
    """Whether to score without them is an error."""


def true_roofs(truth: Valid, valid: Valid, drawn: NDArray[np.int32]) -> tuple[NDArray[np.int32], Valid]:
    """A number for each true roof (rows, cols), 0 elsewhere, and where predictions can be judged.

    The mask says where there is roof, polygons say which pixels belong together. A patch of the mask that no polygon
    touches is a roof of its own. A polygon that is invalid for the most part is no roof to find, nor a false alarm.

    Args:
        truth: Where the mask says roof.
        valid: Where it counts.
        drawn: The polygons, each drawn with its number from 1; 0 elsewhere.
    """
    pixels, measured = np.bincount(drawn.ravel()), np.bincount(drawn[valid], minlength=drawn.max() + 1)
    unseen = 2 * measured < pixels
    unseen[0] = False
    judged = valid & ~unseen[drawn]
    roof = truth & judged
    patch = scores.patches(roof)
    labelled = np.bincount(patch[drawn > 0], minlength=patch.max() + 1) > 0
    return np.where(roof, np.where(labelled[patch], drawn, patch + len(pixels)), 0).astype(np.int32), judged


def boundary_width(shape: tuple[int, ...], share: float) -> int:
    """That share of the diagonal in whole pixels, at least 1."""
    return max(1, round(share * float(np.hypot(*shape))))


def measure(frame: Frame, *, settings: EvaluateArgs, all_touched: bool) -> Counts:
    """What `roofkit.scores.summarise` makes scores of, for one frame; 0 where there is nothing to count.

    Raises:
        MismatchError: The grids of its files differ.
        BadInputError: One of them is not a mask, or holds no probabilities.
    """
    check_grid(frame.prediction, like=frame.mask)
    if frame.probability:
        check_grid(frame.probability, like=frame.prediction)
    counts = measure_pixels(frame)
    if frame.is_large:
        return counts | {"boundary": np.zeros(2, np.int64), "buildings": np.zeros(3, np.int64)}
    return counts | measure_roofs(frame, settings, all_touched)


def measure_pixels(frame: Frame) -> Counts:
    """Counts of pixels and probabilities, window by window."""
    pixels, histogram = np.zeros(4, np.int64), np.zeros((2, scores.BINS), np.int64)
    with ExitStack() as stack:
        predicted, truth, *probability = (stack.enter_context(open_raster(path)) for path in frame.files)
        for window in windows(truth.height, truth.width, WINDOW):
            (p, p_valid), (t, t_valid) = read_mask(predicted, window), read_mask(truth, window)
            valid = p_valid & t_valid
            pixels += scores.pixel_counts(p, t, valid)
            for src in probability:
                values, known = read_probability(src, window)
                histogram += scores.frame_counts(values, t, valid & known)
    return {"pixels": pixels, "histogram": histogram}


def measure_roofs(frame: Frame, settings: EvaluateArgs, all_touched: bool) -> Counts:
    """Counts of outlines and buildings."""
    with open_raster(frame.prediction) as predicted, open_raster(frame.mask) as truth:
        (p, p_valid), (t, t_valid) = read_mask(predicted), read_mask(truth)
    valid = p_valid & t_valid
    numbered, judged = true_roofs(t, valid, draw(frame, all_touched))
    min_pixels = settings.min_building / pixel_area(frame) if settings.min_building else 0.0
    patches = scores.patches(p & judged)
    return {
        "boundary": scores.boundary_counts(p, t, valid, boundary_width(p.shape, settings.boundary)),
        "buildings": scores.building_counts(patches, numbered, iou=settings.building_iou, min_pixels=min_pixels),
    }


def draw(frame: Frame, all_touched: bool) -> NDArray[np.int32]:
    """The polygons of a frame on its grid, each with its number from 1; the smaller of two that overlap is on top."""
    import shapely
    from rasterio.features import rasterize

    size = (frame.grid.height, frame.grid.width)
    if not frame.roofs:
        return np.zeros(size, np.int32)
    shapes = sorted(shapely.from_wkb(list(frame.roofs)), key=shapely.area, reverse=True)
    numbered = zip(shapes, range(1, len(shapes) + 1))
    return rasterize(numbered, size, transform=frame.grid.transform, all_touched=all_touched, dtype="int32")


def pixel_area(frame: Frame) -> float:
    """Square metres of ground per pixel, on the WGS 84 ellipsoid.

    Raises:
        MissingInputError: The frame has no CRS.
        BadInputError: Its CRS, or where it lies in it, is not on Earth.
    """
    from pyproj import Geod, Transformer
    from pyproj.exceptions import CRSError, ProjError

    grid, transform = frame.grid, frame.grid.transform
    expected, advice = "a georeferenced frame, to know square metres", "Set evaluate_args.min_building to 0."
    if grid.crs is None:
        raise MissingInputError(frame.prediction, "no CRS", expected, advice)
    corners = [transform @ corner for corner in ((0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height))]
    try:
        lon, lat = Transformer.from_crs(grid.crs.to_wkt(), "EPSG:4326", always_xy=True).transform(*zip(*corners))
        area = abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0]) / (grid.width * grid.height)
    except (CRSError, ProjError):
        area = 0.0
    if not 0 < area < math.inf:
        raise BadInputError(frame.prediction, "a place that is not on Earth", expected, advice)
    return area


def find_frames(predictions: Path, masks: Path) -> list[Frame]:
    """The pairs of predicted and true masks.

    Raises:
        MissingInputError: One has no partner.
    """
    frames = []
    for prediction, mask in pair_rasters(mask_files(predictions), mask_files(masks), kinds=("prediction", "mask")):
        with open_raster(prediction) as predicted, open_raster(mask) as truth:
            frames.append(Frame(prediction, mask, grid=grid_of(predicted if predicted.crs else truth)))
    return frames


def with_probabilities(frames: list[Frame], folder: Path) -> list[Frame]:
    """The frames with their probabilities.

    Raises:
        MissingInputError: A frame has none.
    """
    known = by_stem(raster_files(folder))
    missing = [frame.prediction.stem for frame in frames if frame.prediction.stem not in known]
    if missing:
        found = f"nothing for {len(missing):,} of {len(frames):,} predictions ({', '.join(missing[:3])})"
        raise MissingInputError(folder, found, "<name>.tif for each", "Make them with predict.")
    return [replace(frame, probability=known[frame.prediction.stem]) for frame in frames]


def roofs_of(frames: list[Frame], labels: LabelFiles | None, settings: MaskArgs) -> list[tuple[bytes, ...]]:
    """The roofs that touch each frame; none where there are no labels, or none that could be used.

    Raises:
        MismatchError, MissingInputError, BadInputError, SettingsError: As for `touching_roofs`, where they are needed.
    """
    try:
        return touching_roofs(frames, labels.path, settings) if labels else [()] * len(frames)
    except RoofError as error:
        if labels and labels.needed:
            raise
        tell_without_labels(error)
        return [()] * len(frames)


def touching_roofs(frames: list[Frame], path: Path, settings: MaskArgs) -> list[tuple[bytes, ...]]:
    """The roofs of a label file that touch each frame, as WKB in its CRS.

    Raises:
        MismatchError: No roof touches a frame.
        MissingInputError, BadInputError, SettingsError: As for `roofkit.labels.read_labels`.
    """
    import shapely  # here, as geopandas would make --help and every worker process wait
    from pyproj import CRS

    from roofkit.labels import read_labels, reproject

    labels = read_labels(path, where=settings.where, ignore=settings.ignore, layer=settings.layer)
    trees: dict[str, Any] = {}
    found: list[tuple[bytes, ...]] = []
    for frame in frames:
        if frame.grid.crs is None:
            found.append(())
            continue
        crs = frame.grid.crs.to_wkt()
        if crs not in trees:
            trees[crs] = shapely.STRtree(reproject(labels.roofs, CRS.from_wkt(crs), path).geometry.to_numpy())
        near = trees[crs].geometries[trees[crs].query(shapely.box(*frame.grid.bounds), predicate="intersects")]
        found.append(tuple(sorted(shapely.to_wkb(near).tolist())))
    if not any(found):
        advice = "Name the labels that the masks were drawn from."
        raise MismatchError(path, "no roof on any frame", "polygons that lie on the frames", advice)
    return found


def tell_without_labels(error: RoofError) -> None:
    """Say why polygons were not used."""
    say(f"note: {error} Without labels, roofs that touch count as one building.")


def evaluate_frames(
    frames: list[Frame],
    dst: Path,
    *,
    run: Run,
    others: Mapping[str, list[Frame]] | None = None,
    labels: LabelFiles | None = None,
) -> EvaluateReport:
    """Score all frames and write the JSON.

    Args:
        frames: As the network predicted them.
        dst: The JSON.
        run: The rest.
        others: The same frames as other models predicted them, by their names.
        labels: The polygons that say which pixels are one roof; None: roofs that touch are one.

    Raises:
        MismatchError, BadInputError: The files of a frame are not on one grid, or not what they should be; or labels
            that are needed cannot be used.
    """
    settings, masks = run.settings.evaluate_args, run.settings.mask_args
    every = {NETWORK: frames, **(others or {})}
    made_from = [(name, f.prediction.stem, input_digests(f.files)) for name, listed in every.items() for f in listed]
    key = fingerprint("evaluate", settings, masks, made_from, labels and labels.digests)
    with Outputs(dst.parent, "evaluate", name=dst.name, overwrite=run.overwrite, keep_edits=run.keep_edits) as outputs:
        todo = outputs.plan({dst.name: key})
        if todo:
            roofs = roofs_of(frames, labels, masks)
            every = {name: [replace(f, roofs=r) for f, r in zip(listed, roofs)] for name, listed in every.items()}
            work = partial(measure, settings=settings, all_touched=masks.all_touched)
            tasks = [frame for listed in every.values() for frame in listed]
            with closing(map_items(work, tasks, workers=run.workers)) as done:
                counted = iter(list(progress(done, len(tasks), "evaluate", quiet=run.quiet)))
            found = {name: results(f, list(islice(counted, len(f))), settings) for name, f in every.items()}
            write_json(dst, {**found[NETWORK], "models": {name: brief(values) for name, values in found.items()}})
            outputs.record(dst.name, key)
        outputs.finish()
        return report_of(dst, json.loads(dst.read_text(encoding="utf-8")), kept=not todo)


def results(frames: list[Frame], counted: list[Counts], settings: EvaluateArgs) -> dict[str, Any]:
    """What the JSON holds."""
    stacked = {kind: np.stack([counts[kind] for counts in counted]) for kind in counted[0]}
    total = {kind: counts.sum(axis=0) for kind, counts in stacked.items()}
    between = scores.intervals(stacked, draws=settings.bootstrap, confidence=settings.confidence, seed=settings.seed)
    values = entry(total)
    low, high = scores.average_precision_bounds(total["histogram"])
    pr_auc = values["pr_auc"]
    values["pr_auc_error"] = None if pr_auc is None else float(max(high - pr_auc, pr_auc - low))
    values["buildings"]["truth"] = "labels" if any(frame.roofs for frame in frames) else "masks"
    return {
        **values,
        "intervals": nested(between),
        "settings": settings.model_dump(mode="json"),
        "too_large": [frame.prediction.stem for frame in frames if frame.is_large],
        "frames": {frame.prediction.stem: entry(counts) for frame, counts in zip(frames, counted)},
    }


def brief(values: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of a model beside others: without those of each frame, and without the settings they share."""
    return {name: value for name, value in values.items() if name not in ("frames", "settings", "too_large")}


def entry(counts: Counts) -> dict[str, Any]:
    """Scores and counts of one frame, or of all, as JSON holds them: None instead of NaN."""
    found = {name: None if np.isnan(value) else float(value) for name, value in scores.summarise(counts).items()}
    values = nested(found)
    values["buildings"] |= dict(zip(("tp", "fp", "fn"), counts["buildings"].tolist()))
    return {**values, "counts": dict(zip(("tp", "fp", "fn", "tn"), counts["pixels"].tolist()))}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`building_f1` and its like as `buildings: {f1}`."""
    prefix = "building_"
    plain = {name: value for name, value in values.items() if not name.startswith(prefix)}
    return {**plain, "buildings": {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}}


def report_of(dst: Path, values: dict[str, Any], *, kept: bool) -> EvaluateReport:
    """The report, from what the JSON holds."""
    between, models = values["intervals"], values["models"]
    return EvaluateReport(
        wrote=str(dst),
        frames=len(values["frames"]),
        valid_pixels=sum(values["counts"].values()),
        buildings={name: scored(value, between["buildings"].get(name)) for name, value in values["buildings"].items()},
        **{name: scored(values[name], between[name]) for name in SHOWN},
        interval_confidence=values["settings"]["confidence"],
        models={} if len(models) < 2 else {name: compared(model) for name, model in models.items()},
        too_large=values["too_large"],
        kept=kept,
    )


def compared(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says of each of several models."""
    return {name: scored(values[name], values["intervals"][name]) for name in ("iou", "f1", "pr_auc", "ece")}


def scored(value: Any, interval: Sequence[float] | None) -> Any:
    """The value, with its interval where it has one."""
    if value is None or interval is None:
        return value
    score = Score(value)
    score.low, score.high = interval
    return score


def add_probabilities(frames: list[Frame], options: argparse.Namespace, run: Run) -> list[Frame]:
    """The frames with the probabilities that the command line names, or with the project's where they are."""
    if options.probabilities:
        return with_probabilities(frames, options.probabilities)
    without = "Without them pr_auc, ece, brier, best_threshold and best_iou are null."
    try:
        if not is_same(options.predictions, run.paths.predictions):
            advice = "Name their folder with --probabilities."
            raise MissingInputError(options.predictions, "not the project's", "probabilities made with them", advice)
        return with_probabilities(frames, run.paths.probabilities)
    except MissingInputError as error:
        say(f"note: {error} {without}")
        return frames


def labels_for(options: argparse.Namespace, run: Run) -> LabelFiles | None:
    """The labels that the command line names, or the project's where its own masks are the truth."""
    if not options.labels and not is_same(options.masks, run.paths.val_masks):
        return None
    try:
        path = options.labels or find_labels(run.paths.labels)
        return LabelFiles(path, label_digests(path), needed=bool(options.labels))
    except RoofError as error:
        if options.labels:
            raise
        tell_without_labels(error)
        return None


def other_frames(frames: list[Frame], run: Run) -> dict[str, list[Frame]]:
    """The frames as forest and regression predicted them, where predict wrote such masks and probabilities."""
    found = {}
    for name, classifier in run.paths.classifiers.items():
        masks, probabilities = classifier.predictions, classifier.probabilities
        if not holds_files(masks):
            continue
        try:
            known = by_stem(mask_files(masks))
            alike = [replace(frame, prediction=known[frame.prediction.stem]) for frame in frames]
            found[name] = with_probabilities(alike, probabilities)
        except KeyError as stem:
            say(f"note: {masks}: no mask of {stem}; {name} is not scored. Run predict/predict.py.")
        except MissingInputError as error:
            say(f"note: {error} {name} is not scored.")
    return found


def is_same(path: Path | None, default: Path) -> bool:
    """Whether the command line leaves out a path, or names the project's own."""
    return path is None or path.resolve() == default.resolve()


def evaluate(options: argparse.Namespace, run: Run) -> EvaluateReport:
    """The stage, with what the command line says."""
    frames = find_frames(options.predictions or run.paths.predictions, options.masks or run.paths.val_masks)
    frames, labels = add_probabilities(frames, options, run), labels_for(options, run)
    large = [frame.prediction.name for frame in frames if frame.is_large]
    if large:
        say(
            f"note: {len(large):,} frames of more than {LARGEST:,} pixels ({', '.join(large[:3])}) count in the pixel "
            "scores only. Cut them into chips for the scores of outlines and buildings."
        )
    others = other_frames(frames, run) if is_same(options.predictions, run.paths.predictions) else {}
    return evaluate_frames(frames, options.dst or run.paths.metrics, run=run, others=others, labels=labels)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, evaluate)


if __name__ == "__main__":
    leave(main())
