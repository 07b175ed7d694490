"""Draw roof polygons as masks: one for each frame, on the frame's own grid.

Reads  FRAMES  georeferenced rasters, one or a folder of them (default: data/chips)
       LABELS  roof polygons: .gpkg .shp .geojson .parquet .fgb, or a folder of them, in any CRS (default: data/labels)
Writes DST/<frame>.tif  (default: data/masks): uint8, 0 background, 255 roof.
A mask is invalid where its frame is, and where a polygon of unknown class (--ignore) lies that is no roof.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from roofkit.addresses import path_or_address
from roofkit.options import answer, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__, cluster=True)
    made.add_argument("frames", nargs="?", type=path_or_address, metavar="FRAMES", help="a frame or a folder of them")
    made.add_argument("labels", nargs="?", type=Path, metavar="LABELS", help="a vector file or a folder of them")
    made.add_argument("dst", nargs="?", type=Path, metavar="DST", help="the folder for the masks")
    made.add_argument("--where", metavar="SQL", help="which polygons are roofs, as ogr2ogr -where")
    made.add_argument("--ignore", metavar="SQL", help="polygons of unknown class: invalid in the mask")
    made.add_argument("--layer", metavar="NAME", help="the layer, where the file has several")
    made.add_argument("--all-touched", action="store_true", default=None, help="every pixel that a polygon touches")
    return made


if __name__ == "__main__":
    answer(parser())

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from itertools import chain, count, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio.crs
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.io import DatasetReader
from rasterio.windows import Window

from roofkit.addresses import Address
from roofkit.artifacts import Outputs, fingerprint
from roofkit.cli import Run, leave, progress, run_stage, say
from roofkit.drawing import fill
from roofkit.errors import BadInputError, MismatchError
from roofkit.ledger import check_input, label_digests
from roofkit.pairs import by_stem
from roofkit.paths import find_labels
from roofkit.raster import (
    Grid,
    Pixels,
    Valid,
    all_valid,
    check_apart,
    create_raster,
    digest_of,
    gdal_env,
    grid_of,
    noted_grid,
    open_raster,
    raster_digest,
    raster_files,
    read_valid,
    windows,
)
from roofkit.settings import MaskArgs, RasterArgs
from roofkit.shards import share_of
from roofkit.spill import Pieces, Spill, spilled, spilled_elsewhere
from roofkit.workers import ahead, cores, map_items, map_threads, started

if TYPE_CHECKING:  # imported late: these would make --help and every worker process wait
    from pyproj import CRS

    from roofkit.labels import LabelBatch, LabelStream
    from roofkit.misplaced import Bounds, Spots

ROOF = 255
COUNTED = ("features", "selected", "ignored", "repaired", "dropped", "unused")  # of labels; kept for later runs
WINDOW = 1024  # side of the windows that a large frame is drawn in: whole blocks
GROUP, AT_ONCE = 16, 1  # masks that a worker is given at once, and writes at once
POOL_FROM = 128  # windows below which starting worker processes takes longer than drawing


@dataclass(frozen=True)
class MaskReport:
    """What mask did."""

    wrote: str
    masks_made: int
    masks_kept: int
    features: int
    selected: int
    on_imagery: int
    ignored: int
    repaired: int
    dropped: tuple[str, ...]
    empty_masks: int
    empty_share: float
    roof_fraction: float
    valid_fraction: float


@dataclass(frozen=True)
class Part:
    """A window of a frame, and where the polygons that touch it are, in the frame's CRS."""

    window: Window
    roofs: Pieces
    ignored: Pieces


@dataclass(frozen=True)
class Frame:
    """One frame, and where its mask goes: one task for a worker."""

    path: Path | Address
    mask_path: Path
    grid: Grid
    is_valid: bool
    """Every pixel is valid, whatever the file holds; then it is not opened again."""
    digest: str
    """Changes when the mask's grid or validity may."""
    parts: tuple[Part, ...] = ()
    """Windows that together are the frame; of a small one just one."""


@dataclass(frozen=True)
class Places:
    """The windows of frames of one CRS, in a tree, so that polygons find those that they touch."""

    crs: CRS
    numbers: NDArray[np.int64]
    """Those of the windows among the windows of all frames."""
    tree: shapely.STRtree
    """Their outlines."""
    upright: NDArray[np.bool_]
    """Which outlines are rectangles along the axes."""


def draw(shapes: Sequence[Any], transform: Affine, size: tuple[int, int], *, all_touched: bool = False) -> Valid:
    """Which pixels of a grid have their centre in a shape (with `all_touched`: which a shape touches).

    Args:
        shapes: Polygons in the CRS of the grid.
        transform: Pixel to CRS.
        size: Rows and columns.
        all_touched: Every pixel that a polygon touches.
    """
    if not (all_touched and len(shapes)):
        return fill(shapes, transform, size)
    together = {"type": "MultiPolygon", "coordinates": coordinates_of(shapes)}
    return rasterize([together], size, transform=transform, all_touched=True, dtype="uint8").view(bool)


def coordinates_of(shapes: Sequence[Any]) -> list[list[list[list[float]]]]:
    """Polygons as GeoJSON has them: polygons, rings, points, x and y; much faster than shape by shape."""
    parts = shapely.get_parts(np.asarray(shapes, object))
    _, points, (rings, polygons) = shapely.to_ragged_array(parts)
    listed = points.tolist()
    ring_lists = [listed[first:end] for first, end in pairwise(rings.tolist())]
    return [ring_lists[first:end] for first, end in pairwise(polygons.tolist())]


def roof_mask(roof: Valid, unknown: Valid, frame_valid: Valid) -> tuple[Pixels, Valid]:
    """Mask pixels (1, rows, cols) of 0 and 255, and their validity.

    A roof wins over unknown; where nothing was measured the mask is 0 and invalid whatever lies there.
    """
    valid = frame_valid & (roof | ~unknown)
    return (roof & valid).view(np.uint8)[None] * np.uint8(ROOF), valid


def footprint(grid: Grid) -> Any:
    """The outline of a grid as a polygon in its CRS."""
    corners = [(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)]
    return shapely.Polygon([grid.transform @ corner for corner in corners])


def windows_of(frame: Frame) -> list[Window]:
    """The windows that a frame is drawn in."""
    return list(windows(frame.grid.height, frame.grid.width, WINDOW))


def places_of(frames: Sequence[Frame]) -> list[Places]:
    """The windows of the frames, for each CRS."""
    cells: dict[str, list[tuple[int, Grid]]] = {}
    numbers = count()
    for frame in frames:
        found = cells.setdefault(frame.grid.crs.to_wkt(), [])
        found += [(next(numbers), frame.grid.window(window)) for window in windows_of(frame)]
    return [place_group(crs, *zip(*found)) for crs, found in cells.items()]


def place_group(crs: str, numbers: Sequence[int], grids: Sequence[Grid]) -> Places:
    """Windows of those numbers and grids, which have that CRS."""
    from pyproj import CRS

    outlines = np.array([footprint(grid) for grid in grids])
    shapely.prepare(outlines)
    upright = [to.b == to.d == 0 or to.a == to.e == 0 for to in (grid.transform for grid in grids)]
    return Places(CRS.from_wkt(crs), np.array(numbers), shapely.STRtree(outlines), np.array(upright))


def touching(shapes: NDArray[Any], places: Places) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The pairs of a shape and an outline that share a point: the index of either."""
    rows, found = places.tree.query(shapes)  # whose bounds do
    outlines = places.tree.geometries[found]
    inner, outer = shapely.bounds(shapes)[rows], shapely.bounds(outlines)
    within = (inner[:, :2] >= outer[:, :2]).all(axis=1) & (inner[:, 2:] <= outer[:, 2:]).all(axis=1)
    touch = within & places.upright[found]
    touch[~touch] = shapely.intersects(outlines[~touch], shapes[rows[~touch]])
    return rows[touch], found[touch]


def mask_frames(frames: Path | Address, labels: Path, dst: Path, *, settings: MaskArgs, run: Run) -> MaskReport:
    """Draw the mask of every frame into `dst`.

    Args:
        frames: A frame, or a folder of them.
        labels: The file or folder of the polygons.
        dst: The folder for the masks.
        settings: The stage's own.
        run: The rest.

    Raises:
        MissingInputError, BadInputError: A frame is absent, not readable or without CRS; or as for `open_labels`.
        MismatchError: The labels lie on no frame, or two frames have one name.
        OutputError: `dst` is the folder of the frames.
        SettingsError: As for `open_labels`.
    """
    paths = list(by_stem(raster_files(frames, run.settings.extension_args.extension)).values())
    check_apart(paths, dst)
    paths = share_of(paths, run.shard)
    one = f"{frames.stem}.tif".__eq__ if paths == [frames] else None
    outputs = Outputs(dst, "mask", overwrite=run.overwrite, keep_edits=run.keep_edits, shard=run.shard, replaces=one)
    with outputs:
        drawn_from = [label_digests(labels), settings, run.settings.raster_args]
        # To look at the frames may be all that there is to do: no process is started for it, and no polygon is read.
        tasks = find_frames(paths, dst) if outputs.may_be_whole else []
        counts, made = outputs.whole(key_of_all(tasks, drawn_from)), 0
        if counts is None:
            tasks, counts, made = draw_all(paths, tasks, labels, outputs, settings=settings, run=run)
        else:
            tell_unused(labels, counts["unused"])
        outputs.finish(key_of_all(tasks, drawn_from), counts)
        return report_of(dst, counts, [outputs.facts(task.mask_path.name) for task in tasks], made=made)


def key_of_all(frames: Sequence[Frame], drawn_from: Sequence[Any]) -> str:
    """What the masks of all frames are made from: finished once, there is no need to read the polygons again."""
    return fingerprint("masks", *drawn_from, [(frame.mask_path.name, frame.digest) for frame in frames])


def draw_all(
    paths: Sequence[Path | Address],
    known: Sequence[Frame],
    labels: Path,
    outputs: Outputs,
    *,
    settings: MaskArgs,
    run: Run,
) -> tuple[list[Frame], dict[str, Any], int]:
    """Read the polygons and write the masks that are not finished.

    Args:
        paths: The frames.
        known: They, where they were looked at.
        labels: The file or folder of the polygons.
        outputs: The masks.
        settings: The stage's own.
        run: The rest.

    Returns:
        The frames, the counts of the labels, and how many masks were made.
    """
    workers = (run.workers or cores()) if len(paths) >= POOL_FROM and not run.scheduler else 1
    with started(workers) as pool, nullcontext(known) if known else found_frames(paths, outputs.folder, pool) as found:
        stream = opened_labels(labels, settings)
        with ahead(stream) as batches, spill_in(outputs.folder, run) as spill:
            tasks, on_imagery = with_polygons(list(found), stream, batches, spill, others=bool(run.shard))
            made = draw_frames(tasks, outputs, pool, settings=settings, run=run)
    return tasks, {"on_imagery": on_imagery} | {name: getattr(stream, name) for name in COUNTED}, made


def draw_frames(
    tasks: Sequence[Frame], outputs: Outputs, pool: ProcessPoolExecutor | None, *, settings: MaskArgs, run: Run
) -> int:
    """Write the masks that are not finished; how many they were."""
    rasters = run.settings.raster_args
    keys = {task.mask_path.name: mask_key(task, settings, rasters) for task in tasks}
    todo = set(outputs.plan(keys))
    groups = grouped([task for task in tasks if task.mask_path.name in todo])
    work = partial(write_masks, settings=settings, rasters=rasters)
    workers = run.workers if sum(len(task.parts) for group in groups for task in group) >= POOL_FROM else 1
    with closing(map_items(work, groups, workers=workers, scheduler=run.scheduler, pool=pool)) as done:
        written = (mask for masks in done for mask in masks)
        for name, counts in progress(written, len(todo), "mask", quiet=run.quiet):
            outputs.record(name, keys[name], **counts)
    return len(todo)


@contextmanager
def found_frames(
    paths: Sequence[Path | Address], dst: Path, pool: ProcessPoolExecutor | None
) -> Iterator[Iterable[Frame]]:
    """The frames, each with the name of its mask, looked at from now on by a pool or in threads.

    Raises:
        MissingInputError, BadInputError: A frame is absent, not readable or without CRS; when it is asked for.
    """
    groups = [paths[first : first + GROUP] for first in range(0, len(paths), GROUP)]
    work = partial(find_frames, dst=dst)
    coming = map_items(work, groups, pool=pool) if pool else map_threads(work, groups)
    with ahead(coming, len(groups)) as found:
        yield chain.from_iterable(found)


def find_frames(paths: Sequence[Path | Address], dst: Path) -> list[Frame]:
    """Frames, looked at."""
    return [find_frame(path, dst) for path in paths]


def find_frame(path: Path | Address, dst: Path) -> Frame:
    """A frame, looked at; it is opened only where what its stage recorded does not say where every pixel lies."""
    noted, digest = None if isinstance(path, Address) else noted_grid(path), ""
    if noted:
        grid, is_valid = noted, True
    else:
        with open_raster(path) as src:
            grid, is_valid = grid_of(src), all_valid(src)
            if not is_valid:
                digest = raster_digest(path) if isinstance(path, Address) else digest_of(path, src)
    if grid.crs is None:
        advice = "Use GeoTIFF frames, or bring your own masks (split takes frames and masks as they are)."
        raise BadInputError(str(path), "no CRS", "a georeferenced frame, on which polygons can be placed", advice)
    if is_valid and not (noted or isinstance(path, Address)):
        check_input(path)  # its place must not have changed
    wkt = grid.crs.to_wkt()
    grid = replace(grid, crs=same_crs(wkt))
    place = fingerprint(wkt, list(grid.transform), grid.height, grid.width)
    return Frame(path, dst / f"{path.stem}.tif", grid, is_valid, digest or place)


@cache
def same_crs(wkt: str) -> rasterio.crs.CRS:
    """The CRS of that text: one for all frames, which makes them small on their way to other processes."""
    return rasterio.crs.CRS.from_wkt(wkt)


def spill_in(dst: Path, run: Run) -> AbstractContextManager[Spill]:
    """The file through which polygons come to workers; the run of all frames is alone in the folder, and tidies up."""
    if run.dry_run:
        return spilled_elsewhere()
    if run.shard:
        return spilled(dst / f".mask.{run.shard}.polygons")
    return spilled(dst / ".mask.polygons", leftovers=".mask*.polygons")


def with_polygons(
    frames: Sequence[Frame], labels: LabelStream, batches: Iterable[LabelBatch], spill: Spill, *, others: bool = False
) -> tuple[list[Frame], int]:
    """The frames with the polygons that touch each, and how many roofs lie on any frame.

    Args:
        frames: Those that this run works on.
        labels: Where the polygons come from.
        batches: They.
        spill: Where the polygons go.
        others: There are other frames, on which the roofs may lie.

    Raises:
        MismatchError: No roof lies on a frame, and there are no others.
    """
    from roofkit.misplaced import Spots

    groups, roofs, on_imagery = places_of(frames), Spots(), 0
    for batch in batches:
        on_imagery += spill_batch(batch, labels, groups, spill)
        roofs.add(batch.shapes[batch.roof])
    if not (on_imagery or others):
        raise misplaced_on(frames, labels, roofs)
    pieces = iter(spill.pieces(2 * sum(len(group.numbers) for group in groups)))
    return [replace(frame, parts=parts_of(frame, pieces)) for frame in frames], on_imagery


def spill_batch(batch: LabelBatch, labels: LabelStream, groups: Sequence[Places], spill: Spill) -> int:
    """Put polygons where the windows that they touch will find them; how many roofs touch any.

    Roofs of window i are at place 2 i, polygons of unknown class at 2 i + 1.
    """
    from roofkit.labels import move

    touched = np.zeros(len(batch.shapes), bool)
    for group in groups:
        shapes = move(batch.shapes, labels.crs, group.crs, labels.path)
        rows, found = touching(shapes, group)
        touched[rows] = True
        spill.add(2 * group.numbers[found] + ~batch.roof[rows], shapely.to_wkb(shapes[rows]))
    return int((touched & batch.roof).sum())


def parts_of(frame: Frame, pieces: Iterator[Pieces]) -> tuple[Part, ...]:
    """The windows of a frame, each with its roofs and its polygons of unknown class, which come next."""
    return tuple(Part(window, next(pieces), next(pieces)) for window in windows_of(frame))


def misplaced_on(frames: Sequence[Frame], labels: LabelStream, roofs: Spots) -> MismatchError:
    """The error that no roof lies on a frame."""
    from pyproj import CRS

    from roofkit.misplaced import misplaced, union

    bounds: dict[str, list[Bounds]] = {}
    for frame in frames:
        bounds.setdefault(frame.grid.crs.to_wkt(), []).append(frame.grid.bounds)
    imagery = [(CRS.from_wkt(crs), union(found)) for crs, found in bounds.items()]
    return misplaced(roofs, labels.crs, imagery, labels.path, frames[0].path.parent)


def mask_key(task: Frame, settings: MaskArgs, rasters: RasterArgs) -> str:
    """What a mask is made from: editing a polygon changes the key of the frames that it touches."""
    drawn = [sha256(), sha256()]
    for part in task.parts:
        for sha, pieces in zip(drawn, (part.roofs, part.ignored)):
            sha.update(b"".join(pieces.read()))
    return fingerprint("mask", settings.all_touched, rasters, task.digest, *(sha.hexdigest() for sha in drawn))


def grouped(tasks: Sequence[Frame]) -> list[list[Frame]]:
    """Tasks in groups, each for one worker; a large frame is alone."""
    groups: list[list[Frame]] = [[]]
    for task in tasks:
        if len(groups[-1]) == GROUP or is_large(task) or (groups[-1] and is_large(groups[-1][0])):
            groups.append([])
        groups[-1].append(task)
    return [group for group in groups if group]


def is_large(task: Frame) -> bool:
    """Whether a frame is drawn in several windows."""
    return len(task.parts) > 1


def write_masks(tasks: Sequence[Frame], *, settings: MaskArgs, rasters: RasterArgs) -> list[tuple[str, dict[str, int]]]:
    """Write some masks, while the disk confirms others: that takes longer than to draw them."""
    return list(map_threads(partial(write_mask, settings=settings, rasters=rasters), tasks, workers=AT_ONCE))


def write_mask(task: Frame, *, settings: MaskArgs, rasters: RasterArgs) -> tuple[str, dict[str, int]]:
    """Write one mask; its name, and its counts of pixels, valid ones and roof ones."""
    counts = dict(pixels=task.grid.width * task.grid.height, valid=0, roof=0)
    large = is_large(task)
    with gdal_env(), nullcontext() if task.is_valid else open_raster(task.path) as src:
        drawn = partial(draw_parts, src, task, settings.all_touched)
        if not large:
            drawn = partial(iter, list(drawn()))  # the windows of a large frame are drawn again instead of held
        partly = (
            is_partly(src, task, settings.all_touched) if large else not all(valid.all() for _, _, valid in drawn())
        )
        options = dict(bands=1, dtype="uint8", sparse=large, classes=True, settings=rasters)
        file = create_raster(task.mask_path, task.grid, **options)
        with file as dst:
            for window, pixels, valid in drawn():
                counts["valid"] += int(np.count_nonzero(valid))
                counts["roof"] += int(np.count_nonzero(pixels))
                is_blank = not (valid.any() if partly else pixels.any())
                if not (large and is_blank and (window.row_off or window.col_off)):
                    dst.write(pixels, valid if partly else None, window)
    return task.mask_path.name, counts


def is_partly(src: DatasetReader | None, task: Frame, all_touched: bool) -> bool:
    """Whether any pixel of a mask is invalid; polygons are drawn only where they can make one so."""
    for part in task.parts:
        frame_valid = valid_in(src, part.window)
        if len(part.ignored.spans):
            _, frame_valid = draw_part(frame_valid, task, part, all_touched)
        if not frame_valid.all():
            return True
    return False


def draw_parts(src: DatasetReader | None, task: Frame, all_touched: bool) -> Iterator[tuple[Window, Pixels, Valid]]:
    """A mask in windows: window, pixels (1, rows, cols) and validity (rows, cols)."""
    for part in task.parts:
        yield part.window, *draw_part(valid_in(src, part.window), task, part, all_touched)


def draw_part(frame_valid: Valid, task: Frame, part: Part, all_touched: bool) -> tuple[Pixels, Valid]:
    """A window of a mask: pixels (1, rows, cols) and validity (rows, cols)."""
    grid = task.grid.window(part.window)
    roof, unknown = (
        draw(shapely.from_wkb(pieces.read()), grid.transform, frame_valid.shape, all_touched=all_touched)
        for pieces in (part.roofs, part.ignored)
    )
    return roof_mask(roof, unknown, frame_valid)


def valid_in(src: DatasetReader | None, window: Window) -> Valid:
    """What is valid in a window of a frame; without a file, everything."""
    return read_valid(src, window) if src else np.ones((int(window.height), int(window.width)), bool)


def opened_labels(path: Path, settings: MaskArgs) -> LabelStream:
    """The polygons of a file or folder; a warning where settings do not say which are roofs, and they should."""
    from roofkit.labels import open_labels

    labels = open_labels(path, where=settings.where, ignore=settings.ignore, layer=settings.layer)
    tell_unused(path, labels.unused)
    return labels


def tell_unused(path: Path, unused: str | None) -> None:
    """Say which column of a label file might tell roofs of metal from others, if any."""
    if unused:
        advice = "Select with --where SQL, or mask_args.where."
        say(f"warning: {path}: every polygon counts as roof, but {unused}. {advice}")


def report_of(dst: Path, counts: Mapping[str, Any], facts: list[dict[str, Any]], *, made: int) -> MaskReport:
    """The report, from the counts of the labels and what was recorded with each mask."""
    pixels, valid, roof = (sum(fact[name] for fact in facts) for name in ("pixels", "valid", "roof"))
    empty = sum(fact["roof"] == 0 for fact in facts)
    return MaskReport(
        wrote=str(dst),
        masks_made=made,
        masks_kept=len(facts) - made,
        features=counts["features"],
        selected=counts["selected"],
        on_imagery=counts["on_imagery"],
        ignored=counts["ignored"],
        repaired=counts["repaired"],
        dropped=tuple(counts["dropped"]),
        empty_masks=empty,
        empty_share=empty / len(facts) if facts else 0.0,
        roof_fraction=roof / valid if valid else 0.0,
        valid_fraction=valid / pixels if pixels else 0.0,
    )


def mask(options: argparse.Namespace, run: Run) -> MaskReport:
    """The stage, with what the command line says."""
    given = {name: getattr(options, name) for name in ("where", "ignore", "layer", "all_touched")}
    settings = run.block("mask_args", given)
    path = options.labels or find_labels(run.paths.labels)
    frames, dst = options.frames or run.paths.chips, options.dst or run.paths.masks
    return mask_frames(frames, path, dst, settings=settings, run=run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, mask)


if __name__ == "__main__":
    leave(main())
