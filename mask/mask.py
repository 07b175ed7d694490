"""Draw roof polygons as masks: one for each frame, on the frame's own grid.

Reads  FRAMES  georeferenced rasters, one or a folder of them (default: data/chips)
       LABELS  roof polygons: .gpkg .shp .geojson .parquet .fgb, or a folder of them, in any CRS (default: data/labels)
Writes DST/<frame>.tif  (default: data/masks): uint8, 0 background, 255 roof.
A mask is invalid where its frame is, and where a polygon of unknown class (--ignore) lies that is no roof.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_crs_info
from pyproj.enums import PJType
from pyproj.exceptions import CRSError, ProjError
from rasterio.features import rasterize
from rasterio.io import DatasetReader
from rasterio.windows import Window

from roofkit.artifacts import Outputs, fingerprint
from roofkit.cli import Run, progress, run_stage, say, stage_parser
from roofkit.errors import BadInputError, MismatchError
from roofkit.pairs import by_stem
from roofkit.paths import find_labels
from roofkit.raster import (
    Grid,
    Pixels,
    Valid,
    all_valid,
    create_raster,
    grid_of,
    open_raster,
    raster_digest,
    raster_files,
    read_pixels,
    windows,
)
from roofkit.settings import MaskArgs, RasterArgs
from roofkit.workers import map_items

if TYPE_CHECKING:  # imported late: geopandas would make --help and every worker process wait
    import geopandas as gpd

    from roofkit.labels import Labels

ROOF = 255
WINDOW = 1024  # side of the windows that a large frame is drawn in: whole blocks
FOOT = 0.3048
POOL_FROM = 128  # masks below which starting worker processes takes longer than drawing
Bounds = tuple[float, float, float, float]


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
class Frame:
    """One frame, the polygons that touch it in its CRS, and where its mask goes: one task for a worker."""

    path: Path
    mask_path: Path
    grid: Grid
    digest: str
    roofs: tuple[bytes, ...] = ()
    ignored: tuple[bytes, ...] = ()


def draw(shapes: Sequence[Any], transform: Affine, size: tuple[int, int], *, all_touched: bool = False) -> Valid:
    """Which pixels of a grid have their centre in a shape (with `all_touched`: which a shape touches).

    Args:
        shapes: Polygons in the CRS of the grid.
        transform: Pixel to CRS.
        size: Rows and columns.
        all_touched: Every pixel that a polygon touches.
    """
    if not len(shapes):
        return np.zeros(size, bool)
    return rasterize(shapes, size, transform=transform, all_touched=all_touched, dtype="uint8") != 0


def roof_mask(roof: Valid, unknown: Valid, frame_valid: Valid) -> tuple[Pixels, Valid]:
    """Mask pixels (1, rows, cols) of 0 and 255, and their validity.

    A roof wins over unknown; where nothing was measured the mask is 0 and invalid whatever lies there.
    """
    valid = frame_valid & (roof | ~unknown)
    return np.where(roof & valid, np.uint8(ROOF), np.uint8(0))[None], valid


def footprint(grid: Grid) -> Any:
    """The outline of a grid as a polygon in its CRS."""
    corners = [(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)]
    return shapely.Polygon([grid.transform @ corner for corner in corners])


def touching(shapes: Sequence[Any], outlines: Sequence[Any]) -> list[NDArray[np.intp]]:
    """For each outline the indices of the shapes that it shares a point with."""
    found, index = shapely.STRtree(shapes).query(outlines, predicate="intersects")
    order = np.lexsort((index, found))
    return np.split(index[order], np.searchsorted(found[order], np.arange(1, len(outlines))))


def mask_frames(frames: Path, labels: Labels, dst: Path, *, settings: MaskArgs, run: Run) -> MaskReport:
    """Draw the mask of every frame into `dst`.

    Raises:
        MissingInputError, BadInputError: A frame is absent, not readable or without CRS.
        MismatchError: The labels lie on no frame, or two frames have one name.
    """
    found = find_frames(raster_files(frames, run.settings.extension_args.extension), dst)
    tasks, on_imagery = with_polygons(found, labels)
    rasters = run.settings.raster_args
    with Outputs(dst, "mask", overwrite=run.overwrite) as outputs:
        keys = {task.mask_path.name: mask_key(task, settings, rasters) for task in tasks}
        todo = set(outputs.plan(keys))
        waiting = [task for task in tasks if task.mask_path.name in todo]
        work = partial(write_mask, settings=settings, rasters=rasters)
        with closing(map_items(work, waiting, workers=run.workers if len(waiting) >= POOL_FROM else 1)) as done:
            for name, counts in progress(done, len(waiting), "mask", quiet=run.quiet):
                outputs.record(name, keys[name], **counts)
        outputs.finish()
        facts = [outputs.facts(name) for name in keys]
    return report_of(dst, labels, facts, made=len(todo), on_imagery=on_imagery)


def find_frames(paths: Iterable[Path], dst: Path) -> list[Frame]:
    """The frames, each with the name of its mask.

    Raises:
        BadInputError: A frame has no CRS.
        MismatchError: Two frames would have one mask.
    """
    frames = []
    for path in by_stem(paths).values():
        with open_raster(path) as src:
            grid = grid_of(src)
        if grid.crs is None:
            advice = "Use GeoTIFF frames, or bring your own masks (split takes frames and masks as they are)."
            raise BadInputError(path, "no CRS", "a georeferenced frame, on which polygons can be placed", advice)
        frames.append(Frame(path, dst / f"{path.stem}.tif", grid, raster_digest(path)))
    return frames


def with_polygons(frames: list[Frame], labels: Labels) -> tuple[list[Frame], int]:
    """The frames with the polygons that touch each, and how many roofs lie on any frame.

    Raises:
        MismatchError: No roof lies on a frame.
    """
    from roofkit.labels import reproject

    tasks: dict[Path, Frame] = {}
    seen: set[str] = set()
    for group in by_crs(frames).values():
        crs = CRS.from_wkt(group[0].grid.crs.to_wkt())
        roofs, ignored = (reproject(shapes, crs, labels.path) for shapes in (labels.roofs, labels.ignored))
        outlines = [footprint(frame.grid) for frame in group]
        per_frame = touching(roofs.geometry.to_numpy(), outlines)
        seen |= set(roofs["id"].to_numpy()[np.unique(np.concatenate(per_frame))])
        unknown = touching(ignored.geometry.to_numpy(), outlines)
        for frame, roof_rows, ignored_rows in zip(group, per_frame, unknown):
            tasks[frame.path] = Frame(
                frame.path, frame.mask_path, frame.grid, frame.digest, wkb(roofs, roof_rows), wkb(ignored, ignored_rows)
            )
    if not seen:
        raise misplaced(frames, labels)
    return [tasks[frame.path] for frame in frames], len(seen)


def by_crs(frames: Iterable[Frame]) -> dict[str, list[Frame]]:
    """The frames grouped by CRS."""
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.grid.crs.to_wkt(), []).append(frame)
    return groups


def wkb(shapes: gpd.GeoDataFrame, rows: NDArray[np.intp]) -> tuple[bytes, ...]:
    """Those shapes as WKB, in an order that does not depend on the file's."""
    return tuple(sorted(shapely.to_wkb(shapes.geometry.to_numpy()[rows])))


def mask_key(task: Frame, settings: MaskArgs, rasters: RasterArgs) -> str:
    """What a mask is made from: editing a polygon changes the key of the frames that it touches."""
    drawn = [sha256(b"".join(shapes)).hexdigest() for shapes in (task.roofs, task.ignored)]
    return fingerprint("mask", settings.all_touched, rasters, task.digest, *drawn)


def write_mask(task: Frame, *, settings: MaskArgs, rasters: RasterArgs) -> tuple[str, dict[str, int]]:
    """Write one mask; its name, and its counts of pixels, valid ones and roof ones."""
    counts = dict(pixels=task.grid.width * task.grid.height, valid=0, roof=0)
    large = max(task.grid.height, task.grid.width) > WINDOW
    with open_raster(task.path) as src:
        parts = partial(draw_parts, src, task, settings.all_touched)
        if not large:
            parts = partial(iter, list(parts()))  # a large frame is drawn twice instead of held
        partly = not all(valid.all() for _, _, valid in parts())
        file = create_raster(task.mask_path, task.grid, bands=1, dtype="uint8", sparse=large, settings=rasters)
        with file as dst:
            for window, pixels, valid in parts():
                counts["valid"] += int(valid.sum())
                counts["roof"] += int(np.count_nonzero(pixels))
                is_blank = not (valid.any() if partly else pixels.any())
                if not (large and is_blank and (window.row_off or window.col_off)):
                    dst.write(pixels, valid if partly else None, window)
    return task.mask_path.name, counts


def draw_parts(src: DatasetReader, task: Frame, all_touched: bool) -> Iterator[tuple[Window, Pixels, Valid]]:
    """A mask in windows: window, pixels (1, rows, cols) and validity (rows, cols)."""
    trees = [shapely.STRtree(shapely.from_wkb(list(shapes))) for shapes in (task.roofs, task.ignored)]
    for window in windows(task.grid.height, task.grid.width, WINDOW):
        grid = task.grid.window(window)
        outline = footprint(grid)
        roof, unknown = (
            draw(
                tree.geometries[tree.query(outline)], grid.transform, (grid.height, grid.width), all_touched=all_touched
            )
            for tree in trees
        )
        frame_valid = np.ones(roof.shape, bool) if all_valid(src) else read_pixels(src, window)[1]
        yield window, *roof_mask(roof, unknown, frame_valid)


def report_of(dst: Path, labels: Labels, facts: list[dict[str, Any]], *, made: int, on_imagery: int) -> MaskReport:
    """The report, from what was recorded with each mask."""
    pixels, valid, roof = (sum(fact[name] for fact in facts) for name in ("pixels", "valid", "roof"))
    empty = sum(fact["roof"] == 0 for fact in facts)
    return MaskReport(
        wrote=str(dst),
        masks_made=made,
        masks_kept=len(facts) - made,
        features=labels.features,
        selected=labels.selected,
        on_imagery=on_imagery,
        ignored=len(labels.ignored),
        repaired=labels.repaired,
        dropped=labels.dropped,
        empty_masks=empty,
        empty_share=empty / len(facts),
        roof_fraction=roof / valid if valid else 0.0,
        valid_fraction=valid / pixels,
    )


def misplaced(frames: list[Frame], labels: Labels) -> MismatchError:
    """The error that no roof lies on the imagery: both extents, and the CRS that would fit."""
    crs, lonlat = labels.crs, CRS.from_epsg(4326)
    roofs = tuple(labels.roofs.total_bounds)
    places = [(bounds_in(group[0].grid.crs, outline_of(group), lonlat)) for group in by_crs(frames).values()]
    here = union(bounds_in(group[0].grid.crs, outline_of(group), crs) for group in by_crs(frames).values())
    found = (
        f"no roof lies on the imagery: the labels span {extent(roofs)} in {name_of(crs)} "
        f"(lon/lat {extent(bounds_in(crs, roofs, lonlat))}), "
        f"the imagery {extent(here)} (lon/lat {extent(union(places))})"
    )
    fitting = fitting_crs(frames, labels)
    advice = (
        f"The labels would lie on the imagery if their CRS were {fitting}: correct it (ogr2ogr -a_srs)."
        if fitting
        else "No usual CRS brings them together: check that both are of the same place."
    )
    return MismatchError(labels.path, found, f"polygons on {frames[0].path.parent}", advice)


def outline_of(frames: Iterable[Frame]) -> Bounds | None:
    """left, bottom, right, top of all frames, in their CRS."""
    return union(frame.grid.bounds for frame in frames)


def union(bounds: Iterable[Bounds | None]) -> Bounds | None:
    """The bounds around those that exist."""
    known = np.array([one for one in bounds if one is not None])
    return (*known[:, :2].min(axis=0).tolist(), *known[:, 2:].max(axis=0).tolist()) if len(known) else None


def bounds_in(source: Any, bounds: Bounds | None, target: CRS) -> Bounds | None:
    """The same bounds in another CRS; None where that is undefined."""
    if bounds is None:
        return None
    try:
        move = Transformer.from_crs(CRS.from_user_input(source), target, always_xy=True)
        moved = move.transform_bounds(*bounds)
    except (ProjError, CRSError):
        return None
    return moved if np.isfinite(moved).all() else None


def extent(bounds: Bounds | None) -> str:
    """Bounds as `left..right, bottom..top`, with digits enough to tell places apart."""
    if bounds is None:
        return "outside it"
    digits = 4 if max(map(abs, bounds)) <= 360 else 0
    left, bottom, right, top = (f"{value:.{digits}f}" for value in bounds)
    return f"{left}..{right}, {bottom}..{top}"


def name_of(crs: CRS) -> str:
    """`EPSG:32644` where it has a number, else its name."""
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.name)


def fitting_crs(frames: list[Frame], labels: Labels) -> str | None:
    """The CRS in which the labels' numbers would lie on the imagery, as words; None: no usual one."""
    shapes = labels.roofs.geometry.bounds.to_numpy()
    best: tuple[int, str | None] = (0, None)
    for words, crs, numbers in candidates(frames, shapes):
        boxes = [bounds_in(group[0].grid.crs, outline_of(group), crs) for group in by_crs(frames).values()]
        hits = max(number_inside(numbers, box) for box in boxes)
        best = max(best, (hits, words), key=lambda pair: pair[0])
        if hits == len(shapes):
            break
    return best[1]


def candidates(frames: list[Frame], shapes: NDArray[Any]) -> Iterator[tuple[str, CRS, NDArray[Any]]]:
    """CRSs to try, likeliest first: words for it, the CRS, and the labels' bounds as numbers in it."""
    swapped = shapes[:, [1, 0, 3, 2]]
    own = [CRS.from_wkt(group[0].grid.crs.to_wkt()) for group in by_crs(frames).values()]
    for crs in [*own, CRS.from_epsg(4326), CRS.from_epsg(3857)]:
        yield name_of(crs), crs, shapes
        yield f"{name_of(crs)} with its axes swapped (y before x)", crs, swapped
        if crs.is_projected:
            yield f"{name_of(crs)} in feet", crs, shapes * FOOT
    place = union(
        bounds_in(crs, outline_of(frames_in), CRS.from_epsg(4326))
        for crs, frames_in in zip(own, by_crs(frames).values())
    )
    if place:
        yield from ((name_of(crs), crs, shapes) for crs in local_crs(place))


def local_crs(place: Bounds) -> Iterator[CRS]:
    """The UTM zones at and beside a place in lon/lat, then all projected CRSs in use there."""
    zone = int((place[0] + place[2]) / 2 // 6) + 31
    for near in (zone, zone - 1, zone + 1):
        for hemisphere in (32600, 32700):
            yield CRS.from_epsg(hemisphere + (near - 1) % 60 + 1)
    area = AreaOfInterest(*place)
    for info in query_crs_info(auth_name="EPSG", pj_types=[PJType.PROJECTED_CRS], area_of_interest=area, contains=True):
        yield CRS.from_epsg(int(info.code))


def number_inside(shapes: NDArray[Any], box: Bounds | None) -> int:
    """How many of the bounds (shapes, 4) meet the box."""
    if box is None:
        return 0
    return int(((shapes[:, :2] < box[2:]).all(axis=1) & (shapes[:, 2:] > box[:2]).all(axis=1)).sum())


def mask(options: argparse.Namespace, run: Run) -> MaskReport:
    """The stage, with what the command line says."""
    from roofkit.labels import read_labels

    given = {name: getattr(options, name) for name in ("where", "ignore", "layer", "all_touched")}
    settings = run.block("mask_args", given)
    path = options.labels or find_labels(run.paths.labels)
    labels = read_labels(path, where=settings.where, ignore=settings.ignore, layer=settings.layer)
    if labels.unused:
        advice = "Select with --where SQL, or mask_args.where."
        say(f"warning: {path}: every polygon counts as roof, but {labels.unused}. {advice}")
    frames, dst = options.frames or run.paths.chips, options.dst or run.paths.masks
    return mask_frames(frames, labels, dst, settings=settings, run=run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    parser = stage_parser(__doc__)
    parser.add_argument("frames", nargs="?", type=Path, metavar="FRAMES", help="a frame or a folder of frames")
    parser.add_argument("labels", nargs="?", type=Path, metavar="LABELS", help="a vector file or a folder of them")
    parser.add_argument("dst", nargs="?", type=Path, metavar="DST", help="the folder for the masks")
    parser.add_argument("--where", metavar="SQL", help="which polygons are roofs, as ogr2ogr -where")
    parser.add_argument("--ignore", metavar="SQL", help="polygons of unknown class: invalid in the mask")
    parser.add_argument("--layer", metavar="NAME", help="the layer, where the file has several")
    parser.add_argument("--all-touched", action="store_true", default=None, help="every pixel that a polygon touches")
    return run_stage(parser, argv, mask)


if __name__ == "__main__":
    sys.exit(main())
