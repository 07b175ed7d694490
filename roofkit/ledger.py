"""What stages note of the artifacts that they have finished, and whether an artifact still is what its stage wrote.

A ledger is a file of JSON lines in an output folder, `.<stage>.ledger.jsonl`, or `.<stage>.<file>.ledger.jsonl` where
the output is one file. Each line carries a checksum of itself: a damaged one counts as missing and is never believed.
The line `planned` names what a run had set out to make; what it has finished since stands behind it. The line `all`
says what all artifacts together were made from.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from glob import escape
from pathlib import Path, PurePath
from typing import Any

from roofkit.errors import BadInputError
from roofkit.fence import inside

SUFFIX = ".ledger.jsonl"
CHECKED = re.compile(r'(.*), "check": "([0-9a-f]{16})"\}')
OF_ONE = re.compile(r"\.\w+\.(?!\d+of\d+\.ledger\.jsonl).+\.ledger\.jsonl")  # not that of a shard
UP = 3  # folders above an artifact in which its ledger may be: those of split and download are in the data folder
Record = dict[str, Any]


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        sha = hashlib.sha256()
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


@dataclass(frozen=True)
class Ledger:
    """What a ledger says.

    Args:
        records: By the artifact's name, relative to the ledger's folder.
        planned: Names that the last run had set out to make, when it stopped before all was finished.
        missing: Those of them that it did not finish.
        of_one: It is of one output, and what lies beside it, a card of a model say: each is of use without the others.
        whole: What all artifacts together were made from, as a key, and facts on all; {} where that is not known.
    """

    records: dict[str, Record] = field(default_factory=dict)
    planned: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    of_one: bool = False
    whole: Record = field(default_factory=dict)

    @cached_property
    def folders(self) -> Counter[str]:
        """How many artifacts are missing in each folder."""
        return Counter(str(PurePath(name).parent) for name in self.missing)


Note = tuple[str, str, Ledger]  # a stage, what its ledger calls a file, and the ledger


def read_ledger(path: Path) -> Ledger:
    """What a ledger says; nothing where there is none. Damaged lines, a torn last one say, are passed over."""
    found = Ledger(of_one=bool(OF_ONE.fullmatch(path.name)))
    if not path.is_file():
        return found
    is_inside = inside(path.parent)  # somebody may have edited it
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        entry = _entry(line)
        if isinstance(entry.get("planned"), list):
            names = {name for name in entry["planned"] if is_inside(name)}
            found.planned.update(names)
            found.missing.update(names)
        elif isinstance(entry.get("all"), str) and isinstance(entry.get("facts"), dict):
            found.whole.update(entry)
        elif {"name", "key", "sha256"} <= set(entry) and is_inside(entry["name"]):
            found.records[entry["name"]] = entry
            found.missing.discard(entry["name"])
    return found


def line_of(entry: Record) -> str:
    """A line for a ledger, its end included."""
    text = json.dumps(entry)
    return f'{text[:-1]}, "check": "{_checksum(text)}"}}\n'


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _entry(line: str) -> Record:
    """What a line says; nothing where it is damaged."""
    checked = CHECKED.fullmatch(line)
    text = f"{checked[1]}}}" if checked else line  # lines of earlier versions have no checksum
    if checked and _checksum(text) != checked[2]:
        return {}
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def input_digest(path: Path) -> str:
    """SHA-256 of a file that a stage is about to read, compared with what the stage noted that made it.

    Files that no stage made have nothing to be compared with.

    Raises:
        BadInputError: It is not what its stage wrote, or that stage was stopped before all files beside it were made.
    """
    found = digest(path)
    _check(path, found, list(_notes(path)))
    return found


def input_digests(paths: Iterable[Path]) -> list[str]:
    """`input_digest` of each file, in order."""
    return [input_digest(path) for path in paths]


def label_digests(path: Path) -> list[tuple[str, str]]:
    """Name and `input_digest` of a label file and of what lies beside it under its name: the parts of a shapefile.

    Of a folder, all files in it.
    """
    files = path.iterdir() if path.is_dir() else path.parent.glob(f"{escape(path.stem)}.*")
    return [(file.name, input_digest(file)) for file in sorted(files) if file.is_file()]


def check_input(path: Path) -> None:
    """Raise where `input_digest` would, for a file or those of a folder; a file that no stage made is not read."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        notes = list(_notes(file))
        if notes and file.is_file():
            _check(file, digest(file), notes)


def input_fact(path: Path, fact: str) -> Any:
    """What the stage that made a file recorded of it by that name; None where it did not, or you edited the file.

    Raises:
        BadInputError: As for `input_digest`, if it did.
    """
    notes = list(_notes(path))
    records = [ledger.records[name] for _, name, ledger in notes if fact in ledger.records.get(name, {})]
    if not records:
        return None
    sha = digest(path)
    _check(path, sha, notes)
    return next((record[fact] for record in records if record["sha256"] == sha and not record.get("edited")), None)


def _check(path: Path, sha: str, notes: Sequence[Note]) -> None:
    for stage, name, ledger in notes:
        others = 0 if ledger.of_one else ledger.folders[str(PurePath(name).parent)] - (name in ledger.missing)
        if others or name not in ledger.records:
            _raise_unfinished(path, stage, others or 1)
    if notes and not any(ledger.records[name]["sha256"] == sha for _, name, ledger in notes):
        _raise_changed(path, *notes[0])


def _raise_changed(path: Path, stage: str, name: str, ledger: Ledger) -> None:
    if name in ledger.missing:
        _raise_unfinished(path, stage, 1)
    script = _script(stage)
    advice = f"If you edited it on purpose, run {script} --keep-edits; if not, remove it and run {script}."
    raise BadInputError(path, f"changed since {stage} wrote it", "the file as it was written", advice)


def _raise_unfinished(path: Path, stage: str, count: int) -> None:
    found = f"{stage} was stopped before it was finished ({count:,} file{'s' * (count > 1)} to go)"
    raise BadInputError(path.parent, found, "all that it makes", f"Run {_script(stage)} again.")


def _script(stage: str) -> str:
    return f"{stage}/{stage}.py"


def _notes(path: Path) -> Iterator[Note]:
    """The ledgers that know a file."""
    folder, name = os.path.split(os.path.abspath(path))
    for above in range(UP):
        if above:
            folder, last = os.path.split(folder)
            name = f"{last}/{name}"
        for ledger_path in _ledgers_in(folder):
            ledger = _current(ledger_path)
            if name in ledger.records or name in ledger.planned:
                yield ledger_path.name.split(".")[1], name, ledger


def _ledgers_in(folder: str) -> tuple[Path, ...]:
    try:
        return _listed(folder, os.stat(folder).st_mtime_ns)
    except OSError:  # a folder that may not be listed
        return ()


@lru_cache(maxsize=256)
def _listed(folder: str, changed: int) -> tuple[Path, ...]:
    """The ledgers of a folder; there may be 25,000 files beside them, so it is listed once until it changes."""
    names = sorted(name for name in os.listdir(folder) if name[0] == "." and name.endswith(SUFFIX))
    return tuple(Path(folder, name) for name in names)


def _current(path: Path) -> Ledger:
    try:
        state = path.stat()
    except OSError:
        return Ledger()
    return _cached(path, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=64)
def _cached(path: Path, state: tuple[int, int, int]) -> Ledger:
    return read_ledger(path)
