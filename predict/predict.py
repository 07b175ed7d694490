"""Apply a trained model to frames and whole scenes: masks on their own grid, and roofs as polygons.

Reads  MODEL  .h5 or .keras as train writes it, or .skops of forest or regression (default: results/results_4.h5; and
              for the validation frames also results/forest.skops and results/regression.skops, where they are)
       SRC    a frame or scene, or a folder of them (default: the validation frames, then the scenes)
Writes DST/<name>.tif  masks: 0 background, 255 roof (default: results/predictions, results/map; of the other two
       models results/forest_predictions and so on)
       with --vectors FILE  roofs as polygons with area_m2 and mean_probability (default for scenes:
       results/footprints.gpkg); .gpkg, .geojson, .parquet or .fgb
       roof probability, float32, 0 to 1: of the validation frames (default: results/probabilities; evaluate
       reads it), and with --probabilities DIR of all that is predicted
Scenes go through in overlapping windows that are blended, so that memory stays flat and no seam shows.
predict_args in the settings says how polygons are drawn: separate, min_area, min_hole, simplify, square.
"""

import argparse
import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from roofkit.artifacts import Outputs, digest, fingerprint
from roofkit.cli import Run, number, progress, run_stage, say, stage_parser
from roofkit.errors import BadInputError, MismatchError, MissingInputError
from roofkit.footprints import Footprints, FootprintTracer, gather, pixel_metres, to_footprints
from roofkit.pairs import by_stem
from roofkit.paths import holds_files
from roofkit.raster import (
    BLOCK,
    all_valid,
    create_raster,
    data_bands,
    grid_of,
    open_raster,
    raster_digest,
    raster_files,
    read_pixels,
)
from roofkit.settings import PredictArgs, RasterArgs
from roofkit.vectors import check_suffix, write_features

if TYPE_CHECKING:
    from pixelwise.classifier import PixelClassifier
    from unet.model_file import LoadedModel

PART_WIDTH = 8192  # columns that are blended at a time: with it, memory does not grow with a scene's width
Floats = NDArray[np.float32]
Turn = tuple[int, bool]  # quarter turns to the left, then mirrored or not


@dataclass(frozen=True)
class PredictReport:
    """What predict did."""

    wrote: list[str]
    rasters: int
    made: int
    kept: int
    threshold: float
    roof_fraction: float
    highest_probability: float
    footprints: int | None = None
    separated: int | None = None  # patches of touching roofs that became several footprints
    specks: int | None = None  # left out for their size


@dataclass(frozen=True)
class Targets:
    """Where results go."""

    masks: Path
    probabilities: tuple[Path, ...] = ()
    vectors: Path | None = None


@dataclass
class Tally:
    """What was seen over all pixels of a raster."""

    valid: int = 0
    roof: int = 0
    highest: float = 0.0

    def add(self, roof: NDArray[np.bool_], probability: Floats, valid: NDArray[np.bool_]) -> None:
        """Count the pixels of one strip."""
        self.valid += int(np.count_nonzero(valid))
        self.roof += int(np.count_nonzero(roof))
        self.highest = max(self.highest, float(probability.max(initial=0.0)))


def starts(length: int, size: int, overlap: float) -> list[int]:
    """Where windows of `size` start along a side, so that neighbours share at least that share and none sticks out."""
    if length <= size:
        return [0]
    step = max(1, round(size * (1 - overlap)))
    return [*range(0, length - size, step), length - size]


def blend_weights(offsets: Sequence[int], size: int, length: int) -> list[Floats]:
    """For each window along a side its share (0 to 1) at each of its pixels; over all windows they add up to 1.

    Shares rise linearly from a window's edge to where its neighbour ends; they do not fall towards the scene's edge.
    """
    size = min(size, length)
    gaps = [b - a for a, b in pairwise(offsets)]
    ramp = max(1, size - max(gaps, default=0))
    rise = np.minimum((np.arange(size) + 0.5) / ramp, 1.0)
    tapers = [
        np.minimum(rise if offset else 1.0, rise[::-1] if offset + size < length else np.ones(size))
        for offset in offsets
    ]
    total = np.zeros(length)
    for offset, taper in zip(offsets, tapers):
        total[offset : offset + size] += taper
    return [(taper / total[offset : offset + size]).astype(np.float32) for offset, taper in zip(offsets, tapers)]


def parts(width: int, size: int) -> Iterator[tuple[int, int]]:
    """A scene's columns in parts that start at a block: the first column of each, and the one after its last."""
    span = max(PART_WIDTH, 4 * size) // BLOCK * BLOCK
    for first in range(0, width, span):
        yield first, min(first + span, width)


class Predictor(ABC):
    """A model that gives roof probabilities for scenes of any size."""

    def __init__(self, path: Path, settings: PredictArgs) -> None:
        self.path = path
        self.settings = settings

    @property
    def threshold(self) -> float:
        """From this probability on a pixel is roof."""
        return float(self.loaded.threshold if self.settings.threshold == "auto" else self.settings.threshold)

    @property
    @abstractmethod
    def loaded(self) -> Any:
        """The model, which knows the threshold that was best on the validation frames, and the bands that it takes."""

    @abstractmethod
    def scan(self, src: DatasetReader) -> Iterator[tuple[Window, Floats]]:
        """Windows that cover a scene once, aligned to blocks, each with its roof probability (rows, cols), 0 to 1."""

    def check(self, src: DatasetReader, path: Path) -> None:
        """Raise MismatchError when the raster has another number of bands than the model takes."""
        if len(data_bands(src)) != self.loaded.channels:
            found, expected = f"{len(data_bands(src))} bands", f"{self.loaded.channels}, as {self.path} takes"
            raise MismatchError(path, found, expected, "Choose a model that was trained on such imagery.")


class PixelPredictor(Predictor):
    """A forest or regression: each pixel by what is around it."""

    def __init__(self, path: Path, settings: PredictArgs, workers: int | None) -> None:
        super().__init__(path, settings)
        self.workers = workers

    @cached_property
    def loaded(self) -> "PixelClassifier":
        """The model, read when first needed."""
        from pixelwise.model_file import load_classifier

        return load_classifier(self.path)

    def scan(self, src: DatasetReader) -> Iterator[tuple[Window, Floats]]:
        """Windows, worked out side by side on all cores."""
        yield from self.loaded.scan(src, self.workers)


class NetworkPredictor(Predictor):
    """A network: overlapping windows, prepared as the training frames were, and blended."""

    @cached_property
    def loaded(self) -> "LoadedModel":
        """The model, read when first needed."""
        from unet.model_file import load_model

        return load_model(self.path)

    def scan(self, src: DatasetReader) -> Iterator[tuple[Window, Floats]]:
        """Strips of blended windows."""
        for first, last in parts(src.width, self.loaded.frame_size[1]):
            for row, strip in _strips(src, self, first, last):
                yield Window(first, row, last - first, strip.shape[0]), strip

    @property
    def input_size(self) -> tuple[int, int]:
        """Rows and columns that the network sees; a model that takes any gets windows as they are."""
        rows, cols = self.loaded.input_size
        return rows or self.loaded.frame_size[0], cols or self.loaded.frame_size[1]

    @property
    def turns(self) -> list[Turn]:
        """How frames are turned for the network; several with the setting `flips`."""
        square = all(rows == cols for rows, cols in (self.loaded.frame_size, self.input_size))
        every = [(quarters, mirror) for quarters in (range(4) if square else (0, 2)) for mirror in (False, True)]
        return every if self.settings.flips else every[:1]

    def windows(self, src: DatasetReader, windows: Sequence[Window]) -> Iterator[tuple[Window, Floats]]:
        """Each window with its roof probability (rows, cols), 0 to 1, on the scene's own pixels."""
        waiting = iter(windows)
        while batch := list(islice(waiting, self.settings.batch_size)):
            yield from zip(batch, self._batch([read_pixels(src, window) for window in batch]))

    def _batch(self, read: list[tuple[NDArray[Any], NDArray[np.bool_]]]) -> Iterator[Floats]:
        from unet.datagen import network_input, resize_frame

        size = self.loaded.frame_size
        frames = [
            network_input(mirrored(pixels, size), mirrored(valid, size), self.input_size)[0] for pixels, valid in read
        ]
        batch = np.stack(frames)
        total = np.zeros(batch.shape[:3], np.float32)
        for turn in self.turns:
            total += turned_back(self._roof(turned(batch, turn)), turn)
        for probability, (pixels, _) in zip(total / len(self.turns), read):
            rows, cols = pixels.shape[1:]
            yield np.clip(resize_frame(probability[None], size)[0, :rows, :cols], 0, 1)

    def _roof(self, batch: NDArray[Any]) -> Floats:
        """The network's roof probability (frames, rows, cols) of a batch (frames, rows, cols, bands)."""
        first = self.loaded.data_format == "channels_first"
        output = self.loaded.model.predict_on_batch(batch.transpose(0, 3, 1, 2) if first else batch)
        output = np.asarray(output, np.float32)
        return output[:, -1] if first else output[..., -1]  # two classes: background, roof


def turned(frames: NDArray[Any], turn: Turn) -> NDArray[Any]:
    """Frames (frames, rows, cols, …) after quarter turns, then mirrored left to right where `turn` says so."""
    quarters, mirror = turn
    frames = np.rot90(frames, quarters, axes=(1, 2))
    return frames[:, :, ::-1] if mirror else frames


def turned_back(frames: NDArray[Any], turn: Turn) -> NDArray[Any]:
    """The frames that `turned` made these of."""
    quarters, mirror = turn
    return np.rot90(frames[:, :, ::-1] if mirror else frames, -quarters, axes=(1, 2))


def mirrored(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """(…, rows, cols) grown to `size` at the lower and right edge by its mirror image, for small scenes."""
    missing = [(0, max(0, full - have)) for full, have in zip(size, array.shape[-2:])]
    return np.pad(array, [(0, 0)] * (array.ndim - 2) + missing, mode="symmetric")


def _strips(src: DatasetReader, predictor: NetworkPredictor, first: int, last: int) -> Iterator[tuple[int, Floats]]:
    """Finished rows of columns `first` to before `last`: the first row's number and (rows, cols) probabilities.

    Windows lie where they would for the whole scene, so that nothing shows where two parts meet.
    """
    overlap = predictor.settings.overlap
    rows, cols = (min(*sides) for sides in zip(predictor.loaded.frame_size, src.shape))
    row_starts, col_starts = starts(src.height, rows, overlap), starts(src.width, cols, overlap)
    row_weights = blend_weights(row_starts, rows, src.height)
    shares = zip(col_starts, blend_weights(col_starts, cols, src.width))
    col_weights = {col: share for col, share in shares if first - cols < col < last}
    top, strip = 0, np.zeros((rows + BLOCK, last - first), np.float32)
    for row, row_weight in zip(row_starts, row_weights):
        finished = (row - top) // BLOCK * BLOCK
        if finished:
            yield top, strip[:finished].copy()
            strip = np.concatenate([strip[finished:], np.zeros((finished, last - first), np.float32)])
            top += finished
        windows = [Window(col, row, cols, rows) for col in col_weights]
        for window, probability in predictor.windows(src, windows):
            col = window.col_off
            left, right = max(col, first), min(col + cols, last)
            share = probability * (row_weight[:, None] * col_weights[col])
            strip[row - top : row - top + rows, left - first : right - first] += share[:, left - col : right - col]
    yield top, strip[: src.height - top]


def predict_raster(
    path: Path, predictor: Predictor, targets: Targets, *, rasters: RasterArgs
) -> tuple[Tally, Footprints | None]:
    """Write the mask of one raster, and its probabilities when asked; what was seen, and its roofs when asked.

    Raises:
        MismatchError: The model takes another number of bands.
        MissingInputError, BadInputError: Polygons are asked for, and the raster has no CRS or no place on Earth.
    """
    tally, tracer = Tally(), FootprintTracer()
    with open_raster(path) as src, contextlib.ExitStack() as stack:
        predictor.check(src, path)
        if targets.vectors:
            pixel_metres(grid_of(src), path)  # before the work rather than after it
        writers = _Writers(stack, src, path, targets, rasters)
        for window, probability in predictor.scan(src):
            valid = read_pixels(src, window)[1]
            probability = np.where(valid, probability, np.float32(0))
            roof = valid & (probability >= predictor.threshold)
            writers.write(roof, probability, valid, window)
            tally.add(roof, probability, valid)
            if targets.vectors:
                tracer.add(roof, probability, window)
        footprints = None
        if targets.vectors:
            footprints = to_footprints(tracer.pieces(), path, grid_of(src), predictor.settings)
            if footprints.unseparated:
                say(f"{path}: {footprints.unseparated} patches of roof are too large to be separated; they stay whole.")
    return tally, footprints


class _Writers:
    """The mask and, when asked for, the probability raster of one source."""

    def __init__(
        self, stack: contextlib.ExitStack, src: DatasetReader, path: Path, targets: Targets, rasters: RasterArgs
    ) -> None:
        name, grid = f"{path.stem}.tif", grid_of(src)
        self._masked = not all_valid(src)
        self._mask = stack.enter_context(
            create_raster(targets.masks / name, grid, bands=1, dtype="uint8", names=["roof"], settings=rasters)
        )
        options: dict[str, Any] = {"bands": 1, "dtype": "float32", "names": ["roof probability"], "settings": rasters}
        self._probabilities = [
            stack.enter_context(create_raster(folder / name, grid, **options)) for folder in targets.probabilities
        ]

    def write(self, roof: NDArray[np.bool_], probability: Floats, valid: NDArray[np.bool_], window: Window) -> None:
        shown = valid if self._masked else None
        self._mask.write(np.where(roof, np.uint8(255), np.uint8(0))[None], shown, window)
        for writer in self._probabilities:
            writer.write(probability[None], shown, window)


@dataclass
class _Job:
    """One call of `predict_rasters`: its outputs, what is finished, what was found."""

    paths: list[Path]
    targets: Targets
    keys: dict[str, str]
    rasters: list[Outputs] = field(default_factory=list)  # the masks, then the probabilities
    vectors: Outputs | None = None
    todo: set[str] = field(default_factory=set)
    footprints: list[Footprints] = field(default_factory=list)

    def open(self, stack: contextlib.ExitStack, overwrite: bool) -> None:
        """Lock every output and find what is still to be made; polygons come from all rasters or none."""
        for folder in (self.targets.masks, *self.targets.probabilities):
            self.rasters.append(stack.enter_context(Outputs(folder, "predict", overwrite=overwrite)))
            self.todo |= set(self.rasters[-1].plan(self.keys))
        path = self.targets.vectors
        if path:
            self.vectors = stack.enter_context(Outputs(path.parent, "predict", name=path.name, overwrite=overwrite))
            if self.vectors.plan({path.name: self.vectors_key}) or self.todo:
                self.todo = set(self.keys)

    @property
    def vectors_key(self) -> str:
        return fingerprint(self.keys)

    def record(self, name: str, tally: Tally, threshold: float) -> None:
        """Note that the rasters of one source are finished."""
        for outputs in self.rasters:
            outputs.record(name, self.keys[name], threshold=threshold, **vars(tally))

    def finish(self) -> dict[str, int]:
        """Write the polygons and close the ledgers; what there is to say of the polygons."""
        path = self.targets.vectors
        if path and self.vectors and self.todo:
            found = gather([footprints.features for footprints in self.footprints])
            write_features(path, found)
            counts = {name: sum(getattr(f, name) for f in self.footprints) for name in ("separated", "specks")}
            self.vectors.record(path.name, self.vectors_key, footprints=len(found), **counts)
        for outputs in (*self.rasters, *([self.vectors] if self.vectors else [])):
            outputs.finish()
        facts = self.vectors.facts(path.name) if path and self.vectors else {}
        return {name: facts[name] for name in ("footprints", "separated", "specks") if facts}


def predict_rasters(paths: list[Path], targets: Targets, predictor: Predictor, *, run: Run) -> PredictReport:
    """Masks, and what else `targets` asks for, of every raster.

    Raises:
        BadInputError: The model or a raster cannot be read.
        MismatchError: The model takes another number of bands, or two rasters have one name.
    """
    by_stem(paths)
    rasters, made_from = run.settings.raster_args, digest(predictor.path)
    keys = {
        f"{path.stem}.tif": fingerprint("predict", predictor.settings, rasters, made_from, raster_digest(path))
        for path in paths
    }
    job = _Job(paths, targets, keys)
    with contextlib.ExitStack() as stack:
        job.open(stack, run.overwrite)
        todo = [path for path in paths if f"{path.stem}.tif" in job.todo]
        for path in progress(todo, len(todo), "predict", quiet=run.quiet):
            tally, footprints = predict_raster(path, predictor, targets, rasters=rasters)
            job.record(f"{path.stem}.tif", tally, predictor.threshold)
            if footprints:
                job.footprints.append(footprints)
        return _report(job, job.finish())


def _report(job: _Job, counts: dict[str, int]) -> PredictReport:
    facts = [job.rasters[0].facts(name) for name in job.keys]
    valid, roof = sum(fact["valid"] for fact in facts), sum(fact["roof"] for fact in facts)
    wrote = [str(path) for path in (job.targets.masks, *job.targets.probabilities, job.targets.vectors) if path]
    report = PredictReport(
        wrote=wrote,
        rasters=len(facts),
        made=len(job.todo),
        kept=len(facts) - len(job.todo),
        threshold=facts[0]["threshold"],
        roof_fraction=roof / valid if valid else 0.0,
        highest_probability=max(fact["highest"] for fact in facts),
        **counts,
    )
    if valid and not roof:
        say(
            f"warning: {job.targets.masks}: every mask is blank: the highest probability is "
            f"{report.highest_probability:.4f}, the threshold {report.threshold:.4f}. Either there is no metal roof, "
            "or the model has not learnt from imagery like this."
        )
    return report


def both(first: PredictReport, second: PredictReport) -> PredictReport:
    """The report over validation frames and scenes; shares are those of the scenes."""
    return replace(
        second,
        wrote=first.wrote + second.wrote,
        rasters=first.rasters + second.rasters,
        made=first.made + second.made,
        kept=first.kept + second.kept,
        highest_probability=max(first.highest_probability, second.highest_probability),
    )


def predictor_of(model: Path, settings: PredictArgs, run: Run) -> Predictor:
    """What applies the model, by its suffix."""
    if model.suffix == ".skops":
        return PixelPredictor(model, settings, run.workers)
    return NetworkPredictor(model, settings)


def predict(options: argparse.Namespace, run: Run) -> PredictReport:
    """The stage, with what the command line says."""
    given = {name: getattr(options, name) for name in ("threshold", "overlap", "flips")}
    settings = run.block("predict_args", given)
    model = options.model or run.paths.checkpoint
    if not model.is_file():
        found, advice = "a folder" if model.is_dir() else "no such model", "Run python train/train.py first."
        raise MissingInputError(model, found, "a file that train, forest or regression made", advice)
    if options.vectors:
        check_suffix(options.vectors)
    predictor, extension = predictor_of(model, settings, run), run.settings.extension_args.extension
    if options.src:
        probabilities = (options.probabilities,) if options.probabilities else ()
        targets = Targets(options.dst or run.paths.map, probabilities, options.vectors)
        return predict_rasters(raster_files(options.src, extension), targets, predictor, run=run)
    report = predict_project(predictor, options, run)
    for other in () if options.model else run.paths.classifiers.values():
        if other.model.is_file():
            report = both(predict_validation(predictor_of(other.model, settings, run), None, run), report)
    return report


def predict_project(predictor: Predictor, options: argparse.Namespace, run: Run) -> PredictReport:
    """The validation frames, then the scenes, of the project; either may be absent."""
    paths, own = run.paths, options.probabilities
    reports: list[PredictReport] = []
    if holds_files(paths.val_frames):
        reports.append(predict_validation(predictor, own / paths.predictions.name if own else None, run))
    if holds_files(paths.scenes):
        scenes = raster_files(paths.scenes)
        probabilities = (own / paths.map.name,) if own else ()
        targets = Targets(paths.map, probabilities, options.vectors or _footprints(scenes, paths.footprints))
        reports.append(predict_rasters(scenes, targets, predictor, run=run))
    if not reports:
        found = f"neither {paths.val_frames.name} nor {paths.scenes.name}"
        raise MissingInputError(paths.data, found, "frames or scenes", "Name what to predict: MODEL SRC DST.")
    return both(*reports) if len(reports) == 2 else reports[0]


def predict_validation(predictor: Predictor, own: Path | None, run: Run) -> PredictReport:
    """The validation frames, into the folders where evaluate looks for that model's; probabilities into `own` too."""
    paths = run.paths
    folders = {other.model: (other.predictions, other.probabilities) for other in paths.classifiers.values()}
    masks, probabilities = folders.get(predictor.path.resolve(), (paths.predictions, paths.probabilities))
    targets = Targets(masks, (probabilities, *([own] if own else [])))
    frames = raster_files(paths.val_frames, run.settings.extension_args.extension)
    return predict_rasters(frames, targets, predictor, run=run)


def _footprints(scenes: list[Path], path: Path) -> Path | None:
    """Where polygons go, unless a scene cannot have any: then it is said, and the masks are made all the same."""
    for scene in scenes:
        with open_raster(scene) as src:
            try:
                pixel_metres(grid_of(src), scene)
            except (MissingInputError, BadInputError) as problem:
                say(f"{path.name} is not made: {problem}")
                return None
    return path


def threshold_of(text: str) -> str | float:
    """An argparse type: auto or a number."""
    return text if text == "auto" else number(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    parser = stage_parser(__doc__)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="a trained model")
    parser.add_argument("src", nargs="?", type=Path, metavar="SRC", help="a frame or scene, or a folder of them")
    parser.add_argument("dst", nargs="?", type=Path, metavar="DST", help="the folder for the masks")
    parser.add_argument(
        "--threshold", type=threshold_of, metavar="auto|P", help="from this probability on a pixel is roof"
    )
    parser.add_argument("--overlap", type=float, metavar="SHARE", help="share of a window that neighbours share")
    parser.add_argument(
        "--flips", action=argparse.BooleanOptionalAction, help="average over flips and quarter turns: better, slower"
    )
    parser.add_argument(
        "--probabilities",
        type=Path,
        metavar="DIR",
        help="write roof probabilities there; without SRC into DIR/predictions and DIR/map, beside the default",
    )
    parser.add_argument("--vectors", type=Path, metavar="FILE", help="write roofs as polygons there")
    return run_stage(parser, argv, predict)


if __name__ == "__main__":
    sys.exit(main())
