"""Checks of what lies in files: the environment, rasters, labels. None of them needs Keras."""

import importlib
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.features import rasterize
from rasterio.windows import Window

from roofkit.check_setup import NEEDED, check_raster
from roofkit.findings import Finding, found, passed, skipped
from roofkit.pairs import read_mask
from roofkit.raster import Grid, Pixels, grid_of, open_raster, read_pixels
from roofkit.workers import cores

if TYPE_CHECKING:
    from roofkit.labels import Labels

GIB = 2**30
WINDOW = 256  # side of the windows in which large rasters are looked at
LOOKS = 3  # so many windows along a side
SMOOTHER = 0.75  # of the roughness; sound images, of drones and satellites, get 1.4 to 13 times rougher
SHOWN = 6  # values or names that a finding lists


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def listed(items: Sequence[Any]) -> str:
    """The first few of them, as words."""
    return ", ".join(map(str, items[:SHOWN])) + (", …" if len(items) > SHOWN else "")


# -------------------------------------------------------------------------------------------------------- environment


def check_environment(folder: Path, gpus: int) -> Iterator[Finding]:
    """Whether everything can be imported and an 8-band uint16 GeoTIFF comes back as written; what this machine has.

    Args:
        folder: Where results go.
        gpus: How many GPUs the backend sees.
    """
    check = "environment"
    try:
        for name in NEEDED:
            importlib.import_module(name)
        check_raster()
    except (ImportError, OSError, ValueError) as error:
        yield found(check, "environment", str(error), where=".venv", expected="imports and rasters that work")
        return
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "rasterio", "keras"))
    memory, disk = _memory(), _free_disk(folder)
    machine = f"{cores()} cores, {memory / GIB:.0f} GiB of memory, {disk / GIB:.0f} GiB free on disk, GPUs: {gpus}"
    yield passed(check, f"Python {platform.python_version()}, {versions}; {machine}")
    if disk < GIB:
        found_disk = f"{disk / GIB:.2f} GiB free"
        yield found(
            check, "environment", found_disk, where=folder, expected="1 GiB", status="warn", fix="Free some space."
        )
    if shutil.which("nvidia-smi") and not gpus:
        expected, fix = "the GPU that nvidia-smi knows", "Run ./setup.sh again: it installs TensorFlow with CUDA."
        yield found(check, "environment", "no GPU", where="TensorFlow", expected=expected, status="warn", fix=fix)


def _memory() -> int:
    """Bytes of memory that this machine has; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _free_disk(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


# ------------------------------------------------------------------------------------------------------------ rasters


@dataclass(frozen=True)
class RasterFacts:
    """What a raster holds.

    Args:
        path: The file.
        bands: Data bands.
        dtype: NumPy's name.
        size: Rows and columns.
        valid: Share of pixels that are valid.
        black: Share of pixels that are valid, and 0 in every band.
        same: For each band, its value where it has but one; else None.
        scrambled: Pixels are smoother when bands, rows and columns are read in another order.
    """

    path: Path
    bands: int
    dtype: str
    size: tuple[int, int]
    valid: float
    black: float
    same: tuple[float | None, ...]
    scrambled: bool


def raster_facts(path: Path) -> RasterFacts:
    """What a raster holds; a large one is looked at in a few windows.

    Raises:
        BadInputError, MissingInputError: It cannot be read.
    """
    with open_raster(path) as src:
        parts = [read_pixels(src, window) for window in _looks(src.height, src.width)]
        size, dtype = (src.height, src.width), src.dtypes[0]
    whole = len(parts) == 1
    pixels = np.concatenate([part.reshape(len(part), -1) for part, _ in parts], axis=1)
    valid = np.concatenate([flags.ravel() for _, flags in parts])
    black = valid & (pixels == 0).all(axis=0)
    measured = pixels[:, valid]
    same = tuple(float(b[0]) if len(b) and (b == b[0]).all() else None for b in measured)
    scrambled = whole and is_scrambled(parts[0][0])
    return RasterFacts(
        path, len(pixels), dtype, size, float(valid.mean()), float(black.mean()), same, scrambled
    )  # fmt: skip


def _looks(height: int, width: int) -> list[Window]:
    """The whole of a small raster, or a few windows that are spread over a large one."""
    if max(height, width) <= WINDOW * LOOKS:
        return [Window(0, 0, width, height)]
    rows, cols = (np.linspace(0, max(0, side - WINDOW), LOOKS).astype(int) for side in (height, width))
    return [Window(int(col), int(row), min(WINDOW, width), min(WINDOW, height)) for row in rows for col in cols]


def is_scrambled(pixels: Pixels) -> bool:
    """Whether pixels (bands, rows, cols) are smoother when bands and pixels are taken in another order."""
    bands, rows, cols = pixels.shape
    if bands == 1 or min(rows, cols) < 2:
        return False
    others = pixels.reshape(rows, cols, bands).transpose(2, 0, 1), pixels.transpose(1, 2, 0).reshape(pixels.shape)
    return min(map(_roughness, others)) < SMOOTHER * _roughness(pixels)


def _roughness(pixels: Pixels) -> float:
    """Mean difference of neighbours down and across, in standard deviations of their band."""
    bands = pixels.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite pixels
        steps = np.abs(np.diff(bands, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(bands, axis=2)).mean(axis=(1, 2))
        deviation = bands.std(axis=(1, 2))
    return float(np.mean(steps[deviation > 0] / deviation[deviation > 0])) if (deviation > 0).any() else 0.0


def check_rasters(kind: str, facts: Sequence[RasterFacts], channels: int) -> Iterator[Finding]:
    """Whether rasters of one kind (scenes, frames) are alike, hold what settings say, and have something to see."""
    check, folder = f"rasters: {kind}", facts[0].path.parent
    odd = [fact for fact in facts if fact.bands != channels]
    scrambled = [fact for fact in facts if fact.scrambled]
    if 2 * len(scrambled) <= len(facts):
        scrambled = [fact for fact in odd if channels in fact.size]
    bands, dtypes = (Counter(getattr(fact, name) for fact in facts) for name in ("bands", "dtype"))
    if scrambled:
        fact = scrambled[0]
        measured = f"{fact.bands} bands of {fact.size[0]} x {fact.size[1]} pixels, in {len(scrambled)} of {len(facts)}"
        yield found(check, "axes_scrambled", measured, where=fact.path, expected=f"{channels} bands, as images are")
    elif odd:
        measured = f"{odd[0].bands} bands, in {len(odd)} of {len(facts)}"
        yield found(check, "bands", measured, where=odd[0].path, expected=f"{channels}, as load_dataset_args.channels")
    valid, black = (float(np.mean([getattr(fact, name) for fact in facts])) for name in ("valid", "black"))
    if valid < 0.01:
        yield found(check, "nothing_valid", f"{valid:.1%} of pixels valid", where=folder, expected="more")
    if not (scrambled or odd) and valid >= 0.01:
        yield passed(check, f"{len(facts)} with {_counts(bands)} bands of {_counts(dtypes)}; {valid:.0%} valid")
        yield from _remarks(check, facts, black, valid)


def _remarks(check: str, facts: Sequence[RasterFacts], black: float, valid: float) -> Iterator[Finding]:
    """What may be right, but often is not."""
    folder, dtypes = facts[0].path.parent, sorted({fact.dtype for fact in facts})
    if len(dtypes) > 1:
        yield found(
            check, "images_scaled", " and ".join(dtypes), where=folder, expected="one kind of number", status="warn"
        )
    if black > valid / 2:
        fix = "If 0 means not measured, say so: gdal_edit.py -a_nodata 0."
        measured = f"{black:.0%} of pixels are 0 in every band, and count as measured"
        yield found(check, "nothing_valid", measured, where=folder, expected="pictures", status="warn", fix=fix)
    same = [
        b + 1 for b, values in enumerate(zip(*(f.same for f in facts))) if len(set(values)) == 1 and None not in values
    ]
    if same:
        measured = f"one value everywhere in band {listed(same)}"
        yield found(check, "flat_band", measured, where=folder, expected="pictures", status="warn")


def _counts(values: Mapping[Any, int]) -> str:
    return " or ".join(str(value) for value in values)


# ------------------------------------------------------------------------------------------------------------- labels


def check_labels(labels: "Labels", frames: Sequence[Path], masks: Mapping[str, Path]) -> Iterator[Finding]:
    """Whether the roofs lie on the imagery, and masks hold them.

    Args:
        labels: The polygons that count as roofs.
        frames: Georeferenced rasters.
        masks: Masks to compare, by the frame's name.
    """
    check, where = "labels", labels.path
    grids = {path: grid_in(path) for path in frames}
    placed = {path: grid for path, grid in grids.items() if grid.crs}
    if not placed:
        yield skipped(check, f"{len(grids)} rasters without CRS")
        return
    touching = _touching(labels, list(placed.values()))
    number = len(set().union(*(shapes.index for shapes in touching)))
    total = len(labels.roofs)
    if not number:
        measured = f"none of {total:,} roofs lies on {len(placed)} rasters"
        yield found(check, "labels_miss_imagery", measured, where=where, expected=f"some on {frames[0].parent}")
        return
    yield passed(check, f"{number:,} of {total:,} roofs lie on {len(placed)} rasters")
    chosen = [place for place in zip(placed, touching) if place[0].stem in masks]
    if chosen:
        drawn = [_drawn(shapes, placed[path], masks[path.stem]) for path, shapes in chosen]
        yield from _compare(np.sum(drawn, axis=0), masks[chosen[0][0].stem].parent, len(chosen))


def grid_in(path: Path) -> Grid:
    """The grid of a raster file."""
    with open_raster(path) as src:
        return grid_of(src)


def _touching(labels: "Labels", grids: Sequence[Grid]) -> list[Any]:
    """For each grid the roofs that meet its bounds, in its CRS."""
    from pyproj import CRS

    from roofkit.labels import reproject

    places = [grid.crs.to_wkt() if grid.crs else "" for grid in grids]
    roofs = {wkt: reproject(labels.roofs, CRS.from_wkt(wkt), labels.path) for wkt in set(places)}
    found = [roofs[wkt].sindex.query(_box(grid), predicate="intersects") for wkt, grid in zip(places, grids)]
    return [roofs[wkt].iloc[rows] for wkt, rows in zip(places, found)]


def _box(grid: Grid) -> Any:
    import shapely

    return shapely.box(*grid.bounds)


def _drawn(shapes: Any, grid: Grid, mask: Path) -> tuple[int, int, int]:
    """Pixels of roofs in the labels, in the mask, and in both."""
    with open_raster(mask) as src:
        roof, valid = read_mask(src)
    drawn = np.zeros(roof.shape, bool)
    if len(shapes) and roof.shape == (grid.height, grid.width):
        drawn = rasterize(shapes.geometry, roof.shape, transform=grid.transform) > 0
    return int((drawn & valid).sum()), int((roof & valid).sum()), int((drawn & roof & valid).sum())


def _compare(pixels: Any, folder: Path, count: int) -> Iterator[Finding]:
    labelled, masked, both = map(int, pixels)
    iou = both / max(labelled + masked - both, 1)
    measured = f"{count} masks hold {masked:,} roof pixels, the labels {labelled:,} there (IoU {iou:.2f})"
    if labelled > 10 * masked:
        yield found("labels", "labels_miss_imagery", measured, where=folder, expected="the roofs of the labels")
    elif iou < 0.5:
        yield found("labels", "other_labels", measured, where=folder, expected="the same", status="warn")
    else:
        yield passed("labels", measured)


def ground_width(path: Path) -> float | None:
    """Metres on the ground (geodesic, WGS 84) from a raster's left to its right edge; None without CRS."""
    from pyproj import Geod
    from rasterio.warp import transform

    grid = grid_in(path)
    if grid.crs is None:
        return None
    ends = [grid.transform @ (col, grid.height / 2) for col in (0, grid.width)]
    return float(Geod(ellps="WGS84").line_length(*transform(grid.crs, "EPSG:4326", *zip(*ends))))
