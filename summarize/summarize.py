"""Say how the pixels of each band are distributed: histograms and a summary.

Reads  SRC  a raster, a folder of rasters, or a table of pixels as flatten writes it  (default: data/chips)
Writes DST_DIR/band_<n>_<name>.png, all_bands.png and summary.json  (default: data/histograms)

Only valid pixels count. Integer bands are counted value by value, so that every number is exact. Float bands are
counted in 65,536 equal steps from minimum to maximum: percentiles are right to one step, all else is exact, and
infinite values count as invalid. Percentiles are numpy's (method "linear"). Pixels are saturated where they have the
largest value of an integer dtype, or (8-bit bands apart) the band's own maximum when that is a spike, as clipping makes
it: at least 0.1 % of the pixels, more than twice as many as at any of the 16 steps below, in a band of more than 16
values.
"""

import argparse
from pathlib import Path

from roofkit.options import answer, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__)
    made.add_argument("src", nargs="?", type=Path, metavar="SRC", help="a raster, a folder of them, or a pixel table")
    made.add_argument("dst", nargs="?", type=Path, metavar="DST_DIR", help="the folder for pictures and summary")
    made.add_argument("--bins", type=int, metavar="N", help="bars of a histogram, at most (default: 256)")
    return made


if __name__ == "__main__":
    answer(parser())

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from roofkit.artifacts import Outputs, committed, fingerprint, write_json
from roofkit.cli import Run, leave, progress, run_stage
from roofkit.errors import BadInputError, MismatchError, MissingInputError
from roofkit.ledger import input_digest
from roofkit.raster import (
    Pixels,
    Valid,
    band_names,
    data_bands,
    digest_of,
    open_raster,
    raster_files,
    read_pixels,
    texts_of,
    windows,
)
from roofkit.settings import SummarizeArgs
from roofkit.workers import map_items

if TYPE_CHECKING:
    import polars
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = 65_536
SIDE = 2048  # pixels a side of one read
TASK_PIXELS = 2**23  # pixels of one task; the sums of floats depend on it, so it does not depend on the machine
AT_ONCE = 2**18  # pixels that are counted together
FEW_PIXELS = 2**24  # below, starting worker processes takes longer than the work
SPIKE_SHARE, SPIKE_STEPS = 0.001, 16
FEW_BARS = 8
TABLE_COLUMNS = ("latitude", "longitude", "row", "pixel", "band", "value")
SUMMARY, ALL_BANDS = "summary.json", "all_bands.png"
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SummarizeReport:
    """What summarize did; `frames` is null and `pixels` those in the table where SRC is a table."""

    wrote: str
    source: str
    frames: int | None
    pixels: int
    bands: int
    pictures: int
    made: int
    kept: int


@dataclass(frozen=True)
class Source:
    """What is summarized. `dtype` is a NumPy name, `pixels` counts the invalid ones too (not in a table).

    `counts` is of a table of integers: how many pixels each `band` has at each `value`, in that order.
    """

    name: str
    files: tuple[Path, ...]
    is_table: bool
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    dtype: str
    units: str
    pixels: int
    counts: "polars.DataFrame | None" = None
    sizes: tuple[tuple[int, int], ...] = ()
    """Rows and columns of each raster."""


@dataclass(frozen=True)
class Levels:
    """How often each value occurs in one band: `counts[i]` pixels lie at `first + i * step`, or in the step from there.

    Attributes:
        counts: (levels,) int64.
        first: The value of level 0.
        step: 1 for integers.
        exact: Integers: a level is one value.
        minimum, maximum, mean, std: Of the pixels, exact.
        at_maximum, zeros: Pixels with that value.
    """

    counts: Counts
    first: float
    step: float
    exact: bool
    minimum: float
    maximum: float
    mean: float
    std: float
    at_maximum: int
    zeros: int

    @property
    def total(self) -> int:
        """The number of pixels."""
        return int(self.counts.sum())

    @property
    def centres(self) -> Floats:
        """The value of each level, or the middle of its step."""
        return self.first + self.step * (np.arange(len(self.counts)) + (0.0 if self.exact else 0.5))


def integer_levels(counts: Counts, first: int) -> Levels:
    """What follows from the number of pixels at each integer from `first` on."""
    values = first + np.arange(len(counts))
    seen = np.flatnonzero(counts)
    low, high, total = int(values[seen[0]]), int(values[seen[-1]]), int(counts.sum())
    mean = int((counts * values).sum()) / total
    std = float(np.sqrt((counts * (values - mean) ** 2).sum() / total))
    zeros = int(counts[-first]) if 0 <= -first < len(counts) else 0
    return Levels(counts, first, 1, True, low, high, mean, std, int(counts[seen[-1]]), zeros)


def percentile(levels: Levels, percent: float) -> float:
    """The value below which `percent` of the pixels lie, between pixels as numpy's method "linear"."""
    place = percent / 100 * (levels.total - 1)
    low, high = _at_rank(levels, int(place)), _at_rank(levels, min(int(place) + 1, levels.total - 1))
    return low + (high - low) * (place - int(place))


def _at_rank(levels: Levels, rank: int) -> float:
    """The value of the pixel that comes after `rank` others; within a step, pixels count as evenly spread."""
    ends = np.cumsum(levels.counts)
    level = int(np.searchsorted(ends, rank, side="right"))
    if levels.exact:
        return levels.first + level
    count = int(levels.counts[level])
    inside = (rank - (int(ends[level]) - count) + 0.5) / count
    return float(np.clip(levels.first + levels.step * (level + inside), levels.minimum, levels.maximum))


def saturated(levels: Levels, dtype: np.dtype) -> int:
    """How many pixels are at the top of what the sensor or the dtype can tell; the definition is the script's help."""
    if levels.exact and levels.maximum == np.iinfo(dtype).max:
        return levels.at_maximum
    seen = np.flatnonzero(levels.counts)
    below = levels.counts[max(0, seen[-1] - SPIKE_STEPS) : seen[-1]]
    rest = levels.counts[seen[-1]] - levels.at_maximum
    enough = levels.at_maximum >= SPIKE_SHARE * levels.total and len(seen) > SPIKE_STEPS
    spike = enough and levels.at_maximum > 2 * max(int(below.max(initial=0)), int(rest))
    return levels.at_maximum if spike and dtype != np.uint8 else 0


def edges(levels: Sequence[Levels], low: float, high: float, bins: int) -> Floats:
    """Edges of at most `bins` bins from `low` to `high`: around whole numbers of values where bands are integer."""
    if not levels[0].exact:
        return np.linspace(low, high, bins + 1) if high > low else np.array([low - 0.5, low + 0.5])
    width = -(-int(high - low + 1) // bins)
    return np.arange(low - 0.5, high + 0.5 + width, width)


def shares(levels: Levels, bin_edges: Floats) -> Floats:
    """The share of all pixels that lies in each bin."""
    counts, _ = np.histogram(levels.centres, bin_edges, weights=levels.counts)
    return counts / levels.total


def shown_range(levels: Levels, dtype: np.dtype) -> tuple[float, float]:
    """From where to where a picture goes: all values, without a long tail beyond the 0.1 and 99.9 percentile.

    Saturated integers are set aside, so that their spike counts as tail.
    """
    if levels.exact and 0 < saturated(levels, dtype) < levels.total:
        unsaturated = levels.counts.copy()
        unsaturated[np.flatnonzero(unsaturated)[-1]] = 0
        levels = replace(integer_levels(unsaturated, int(levels.first)), maximum=levels.maximum)
    low, high = percentile(levels, 0.1), percentile(levels, 99.9)
    if levels.exact:
        low, high = np.floor(low), np.ceil(high)
    reach = 0.25 * (high - low)
    left = levels.minimum if low - levels.minimum <= reach else low
    right = levels.maximum if levels.maximum - high <= reach else high
    return float(left), float(right)


def top_of_axis(heights: Floats) -> float:
    """The top of the axis for bars of these heights: of many bars, up to three that stand far out are cut off."""
    if np.count_nonzero(heights) <= FEW_BARS:
        return float(1.12 * heights.max())
    tallest = np.sort(heights)[::-1][:4]
    far_out = [i for i in range(len(tallest) - 1) if tallest[i] > 4 * tallest[i + 1] > 0]
    return float(1.3 * tallest[far_out[-1] + 1] if far_out else 1.12 * tallest[0])


def slug(text: str) -> str:
    """Lower-case letters, digits and underscores, as file names like them."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40]


def picture_name(number: int, name: str) -> str:
    """The file name of a band's picture."""
    tail = slug(name)
    return f"band_{number}.png" if tail in ("", f"band_{number}") else f"band_{number}_{tail}.png"


def summarize_source(
    src: Path, dst: Path, *, settings: SummarizeArgs, run: Run, extension: str = "tif"
) -> SummarizeReport:
    """Write the pictures and the summary of `src` to the folder `dst`.

    Raises:
        MissingInputError: SRC is absent.
        BadInputError: A file is not readable or not a table of pixels, or no pixel is valid.
        MismatchError: Two rasters differ in dtype or number of bands.
    """
    is_table = src.suffix.lower() in (".csv", ".parquet")
    with ThreadPoolExecutor(1) as pool:  # a table is hashed while it is read
        hashed = pool.submit(input_digest, src) if is_table and src.is_file() else None
        source, digests = (_table_source(src), []) if is_table else _raster_source(src, extension)
        digests = [hashed.result()] if hashed else digests
    files = {number: picture_name(number, name) for number, name in zip(source.numbers, source.names)}
    with Outputs(dst, "summarize", overwrite=run.overwrite, keep_edits=run.keep_edits) as outputs:
        key = _key(source, digests, settings)
        keys = dict.fromkeys([*files.values(), ALL_BANDS, SUMMARY], key)
        todo = outputs.plan(keys)
        if todo:
            levels = _table_levels(source) if source.is_table else _raster_levels(source, run)
            for name in progress(todo, len(todo), "draw", quiet=run.quiet):
                _write(dst / name, source, levels, settings)
                outputs.record(name, key)
        outputs.finish()
    frames = None if source.is_table else len(source.files)
    bands, kept = len(source.names), len(keys) - len(todo)
    return SummarizeReport(str(dst), str(src), frames, source.pixels, bands, bands + 1, len(todo), kept)


def _key(source: Source, digests: Sequence[str], settings: SummarizeArgs) -> str:
    """What the outputs depend on; the digests are those of the source's files."""
    names = [path.name for path in source.files]
    return fingerprint("summarize", settings, source.name, list(zip(names, digests)))


# Rasters


def _raster_source(src: Path, extension: str) -> tuple[Source, list[str]]:
    """The rasters of `src`, checked to be alike, and the digest of each."""
    paths = raster_files(src, extension)
    sizes, digests = [], []
    for path in paths:
        with open_raster(path) as raster:
            kind = (len(data_bands(raster)), raster.dtypes[0])
            if path == paths[0]:
                first, names, units = kind, band_names(raster), _units(texts_of(raster, "units"), kind[1])
            if kind != first:
                found = f"{kind[0]} bands of {kind[1]}, where {paths[0]} has {first[0]} of {first[1]}"
                advice = "Summarize each kind on its own."
                raise MismatchError(path, found, "files with the same bands and dtype", advice)
            sizes.append((raster.height, raster.width))
            digests.append(digest_of(path, raster))
    numbers = tuple(range(1, first[0] + 1))
    pixels = sum(height * width for height, width in sizes)
    source = Source(src.name, tuple(paths), False, numbers, tuple(names), first[1], units, pixels, sizes=tuple(sizes))
    return source, digests


def _units(stated: Iterable[str | None], dtype: str) -> str:
    """What the x axis says: the file's units where it has one for all bands."""
    found = set(stated)
    usual = "value" if dtype.startswith("float") else "digital number"
    return (found.pop() if len(found) == 1 else None) or usual


@dataclass(frozen=True)
class Task:
    """Windows of rasters that one worker looks at in one go."""

    parts: tuple[tuple[Path, Window], ...]


def _tasks(source: Source) -> list[Task]:
    tasks, held, size = [], [], 0
    for path, (height, width) in zip(source.files, source.sizes):
        for window in windows(height, width, SIDE):
            held.append((path, window))
            size += window.width * window.height
            if size >= TASK_PIXELS:
                tasks.append(Task(tuple(held)))
                held, size = [], 0
    return [*tasks, Task(tuple(held))] if held else tasks


def _read(task: Task) -> Iterator[tuple[Pixels, Valid]]:
    for path, window in task.parts:
        with open_raster(path) as src:
            yield read_pixels(src, window)


def _raster_levels(source: Source, run: Run) -> list[Levels]:
    """The levels of each band."""
    tasks = _tasks(source)
    workers = 1 if source.pixels < FEW_PIXELS else run.workers
    bands = len(source.names)
    if np.dtype(source.dtype).kind in "iu":
        counts = np.zeros((bands, np.iinfo(source.dtype).max - np.iinfo(source.dtype).min + 1), np.int64)
        with closing(map_items(partial(_count_integers, bands=bands), tasks, workers=workers)) as found:
            for part in progress(found, len(tasks), "count", quiet=run.quiet):
                counts += part
        _check_some(counts.sum(), source)
        return [integer_levels(band, int(np.iinfo(source.dtype).min)) for band in counts]
    with closing(map_items(partial(_float_range, bands=bands), tasks, workers=workers)) as found:
        extent = _joined(list(found))
    _check_some(extent[:, 0].min(), source)
    with closing(map_items(partial(_count_floats, extent=extent), tasks, workers=workers)) as found:
        return _float_levels(extent, progress(found, len(tasks), "count", quiet=run.quiet))


def _check_some(valid: float, source: Source) -> None:
    if not valid:
        found = f"no valid pixel in {len(source.files)} files"
        raise BadInputError(source.files[0].parent, found, "some valid pixels", "Check the nodata tag.")


def _count_integers(task: Task, *, bands: int) -> Counts:
    """(bands, levels): valid pixels at each value of the dtype."""
    counts = np.zeros((bands, 0), np.int64)
    levels = np.empty(AT_ONCE, np.intp)  # used again and again: new memory for each frame takes longer than to count
    for pixels, valid in _read(task):
        low, high = int(np.iinfo(pixels.dtype).min), int(np.iinfo(pixels.dtype).max)
        if not counts.size:
            counts = np.zeros((bands, high - low + 1), np.int64)
        whole = valid.all()
        for band, values in enumerate(pixels):
            chosen = values.ravel() if whole else values[valid]
            for start in range(0, chosen.size, AT_ONCE):
                part = chosen[start : start + AT_ONCE]
                here = np.subtract(part, low, out=levels[: part.size], dtype=np.intp)
                counts[band] += np.bincount(here, minlength=high - low + 1)
    return counts


def _float_range(task: Task, *, bands: int) -> Floats:
    """(bands, 4): number, minimum, maximum and sum of the finite pixels of each band."""
    found = [np.array([0, np.inf, -np.inf, 0.0])] * bands
    for pixels, valid in _read(task):
        for band, values in enumerate(pixels):
            chosen = values[valid & np.isfinite(values)].astype(np.float64)
            if chosen.size:
                found[band] = _join(found[band], np.array([chosen.size, chosen.min(), chosen.max(), chosen.sum()]))
    return np.array(found)


def _join(a: Floats, b: Floats) -> Floats:
    return np.array([a[0] + b[0], min(a[1], b[1]), max(a[2], b[2]), a[3] + b[3]])


def _joined(parts: Sequence[Floats]) -> Floats:
    """The same for all tasks, from those of each."""
    parts = np.asarray(parts)
    sums, low, high = parts.sum(axis=0), parts[:, :, 1].min(axis=0), parts[:, :, 2].max(axis=0)
    return np.stack([sums[:, 0], low, high, sums[:, 3]], axis=1)


def _count_floats(task: Task, *, extent: Floats) -> tuple[Counts, Floats]:
    """(bands, STEPS) pixels in each step, and (bands, 3): squares about the mean, pixels at the maximum, zeros."""
    counts, sums = np.zeros((len(extent), STEPS), np.int64), np.zeros((len(extent), 3))
    for pixels, valid in _read(task):
        for band, values in enumerate(pixels):
            number, low, high, total = extent[band]
            chosen = values[valid & np.isfinite(values)].astype(np.float64)
            counts[band] += np.bincount(steps_of(chosen, low, high), minlength=STEPS)
            sums[band] += ((chosen - total / number) ** 2).sum(), (chosen == high).sum(), (chosen == 0).sum()
    return counts, sums


def steps_of(values: Floats, low: float, high: float) -> Counts:
    """In which of the STEPS equal steps from `low` to `high` each value lies."""
    return np.minimum((values - low) / (high - low or 1.0) * STEPS, STEPS - 1).astype(np.int64)


def _float_levels(extent: Floats, parts: Iterable[tuple[Counts, Floats]]) -> list[Levels]:
    """The levels of each band from its extent and what `_count_floats` gives."""
    counts, sums = np.zeros((len(extent), STEPS), np.int64), np.zeros((len(extent), 3))
    for some_counts, some_sums in parts:
        counts += some_counts
        sums += some_sums
    return [_float_band(*band) for band in zip(counts, extent.tolist(), sums.tolist())]


def _float_band(counts: Counts, extent: list[float], sums: list[float]) -> Levels:
    number, low, high, total = extent
    squares, at_maximum, zeros = sums
    step, std = (high - low or 1.0) / STEPS, float(np.sqrt(squares / number))
    return Levels(counts, low, step, False, low, high, total / number, std, int(at_maximum), int(zeros))


# Tables


def _scan(path: Path) -> "polars.LazyFrame":
    """The table, not yet read; its values are Int32 or, where the first is not a whole number, Float32."""
    import polars as pl

    if path.suffix.lower() == ".parquet":
        return pl.scan_parquet(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = file.readline(), file.readline().strip()
    whole = re.fullmatch(r"-?\d+", lines[1].rsplit(",", 1)[-1]) is not None
    kinds = {"latitude": pl.Float64, "longitude": pl.Float64, "row": pl.Int64, "pixel": pl.Int64, "band": pl.Int16}
    columns = lines[0].strip().split(",")
    schema = {name: (kinds | {"value": pl.Int32 if whole else pl.Float32}).get(name, pl.String) for name in columns}
    return pl.scan_csv(path, schema=schema)


def _table_source(path: Path) -> Source:
    """The table's bands and dtype. A CSV does not say its dtype: it is the narrowest that holds its values."""
    import polars as pl

    _check_columns(path)
    if str(_scan(path).collect_schema()["value"]).lower().startswith("float"):
        counts, by_value = None, _scan(path)
    else:
        counts = _collect(path, _scan(path).group_by("band", "value").agg(pl.len())).sort("band", "value")
        by_value = counts.lazy()
    value, rows = pl.col("value"), pl.len() if counts is None else pl.col("len").sum()
    parts = [rows.alias("rows"), value.min().alias("low"), value.max().alias("high")]
    found = _collect(path, by_value.group_by("band").agg(parts)).sort("band")
    if not len(found):
        raise BadInputError(path, "a table without rows", "a table of pixels", "Run flatten again.")
    dtype = _table_dtype(path, found["low"].min(), found["high"].max())
    numbers = tuple(found["band"].to_list())
    names = tuple(f"band {number}" for number in numbers)
    most = int(found["rows"].max())
    return Source(path.name, (path,), True, numbers, names, dtype, _units([], dtype), most, counts)


def _check_columns(path: Path) -> None:
    if not path.is_file():
        raise MissingInputError(path, "no such file", "a table of pixels", "Run flatten first.")
    import polars as pl

    try:
        columns = _scan(path).collect_schema().names()
    except pl.exceptions.PolarsError as error:
        raise _not_a_table(path, error) from None
    if tuple(columns) != TABLE_COLUMNS:
        found = f"the columns {', '.join(columns)}"
        raise BadInputError(path, found, ", ".join(TABLE_COLUMNS), "Summarize a table that flatten wrote.")


def _table_dtype(path: Path, low: Any, high: Any) -> str:
    """The NumPy name of the dtype of the values."""
    kind = str(_scan(path).collect_schema()["value"]).lower()
    if kind.startswith("float") or (path.suffix.lower() == ".parquet" and kind in ("uint8", "uint16", "int16")):
        return kind
    for dtype in ("uint8", "uint16", "int16", "int32"):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max and high - low < 2 * STEPS:
            return dtype
    raise BadInputError(path, f"values from {low} to {high}", "values of 16 bits", "Summarize the rasters themselves.")


def _collect(path: Path, query: "polars.LazyFrame") -> "polars.DataFrame":
    """The answer to a query, from batches of rows, so that memory stays flat."""
    import polars as pl

    try:
        return query.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise _not_a_table(path, error) from None


def _not_a_table(path: Path, error: Exception) -> BadInputError:
    reason = str(error).strip().splitlines()[0][:120]
    return BadInputError(path, f"not readable ({reason})", "a table of pixels", "Run flatten again.")


def _table_levels(source: Source) -> list[Levels]:
    """The levels of each band."""
    import polars as pl

    path, table = source.files[0], _scan(source.files[0])
    if source.counts is not None:
        return [_counted(source.counts.filter(pl.col("band") == number)) for number in source.numbers]
    return [_float_column(path, table.filter(pl.col("band") == number)) for number in source.numbers]


def _counted(found: "polars.DataFrame") -> Levels:
    values = found["value"].to_numpy().astype(np.int64)
    counts = np.zeros(int(values.max() - values.min()) + 1, np.int64)
    counts[values - values.min()] = found["len"].to_numpy()
    return integer_levels(counts, int(values.min()))


def _float_column(path: Path, table: "polars.LazyFrame") -> Levels:
    """Two passes over one band: what its range is, then how many pixels lie in each step."""
    import polars as pl

    value = pl.col("value").cast(pl.Float64)
    table = table.filter(value.is_finite()).select(value)
    value = pl.col("value")
    first = _collect(
        path, table.select(pl.len(), value.min().alias("a"), value.max().alias("b"), value.sum().alias("s"))
    )
    number, low, high, total = first.row(0)
    if not number:
        raise BadInputError(path, "a band without finite values", "some finite values", "Leave that band out.")
    step = ((value - low) / (high - low or 1.0) * STEPS).clip(0, STEPS - 1).cast(pl.Int32)
    parts = [pl.len(), ((value - total / number) ** 2).sum().alias("q"), (value == high).sum().alias("m"),
             (value == 0).sum().alias("z")]  # fmt: skip
    found = _collect(path, table.group_by(step.alias("step")).agg(parts).sort("step"))
    counts = np.zeros((1, STEPS), np.int64)
    counts[0, found["step"].to_numpy()] = found["len"].to_numpy()
    sums = found.select("q", "m", "z").to_numpy().astype(np.float64).sum(axis=0, keepdims=True)
    return _float_levels(np.array([[number, low, high, total]]), [(counts, sums)])[0]


# The summary


def histogram(levels: Levels, source: Source, bins: int) -> dict[str, Any]:
    """The bars of a band's picture: between what values they stand side by side, and the share of pixels in each."""
    bin_edges = edges([levels], *shown_range(levels, np.dtype(source.dtype)), bins)
    heights = [float(f"{share:.6g}") for share in shares(levels, bin_edges)]
    return {"from": float(bin_edges[0]), "to": float(bin_edges[-1]), "shares": heights}


def band_summary(levels: Levels, number: int, name: str, source: Source, settings: SummarizeArgs) -> dict[str, Any]:
    """The numbers of one band."""
    whole = int if levels.exact else float
    top = saturated(levels, np.dtype(source.dtype))
    return {
        "band": number,
        "name": name,
        "min": whole(levels.minimum),
        "max": whole(levels.maximum),
        "mean": levels.mean,
        "std": levels.std,
        "percentiles": {f"{percent:g}": percentile(levels, percent) for percent in settings.percentiles},
        "valid_share": None if source.is_table else levels.total / source.pixels,
        "saturated_share": top / levels.total,
        "saturated_at": whole(levels.maximum) if top else None,
        "zero_share": levels.zeros / levels.total,
        "histogram": histogram(levels, source, settings.bins),
    }


def _write(path: Path, source: Source, levels: Sequence[Levels], settings: SummarizeArgs) -> None:
    """Write the output that has this name."""
    if path.name == SUMMARY:
        write_json(path, _summary(source, levels, settings))
        return
    if path.name == ALL_BANDS:
        figure = draw_all(levels, source, settings.bins)
    else:
        index = [picture_name(*band) for band in zip(source.numbers, source.names)].index(path.name)
        figure = draw_band(levels[index], index, source, settings.bins)
    with committed(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})


def _summary(source: Source, levels: Sequence[Levels], settings: SummarizeArgs) -> dict[str, Any]:
    bands = zip(levels, source.numbers, source.names)
    return {
        "source": source.name,
        "frames": None if source.is_table else len(source.files),
        "pixels": source.pixels,
        "dtype": source.dtype,
        "units": source.units,
        "bands": [band_summary(*band, source, settings) for band in bands],
    }


# The pictures

INK, FAINT = "#222222", "#767676"
COLOURS = {
    "red": "#c8321f", "green": "#1f8a4c", "blue": "#1f63b4", "nir": "#7b2d8e", "near": "#7b2d8e", "swir": "#8c564b",
    "coastal": "#4a3fa0", "yellow": "#c99700", "edge": "#a0522d", "pan": "#555555",
}  # fmt: skip
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7a00", "#555555")  # Okabe and Ito
DASHES = ("-", "--", "-.", ":")


def colour_of(name: str, index: int) -> str:
    """The colour that a band's name suggests, else one that people with any colour vision tell from the others."""
    words = re.findall("[a-z]+", name.lower())
    named = [colour for word, colour in COLOURS.items() if word in words]
    return named[-1] if named else PALETTE[index % len(PALETTE)]


def _canvas(title: str, subtitle: str, units: str) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter, StrMethodFormatter

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=36)
    small = axes.text(0, 1.03, subtitle, transform=axes.transAxes, fontsize=9.5, color=FAINT, linespacing=1.35)
    small.set_in_layout(False)  # a long line must not squeeze the axes
    axes.set_xlabel(units, fontsize=11, color=INK)
    axes.set_ylabel("share of valid pixels", fontsize=11, color=INK)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.tick_params(labelsize=10, colors=INK, length=3)
    axes.grid(color="#d9d9d9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def draw_band(levels: Levels, index: int, source: Source, bins: int) -> "Figure":
    """The histogram of one band."""
    name, low_high = source.names[index], shown_range(levels, np.dtype(source.dtype))
    bin_edges = edges([levels], *low_high, bins)
    heights = shares(levels, bin_edges)
    figure, axes = _canvas(name, _note(levels, bin_edges, source), f"{name} ({source.units})")
    axes.stairs(heights, bin_edges, fill=True, color=colour_of(name, index), alpha=0.85)
    axes.set_xlim(bin_edges[0], bin_edges[-1])
    axes.set_ylim(0, top_of_axis(heights))
    _mark_percentiles(axes, levels, bin_edges)
    _name_cut_bars(axes, heights, bin_edges, levels.exact)
    return figure


def _note(levels: Levels, bin_edges: Floats, source: Source) -> str:
    """The line below the title: how many pixels, what lies outside the picture, what is saturated."""
    first = f"{levels.total:,} valid pixels, mean {levels.mean:,.4g}, standard deviation {levels.std:,.4g}"
    parts = []
    outside = 1 - float(shares(levels, bin_edges).sum())
    if outside > 1e-9:
        parts.append(f"{_percent(outside)} outside the picture (all: {levels.minimum:,.5g} to {levels.maximum:,.5g})")
    top = saturated(levels, np.dtype(source.dtype)) / levels.total
    if top > SPIKE_SHARE:
        parts.append(f"{_percent(top)} saturated at {levels.maximum:,g}")
    return f"{first}\n{'; '.join(parts)}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _mark_percentiles(axes: "Axes", levels: Levels, bin_edges: Floats) -> None:
    """Thin lines at the 2nd and 98th percentile, where stretching an image for display usually starts and ends."""
    for percent, label, side in ((2, "2nd percentile", "right"), (98, "98th percentile", "left")):
        value = percentile(levels, percent)
        near_edge = (value - bin_edges[0]) / (bin_edges[-1] - bin_edges[0])
        side = "left" if near_edge < 0.25 else "right" if near_edge > 0.75 else side
        axes.axvline(value, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        text, shift = f"{label} {value:,.{6 if levels.exact else 4}g}", (4 if side == "left" else -4, -4)
        note = axes.annotate(
            text, (value, 1 if percent == 2 else 0.93), xycoords=("data", "axes fraction"), xytext=shift,
            textcoords="offset points", ha=side, va="top", fontsize=9, color=INK,
        )  # fmt: skip
        note.set_in_layout(False)


def _name_cut_bars(axes: "Axes", heights: Floats, bin_edges: Floats, exact: bool) -> None:
    """Say how high the bars are that the axis cuts off."""
    middle = (bin_edges[0] + bin_edges[-1]) / 2
    for i in np.flatnonzero(heights > axes.get_ylim()[1]):
        x, width = (bin_edges[i] + bin_edges[i + 1]) / 2, bin_edges[i + 1] - bin_edges[i]
        value = (
            f"{x:,g}"
            if exact and width == 1
            else f"{bin_edges[i] + exact * 0.5:,.4g}–{bin_edges[i + 1] - exact * 0.5:,.4g}"
        )
        side, shift = ("left", 6) if x < middle else ("right", -6)
        axes.annotate(
            f"{value}: {_percent(heights[i])}", (x, 0.82), xycoords=("data", "axes fraction"), xytext=(shift, 0),
            textcoords="offset points", ha=side, va="top", fontsize=9, color=INK,
        )  # fmt: skip


def draw_all(levels: Sequence[Levels], source: Source, bins: int) -> "Figure":
    """The histograms of all bands as curves on one pair of axes."""
    ranges = [shown_range(band, np.dtype(source.dtype)) for band in levels]
    bin_edges = edges(levels, min(low for low, _ in ranges), max(high for _, high in ranges), bins)
    heights = [shares(band, bin_edges) for band in levels]
    top = shared_top(heights)
    figure, axes = _canvas(source.name, _note_all(heights, top, source), source.units)
    for i, (name, height) in enumerate(zip(source.names, heights)):
        colour, dash = colour_of(name, i), DASHES[i // len(PALETTE) % len(DASHES)]
        axes.stairs(height, bin_edges, color=colour, linewidth=1.4, linestyle=dash, label=name, baseline=None)
    axes.set_xlim(bin_edges[0], bin_edges[-1])
    axes.set_ylim(0, top)
    figure.legend(loc="outside right upper", frameon=False, fontsize=10, labelcolor="linecolor", handlelength=1.2)
    return figure


def shared_top(heights: Sequence[Floats]) -> float:
    """The top of the axis for several bands: the highest that one needs, unless it is far above what most need."""
    tops = [top_of_axis(height) for height in heights]
    return float(max(top for top in tops if top <= 4 * np.median(tops)))


def _note_all(heights: Sequence[Floats], top: float, source: Source) -> str:
    """The line below the title: what this is, and what the axis cuts off."""
    parts = [f"{len(heights)} bands of {source.dtype}"]
    if not source.is_table:
        parts[0] += f", {len(source.files):,} file{'s' * (len(source.files) > 1)}"
    cut = {name: height.max() for name, height in zip(source.names, heights) if height.max() > top}
    if cut:
        who = next(iter(cut)) if len(cut) == 1 else f"{len(cut)} bands"
        parts.append(f"higher than the axis: {who}, up to {_percent(max(cut.values()))}")
    return "\n".join([*parts, ""][:2])


def summarize(options: argparse.Namespace, run: Run) -> SummarizeReport:
    """The stage, with what the command line says."""
    settings = run.block("summarize_args", {"bins": options.bins})
    src, dst = options.src or run.paths.chips, options.dst or run.paths.histograms
    extension = run.settings.extension_args.extension if options.src else "tif"
    return summarize_source(src, dst, settings=settings, run=run, extension=extension)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, summarize)


if __name__ == "__main__":
    leave(main())
