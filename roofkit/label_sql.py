"""Conditions in SQL on the attributes of vector files: which features they hold for, and what is wrong with them.

The condition on a single file is GDAL's affair. Several files, and GeoParquet, are searched batch by batch in memory,
all with the columns of all; a column that a file lacks is NULL there.
"""

import difflib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from roofkit.errors import RoofError, SettingsError
from roofkit.label_files import STREAM_ERRORS, OgrFile, Rows, VectorFile, quiet
from roofkit.ogr import pyogrio

OGR_NAMES = ("fid", "ogr_geometry", "ogr_style", "ogr_geom_wkt", "ogr_geom_area")
SQL_WORDS = re.compile(
    "all|and|as|between|case|cast|collate|else|end|escape|exists|false|glob|ilike|in|is|like|match|not|null|or|regexp|"
    "similar|then|true|when",
    re.IGNORECASE,
)
MATERIAL = re.compile("material|roof_?(type|cover|mat)|cladding", re.IGNORECASE)
SHOWN = 8  # names or values that an error lists
PLAIN = (  # what the in-memory search knows of Arrow's types; all others are text
    (pa.types.is_boolean, pa.bool_()),
    (pa.types.is_integer, pa.int64()),
    (pa.types.is_floating, pa.float64()),
    (pa.types.is_timestamp, pa.timestamp("ms")),
)
Fids = list[NDArray[np.int64]]


def select(files: Sequence[VectorFile], path: Path, sql: str, setting: str) -> Fids:
    """The ids of the features that a condition holds for: of each file, sorted.

    Args:
        files: As `open_label_files` gives them.
        path: The file or folder that they come from.
        sql: As ogr2ogr -where takes it.
        setting: Where the condition stands, for errors.

    Raises:
        SettingsError: The condition is wrong, or names an unknown column.
        BadInputError: A file is broken.
    """
    quoted, bare = names_in(sql)
    for name in quoted:
        if _column(files, name) is None:  # a GeoPackage would take it for a text and select nothing
            raise _unknown_column(files, path, sql, name, setting)
    named = list(dict.fromkeys(name for name in (_column(files, name) for name in quoted + bare) if name))
    own = [name for name in named if name in all_columns(files)]
    try:
        if path.is_file() and isinstance(files[0], OgrFile):
            found: Iterable[Iterable[NDArray[np.int64]]] = [_natively(files[0], sql, own, named)]
        else:
            found = _in_memory(files, sql, own, named)
        return [np.sort(np.concatenate([np.empty(0, np.int64), *fids])) for fids in found]
    except (*STREAM_ERRORS, ValueError) as error:
        if isinstance(error, RoofError):
            raise
        _check_whole(files)
        unknown = next((name for name in bare if _column(files, name) is None), None)
        raise (
            _unknown_column(files, path, sql, unknown, setting) if unknown else _wrong_sql(sql, error, setting)
        ) from None


def check_some(files: Sequence[VectorFile], path: Path, sql: str, chosen: Fids) -> None:
    """Raise unless a condition selects a feature.

    Raises:
        SettingsError: It does not; the error lists the values of the columns that it names.
    """
    if any(len(fids) for fids in chosen):
        return
    total = sum(len(rows.fids) for file in files for rows in file.rows(geometry=False))
    columns = [_column(files, name) for part in names_in(sql) for name in part]
    held = "; ".join(_held(files, column) for column in dict.fromkeys(columns) if column in all_columns(files))
    found = f"{sql} selects none of {total:,} features of {path}"
    expected = "a condition that holds for some" + (f" ({held})" if held else "")
    raise SettingsError("mask_args.where", found, expected, "Correct the condition.")


def material(files: Sequence[VectorFile]) -> str | None:
    """The first text column that tells materials apart, with its values."""
    for name in all_columns(files):
        if MATERIAL.search(name):
            counts = _values(files, name)
            if any(isinstance(value, str) for value in counts) and len(set(counts) - {None}) > 1:
                return _words(name, counts)
    return None


def names_in(sql: str) -> tuple[list[str], list[str]]:
    """Names in double quotes, and bare words that are neither SQL's own nor functions, of a condition."""
    rest = re.sub(r"'(?:[^']|'')*'", " ", sql)
    quoted = [name.replace('""', '"') for name in re.findall(r'"((?:[^"]|"")*)"', rest)]
    rest = re.sub(r'"(?:[^"]|"")*"', " ", rest)
    bare = [word for word in re.findall(r"\b[^\W\d]\w*\b(?!\s*\()", rest) if not SQL_WORDS.fullmatch(word)]
    return quoted, bare


def all_columns(files: Sequence[VectorFile]) -> list[str]:
    """The attributes that any of the files has."""
    return list(dict.fromkeys(name for file in files for name in file.columns))


def _natively(file: OgrFile, sql: str, own: list[str], named: list[str]) -> Iterator[NDArray[np.int64]]:
    if named != own:  # GDAL's batches know nothing of geometry in conditions
        yield file.select_at_once(sql, own)
        return
    try:
        yield from file.select(sql, own)
    except STREAM_ERRORS:
        file.select_at_once(sql, own, 1)  # which says better what is wrong
        raise


def _in_memory(
    files: Sequence[VectorFile], sql: str, own: list[str], named: list[str]
) -> Iterator[Iterable[NDArray[np.int64]]]:
    kinds = {name: _kind(files, name) for name in own}
    if "fid" in named:  # which GDAL counts anew in each batch
        yield from _at_once(files, sql, own, kinds)
        return
    for file in files:
        yield [rows.fids[_search(_table(rows, kinds), sql)] for rows in file.rows(own, geometry=False)]


def _at_once(
    files: Sequence[VectorFile], sql: str, own: list[str], kinds: dict[str, Any]
) -> Iterator[list[NDArray[np.int64]]]:
    """The features of all files searched as one table, whose feature ids count rows."""
    batches = [[*file.rows(own, geometry=False)] for file in files]
    found = _search(pa.concat_tables(_table(rows, kinds) for batch in batches for rows in batch), sql)
    first = 0
    for batch in batches:
        fids = np.concatenate([rows.fids for rows in batch])
        yield [fids[found[(found >= first) & (found < first + len(fids))] - first]]
        first += len(fids)


def _check_whole(files: Sequence[VectorFile]) -> None:
    """Raise where a file is broken."""
    for file in files:
        for _ in file.rows():
            pass


def _kind(files: Sequence[VectorFile], column: str) -> Any:
    """The type that holds the values of all files."""
    own = [file for file in files if column in file.columns]
    known = [file.types([column])[column] for file in own]
    kinds = {next((plain for is_one, plain in PLAIN if is_one(kind)), pa.string()) for kind in known}
    if kinds == {pa.bool_()} and not all(isinstance(file, OgrFile) for file in own):
        sometimes_null = len(own) < len(files) or None in _values(files, column)
        return pa.string() if sometimes_null else pa.bool_()  # True and False as text, as pandas has them then
    numbers = {pa.int64(), pa.float64()}
    return kinds.pop() if len(kinds) == 1 else pa.float64() if kinds == numbers else pa.string()


def _table(rows: Rows, kinds: dict[str, Any]) -> Any:
    """The named columns of some rows."""
    count = len(rows.fids)
    columns = {name: _cast(rows.columns.get(name, pa.nulls(count)), kind) for name, kind in kinds.items()}
    return pa.table(columns or {"row": pa.array(np.arange(count))})


def _cast(column: Any, kind: Any) -> Any:
    """A column as one of the types that the search knows."""
    if kind != pa.string() or pa.types.is_string(column.type) or pa.types.is_null(column.type):
        return column.cast(kind, safe=False)
    values = column.to_pandas()
    return pa.array([None if _is_missing(value) else str(value) for value in values], pa.string())


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def _search(table: Any, sql: str) -> NDArray[np.int64]:
    """The numbers of the rows that a condition holds for, found by GDAL in a file in memory."""
    with io.BytesIO() as buffer, quiet():
        options = dict(driver="FlatGeobuf", layer="labels", SPATIAL_INDEX="NO")
        pyogrio.raw.write_arrow(table, buffer, geometry_type=None, **options)
        _, rows, _, _ = pyogrio.raw.read(buffer.getvalue(), where=sql, read_geometry=False, return_fids=True)
    found: NDArray[np.int64] = rows
    return found


def _column(files: Sequence[VectorFile], name: str) -> str | None:
    """The column that a name in SQL means: case does not count."""
    known = {column.lower(): column for column in (*OGR_NAMES, "geom", "geometry", *all_columns(files))}
    return known.get(name.lower())


def _unknown_column(files: Sequence[VectorFile], path: Path, sql: str, name: str, setting: str) -> RoofError:
    columns = all_columns(files)
    if not columns:
        return SettingsError(setting, f"{sql} names {name}", f"no name: {path} has no column", "Use null.")
    meant = [column for column in columns if column.lower() in sql.lower()]  # a:b without quotes reads as a
    nearest = difflib.get_close_matches(name, meant or columns, n=1, cutoff=0.0)[0]
    listed = ", ".join(f'"{column}"' for column in columns[:40]) + (", …" if len(columns) > 40 else "")
    advice = "Write names in double quotes and values in single quotes."
    return SettingsError(
        setting, f'{sql}: no column "{name}" in {path}', f'one of {listed} (the nearest: "{nearest}")', advice
    )


def _wrong_sql(sql: str, error: Exception, setting: str) -> RoofError:
    advice = "Write names in double quotes and values in single quotes."
    expected = "a condition as in \"roof:material\" IN ('tin','metal')"
    return SettingsError(setting, f"{sql} is not SQL that GDAL knows ({error})", expected, advice)


def _held(files: Sequence[VectorFile], column: str | None) -> str:
    return _words(str(column), _values(files, str(column)))


def _values(files: Sequence[VectorFile], column: str) -> Counter[Any]:
    """How often each value of a column occurs; None: NULL."""
    counts: Counter[Any] = Counter()
    for file in files:
        for rows in file.rows([column], geometry=False):
            counts.update(_counts(rows.columns.get(column, pa.nulls(len(rows.fids)))))
    return counts


def _counts(column: Any) -> dict[Any, int]:
    if pa.types.is_nested(column.type):
        return Counter(None if value is None else str(value) for value in column.to_pylist())
    column = getattr(column, "storage", column)  # of several types in GeoJSON: text
    counted, counts = column.value_counts(), Counter[Any]()
    for value, count in zip(_readable(counted.field("values")), counted.field("counts").to_pylist()):
        counts[value] += count
    return counts


def _readable(column: Any) -> list[Any]:
    """The values of a column, text with � for what is not in the encoding that the file says."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        values: list[Any] = column.to_pylist()
        return values
    binary = column.cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode(errors="replace") for value in binary]


def _words(column: str, counts: Counter[Any]) -> str:
    """A column's most frequent values, with how often each occurs."""
    common = [("NULL" if value is None else str(value), count) for value, count in counts.most_common()]
    shown = ", ".join(f"{value} ({count:,})" for value, count in common[:SHOWN])
    more = f", {len(common) - SHOWN} more" if len(common) > SHOWN else ""
    return f'"{column}" holds {shown}{more}'
