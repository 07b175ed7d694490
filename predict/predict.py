"""Apply a trained model to frames and whole scenes: masks on their own grid, and roofs as polygons.

Reads  MODEL  .h5 or .keras as train writes it, or .skops of forest or regression (default: results/results_4.h5; and
              for the validation frames also results/forest.skops and results/regression.skops, where they are)
       SRC    a frame or scene, or a folder of them (default: the validation frames, then the scenes)
Writes DST/<name>.tif  masks: 0 background, 255 roof (default: results/predictions, results/map; of the other two
       models results/forest_predictions and so on)
       with --vectors FILE  roofs as polygons with an id, area_m2 and mean_probability (default for scenes:
       results/footprints.gpkg); .gpkg, .geojson, .parquet or .fgb
       roof probability, float32, 0 to 1: of the validation frames (default: results/probabilities; evaluate
       reads it), with predict_args.scene_probabilities of the scenes (results/map_probabilities; report reads it),
       and with --probabilities DIR of all that is predicted
       DST/<name>.qml  how QGIS draws the mask (not of the validation frames)
Rasters are cloud-optimised GeoTIFFs with colours and statistics inside; docs/outputs.md says how to open them.
Scenes go through in overlapping windows that are blended, so that memory stays flat and no seam shows. Windows without
a valid pixel are left out. predict_args in the settings says how polygons are drawn: separate, min_area, min_hole,
simplify, square.
With predict_args.block_size a scene larger than that becomes DST/<scene>/<scene>_r<row>_c<col>.tif, a cloud-optimised
GeoTIFF for each block that holds a valid pixel, DST/<scene>.vrt over them, and DST/<scene>.json, a STAC item.
"""

import argparse
from pathlib import Path

from roofkit.addresses import path_or_address
from roofkit.options import answer, number, stage_parser


def threshold_of(text: str) -> str | float:
    """An argparse type: auto or a number."""
    return text if text == "auto" else number(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__, cluster=True)
    made.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="a trained model")
    made.add_argument(
        "src", nargs="?", type=path_or_address, metavar="SRC", help="a frame or scene, or a folder of them"
    )
    made.add_argument("dst", nargs="?", type=Path, metavar="DST", help="the folder for the masks")
    made.add_argument(
        "--threshold", type=threshold_of, metavar="auto|P", help="from this probability on a pixel is roof"
    )
    made.add_argument("--overlap", type=float, metavar="SHARE", help="share of a window that neighbours share")
    made.add_argument(
        "--flips", action=argparse.BooleanOptionalAction, help="average over flips and quarter turns: better, slower"
    )
    made.add_argument(
        "--probabilities",
        type=Path,
        metavar="DIR",
        help="write roof probabilities there; without SRC into DIR/predictions and DIR/map, beside the default",
    )
    made.add_argument("--vectors", type=Path, metavar="FILE", help="write roofs as polygons there")
    return made


if __name__ == "__main__":
    answer(parser())

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.windows import Window

from roofkit.artifacts import STYLE, Outputs, committed, fingerprint
from roofkit.blocks import Band, block_name, blocks_of, write_item, write_vrt
from roofkit.cli import Run, leave, progress, run_stage, say
from roofkit.display import (
    MASK_BAND,
    MASK_COLOURS,
    PROBABILITY_BAND,
    footprint_style,
    mask_statistics,
    mask_style,
    value_statistics,
)
from roofkit.errors import BadInputError, MissingInputError, OutputError
from roofkit.footprints import Footprints, common_crs, footprint_schema, pixel_metres
from roofkit.ledger import input_digest
from roofkit.pairs import by_stem
from roofkit.patches import fronts, tracing
from roofkit.paths import holds_files
from roofkit.raster import (
    BLOCK,
    all_valid,
    check_apart,
    create_raster,
    grid_of,
    open_raster,
    raster_digest,
    raster_files,
    read_valid,
    windows,
)
from roofkit.rehearsal import Rehearsed
from roofkit.settings import PredictArgs, RasterArgs
from roofkit.shards import share_of
from roofkit.vectors import check_suffix, write_batches
from roofkit.workers import map_items, once
from unet.predictor import NetworkPredictor, Predictor

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "predict 3"  # of what is written: other numbers are not kept
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PredictReport:
    """What predict did."""

    wrote: list[str]
    rasters: int
    made: int  # rasters, or blocks of them
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
    styled: bool = False  # whether a style for QGIS lies beside each mask

    @property
    def pieces(self) -> Path | None:
        """The folder for what is traced of each raster or block, which polygons are then drawn from."""
        return self.vectors.with_name(f".{self.vectors.name}.pieces") if self.vectors else None


@dataclass
class Tally:
    """What was seen over all valid pixels of a raster: how many, and their probabilities."""

    valid: int = 0
    roof: int = 0
    lowest: float = 1.0
    highest: float = 0.0
    total: float = 0.0
    squares: float = 0.0  # the sum of these

    def add(self, roof: NDArray[np.bool_], probability: Floats, valid: NDArray[np.bool_]) -> None:
        """Count the pixels of one strip; the probability of invalid ones is 0."""
        exact = probability.astype(np.float64).ravel()
        self.add_tally(
            int(np.count_nonzero(valid)), int(np.count_nonzero(roof)), float(probability.min(where=valid, initial=1.0)),
            float(exact.max(initial=0.0)), float(exact.sum()), float(np.square(exact).sum()),
        )  # fmt: skip

    def add_tally(self, valid: int, roof: int, lowest: float, highest: float, total: float, squares: float) -> None:
        """Count what another tally holds."""
        self.valid += valid
        self.roof += roof
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
        self.total += total
        self.squares += squares

    def tags(self, pixels: int) -> tuple[dict[str, str], dict[str, str]]:
        """Statistics of the mask and of the probabilities, as tags, where a raster has so many pixels."""
        span, sums = (self.lowest, self.highest), (self.total, self.squares)
        return mask_statistics(self.roof, self.valid, pixels), value_statistics(span, sums, self.valid, pixels)


@dataclass(frozen=True)
class Block:
    """What one task predicts: a raster, or a block of one. `name` is that of its outputs, without a suffix."""

    path: Path
    name: str
    window: Window | None = None


def predict_block(block: Block, predictor: Predictor, targets: Targets, *, rasters: RasterArgs) -> Tally:
    """Write the mask of a raster or block, and probabilities and pieces of roofs where `targets` says so.

    Nothing is written of a block without a valid pixel.

    Returns:
        What was seen.

    Raises:
        MismatchError: The model takes another number of bands.
        MissingInputError, BadInputError: Polygons are asked for, and the raster has no CRS or no place on Earth; or the
            model gives what is no number.
    """
    tally = Tally()
    with open_raster(block.path) as src, contextlib.ExitStack() as stack:
        predictor.check(src, block.path)
        if targets.vectors:
            pixel_metres(grid_of(src), block.path)  # before the work rather than after it
        region = block.window or Window(0, 0, src.width, src.height)
        if block.window and not any(read_valid(src, part).any() for part in inside(region)):
            return tally
        tracer = stack.enter_context(tracing(targets.pieces / f"{block.name}.arrow")) if targets.pieces else None
        writers = _Writers(stack, src, block, targets, rasters)
        found = stack.enter_context(contextlib.closing(predictor.scan(src, region)))
        for window, probability, valid in found:
            if not valid.any():
                continue
            probability = np.where(valid, probability, np.float32(0))
            check_numbers(probability, block, predictor)
            roof = valid & (probability >= predictor.threshold)
            writers.write(roof, probability, valid, window)
            tally.add(roof, probability, valid)
            if tracer:
                tracer.add(roof, probability, window)
        writers.finish(tally)
    return tally


def check_numbers(probability: Floats, block: Block, predictor: Predictor) -> None:
    """Raise BadInputError where a model gives NaN, which would count as no roof."""
    if not np.isfinite(probability).all():
        found = f"probabilities that are no numbers, for {block.path}"
        advice = "Train it again, or give it pixels of the range that it was trained on."
        raise BadInputError(predictor.path, found, "0 to 1", advice)


def inside(region: Window) -> Iterator[Window]:
    """A region of a scene in small windows."""
    for part in windows(int(region.height), int(region.width), 4 * BLOCK):
        yield Window(part.col_off + region.col_off, part.row_off + region.row_off, part.width, part.height)


class _Writers:
    """The mask and, when asked for, the probability raster of one source."""

    def __init__(
        self, stack: contextlib.ExitStack, src: DatasetReader, block: Block, targets: Targets, rasters: RasterArgs
    ) -> None:
        region = block.window or Window(0, 0, src.width, src.height)
        self._corner, self._shape = (region.col_off, region.row_off), (int(region.height), int(region.width))
        self._masked = not all_valid(src)
        grid, name = grid_of(src).window(region), f"{block.name}.tif"
        options: dict[str, Any] = {"bands": 1, "settings": rasters, "sparse": self._masked, "cog": True}
        masks = options | {"dtype": "uint8", "names": [MASK_BAND], "classes": True, "colours": MASK_COLOURS}
        self._mask = stack.enter_context(create_raster(targets.masks / name, grid, **masks))
        options |= {"dtype": "float32", "names": [PROBABILITY_BAND]}
        self._probabilities = [
            stack.enter_context(create_raster(folder / name, grid, **options)) for folder in targets.probabilities
        ]

    def write(self, roof: NDArray[np.bool_], probability: Floats, valid: NDArray[np.bool_], window: Window) -> None:
        """Write a window of the source."""
        here = Window(window.col_off - self._corner[0], window.row_off - self._corner[1], window.width, window.height)
        shown = valid if self._masked else None
        self._mask.write(np.where(roof, np.uint8(255), np.uint8(0))[None], shown, here)
        for writer in self._probabilities:
            writer.write(probability[None], shown, here)

    def finish(self, tally: Tally) -> None:
        """Write statistics, and where nothing was valid, so much that the file says so."""
        if not tally.valid:
            self._write_blank()
        mask, probability = tally.tags(self._shape[0] * self._shape[1])
        self._mask.tag(mask)
        for writer in self._probabilities:
            writer.tag(probability)

    def _write_blank(self) -> None:
        """Write the first block as invalid: then the file has a mask, which is invalid wherever nothing is written."""
        rows, cols = (min(BLOCK, side) for side in self._shape)
        nothing = np.zeros((rows, cols), bool)
        self.write(nothing, nothing.astype(np.float32), nothing, Window(*self._corner, cols, rows))


class _Job:
    """One call of `predict_rasters`: what is to be made, and what is finished."""

    def __init__(
        self, paths: list[Path], targets: Targets, predictor: Predictor, run: Run, *, one: bool = False
    ) -> None:
        self.targets, self.run, self.predictor = targets, run, predictor
        self.one = paths[0] if one else None
        self.model_digest = input_digest(predictor.path)
        common = (FORMAT, predictor.settings, run.settings.raster_args, self.model_digest)
        self.scenes = {path: _blocks(path, predictor.settings.block_size) for path in paths}
        keys = {path: fingerprint(*common, raster_digest(path)) for path in paths}
        self.blocks = share_of([block for blocks in self.scenes.values() for block in blocks], run.shard)
        self.keys = {block.name: keys[block.path] for block in self.blocks}
        mosaics = [path for path, blocks in self.scenes.items() if blocks[0].window and not run.shard]
        self.mosaics = {path: keys[path] for path in mosaics}
        self.todo: set[str] = set()
        self.missing: set[str] = set()  # styles that are to be written
        whole = {block.name: self.keys[block.name] for block in self.blocks if not block.window}
        whole |= {path.stem: key for path, key in self.mosaics.items()}
        self.styles = {f"{name}{STYLE}": key for name, key in whole.items()} if targets.styled else {}

    def open(self, stack: contextlib.ExitStack) -> None:
        """Lock every output and find what is still to be made."""

        def opened(folder: Path, suffix: str, extra: dict[str, str]) -> tuple[Outputs, str]:
            outputs = Outputs(
                folder, "predict", overwrite=self.run.overwrite, keep_edits=self.run.keep_edits, shard=self.run.shard,
                replaces=partial(_is_of, self.one) if self.one else None,
            )  # fmt: skip
            stack.enter_context(outputs)
            names = {f"{name}{suffix}": key for name, key in self.keys.items()}
            planned = outputs.plan(names | extra, more=True)
            self.todo |= {name.removesuffix(suffix) for name in planned if name in names}
            self.missing |= set(planned) & set(self.styles)
            return outputs, suffix

        over = {f"{path.stem}.vrt": key for path, key in self.mosaics.items()}
        items = {f"{path.stem}.json": key for path, key in self.mosaics.items()}
        self.masks = opened(self.targets.masks, ".tif", over | items | self.styles)[0]
        self.probabilities = [opened(folder, ".tif", over)[0] for folder in self.targets.probabilities]
        self.outputs = [(self.masks, ".tif"), *((outputs, ".tif") for outputs in self.probabilities)]
        if self.targets.pieces:
            self.outputs.append(opened(self.targets.pieces, ".arrow", {}))
        for outputs, suffix in self.outputs:
            for name in self.todo:
                outputs.protect(f"{name}{suffix}")

    def record(self, block: Block, tally: Tally) -> None:
        """Note that a block is finished, or that there is nothing of it."""
        for outputs, suffix in self.outputs:
            name = f"{block.name}{suffix}"
            if tally.valid or not block.window:
                facts = {"model": self.predictor.path.name, "threshold": self.predictor.threshold, **vars(tally)}
                outputs.record(name, self.keys[block.name], **facts)
            else:
                outputs.record_nothing(name, self.keys[block.name])

    def finish(self) -> dict[str, int]:
        """Write what lies over blocks, and the polygons, and close the ledgers; what to say of the polygons."""
        for path, key in self.mosaics.items():
            self._finish_mosaic(path, key)
        self._write_styles()
        counts = {} if self.run.shard or not self.targets.vectors else self._write_vectors(self.targets.vectors)
        for outputs, _ in self.outputs:
            outputs.finish()
        return counts

    def _finish_mosaic(self, path: Path, key: str) -> None:
        """Write a VRT over the blocks of a scene in each folder, and the STAC item."""
        with open_raster(path) as src:
            grid = grid_of(src)
        blocks = {f"{block.name}.tif": block.window for block in self.scenes[path] if block.window}
        tally = Tally()
        for name in filter(self.masks.has, blocks):
            tally.add_tally(**{field.name: self.masks.facts(name)[field.name] for field in fields(Tally)})
        tags = tally.tags(grid.height * grid.width)
        bands = (Band("uint8", MASK_BAND, tags[0], MASK_COLOURS), Band("float32", PROBABILITY_BAND, tags[1]))
        for outputs, band in ((self.masks, bands[0]), *((outputs, bands[1]) for outputs in self.probabilities)):
            made = {name: window for name, window in blocks.items() if outputs.has(name)}
            if not outputs.is_edited(f"{path.stem}.vrt"):
                write_vrt(outputs.folder / f"{path.stem}.vrt", grid, made, band)
                outputs.record(f"{path.stem}.vrt", key)
        if self.masks.is_edited(f"{path.stem}.json"):
            return
        write_item(self.targets.masks / f"{path.stem}.json", path, grid, [*self.targets.probabilities])
        self.masks.record(f"{path.stem}.json", key)

    def _write_styles(self) -> None:
        """Write what QGIS draws masks by."""
        for name in sorted(self.missing):
            path, has_mask = self.masks.folder / name, True  # that of a VRT
            if self.masks.has(f"{path.stem}.tif"):
                with open_raster(path.with_suffix(".tif")) as src:
                    has_mask = not all_valid(src)
            with committed(path) as part:
                part.write_text(mask_style(has_mask=has_mask), encoding="utf-8")
            self.masks.record(name, self.styles[name])

    def plan_vectors(self) -> None:
        """What a dry run says of the polygons."""
        if self.targets.vectors and not self.run.shard:
            with contextlib.suppress(Rehearsed):
                self._write_vectors(self.targets.vectors)

    def _write_vectors(self, path: Path) -> dict[str, int]:
        """Write the polygons of all rasters, from the pieces of their blocks; what there is to say of them."""
        key = fingerprint(self.keys)
        with Outputs(
            path.parent, "predict", name=path.name, overwrite=self.run.overwrite, keep_edits=self.run.keep_edits
        ) as vectors:
            if vectors.plan({path.name: key}):
                vectors.record(path.name, key, **self._vectors(path))
            vectors.finish()
            return {name: vectors.facts(path.name)[name] for name in ("footprints", "separated", "specks")}

    def _vectors(self, path: Path) -> dict[str, int]:
        grids = {}
        for scene in self.scenes:
            with open_raster(scene) as src:
                grids[scene] = grid_of(src)
        crs = common_crs(grids.values())
        found = [Footprints(scene, grid, self.predictor.settings) for scene, grid in grids.items()]
        batches = (batch for scene, roofs in zip(grids, found) for batch in self._roofs(scene, roofs, crs))
        write_batches(path, batches, footprint_schema(), crs, key="id", style=footprint_style())
        counts = {"footprints": "count", "separated": "separated", "specks": "specks"}
        return {name: sum(getattr(roofs, value) for roofs in found) for name, value in counts.items()}

    def _roofs(self, scene: Path, roofs: Footprints, crs: CRS) -> "Iterator[pa.RecordBatch]":
        """Those of one scene, from what was traced of its blocks."""
        pieces = self.outputs[-1][0]
        names = {
            f"{block.name}.arrow": int(block.window.row_off) if block.window else 0 for block in self.scenes[scene]
        }
        files = [(row, pieces.folder / name) for name, row in names.items() if pieces.has(name)]
        yield from roofs.batches(fronts(files), crs)
        if roofs.unseparated:
            say(f"{scene}: {roofs.unseparated} patches of roof are too large to be separated; they stay whole.")


def _blocks(path: Path, side: int | None) -> list[Block]:
    """The tasks that a raster makes: itself, or its blocks where it is larger than one."""
    if side is None:
        return [Block(path, path.stem)]
    with open_raster(path) as src:
        if max(src.shape) <= side:
            return [Block(path, path.stem)]
        windows = blocks_of(src.height, src.width, side)
    return [Block(path, block_name(path.stem, window), window) for window in windows]


def _is_of(raster: Path, name: str) -> bool:
    """Whether an output of that name is of that raster."""
    folder, _, file = name.rpartition("/")
    return raster.stem == (folder or Path(file).stem)


def predict_rasters(
    paths: list[Path], targets: Targets, predictor: Predictor, *, run: Run, one: bool = False
) -> PredictReport:
    """Masks, and what else `targets` asks for, of every raster.

    Those of other rasters are removed, unless `one` is asked for.

    Raises:
        BadInputError: The model or a raster cannot be read.
        MismatchError: The model takes another number of bands, or two rasters have one name.
        OutputError: Masks, probabilities and rasters are not in folders of their own.
    """
    by_stem(paths)
    check_apart(paths, targets.masks, *targets.probabilities)
    if targets.masks.resolve() in [folder.resolve() for folder in targets.probabilities]:
        raise OutputError(targets.masks, "for masks and for probabilities", "another folder", "Change --probabilities.")
    job = _Job(paths, targets, predictor, run, one=one)
    with contextlib.ExitStack() as stack:
        job.open(stack)
        todo = [block for block in job.blocks if block.name in job.todo]
        if run.dry_run:
            job.plan_vectors()
            return _report(job, len(todo), {})
        done = stack.enter_context(contextlib.closing(_predicted(todo, job)))
        for block, tally in zip(todo, progress(done, len(todo), "predict", quiet=run.quiet)):
            job.record(block, tally)
        return _report(job, len(todo), job.finish())


def _predicted(todo: list[Block], job: _Job) -> Iterator[Tally]:
    """The tallies of blocks: here, where the network itself uses every core, or on a cluster."""
    options: dict[str, Any] = {"targets": job.targets, "rasters": job.run.settings.raster_args}
    if job.run.scheduler:
        model = (job.predictor.path.absolute(), job.model_digest, job.predictor.settings)
        work = partial(_predict_there, model=model, **options)
    else:
        work = partial(predict_block, predictor=job.predictor, **options)
    yield from map_items(work, todo, workers=1, scheduler=job.run.scheduler)


def _predict_there(block: Block, *, model: tuple[Path, str, PredictArgs], **options: Any) -> Tally:
    """Predict on a worker of a cluster, which loads the model once and applies it in one thread at a time."""
    path, _, settings = model
    key = (*map(str, model),)
    predictor = once(("predictor", *key), lambda: predictor_of(path, settings, 1))
    with once(("turn", *key), threading.Lock):
        return predict_block(block, predictor, **options)


def _report(job: _Job, made: int, counts: dict[str, int]) -> PredictReport:
    names = [f"{name}.tif" for name in job.keys if job.masks.has(f"{name}.tif")]
    facts = [job.masks.facts(name) for name in names]
    valid, roof = sum(fact["valid"] for fact in facts), sum(fact["roof"] for fact in facts)
    vectors = None if job.run.shard else job.targets.vectors
    wrote = [str(path) for path in (job.targets.masks, *job.targets.probabilities, vectors) if path]
    report = PredictReport(
        wrote=wrote,
        rasters=len(job.scenes),
        made=made,
        kept=len(job.keys) - made,
        threshold=facts[0]["threshold"] if facts else job.predictor.threshold,
        roof_fraction=roof / valid if valid else 0.0,
        highest_probability=max((fact["highest"] for fact in facts), default=0.0),
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


def predictor_of(model: Path, settings: PredictArgs, workers: int | None) -> Predictor:
    """What applies the model, by its suffix."""
    if model.suffix == ".skops":
        from pixelwise.predictor import PixelPredictor

        return PixelPredictor(model, settings, workers)
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
    predictor, extension = predictor_of(model, settings, run.workers), run.settings.extension_args.extension
    if options.src:
        probabilities = (options.probabilities,) if options.probabilities else ()
        targets = Targets(options.dst or run.paths.map, probabilities, options.vectors, styled=True)
        rasters = raster_files(options.src, extension)
        return predict_rasters(rasters, targets, predictor, run=run, one=rasters == [options.src])
    report = predict_project(predictor, options, run)
    for other in () if options.model else run.paths.classifiers.values():
        if other.model.is_file():
            report = both(predict_validation(predictor_of(other.model, settings, run.workers), None, run), report)
    return report


def predict_project(predictor: Predictor, options: argparse.Namespace, run: Run) -> PredictReport:
    """The validation frames, then the scenes, of the project; either may be absent."""
    paths, own = run.paths, options.probabilities
    reports: list[PredictReport] = []
    if holds_files(paths.val_frames):
        reports.append(predict_validation(predictor, own / paths.predictions.name if own else None, run))
    if holds_files(paths.scenes):
        scenes = raster_files(paths.scenes)
        kept = (paths.map_probabilities,) if predictor.settings.scene_probabilities else ()
        probabilities = (*kept, *((own / paths.map.name,) if own else ()))
        vectors = options.vectors or _footprints(scenes, paths.footprints)
        targets = Targets(paths.map, probabilities, vectors, styled=True)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, predict)


if __name__ == "__main__":
    leave(main())
