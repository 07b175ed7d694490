"""Turn rasters into a table of pixels: one row for each valid pixel and band.

Reads  SRC  one georeferenced raster or a folder of them (default: data/chips)
Writes DST.csv or DST.parquet  (default: data/pixels.csv) with the columns

  latitude, longitude  the pixel's centre in EPSG:4326 (degrees; 9 decimals in CSV, about 0.1 mm)
  row, pixel           its row and column in its own file, counted from 0
  band                 counted from 1; an alpha band is validity and no band
  value                as stored

Rows are in the order of files by name, then row, pixel, band. Invalid pixels are left out. `--sample N` draws N valid
pixels of each file without replacement; which ones depends on the file's name and the seed alone.
"""

import argparse
import hashlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from roofkit.artifacts import Outputs, committed, fingerprint
from roofkit.cli import Run, progress, run_stage, say, stage_parser
from roofkit.errors import BadInputError, SettingsError
from roofkit.raster import Pixels, Valid, all_valid, data_bands, open_raster, raster_digest, raster_files, read_pixels
from roofkit.settings import FlattenArgs
from roofkit.workers import map_items

COLUMNS = ("latitude", "longitude", "row", "pixel", "band", "value")
DEGREES = "EPSG:4326"
CSV_DECIMALS = 9
READ_PIXELS = 2**21  # pixels of one read
TABLE_ROWS = 2**17  # table rows of one task: they travel between processes
GROUP_ROWS = 2**20  # table rows of a Parquet row group
FEW_ROWS = 2**22  # below, starting worker processes takes longer than the work
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class FlattenReport:
    """What flatten did. `pixels` are those in the table, `rows` its rows (pixels times bands)."""

    wrote: str
    frames: int
    pixels: int
    rows: int
    bands: int
    empty_frames: int
    kept: bool


@dataclass(frozen=True)
class Frame:
    """One raster: `dtype` as NumPy names it; `strips` are rows (first, one past the last) that read well together."""

    path: Path
    bands: int
    dtype: str
    height: int
    width: int
    strips: tuple[tuple[int, int], ...]
    all_valid: bool


@dataclass(frozen=True)
class Piece:
    """Rows of a raster to turn into table rows: one task for a worker.

    Attributes:
        wanted: Which valid pixels, as sorted codes row * width + rank; row counts from `start`, rank counts the valid
            pixels of that row from 0. None: all.
    """

    path: Path
    start: int
    stop: int
    wanted: Ints | None


def strips(height: int, width: int, block_rows: int) -> tuple[tuple[int, int], ...]:
    """Rows (first, one past the last) in whole blocks, of about READ_PIXELS where a block row is smaller than that."""
    step = block_rows * max(1, READ_PIXELS // (block_rows * width))
    return tuple((row, min(row + step, height)) for row in range(0, height, step))


def cuts(row_counts: Ints, bands: int, limit: int) -> list[tuple[int, int]]:
    """Rows (first, one past the last) that together hold all valid pixels, each part at most `limit` table rows.

    A part is at least one row. Empty rows between parts are left out.
    """
    parts: list[tuple[int, int]] = []
    start, held = 0, 0
    for row, count in enumerate(row_counts.tolist()):
        if held and held + count * bands > limit:
            parts.append((start, row))
            held = 0
        if not held:
            start = row
        held += count * bands
    return [*parts, (start, len(row_counts))] if held else parts


def draw(count: int, sample: int, *, seed: int, name: str) -> Ints:
    """`sample` different numbers below `count`, sorted; all of them when there are no more than that."""
    if count <= sample:
        return np.arange(count)
    entropy = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big")
    chosen = np.random.default_rng([seed, entropy]).choice(count, sample, replace=False, shuffle=False)
    return np.sort(chosen)


def codes(ranks: Ints, row_counts: Ints, width: int) -> Ints:
    """Ranks among all valid pixels of a raster, row by row, as row * width + rank in the row."""
    ends = np.cumsum(row_counts)
    rows = np.searchsorted(ends, ranks, side="right")
    return rows * width + ranks - (ends - row_counts)[rows]


def keep(valid: Valid, before: Ints, wanted: Ints, width: int) -> Valid:
    """Those valid pixels of a window whose code is wanted; `before` counts each row's valid pixels left of it."""
    chosen, rows = np.zeros_like(valid), np.unique(wanted // width)
    ranks = before[rows, None] + np.cumsum(valid[rows], axis=1) - 1
    chosen[rows] = valid[rows] & np.isin(rows[:, None] * width + ranks, wanted)
    return chosen


def degrees(rows: Ints, cols: Ints, transform: Affine, crs: str) -> tuple[Pixels, Pixels]:
    """Latitudes and longitudes (float64) of pixel centres; infinite where `crs` (WKT) has no such place."""
    x, y = transform @ (cols + 0.5, rows + 0.5)
    longitude, latitude = _transformer(crs).transform(x, y)
    return latitude, longitude


def columns(latitude: Pixels, longitude: Pixels, rows: Ints, cols: Ints, values: Pixels) -> dict[str, Pixels]:
    """The table's columns from one entry a pixel and `values` (bands, pixels): for each pixel all of its bands."""
    bands = len(values)
    found = (latitude, longitude, rows.astype("int32"), cols.astype("int32"))
    spread = [np.repeat(column, bands) for column in found]
    numbers = np.tile(np.arange(1, bands + 1, dtype="int16"), len(rows))
    return dict(zip(COLUMNS, [*spread, numbers, values.T.ravel()]))


def flatten_rasters(src: Path, dst: Path, *, settings: FlattenArgs, run: Run, extension: str = "tif") -> FlattenReport:
    """Write the pixels of every raster of `src` to the table `dst`.

    Raises:
        MissingInputError: A raster is absent.
        BadInputError: A raster is not readable or not georeferenced, or no pixel is valid.
        SettingsError: `dst` is neither .csv nor .parquet.
    """
    if dst.suffix.lower() not in WRITERS:
        advice = f"Name {dst.with_suffix('.csv').name}, say."
        raise SettingsError(dst, f"a {dst.suffix or 'nameless'} file", "a .csv or .parquet file", advice)
    paths = raster_files(src, extension)
    with Outputs(dst.parent, "flatten", name=dst.name, overwrite=run.overwrite) as outputs:
        key = fingerprint("flatten", settings, [(path.name, raster_digest(path)) for path in paths])
        todo = outputs.plan({dst.name: key})
        if todo:
            outputs.record(dst.name, key, **_write_table(paths, src, dst, settings, run))
        outputs.finish()
        facts = {name: outputs.facts(dst.name)[name] for name in FACTS}
    return FlattenReport(str(dst), **facts, kept=not todo)


FACTS = ("frames", "pixels", "rows", "bands", "empty_frames")


def _write_table(paths: Sequence[Path], src: Path, dst: Path, settings: FlattenArgs, run: Run) -> dict[str, int]:
    """Write the table; the facts that the report gives."""
    frames = [_describe(path) for path in paths]
    counts = _count(frames, run)
    _tell_empty(frames, counts)
    chosen = [int(c.sum()) if settings.sample is None else min(int(c.sum()), settings.sample) for c in counts]
    if not sum(chosen):
        raise BadInputError(src, f"no valid pixel in {len(frames)} files", "some valid pixels", "Check the nodata tag.")
    pieces = [piece for frame, c in zip(frames, counts) for piece in _pieces(frame, c, settings)]
    num_rows = sum(n * frame.bands for n, frame in zip(chosen, frames))
    dtype = np.result_type(*{frame.dtype for frame in frames})
    make, write = WRITERS[dst.suffix.lower()]
    few = num_rows < FEW_ROWS and sum(frame.height * frame.width for frame in frames) < 4 * FEW_ROWS
    work, workers = partial(make, dtype=dtype), 1 if few else run.workers
    with closing(map_items(work, pieces, workers=workers)) as tables, committed(dst) as part, part.open("wb") as file:
        write(progress(tables, len(pieces), "flatten", quiet=run.quiet), file)
    found = (len(frames), sum(chosen), num_rows, max(f.bands for f in frames), sum(not c.any() for c in counts))
    return dict(zip(FACTS, found))


def _describe(path: Path) -> Frame:
    """What can be said of a raster before its pixels are read."""
    with open_raster(path) as src:
        _check_crs(src, path)
        rows = strips(src.height, src.width, src.block_shapes[0][0])
        return Frame(path, len(data_bands(src)), src.dtypes[0], src.height, src.width, rows, all_valid(src))


def _check_crs(src: DatasetReader, path: Path) -> None:
    """Raise unless the raster's CRS leads to latitude and longitude."""
    from pyproj.exceptions import ProjError

    advice = "Give it its CRS (gdal_edit.py -a_srs), or flatten the georeferenced original."
    if src.crs is None:
        raise BadInputError(path, "no CRS", "a georeferenced raster, for latitude and longitude", advice)
    try:
        _transformer(src.crs.to_wkt())
    except ProjError:
        found = f"a CRS without a way to {DEGREES} ({src.crs.to_string()})"
        raise BadInputError(path, found, "a geographic or projected CRS", advice) from None


def _count(frames: Sequence[Frame], run: Run) -> list[Ints]:
    """How many pixels are valid in each row of each raster; nothing is read where all are by definition."""
    counts = [np.full(frame.height, frame.width if frame.all_valid else 0) for frame in frames]
    work = [(i, frame.path, strip) for i, frame in enumerate(frames) if not frame.all_valid for strip in frame.strips]
    few = sum(f.height * f.width for f in frames if not f.all_valid) < FEW_ROWS * 4
    with closing(map_items(_count_strip, work, workers=1 if few else run.workers)) as found:
        for (i, _, (start, stop)), rows in zip(work, progress(found, len(work), "count", quiet=run.quiet)):
            counts[i][start:stop] = rows
    return counts


def _count_strip(task: tuple[int, Path, tuple[int, int]]) -> Ints:
    _, path, (start, stop) = task
    with open_raster(path) as src:
        found = [read_pixels(src, window)[1].sum(axis=1) for window in _across(src.width, start, stop)]
    return np.sum(found, axis=0, dtype=np.int64)


def _across(width: int, start: int, stop: int) -> Iterator[Window]:
    """Windows from left to right over rows, of at most READ_PIXELS each (a whole number of blocks wide, mostly)."""
    step = max(1024, READ_PIXELS // (stop - start) // 1024 * 1024)
    for col in range(0, width, step):
        yield Window(col, start, min(step, width - col), stop - start)


def _tell_empty(frames: Sequence[Frame], counts: Sequence[Ints]) -> None:
    empty = [frame.path.name for frame, rows in zip(frames, counts) if not rows.any()]
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        say(f"flatten: no valid pixel, so no rows: {', '.join(empty[:3])}{more}")


def _pieces(frame: Frame, row_counts: Ints, settings: FlattenArgs) -> Iterator[Piece]:
    """The tasks that a raster makes, top to bottom; none for rows without a chosen pixel."""
    if settings.sample is None or row_counts.sum() <= settings.sample:
        for first, last in frame.strips:
            for start, stop in cuts(row_counts[first:last], frame.bands, TABLE_ROWS):
                yield Piece(frame.path, first + start, first + stop, None)
        return
    ranks = draw(int(row_counts.sum()), settings.sample, seed=settings.seed, name=frame.path.name)
    wanted = codes(ranks, row_counts, frame.width)
    for first, last in frame.strips:
        low, high = np.searchsorted(wanted, [first * frame.width, last * frame.width])
        if high > low:
            yield Piece(frame.path, first, last, wanted[low:high] - first * frame.width)


def _piece_columns(piece: Piece, dtype: np.dtype) -> dict[str, Pixels]:
    """The table's columns for the chosen pixels of some rows, `value` as `dtype`."""
    with open_raster(piece.path) as src:
        rows, cols, values = _take(src, piece)
        latitude, longitude = degrees(rows, cols, src.transform, src.crs.to_wkt())
        on_earth = np.isfinite(longitude) & (np.abs(latitude) <= 90)
        if not on_earth.all():
            x, y = src.transform @ (cols[~on_earth][0] + 0.5, rows[~on_earth][0] + 0.5)
            found = f"x {x:g}, y {y:g}, which {src.crs.to_string()} puts nowhere on Earth"
            raise BadInputError(piece.path, found, "pixels inside the CRS's area of use", "Correct its CRS.")
    return columns(latitude, longitude, rows, cols, values.astype(dtype, copy=False))


def _take(src: DatasetReader, piece: Piece) -> tuple[Ints, Ints, Pixels]:
    """Rows, columns and values (bands, pixels) of the chosen pixels, sorted by row, then column."""
    rows, cols, values = [], [], []
    before = np.zeros(piece.stop - piece.start, np.int64)
    for window in _across(src.width, piece.start, piece.stop):
        pixels, valid = read_pixels(src, window)
        chosen = valid if piece.wanted is None else keep(valid, before, piece.wanted, src.width)
        before += valid.sum(axis=1)
        row, col = np.nonzero(chosen)
        rows.append(row + piece.start)
        cols.append(col + window.col_off)
        values.append(pixels[:, row, col])
    found = np.concatenate(rows), np.concatenate(cols), np.concatenate(values, axis=1)
    if len(rows) == 1:
        return found
    order = np.lexsort((found[1], found[0]))
    return found[0][order], found[1][order], found[2][:, order]


@lru_cache
def _transformer(crs: str) -> Any:
    """A pyproj.Transformer from a CRS (WKT) to longitude and latitude."""
    import pyproj

    return pyproj.Transformer.from_crs(crs, DEGREES, always_xy=True)


def _csv_lines(piece: Piece, *, dtype: np.dtype) -> bytes:
    """Lines of CSV. A double that is rounded to decimals prints as those decimals, a float32 so that it reads back."""
    import polars

    found = _piece_columns(piece, dtype)
    for name in ("latitude", "longitude"):
        found[name] = np.round(found[name], CSV_DECIMALS)
    lines = io.BytesIO()
    polars.DataFrame(found).write_csv(lines, include_header=False)
    return lines.getvalue()


def _write_csv(lines: Iterable[bytes], file: BinaryIO) -> None:
    file.write(f"{','.join(COLUMNS)}\n".encode())
    for part in lines:
        file.write(part)


def _batch(piece: Piece, *, dtype: np.dtype) -> Any:
    """A pyarrow.RecordBatch."""
    import pyarrow

    return pyarrow.RecordBatch.from_pydict(_piece_columns(piece, dtype))


def _write_parquet(batches: Iterable[Any], file: BinaryIO) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    batches = iter(batches)
    held = [next(batches)]
    with ParquetWriter(file, held[0].schema, compression="zstd") as writer:
        for batch in batches:
            if sum(part.num_rows for part in held) >= GROUP_ROWS:
                writer.write_table(pyarrow.Table.from_batches(held))
                held = []
            held.append(batch)
        writer.write_table(pyarrow.Table.from_batches(held))


WRITERS: dict[str, tuple[Callable[..., Any], Callable[[Any, BinaryIO], None]]] = {
    ".csv": (_csv_lines, _write_csv),
    ".parquet": (_batch, _write_parquet),
}


def flatten(options: argparse.Namespace, run: Run) -> FlattenReport:
    """The stage, with what the command line says."""
    settings = run.block("flatten_args", {"sample": options.sample, "seed": options.seed})
    src, dst = options.src or run.paths.chips, options.dst or run.paths.pixels
    extension = run.settings.extension_args.extension if options.src else "tif"
    return flatten_rasters(src, dst, settings=settings, run=run, extension=extension)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    parser = stage_parser(__doc__)
    parser.add_argument("src", nargs="?", type=Path, metavar="SRC", help="a raster or a folder of rasters")
    parser.add_argument("dst", nargs="?", type=Path, metavar="DST", help="the table, .csv or .parquet")
    parser.add_argument("--sample", type=int, metavar="N", help="valid pixels of each file (default: settings)")
    parser.add_argument("--seed", type=int, metavar="N", help="which pixels are drawn")
    return run_stage(parser, argv, flatten)


if __name__ == "__main__":
    sys.exit(main())
