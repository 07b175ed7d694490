"""Put tiles of one grid together in one GeoTIFF.

Reads  SRC_DIR  georeferenced GeoTIFFs of one CRS, pixel size, band count, dtype and nodata (default: data/chips)
Writes DST.tif  (default: data/mosaic.tif): what the tiles cover, from the first to the last row and column.
Only valid pixels count. Where no tile has one, the mosaic's internal mask says so.

Tiles lie on one grid when each is a whole number of pixels away from the others, to 0.001 pixel. Tiles whose pixel
sizes differ by a hair (web tiles in degrees, rounded transforms) may drift as far as that difference explains, up to
0.1 pixel over the whole mosaic, and are moved to the nearest pixel.
"""

import argparse
from pathlib import Path

from roofkit.options import answer, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__)
    made.add_argument("src", nargs="?", type=Path, metavar="SRC_DIR", help="the folder of tiles")
    made.add_argument("dst", nargs="?", type=Path, metavar="DST.tif", help="the mosaic")
    made.add_argument(
        "--method", choices=("last", "first", "max", "mean"), help="which tile counts where several overlap"
    )
    return made


if __name__ == "__main__":
    answer(parser())

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from rasterio.windows import Window

from roofkit.artifacts import Outputs, fingerprint
from roofkit.cli import Run, leave, progress, run_stage
from roofkit.errors import BadInputError, MismatchError, OutputError
from roofkit.raster import (
    BLOCK,
    Grid,
    Pixels,
    Valid,
    closed_digest,
    create_raster,
    data_bands,
    grid_of,
    is_rgb,
    open_raster,
    own_names,
    raster_files,
    read_pixels,
)
from roofkit.settings import Method, MosaicArgs, RasterArgs

WINDOW = (4 * BLOCK, 8 * BLOCK)  # rows and columns worked on at a time: wide, as tiles stored in strips are read
OFF_GRID = 1e-3  # pixels
COUNTED = 2.0**52  # pixels from an origin, from which on a float64 knows no half of one
LARGEST = 2**42  # pixels of a mosaic: a country at half a metre
DRIFT = 0.1  # pixels, over the mosaic
PIXEL_SIZE = 1e-4  # relative difference


@dataclass(frozen=True)
class MosaicReport:
    """What mosaic did."""

    wrote: str
    tiles: int
    rows: int
    cols: int
    bands: int
    valid_fraction: float
    kept: bool


@dataclass(frozen=True)
class Tile:
    """An input file as its header describes it."""

    path: Path
    grid: Grid
    bands: int
    dtype: str
    nodata: float | None
    names: Sequence[str] | None
    rgb: bool


@dataclass(frozen=True)
class Layer:
    """Pixels (bands, rows, cols) with their validity, `row` and `col` pixels from the corner of what they lie on."""

    row: int
    col: int
    pixels: Pixels
    valid: Valid


@dataclass(frozen=True)
class Layout:
    """The mosaic's grid, and where in it each tile starts: (row, col)."""

    grid: Grid
    corners: tuple[tuple[int, int], ...]


def combine(
    layers: Iterable[Layer], shape: tuple[int, int, int], dtype: np.dtype, *, method: Method, empty: float
) -> tuple[Pixels, Valid]:
    """Lay layers over each other, in order; one layer is held at a time.

    A pixel that no layer has valid gets the value of the first (method first) or last layer over it, and `empty` where
    there is none. `max` goes band by band; `mean` is rounded half to even for an integer dtype.

    Returns:
        Pixels of `shape` (bands, rows, cols) and `dtype`, and their validity (rows, cols).
    """
    out = np.empty(shape, np.float64 if method == "mean" else dtype)
    count = np.zeros(shape[1:], np.uint32)
    covered = np.zeros(shape[1:], bool)
    for layer in layers:
        rows, cols = layer.valid.shape
        place = np.s_[..., layer.row : layer.row + rows, layer.col : layer.col + cols]
        _lay(out[place], count[place], covered[place], layer, method)
    if not covered.all():
        out[:, ~covered] = empty
    if method == "mean":
        out = out / np.maximum(count, 1)
        out = np.rint(out) if dtype.kind in "iu" else out
    return out.astype(dtype, copy=False), count > 0


def _lay(out: Pixels, count: Pixels, covered: Valid, layer: Layer, method: Method) -> None:
    """Put one layer on the part of the arrays that lies under it; `count` is of valid layers so far."""
    if layer.valid.all() and not covered.any():  # the usual case, and by far the fastest
        out[...], count[...], covered[...] = layer.pixels, 1, True
        return
    blank, again = count == 0, layer.valid & (count > 0)
    if method == "first":
        blank &= layer.valid | ~covered
    np.copyto(out, layer.pixels, where=blank | again if method == "last" else blank)
    if method == "max":
        np.maximum(out, layer.pixels, out=out, where=again)
    elif method == "mean":
        np.add(out, layer.pixels, out=out, where=again)
    count += layer.valid
    covered[:] = True


def common_transform(transforms: Sequence[Affine]) -> Affine:
    """The first one's origin with the median pixel size."""
    a, b, _, d, e, _ = np.median([tuple(t)[:6] for t in transforms], axis=0)
    return Affine(a, b, transforms[0].c, d, e, transforms[0].f)


def size_difference(one: Affine, other: Affine) -> float:
    """How far the pixels of two transforms differ, rotation included, as a share of a pixel."""
    step = ~one * other
    return max(abs(step.a - 1), abs(step.b), abs(step.d), abs(step.e - 1))


def corner_offsets(transform: Affine, grid: Grid) -> np.ndarray:
    """The (col, row) of a grid's upper left and lower right corner in pixels of `transform`: (2, 2) float64."""
    corners = (0, 0), (grid.width, grid.height)
    return np.array([~transform * (grid.transform * corner) for corner in corners])


def windows_touched(layout: Layout, tiles: Sequence[Tile]) -> dict[tuple[int, int], list[int]]:
    """For each window that some tile touches, in row order: the (row, col) that it starts at → the tiles' numbers."""
    touched: dict[tuple[int, int], list[int]] = {}
    for number, (tile, (row, col)) in enumerate(zip(tiles, layout.corners)):
        for top in range(row // WINDOW[0] * WINDOW[0], row + tile.grid.height, WINDOW[0]):
            for left in range(col // WINDOW[1] * WINDOW[1], col + tile.grid.width, WINDOW[1]):
                touched.setdefault((top, left), []).append(number)
    return dict(sorted(touched.items()))


def lay_out(tiles: Sequence[Tile]) -> Layout:
    """The grid that holds all tiles.

    Raises:
        MismatchError: A tile is off the grid, or too far away.
        BadInputError: The only tile lies nowhere.
    """
    transform = common_transform([tile.grid.transform for tile in tiles])
    spread = max(size_difference(transform, tile.grid.transform) for tile in tiles)
    corners = np.array([corner_offsets(transform, tile.grid) for tile in tiles])  # (tiles, 2 corners, col and row)
    with np.errstate(invalid="ignore", over="ignore"):
        whole = np.rint(corners)
        allowed = min(DRIFT, OFF_GRID + 2 * spread * float(np.ptp(corners, axis=(0, 1)).max()))
        off = np.where(np.abs(corners) < COUNTED, np.abs(corners - whole), np.inf).max(axis=(1, 2))
    if off.max() > allowed:
        worst = int(off.argmax())
        if len(tiles) == 1:
            found = "coordinates so large that its pixels cannot be told apart"
            raise BadInputError(tiles[0].path, found, "a place on Earth", "Georeference it anew.")
        found = f"{off[worst]:.3g} of a pixel off the grid of {tiles[1 if worst == 0 else 0].path}"
        advice = "Warp them to one grid first (gdalwarp -tap)."
        raise MismatchError(tiles[worst].path, found, "tiles on one grid", advice)
    whole = whole.astype(int)
    start = whole[:, 0].min(axis=0)
    cols, rows = whole[:, 1].max(axis=0) - start
    if float(cols) * float(rows) > LARGEST:
        far = int(np.abs(corners[:, 0] - np.median(corners[:, 0], axis=0)).max(axis=1).argmax())
        found = f"so far from the other tiles that all would be {rows:,} x {cols:,} pixels"
        advice = "Correct its georeferencing, or take it out of the folder."
        raise MismatchError(tiles[far].path, found, f"at most {LARGEST:,} pixels", advice)
    window = Window(int(start[0]), int(start[1]), int(cols), int(rows))
    grid = Grid(tiles[0].grid.crs, transform, 0, 0).window(window)
    return Layout(grid, tuple((int(row), int(col)) for col, row in whole[:, 0] - start))


def _mismatch(tile: Tile, first: Tile, form: str, name: str) -> MismatchError:
    """An error that names both files; `form` shows the value of `name`, an attribute of a tile or of its grid."""
    here, there = (form.format(getattr(t if hasattr(t, name) else t.grid, name)) for t in (tile, first))
    advice = "Convert one of them, or take it out of the folder."
    return MismatchError(tile.path, here, f"{there}, as {first.path} has", advice)


def read_tile(path: Path) -> Tile:
    """A tile's header.

    Raises:
        MissingInputError, BadInputError: It is absent, not readable or not georeferenced.
    """
    with open_raster(path) as src:
        if src.transform == Affine.identity():
            found, advice = "no georeferencing", "Georeference it, or take it out of the folder."
            raise BadInputError(path, found, "a tile with CRS and transform", advice)
        if not (np.isfinite(src.transform).all() and src.transform.determinant):
            raise BadInputError(path, "pixels without a size", "a tile with a transform", "Georeference it anew.")
        bands = len(data_bands(src))
        return Tile(path, grid_of(src), bands, src.dtypes[0], src.nodata, own_names(src), is_rgb(src))


def check_alike(tiles: Sequence[Tile]) -> None:
    """Raise MismatchError unless all tiles have one CRS, pixel size, band count, dtype and nodata value."""
    first = tiles[0]
    for tile in tiles[1:]:
        if tile.grid.crs != first.grid.crs:
            raise _mismatch(tile, first, "CRS {0}", "crs")
        if size_difference(first.grid.transform, tile.grid.transform) > PIXEL_SIZE:
            raise _mismatch(tile, first, "pixels of {0.a:.9g}, {0.b:.9g}, {0.d:.9g}, {0.e:.9g}", "transform")
        if tile.bands != first.bands:
            raise _mismatch(tile, first, "{0} bands", "bands")
        if tile.dtype != first.dtype:
            raise _mismatch(tile, first, "pixels of {0}", "dtype")
        if str(tile.nodata) != str(first.nodata):  # as text, since nan != nan
            raise _mismatch(tile, first, "nodata {0}", "nodata")


def mosaic_tiles(src: Path, dst: Path, *, settings: MosaicArgs, rasters: RasterArgs, run: Run) -> MosaicReport:
    """Put the tiles in `src` together in `dst`.

    Raises:
        MissingInputError, BadInputError: A tile is absent, not readable or not georeferenced.
        MismatchError: Two tiles differ in CRS, pixel size, bands, dtype or nodata, or lie on different grids.
        OutputError: `dst` is not a .tif, lies among its own tiles, or cannot be written.
    """
    _check_destination(src, dst)
    tiles = [read_tile(path) for path in raster_files(src)]
    check_alike(tiles)
    layout = lay_out(tiles)
    with Outputs(dst.parent, "mosaic", name=dst.name, overwrite=run.overwrite, keep_edits=run.keep_edits) as outputs:
        key = fingerprint("mosaic", settings, rasters, [[tile.path.name, closed_digest(tile.path)] for tile in tiles])
        todo = outputs.plan({dst.name: key})
        if todo:
            fraction = _write(dst, tiles, layout, settings=settings, rasters=rasters, run=run)
            outputs.record(dst.name, key, valid_fraction=fraction)
        outputs.finish()
        fraction = outputs.facts(dst.name)["valid_fraction"]
    grid = layout.grid
    return MosaicReport(str(dst), len(tiles), grid.height, grid.width, tiles[0].bands, fraction, not todo)


def _check_destination(src: Path, dst: Path) -> None:
    if dst.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(dst, f"a {dst.suffix or 'nameless'} file", "a .tif", "Choose a name that ends in .tif.")
    if src.is_dir() and dst.parent.resolve() == src.resolve():
        raise OutputError(dst, "inside the folder of its own tiles", "another folder", "Choose another DST.")


def _write(
    dst: Path, tiles: Sequence[Tile], layout: Layout, *, settings: MosaicArgs, rasters: RasterArgs, run: Run
) -> float:
    """Write the mosaic window by window; its valid fraction. Windows without a tile stay holes in the file."""
    first, grid, touched = tiles[0], layout.grid, windows_touched(layout, tiles)
    shared = dict(nodata=first.nodata, names=first.names, rgb=first.rgb, settings=rasters, sparse=True)
    num_valid = 0
    with create_raster(dst, grid, bands=first.bands, dtype=first.dtype, **shared) as out:
        for (row, col), numbers in progress(touched.items(), len(touched), "mosaic", quiet=run.quiet):
            window = Window(col, row, min(WINDOW[1], grid.width - col), min(WINDOW[0], grid.height - row))
            layers = read_layers([tiles[n].path for n in numbers], [layout.corners[n] for n in numbers], window)
            shape = (first.bands, window.height, window.width)
            pixels, valid = combine(
                layers, shape, np.dtype(first.dtype), method=settings.method, empty=first.nodata or 0
            )
            out.write(pixels, valid, window)
            num_valid += int(valid.sum())
    return num_valid / (grid.height * grid.width)


def read_layers(paths: Sequence[Path], corners: Sequence[tuple[int, int]], window: Window) -> Iterator[Layer]:
    """The part of each tile inside a window of the mosaic; `corners` are where the tiles start in the mosaic."""
    for path, (row, col) in zip(paths, corners):
        with open_raster(path) as src:
            part = Window(col, row, src.width, src.height).intersection(window)
            inside = Window(part.col_off - col, part.row_off - row, part.width, part.height)
            pixels, valid = read_pixels(src, inside)
        yield Layer(part.row_off - window.row_off, part.col_off - window.col_off, pixels, valid)


def mosaic(options: argparse.Namespace, run: Run) -> MosaicReport:
    """The stage, with what the command line says."""
    settings = run.block("mosaic_args", {"method": options.method})
    src, dst = options.src or run.paths.chips, options.dst or run.paths.mosaic
    return mosaic_tiles(src, dst, settings=settings, rasters=run.settings.raster_args, run=run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, mosaic)


if __name__ == "__main__":
    leave(main())
