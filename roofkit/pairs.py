"""Rasters that belong together: frames or predictions, and the masks of the same names and grids."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.enums import MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window

from roofkit.errors import BadInputError, MismatchError, MissingInputError
from roofkit.raster import (
    DRIVERS,
    Grid,
    Pixels,
    Valid,
    data_bands,
    grid_of,
    name_of,
    open_raster,
    raster_files,
    read_pixels,
)

CHIP_NAME = re.compile(r"(?P<scene>.+)_r(?P<row>\d+)_c(?P<col>\d+)")


@dataclass(frozen=True)
class Pair:
    """A frame and its mask."""

    frame: Path
    mask: Path


@dataclass(frozen=True)
class ScoredFrame:
    """The files of a frame that is scored; `probability` may be absent."""

    prediction: Path
    mask: Path
    probability: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [self.prediction, self.mask, *([self.probability] if self.probability else [])]


def mask_files(source: Path) -> list[Path]:
    """The mask itself, or the masks of a folder, whichever kind of raster they are, sorted by name.

    Raises:
        MissingInputError: Nothing there, or no raster in the folder.
    """
    if not source.is_dir():
        return raster_files(source)
    found = sorted(p for p in source.iterdir() if p.suffix.lower()[1:] in DRIVERS and not p.name.startswith("."))
    if not found:
        raise MissingInputError(
            source, "no mask", "*.tif or *.png files", "Make the masks first, or name their folder."
        )
    return found


def place_of(stem: str) -> tuple[str, int, int]:
    """Scene, row and column of a chip or block, as its name says; another name is that of a scene of its own."""
    name = CHIP_NAME.fullmatch(stem)
    return (name["scene"], int(name["row"]), int(name["col"])) if name else (stem, 0, 0)


def natural(path: Path) -> list[tuple[int, str]]:
    """A sort key by which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Paths by name without suffix, in the order given.

    Raises:
        MismatchError: Two have one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise MismatchError(path, f"the same name as {found[path.stem]}", "files of different names", "Rename one.")
        found[path.stem] = path
    return found


def pair_rasters(
    frames: Iterable[Path], masks: Iterable[Path], kinds: tuple[str, str] = ("frame", "mask")
) -> list[tuple[Path, Path]]:
    """Frames and masks that have the same name but for the suffix, sorted naturally.

    Args:
        frames: One side.
        masks: The other side.
        kinds: What a file of either side is called in errors.

    Raises:
        MissingInputError: A file has no partner; those of both sides are counted and named.
        MismatchError: Two files of a side have one name.
    """
    one, other = by_stem(frames), by_stem(masks)
    alone, counts = [], []
    for mine, theirs, (kind, partner) in ((one, other, kinds), (other, one, kinds[::-1])):
        paths = sorted((path for stem, path in mine.items() if stem not in theirs), key=natural)
        if paths:
            names = ", ".join(path.name for path in paths[:3]) + (", …" if len(paths) > 3 else "")
            counts.append(f"{len(paths):,} of {len(mine):,} {kind}s without {partner} ({names})")
            alone += paths
    if alone:
        expected = f"a {kinds[1]} of the same name for each {kinds[0]}, and no others"
        raise MissingInputError(alone[0], " and ".join(counts), expected, "Add what is missing, or remove the others.")
    return [(path, other[path.stem]) for path in sorted(one.values(), key=natural)]


def check_grid(path: Path, like: Path) -> None:
    """Raise where a raster does not lie on the grid of another.

    Sizes are compared always; CRS and transform where both files have one: a PNG mask of a GeoTIFF frame has none.

    Raises:
        MismatchError: They lie on different grids.
    """
    with open_raster(path) as src, open_raster(like) as other:
        check_grids(src, like=other)


def check_grids(src: DatasetReader, like: DatasetReader) -> None:
    """`check_grid` of open rasters."""
    grid, wanted = grid_of(src), grid_of(like)
    known = grid
    if grid.crs is None or wanted.crs is None:
        known = replace(known, crs=wanted.crs)
    if Affine.identity() in (grid.transform, wanted.transform):
        known = replace(known, transform=wanted.transform)
    if not known.matches(wanted):
        found = f"on another grid ({_words(grid)}) than {name_of(like)} ({_words(wanted)})"
        raise MismatchError(name_of(src), found, "equal size, CRS and transform", "Make both from the same image.")


def named_pairs(frames: Path, masks: Path, extension: str = "tif") -> list[Pair]:
    """Frames and masks that have the same name but for the suffix, sorted naturally. None is opened.

    Raises:
        MissingInputError: A folder is absent or empty, or a frame or mask has no partner.
        MismatchError: Two files of a folder have one name.
    """
    return [Pair(*pair) for pair in pair_rasters(raster_files(frames, extension), mask_files(masks))]


def check_pairs(pairs: Iterable[Pair]) -> None:
    """Raise MismatchError where a mask does not lie on the grid of its frame; see `check_grid`."""
    for pair in pairs:
        check_grid(pair.mask, like=pair.frame)


def find_pairs(frames: Path, masks: Path, extension: str = "tif") -> list[Pair]:
    """`named_pairs`, looked at by `check_pairs`, and raising what they raise."""
    pairs = named_pairs(frames, masks, extension)
    check_pairs(pairs)
    return pairs


def _words(grid: Grid) -> str:
    crs, to = grid.crs.to_string() if grid.crs else "no CRS", grid.transform
    return f"{grid.width} x {grid.height} px, {crs}, corner {to.c:.10g}, {to.f:.10g}, pixel {to.a:.10g}, {to.e:.10g}"


def read_mask(
    src: DatasetReader, window: Window | None = None, size: tuple[int, int] | None = None
) -> tuple[Valid, Valid]:
    """Where an open mask says roof, and where it is valid; both (rows, cols) bool, of a window or of all.

    With a `size` only so many rows and columns are picked, as by `read_pixels`.

    Valid values are 0 and 255, or 0 and 1, which is checked in what is read. A nodata tag of 0 is passed over where
    nothing else says what is valid: 0 in a mask is background.

    Raises:
        BadInputError: It has several bands, or other values.
    """
    if len(data_bands(src)) != 1:
        raise BadInputError(name_of(src), f"{len(data_bands(src))} bands", "a mask of one band", "Make it with mask.")
    (pixels,), valid = read_pixels(src, window, size=size)
    if src.nodata == 0 and src.mask_flag_enums == ([MaskFlags.nodata],):
        valid |= pixels == 0
    values = np.unique(pixels[valid]).tolist()
    if not (set(values) <= {0, 255} or set(values) <= {0, 1}):
        shown = ", ".join(f"{value:g}" for value in values[:6]) + (", …" if len(values) > 6 else "")
        raise BadInputError(name_of(src), f"values {shown}", "0 and 255, or 0 and 1", "Make it with mask.")
    return np.asarray(pixels > 0), valid


def read_probability(src: DatasetReader, window: Window) -> tuple[Pixels, Valid]:
    """Roof probabilities (rows, cols) of a window, and where they are valid.

    Raises:
        BadInputError: It has several bands, or values that are no probabilities.
    """
    pixels, valid = read_pixels(src, window)
    advice = "Make it with predict."
    if len(pixels) != 1:
        raise BadInputError(name_of(src), f"{len(pixels)} bands", "one band of roof probabilities", advice)
    low, high = pixels[0].min(where=valid, initial=0), pixels[0].max(where=valid, initial=0)
    if low < 0 or high > 1:
        raise BadInputError(name_of(src), f"values {low:g} to {high:g}", "probabilities, 0 to 1", advice)
    return pixels[0], valid
