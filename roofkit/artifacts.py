"""The one place through which every artifact is written: complete or not at all, recorded, and kept while unchanged.

An artifact is written beside its final path, closed, verified, flushed to the disk and only then renamed. What a stage
has finished stands in its *ledger*, a file of JSON lines in the output folder: for each artifact the key that it was
made from (a hash of the inputs' bytes, the settings and the version) and the hash of its own bytes. "Finished" means
that both match; modification times are never looked at.

Shards of a stage (`--shard I/N`) share its folder: each has a ledger of its own, which the next run of the whole stage
takes over. The stage's lock is held by one whole run, or by any number of shards.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, TextIO

from roofkit.errors import BadInputError, LockedError, OutputError
from roofkit.shards import Shard

PART = ".part-"
PARTS = re.compile(rf"{re.escape(PART)}(?:[0-9a-f]+~)?(.+)")  # the name that an unfinished artifact is to have
attempt: ContextVar[str] = ContextVar("attempt", default="")  # hex digits that tell two runs of one task apart
COMPANIONS = ("", "-journal", "-wal", "-shm", ".aux.xml")  # what libraries put beside a file that they are writing
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        sha = hashlib.sha256()
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


@functools.cache
def _version() -> str:
    return version("roof-classify")


def fingerprint(*parts: Any) -> str:
    """SHA-256 of this program's version and of JSON-able values in order; pydantic blocks count by their values."""
    plain = [part.model_dump(mode="json") if hasattr(part, "model_dump") else part for part in parts]
    text = json.dumps([_version(), *plain], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def committed(path: Path) -> Iterator[Path]:
    """A path to write to; when the block ends well, the file is flushed to the disk and takes its final name.

    When the block raises, nothing stays behind and what was at `path` before is untouched.

    Raises:
        OutputError: The disk is full, or the folder cannot be written to.
    """
    part = path.with_name(f"{PART}{attempt.get()}{'~' * bool(attempt.get())}{path.name}")
    try:
        with _disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_part(part)
            yield part
            _flush(part)
            os.replace(part, path)
            _flush(path.parent)
    finally:
        _remove_part(part)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's complaints about a disk or folder into an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS or isinstance(error, OutputError):
            raise
        advice = "Free space or choose another folder, then run again."
        raise OutputError(
            path, f"not written ({error.strerror})", "a writable folder with space left", advice
        ) from error


def _remove_part(part: Path) -> None:
    """Remove an unfinished artifact, a database's journal included."""
    for suffix in COMPANIONS:
        part.with_name(part.name + suffix).unlink(missing_ok=True)


def _remove_parts(folder: Path, names: Collection[str]) -> None:
    """Remove what interrupted writes of these names (relative to the folder) left."""
    for place in {(folder / name).parent for name in names}:
        for part in place.glob(f"{PART}*"):
            match = PARTS.fullmatch(part.name)
            if match and str((place / match[1]).relative_to(folder)) in names:
                _remove_part(part)


def _flush(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, complete or not at all."""
    with committed(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_runs(path: Path) -> dict[str, dict[str, float]]:
    """Seconds and peak MB of each stage, as run/local.py keeps them in its JSON file; {} where there is none.

    Raises:
        BadInputError: The file is something else.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): {key: float(row[key]) for key in ("seconds", "peak_mb")} for name, row in found.items()}
    except (ValueError, TypeError, AttributeError, KeyError):  # no JSON, or of another shape
        expected = "seconds and peak_mb of each stage, as run/local.py writes them"
        raise BadInputError(path, "something else", expected, "Move it away.") from None


class Outputs:
    """What one stage writes to one folder: locked while at work, with a ledger of what is finished.

    Use it as a context manager. `folder` is the output folder, or the folder of a single output file.

    Args:
        folder: The folder that holds the artifacts; made when absent.
        stage: The stage's name; with `name`, it names the ledger.
        name: Set when the output is one file, so that files in one folder do not share a ledger.
        overwrite: Nothing counts as finished.
        shard: The share of the stage's work that this run does; what is not in its plan is left alone.

    Raises:
        LockedError: Another run holds the folder.
    """

    def __init__(
        self, folder: Path, stage: str, *, name: str = "", overwrite: bool = False, shard: Shard | None = None
    ) -> None:
        self.folder = folder
        self.overwrite = overwrite
        self.shard = shard
        self._stem = f".{stage}.{name}" if name else f".{stage}"
        self._ledger = folder / f"{self._stem}{f'.{shard}' if shard else ''}.ledger.jsonl"
        self._records: dict[str, dict[str, Any]] = {}
        self._planned: set[str] = set()
        self._mine: set[str] = set()
        self._log: TextIO | None = None
        self._held: list[_Lock] = []

    def __enter__(self) -> "Outputs":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._held.append(_Lock(self.folder / f"{self._stem}.lock", shared=bool(self.shard)))
            if self.shard:
                self._held.append(_Lock(self.folder / f"{self._stem}.{self.shard}.lock"))
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise OutputError(
                self.folder, error.strerror or str(error), "a folder to write to", "Choose another output folder."
            ) from None
        except LockedError:
            self._unlock()
            raise
        for ledger in self._ledgers():
            records, planned = _read_ledger(ledger)
            self._records |= records
            self._planned |= planned if ledger == self._ledger or not self.shard else set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log:
            with contextlib.suppress(OSError):  # on a full disk: what it held is not finished, and will be made again
                self._log.close()
        _remove_parts(self.folder, self._planned)
        self._unlock()

    def _unlock(self) -> None:
        while self._held:
            self._held.pop().release()

    def _ledgers(self) -> list[Path]:
        """What tells of finished work: the whole stage's ledger, then this shard's or, without one, every shard's."""
        whole = self.folder / f"{self._stem}.ledger.jsonl"
        return [whole, *([self._ledger] if self.shard else self._shard_ledgers())]

    def _shard_ledgers(self) -> list[Path]:
        names = re.compile(rf"{re.escape(self._stem)}\.\d+of\d+\.ledger\.jsonl")
        return sorted(path for path in self.folder.iterdir() if names.fullmatch(path.name))

    def plan(self, keys: Mapping[str, str]) -> list[str]:
        """The names still to be made, out of `keys` (name of an artifact relative to the folder → its key).

        Artifacts that an earlier run made and that are no longer in the plan are removed, but not by a shard.

        Raises:
            OutputError: A file is in the way that this stage did not write, or that was changed since.
        """
        todo = [name for name, key in keys.items() if not self.is_finished(name, key)]
        if not self.overwrite:
            for name in todo:
                self._check_free(name)
        _remove_parts(self.folder, self._planned | set(todo))
        for name in (set(self._records) | self._planned) - set(keys):
            if not self.shard:
                (self.folder / name).unlink(missing_ok=True)
            self._records.pop(name, None)
        self._planned, self._mine = set(todo), set(keys)
        self._rewrite()
        return todo

    def record(self, name: str, key: str, **facts: Any) -> None:
        """Note that `name` is finished, with facts that a later run reports without looking at the artifact again."""
        entry = {"name": name, "key": key, "sha256": digest(self.folder / name), **facts}
        self._records[name] = entry
        with _disk_errors(self._ledger):
            if self._log is None:
                self._log = self._ledger.open("a", encoding="utf-8")
            self._log.write(json.dumps(entry) + "\n")
            self._log.flush()

    def leave_out(self, name: str) -> None:
        """Note that `name` is not to exist, and remove what an earlier run made of it."""
        self._records.pop(name, None)
        (self.folder / name).unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        """Whether `name` is finished."""
        return name in self._records

    def owns(self, name: str) -> bool:
        """Whether an earlier run of this stage finished `name`, or had set out to write it."""
        return name in self._records or name in self._planned

    def names(self) -> list[str]:
        """What earlier runs of this stage finished, sorted."""
        return sorted(self._records)

    def facts(self, name: str) -> dict[str, Any]:
        """What was recorded with `name`."""
        return self._records[name]

    def finish(self) -> None:
        """Put the ledger in its final form: sorted, nothing planned, those of shards taken over."""
        _remove_parts(self.folder, self._planned)  # of workers that were lost, whose tasks others did
        self._planned = set()
        self._rewrite()
        for ledger in () if self.shard else self._shard_ledgers():
            ledger.unlink()

    def is_finished(self, name: str, key: str) -> bool:
        """Whether `name` was made from what `key` says, and is as it was then."""
        record = self._records.get(name)
        path = self.folder / name
        if self.overwrite or record is None or record["key"] != key or not path.is_file():
            return False
        return bool(digest(path) == record["sha256"])

    def _check_free(self, name: str) -> None:
        path, record = self.folder / name, self._records.get(name)
        if not path.exists() or name in self._planned:
            return
        if record is None:
            raise OutputError(
                path, "a file that this stage did not write", "no file there", "Move it away, or run with --overwrite."
            )
        if digest(path) != record["sha256"]:
            advice = "Move it away to keep the change, or run with --overwrite to make it again."
            raise OutputError(path, "changed since this stage wrote it", "the file as it was written", advice)

    def _rewrite(self) -> None:
        if self._log:
            self._log.close()
            self._log = None
        names = sorted(self._planned)
        if self.shard and not (names or self._mine):
            return  # nothing is this shard's own
        lines: list[dict[str, Any]] = [{"planned": names}] if names else []
        lines += [self._records[name] for name in sorted(self._records) if not self.shard or name in self._mine]
        with committed(self._ledger) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _read_ledger(path: Path) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Records by name, and names that a run had planned when it stopped. A torn last line is passed over."""
    records: dict[str, dict[str, Any]] = {}
    planned: set[str] = set()
    if not path.is_file():
        return records, planned
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(entry, dict):
            continue
        if "planned" in entry:
            planned = {name for name in entry["planned"] if _stays_inside(name)}
        elif {"name", "key", "sha256"} <= set(entry) and _stays_inside(entry["name"]):
            records[entry["name"]] = entry
    return records, planned


def recorded(folder: Path, stage: str) -> dict[str, dict[str, Any]]:
    """What a stage recorded of the artifacts that it finished in a folder, by their names; {} where it did not."""
    return _read_ledger(folder / f".{stage}.ledger.jsonl")[0]


def _stays_inside(name: Any) -> bool:
    """Whether a name in a ledger, which somebody may have edited, is one of a file in the ledger's own folder."""
    return isinstance(name, str) and not PurePath(name).is_absolute() and ".." not in PurePath(name).parts


class _Lock:
    """A lock on a file, held from the start; the system lets go of it when this process ends, however it ends.

    Raises:
        LockedError: Another process holds it, and not both want to share it.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        self._file = self._take(fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(self._file.fileno(), 0)
            os.write(self._file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())

    def _take(self, kind: int) -> TextIO:
        while True:
            file = self._path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another run"
                file.close()
                raise LockedError(
                    self._path.parent, f"locked by {holder}", "no other run on this output", "Wait for it, or stop it."
                ) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                    return file
            file.close()  # the holder removed its file between our open and our lock

    def release(self) -> None:
        """Let go; whoever holds it last removes the file."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path.unlink(missing_ok=True)
        self._file.close()


def digests(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of each file, in order."""
    return [digest(path) for path in paths]
