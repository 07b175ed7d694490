"""A GeoPackage looked at before GDAL opens it: its tables and views must be plain SQL on the file itself.

A GeoPackage is an SQLite database, and what is stored in one runs when it is read: a view, a computed column or a
virtual table may call functions, and GDAL adds some that read other files and the network.
"""

import contextlib
import re
import sqlite3
from pathlib import Path

from roofkit.errors import BadInputError

MODULE = re.compile(r"CREATE\s+VIRTUAL\s+TABLE\b.*?\bUSING\s+[\"'`\[]?(\w+)", re.IGNORECASE | re.DOTALL)
STORED = "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view')"
INDEXES = {"rtree", "rtree_i32", "fts3", "fts4", "fts5"}  # virtual tables that keep all they know in the same file
FORBIDDEN = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}
ADVICE = "Export its polygons to a new file (ogr2ogr)."


def check_geopackage(path: Path) -> None:
    """Raise unless nothing stored in the file leads out of it.

    Raises:
        BadInputError: Something does, or it is no whole database.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as file:
            file.execute("PRAGMA trusted_schema = OFF")
            stored = file.execute(STORED).fetchall()
            file.set_authorizer(_allowed)
            for name, kind, sql in stored:
                _check(file, path, str(name), str(kind), str(sql))
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise BadInputError(path, f"not readable ({error})", "a GPKG file", "Replace or remove it.") from None


def _check(file: sqlite3.Connection, path: Path, name: str, kind: str, sql: str) -> None:
    module = MODULE.match(sql)
    if module:
        if module[1].lower() not in INDEXES:
            found = f"a virtual table of {module[1]} ({name})"
            raise BadInputError(path, found, "tables in the file itself", ADVICE)
        return
    quoted = name.replace('"', '""')
    try:
        file.execute(f'EXPLAIN SELECT * FROM "{quoted}"')  # compiled, not run
    except sqlite3.Error as error:
        raise BadInputError(path, f"a {kind} that calls what SQLite does not know ({name}: {error})",
                            "plain SQL", ADVICE) from None  # fmt: skip


def _allowed(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Whether a statement may do that: read tables, and call functions that stay in the database."""
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in FORBIDDEN:
        return sqlite3.SQLITE_DENY
    reading = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in reading else sqlite3.SQLITE_DENY
