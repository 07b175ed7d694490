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
from pathlib import Path

from roofkit.addresses import path_or_address
from roofkit.options import answer, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__, cluster=True)
    made.add_argument("src", nargs="?", type=path_or_address, metavar="SRC", help="a raster or a folder of rasters")
    made.add_argument("dst", nargs="?", type=Path, metavar="DST", help="the table, .csv or .parquet")
    made.add_argument("--sample", type=int, metavar="N", help="valid pixels of each file (default: settings)")
    made.add_argument("--seed", type=int, metavar="N", help="which pixels are drawn")
    return made


if __name__ == "__main__":
    answer(parser())

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from typing import Any, BinaryIO

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from roofkit.artifacts import Outputs, fingerprint, streamed
from roofkit.cli import Run, leave, progress, run_stage, say
from roofkit.errors import BadInputError, MissingInputError, SettingsError
from roofkit.memory import reuse_memory
from roofkit.raster import (
    Pixels,
    Valid,
    all_valid,
    closed_digest,
    data_bands,
    open_raster,
    raster_digest,
    raster_files,
    read_pixels,
)
from roofkit.settings import FlattenArgs
from roofkit.shards import Shard
from roofkit.workers import map_items, map_threads, once

COLUMNS = ("latitude", "longitude", "row", "pixel", "band", "value")
DEGREES = "EPSG:4326"
CSV_DECIMALS = 9
READ_PIXELS = 2**21  # pixels of one read
TABLE_ROWS = 2**18  # table rows of one task
GROUP_ROWS = 2**20  # table rows of a Parquet row group
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
        pixels: How many pixels are chosen, each of which makes a table row a band.
        wanted: Which valid pixels, as sorted codes row * width + rank; row counts from `start`, rank counts the valid
            pixels of that row from 0. None: all.
    """

    path: Path
    start: int
    stop: int
    bands: int
    pixels: int
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
    if dst.suffix.lower() not in TABLES:
        advice = f"Name {dst.with_suffix('.csv').name}, say."
        raise SettingsError(dst, f"a {dst.suffix or 'nameless'} file", "a .csv or .parquet file", advice)
    paths = raster_files(src, extension)
    with Outputs(
        dst.parent, "flatten", name=dst.name, overwrite=run.overwrite, keep_edits=run.keep_edits, shard=run.shard
    ) as outputs:
        digest = raster_digest if run.dry_run else closed_digest  # the same; a dry run opens rasters nowhere else
        key = fingerprint("flatten", settings, [(path.name, digest(path)) for path in paths])
        job = _Job(paths, src, dst, key, settings, run)
        kept = _write_shard(job, outputs, run.shard) if run.shard else _write_whole(job, outputs)
        name = dst.name if outputs.has(dst.name) else f"{dst.name}.{run.shard}"
        facts = {fact: outputs.facts(name)[fact] for fact in FACTS}
        outputs.finish()
    return FlattenReport(str(dst.with_name(name)), **facts, kept=kept)


FACTS = ("frames", "pixels", "rows", "bands", "empty_frames")


@dataclass(frozen=True)
class _Job:
    """One call of `flatten_rasters`; `key` is of the whole table."""

    paths: Sequence[Path]
    src: Path
    dst: Path
    key: str
    settings: FlattenArgs
    run: Run

    @property
    def table(self) -> "type[_Csv] | type[_Parquet]":
        """How the table is written."""
        return TABLES[self.dst.suffix.lower()]


def _write_shard(job: _Job, outputs: Outputs, shard: Shard) -> bool:
    """Write a shard's rows beside the table, unless they or the table are finished; whether that was so."""
    if outputs.is_finished(job.dst.name, job.key):
        return True
    part = job.dst.with_name(f"{job.dst.name}.{shard}")
    todo = outputs.plan({part.name: fingerprint(job.key, str(shard))})
    if todo:
        facts = _write_rows(job, part, job.table.write_part)
        outputs.record(part.name, fingerprint(job.key, str(shard)), **facts)
    return not todo


def _write_whole(job: _Job, outputs: Outputs) -> bool:
    """Write the table, from the parts of shards where they are finished; whether it was finished before."""
    keys = {} if job.run.overwrite else {name: fingerprint(job.key, str(s)) for name, s in _shards(job, outputs)}
    todo = outputs.plan({job.dst.name: job.key, **keys})
    if job.dst.name in todo:
        done = {shard: name for name, shard in _shards(job, outputs) if name in keys and name not in todo}
        facts = _join_parts(job, outputs, done) if done else _write_rows(job, job.dst, job.table.write)
        outputs.record(job.dst.name, job.key, **{name: facts[name] for name in (*FACTS, "sha256")})
    for name in keys:
        outputs.leave_out(name)
    return job.dst.name not in todo


def _shards(job: _Job, outputs: Outputs) -> list[tuple[str, Shard]]:
    """The parts of this table that shards finished, in order."""
    names = re.compile(rf"{re.escape(job.dst.name)}\.(\d+)of(\d+)")
    found = [(name, names.fullmatch(name)) for name in outputs.names()]
    shards = [(name, Shard(int(match[1]), int(match[2]))) for name, match in found if match]
    return sorted(shards, key=lambda pair: pair[1].index)


def _join_parts(job: _Job, outputs: Outputs, done: dict[Shard, str]) -> dict[str, Any]:
    """Write the table from the parts of all shards.

    Raises:
        MissingInputError: Not all are finished.
    """
    count = next(iter(done)).count
    missing = [i for i in range(count) if Shard(i, count) not in done]
    if missing:
        found = f"{len(done)} of {count} shards are finished"
        advice = f"Run --shard {missing[0]}/{count}, or --overwrite to do all here."
        raise MissingInputError(job.dst, found, f"all {count}", advice)
    names = [done[Shard(i, count)] for i in range(count)]
    with streamed(job.dst) as file:
        job.table.write((rows for name in names for rows in job.table.read_part(job.dst.with_name(name))), file)
    facts = [outputs.facts(name) for name in names]
    held = sorted({number for fact in facts for number in fact["held"]})
    sums = {name: sum(fact[name] for fact in facts) for name in ("pixels", "rows")}
    _check_some(sums["pixels"], job)
    shared = {name: facts[0][name] for name in ("frames", "bands")}
    return shared | sums | {"sha256": file.sha256, "held": held, "empty_frames": shared["frames"] - len(held)}


def _write_rows(job: _Job, dst: Path, write: Callable[[Iterable[Any], BinaryIO], None]) -> dict[str, Any]:
    """Write the rows of this run's share; the facts that the report gives, and which frames hold valid pixels."""
    frames = [_describe(path) for path in job.paths]
    own = _own_strips(frames, job.run.shard)
    counts = _count(frames, own, job)
    held = [i for i, (rows, strips) in enumerate(zip(counts, own)) if any(rows[a:b].any() for a, b in strips)]
    pieces = [piece for frame, *found in zip(frames, counts, own) for piece in _pieces(frame, *found, job.settings)]
    facts = {
        "frames": len(frames),
        "pixels": sum(piece.pixels for piece in pieces),
        "rows": sum(piece.pixels * piece.bands for piece in pieces),
        "bands": max(frame.bands for frame in frames),
        "empty_frames": len(frames) - len(held),
        "held": held,
    }
    if not job.run.shard:
        _check_some(facts["pixels"], job)
        _tell_empty([frame for i, frame in enumerate(frames) if i not in set(held)])
    with closing(_tables(pieces, job, frames)) as rows, streamed(dst) as file:
        write(progress(rows, len(pieces), "flatten", quiet=job.run.quiet), file)
    return facts | {"sha256": file.sha256}


def _tables(pieces: Sequence[Piece], job: _Job, frames: Sequence[Frame]) -> Iterator[Any]:
    """Table rows of each piece, in their order: in threads, since the work lets go of the lock, or on a cluster."""
    options = {"dtype": np.result_type(*{frame.dtype for frame in frames})}
    if job.run.scheduler:
        work = partial(_make_there, make=job.table.make, **options)
        return map_items(work, pieces, scheduler=job.run.scheduler)
    return map_threads(partial(job.table.make, **options), _taken(pieces), workers=job.run.workers)


def _own_strips(frames: Sequence[Frame], shard: Shard | None) -> list[list[tuple[int, int]]]:
    """The strips of each frame that this run turns into rows; those of a shard follow each other."""
    every = [(i, strip) for i, frame in enumerate(frames) for strip in frame.strips]
    own: list[list[tuple[int, int]]] = [[] for _ in frames]
    for i, strip in shard.part(every) if shard else every:
        own[i].append(strip)
    return own


def _check_some(pixels: int, job: _Job) -> None:
    if not pixels:
        found = f"no valid pixel in {len(job.paths)} files"
        raise BadInputError(job.src, found, "some valid pixels", "Check the nodata tag.")


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


def _count(frames: Sequence[Frame], own: Sequence[list[tuple[int, int]]], job: _Job) -> list[Ints]:
    """How many pixels are valid in each row of each raster; nothing is read where all are by definition.

    Rows outside `own` strips stay 0, but for a sample, which is drawn from the whole of each raster.
    """
    counts = [np.full(frame.height, frame.width if frame.all_valid else 0) for frame in frames]
    needed = [frame.strips if strips and job.settings.sample else strips for frame, strips in zip(frames, own)]
    work = [(i, frame.path, strip) for i, frame in enumerate(frames) if not frame.all_valid for strip in needed[i]]
    run = job.run
    spread = map_items(_count_strip, work, scheduler=run.scheduler) if run.scheduler else None
    with closing(spread or map_threads(_count_strip, work, workers=run.workers)) as found:
        for (i, _, (start, stop)), rows in zip(work, progress(found, len(work), "count", quiet=job.run.quiet)):
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


def _tell_empty(frames: Sequence[Frame]) -> None:
    """Say which frames have no valid pixel."""
    if frames:
        more = f" and {len(frames) - 3} more" if len(frames) > 3 else ""
        say(f"flatten: no valid pixel, so no rows: {', '.join(frame.path.name for frame in frames[:3])}{more}")


def _pieces(frame: Frame, row_counts: Ints, own: Sequence[tuple[int, int]], settings: FlattenArgs) -> Iterator[Piece]:
    """The tasks that a raster's own strips make, top to bottom; none for rows without a chosen pixel."""
    if settings.sample is None or row_counts.sum() <= settings.sample:
        for first, last in own:
            for start, stop in cuts(row_counts[first:last], frame.bands, TABLE_ROWS):
                pixels = int(row_counts[first + start : first + stop].sum())
                yield Piece(frame.path, first + start, first + stop, frame.bands, pixels, None)
        return
    ranks = draw(int(row_counts.sum()), settings.sample, seed=settings.seed, name=frame.path.name)
    wanted = codes(ranks, row_counts, frame.width)
    for first, last in own:
        low, high = np.searchsorted(wanted, [first * frame.width, last * frame.width])
        if high > low:
            chosen = wanted[low:high] - first * frame.width
            yield Piece(frame.path, first, last, frame.bands, len(chosen), chosen)


@dataclass(frozen=True)
class Taken:
    """The chosen pixels of a piece: where its raster lies, and rows, columns and values (bands, pixels)."""

    path: Path
    transform: Affine
    crs: str
    rows: Ints
    cols: Ints
    values: Pixels


def _taken(pieces: Iterable[Piece]) -> Iterator[Taken]:
    """The pixels of pieces; a raster stays open for those that follow each other, so that no block is decoded twice."""
    for path, group in groupby(pieces, key=lambda piece: piece.path):
        with open_raster(path) as src:
            crs = src.crs.to_wkt()
            for piece in group:
                yield Taken(path, src.transform, crs, *_take(src, piece))


def _make_there(piece: Piece, *, make: Callable[..., Any], dtype: np.dtype) -> Any:
    """Table rows of a piece, on a worker of a cluster."""
    return make(next(_taken([piece])), dtype=dtype)


def _located(taken: Taken, dtype: np.dtype) -> tuple[Pixels, Pixels, Ints, Ints, Pixels]:
    """Latitudes, longitudes, rows, columns and values (bands, pixels; as `dtype`)."""
    latitude, longitude = degrees(taken.rows, taken.cols, taken.transform, taken.crs)
    on_earth = np.isfinite(longitude) & (np.abs(latitude) <= 90)
    if not on_earth.all():
        x, y = taken.transform @ (taken.cols[~on_earth][0] + 0.5, taken.rows[~on_earth][0] + 0.5)
        found = f"x {x:g}, y {y:g}, which its CRS puts nowhere on Earth"
        raise BadInputError(taken.path, found, "pixels inside the CRS's area of use", "Correct its CRS.")
    return latitude, longitude, taken.rows, taken.cols, taken.values.astype(dtype, copy=False)


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


def _transformer(crs: str) -> Any:
    """A pyproj.Transformer from a CRS (WKT) to longitude and latitude."""
    import pyproj

    return once(("degrees", crs), lambda: pyproj.Transformer.from_crs(crs, DEGREES, always_xy=True))


def _text(numbers: NDArray[Any], before: str, after: str) -> Any:
    """Numbers as text (a polars.Series) between two others; integers of a narrow range from a list of them all."""
    import polars as pl

    if numbers.dtype.kind in "iu":
        low, high = int(numbers.min()), int(numbers.max())
        if 4 * (high - low) < len(numbers):
            every = pl.Series([f"{before}{number}{after}" for number in range(low, high + 1)])
            return every.gather(numbers.astype(np.int64) - low)
    return pl.select(pl.concat_str(pl.lit(before), pl.lit(pl.Series(numbers)), pl.lit(after))).to_series()


class _Csv:
    """A table as lines of text."""

    @staticmethod
    def make(taken: Taken, *, dtype: np.dtype) -> Any:
        """Lines (a pyarrow.Buffer). A double rounded to decimals prints as those, a float32 so that it reads back.

        What the bands of a pixel share is turned into text once.
        """
        import polars as pl

        latitude, longitude, rows, cols, values = _located(taken, dtype)
        degrees = {"latitude": np.round(latitude, CSV_DECIMALS), "longitude": np.round(longitude, CSV_DECIMALS)}
        bands = {str(i): _text(band, f",{i},", "\n") for i, band in enumerate(values, 1)}
        table = pl.DataFrame({**degrees, "row": _text(rows, ",", ","), "col": _text(cols, "", ""), **bands})
        pixel = pl.concat_str("latitude", pl.lit(","), "longitude", "row", "col")
        lines = pl.concat_str(chain.from_iterable(("pixel", band) for band in bands))
        text = table.lazy().with_columns(pixel=pixel).select(lines=lines).collect()
        lines = text["lines"].rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        return lines.buffers()[2]  # of all strings, one after the other

    @classmethod
    def write(cls, lines: Iterable[Any], file: BinaryIO) -> None:
        """Write the table."""
        file.write(f"{','.join(COLUMNS)}\n".encode())
        cls.write_part(lines, file)

    @staticmethod
    def write_part(lines: Iterable[Any], file: BinaryIO) -> None:
        """Write a shard's part of the table."""
        for part in lines:
            file.write(part)

    @staticmethod
    def read_part(path: Path) -> Iterator[bytes]:
        """What `write_part` wrote."""
        with path.open("rb") as file:
            while block := file.read(2**22):
                yield block


class _Parquet:
    """A table as Parquet; on the way there, a pyarrow.RecordBatch for each piece."""

    @staticmethod
    def make(taken: Taken, *, dtype: np.dtype) -> Any:
        """A batch."""
        import pyarrow

        return pyarrow.RecordBatch.from_pydict(columns(*_located(taken, dtype)))

    @staticmethod
    def write(batches: Iterable[Any], file: BinaryIO) -> None:
        """Write the table."""
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

    @staticmethod
    def write_part(batches: Iterable[Any], file: BinaryIO) -> None:
        """Write a shard's part of the table; nothing at all where there is no batch."""
        import pyarrow

        batches = iter(batches)
        for first in islice(batches, 1):
            with pyarrow.ipc.new_stream(file, first.schema) as stream:
                for batch in chain([first], batches):
                    stream.write_batch(batch)

    @staticmethod
    def read_part(path: Path) -> Iterator[Any]:
        """What `write_part` wrote."""
        import pyarrow

        with path.open("rb") as file:
            if path.stat().st_size:
                yield from pyarrow.ipc.open_stream(file)


TABLES = {".csv": _Csv, ".parquet": _Parquet}


def flatten(options: argparse.Namespace, run: Run) -> FlattenReport:
    """The stage, with what the command line says."""
    reuse_memory()
    settings = run.block("flatten_args", {"sample": options.sample, "seed": options.seed})
    src, dst = options.src or run.paths.chips, options.dst or run.paths.pixels
    extension = run.settings.extension_args.extension if options.src else "tif"
    return flatten_rasters(src, dst, settings=settings, run=run, extension=extension)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, flatten)


if __name__ == "__main__":
    leave(main())
