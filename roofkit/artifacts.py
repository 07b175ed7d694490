"""The one place through which every artifact is written: complete or not at all, recorded, and kept while unchanged.

An artifact is written beside its final path, closed, verified, flushed to the disk and only then renamed. What a stage
has finished stands in its *ledger*, a file of JSON lines in the output folder: for each artifact the key that it was
made from (a hash of the inputs' bytes, the settings and the version) and the hash of its own bytes. "Finished" means
that both match; modification times are never looked at. `roofkit.ledger` reads ledgers, for later stages too.

Shards of a stage (`--shard I/N`) share its folder: each has a ledger of its own, which the next run of the whole stage
takes over. The stage's lock is held by one whole run, or by any number of shards.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TextIO

from roofkit.cli import detail, say
from roofkit.errors import BadInputError, LockedError, OutputError
from roofkit.fence import check_names, check_place, open_plain
from roofkit.ledger import digest, line_of, read_ledger
from roofkit.rehearsal import Plan, Rehearsed, forbid, is_rehearsal, note
from roofkit.shards import Shard

PART = ".part-"
PARTS = re.compile(rf"{re.escape(PART)}(?:[0-9a-f]+~)?(.+)")  # the name that an unfinished artifact is to have
attempt: ContextVar[str] = ContextVar("attempt", default="")  # hex digits that tell two runs of one task apart
signs: ContextVar[tuple[Path, ...]] = ContextVar("signs", default=())  # files that are there while a task's run is
OF_SHARD = r"(?:\.\d+of\d+)"
NOTHING = ""  # noted as the hash of an artifact that is finished by not being there
SIGN = r"\.run-[0-9a-f]{12}\..+"
SENT_AT_ONCE = 64 * 2**20  # bytes of a stream
HASHED_BESIDE = 2**20  # bytes from which a thread hashes while another writes
COMPANIONS = ("", "-journal", "-wal", "-shm", ".aux.xml")  # what libraries put beside a file that they are writing
STYLE = ".qml"  # how QGIS draws a file; it saves there what a user makes of it
EDITED = "Run with --keep-edits to keep the change, or with --overwrite to make it again."
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)


_at_work: list["Outputs"] = []


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
    forbid(path)
    part = path.with_name(f"{PART}{attempt.get()}{'~' * bool(attempt.get())}{path.name}")
    try:
        with disk_errors(path):
            check_place(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_part(part)
            yield part
            _flush(part)
            check_signs(signs.get())
            os.replace(part, path)
            _flush(path.parent)
    finally:
        _remove_part(part)


def check_signs(paths: Iterable[Path]) -> None:
    """Raise OutputError where a run has ended that a task belongs to, or its folders are not seen here."""
    for path in paths:
        try:
            path.open("rb").close()  # NFS asks the server on opening, not before
        except OSError:
            host = path.name.partition(".run-")[2].partition(".")[2]
            found = f"not the folder that the run on {host} writes to, or that run has ended"
            advice = "Mount data and results on each worker under the names that they have there."
            raise OutputError(path.parent, found, "one folder for all machines", advice) from None


@contextlib.contextmanager
def committed_folder(path: Path) -> Iterator[Path]:
    """The same for a folder of files: an empty one to write to, which takes its final name when the block ends well.

    Raises:
        OutputError: The disk is full, or the folder cannot be written to.
    """
    part, old = (path.with_name(f"{PART}{kind}~{path.name}") for kind in ("new", "old"))
    try:
        with disk_errors(path):
            check_place(path)
            for left in (part, old):
                shutil.rmtree(left, ignore_errors=True)
            part.mkdir(parents=True)
            yield part
            for file in (*part.rglob("*"), part):
                _flush(file)
            if path.exists():
                os.replace(path, old)
            os.replace(part, path)
            _flush(path.parent)
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


class Stream(io.RawIOBase):
    """A file that is hashed, and sent to the disk, while it is written, so that little is left to do at its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha = file, hashlib.sha256()
        self._thread, self._hasher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._sending: Future[None] | None = None
        self._waiting = 0

    @property
    def sha256(self) -> str:
        """Of what was written, as 64 hexadecimal digits."""
        return self._sha.hexdigest()

    def writable(self) -> bool:
        """Nothing else."""
        return True

    def write(self, data: Any) -> int:
        """Write all of some bytes."""
        hashed = self._hasher.submit(self._sha.update, data) if len(data) >= HASHED_BESIDE else None
        count = self._file.write(data)
        if hashed:
            hashed.result()
        else:
            self._sha.update(data)
        self._waiting += count
        if self._waiting >= SENT_AT_ONCE and (self._sending is None or self._sending.done()):
            if self._sending:
                self._sending.result()
            self._file.flush()
            self._sending, self._waiting = self._thread.submit(os.fsync, self._file.fileno()), 0
        return count

    def tell(self) -> int:
        """How many bytes were written."""
        return self._file.tell()

    def close(self) -> None:
        """Wait for what is on its way to the disk."""
        self._thread.shutdown()
        self._hasher.shutdown()
        sending, self._sending = self._sending, None
        super().close()
        if sending:
            sending.result()


@contextlib.contextmanager
def streamed(path: Path) -> Iterator[Stream]:
    """`committed` for a file that is written from its beginning to its end."""
    with committed(path) as part, part.open("wb") as file, Stream(file) as stream:
        yield stream


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
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


def show_run(run: str) -> tuple[Path, ...]:
    """A sign in each folder that this process is writing to, which is there until its work on it ends.

    Args:
        run: 12 hexadecimal digits.
    """
    return tuple(outputs.show(run) for outputs in _at_work)


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

    A dry run leaves the folder as it is, locks nothing, and ends with the plan.

    Use it as a context manager. `folder` is the output folder, or the folder of a single output file.

    Args:
        folder: The folder that holds the artifacts; made when absent.
        stage: The stage's name; with `name`, it names the ledger.
        name: Set when the output is one file, so that files in one folder do not share a ledger.
        overwrite: Nothing counts as finished.
        keep_edits: Artifacts that were changed by hand count as finished, from now on.
        shard: The share of the stage's work that this run does; what is not in its plan is left alone.
        replaces: Whether an artifact of that name is made from what this run works on; others are left alone. None:
            all are.

    Raises:
        LockedError: Another run holds the folder.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        *,
        name: str = "",
        overwrite: bool = False,
        keep_edits: bool = False,
        shard: Shard | None = None,
        replaces: Callable[[str], bool] | None = None,
    ) -> None:
        self.folder, self.replaces = folder, replaces
        self.overwrite, self.keep_edits = overwrite, keep_edits
        self.shard = shard
        self._stem = f".{stage}.{name}" if name else f".{stage}"
        self._own = f"{self._stem}.{shard}" if shard else self._stem
        self._ledger = folder / f"{self._own}.ledger.jsonl"
        self._records: dict[str, dict[str, Any]] = {}
        self._planned: set[str] = set()
        self._whole: dict[str, Any] = {}
        self._mine: set[str] = set()
        self._unfinished: set[str] = set()  # of what other runs work on
        self._log: TextIO | None = None
        self._held: list[_Lock] = []
        self._signs: list[Path] = []

    def __enter__(self) -> "Outputs":
        try:
            check_place(self.folder / self._stem)
            if is_rehearsal():
                self._check_folder()
                return self._read()
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            self._held.append(_Lock(self.folder / f"{self._stem}.lock", shared=bool(self.shard)))
            if self.shard:
                self._held.append(_Lock(self.folder / f"{self._own}.lock"))
            for left in self._left():
                left.unlink(missing_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise OutputError(
                self.folder, error.strerror or str(error), "a folder to write to", "Choose another output folder."
            ) from None
        except (LockedError, OutputError):
            self._unlock()
            raise
        _at_work.append(self)
        return self._read()

    def _left(self) -> list[Path]:
        """What runs that were killed left: their signs, and locks of shards, of which none is at work."""
        names = re.compile(rf"{re.escape(self._own)}{'' if self.shard else f'{OF_SHARD}?'}{SIGN}")
        signs = [path for path in self.folder.iterdir() if names.fullmatch(path.name)]
        return signs + ([] if self.shard else self._of_shards("lock"))

    def show(self, run: str) -> Path:
        """Put an empty file into the folder that is there until this run ends, and whose name holds `run`."""
        path = self.folder / f"{self._own}.run-{run}.{socket.gethostname()}"
        with disk_errors(path):
            open_plain(path).close()
        self._signs.append(path)
        return path

    def _check_folder(self) -> None:
        """Raise what making the folder would raise, or writing to it."""
        place = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        if not place.is_dir():
            number = errno.EEXIST if place == self.folder else errno.ENOTDIR
            raise OSError(number, os.strerror(number), str(self.folder))
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.folder))

    def _read(self) -> "Outputs":
        """What earlier runs finished, or had set out to write."""
        for ledger in self._ledgers():
            found = read_ledger(ledger)
            self._records |= found.records
            self._whole = found.whole if ledger == self._ledger else {}  # those of shards are still to be taken over
            self._planned |= found.planned if ledger == self._ledger or not self.shard else set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log:
            with contextlib.suppress(OSError):  # on a full disk: what it held is not finished, and will be made again
                self._log.close()
        if not is_rehearsal():
            _remove_parts(self.folder, self._planned)
        self._unlock()

    def _unlock(self) -> None:
        if self in _at_work:
            _at_work.remove(self)
        while self._signs:
            self._signs.pop().unlink(missing_ok=True)
        while self._held:
            self._held.pop().release()

    def _ledgers(self) -> list[Path]:
        """What tells of finished work: the whole stage's ledger, then this shard's or, without one, every shard's."""
        whole = self.folder / f"{self._stem}.ledger.jsonl"
        return [whole, *([self._ledger] if self.shard else self._of_shards("ledger.jsonl"))]

    def _of_shards(self, suffix: str) -> list[Path]:
        """Ledgers or locks of shards."""
        names = re.compile(rf"{re.escape(self._stem)}{OF_SHARD}\.{re.escape(suffix)}")
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path for path in found if names.fullmatch(path.name))

    def plan(self, keys: Mapping[str, str], *, more: bool = False) -> list[str]:
        """The names still to be made, out of `keys` (name of an artifact relative to the folder → its key).

        Artifacts that an earlier run made and that are no longer in the plan are removed, but not by a shard.
        A dry run ends here.

        Args:
            keys: What this run is to make.
            more: There are more outputs, so that a dry run goes on; the stage then ends it before its work.

        Raises:
            OutputError: A file is in the way that this stage did not write, or that was changed since.
        """
        check_names(self.folder, keys)
        keys = {name: key for name, key in keys.items() if not self._is_yours(name)}
        todo = [name for name, key in keys.items() if not self._is_kept(name, key)]
        before = (set(self._records) | self._planned) - set(keys)
        others = {name for name in before if self.replaces and not self.shard and not self.replaces(name)}
        gone = set() if self.shard else before - others
        if not self.overwrite:
            for name in (*todo, *sorted(gone & set(self._records))):
                self._check_free(name)
        if is_rehearsal():
            self._note(todo, set(keys), gone)
            if more:
                return todo
            raise Rehearsed
        _remove_parts(self.folder, self._planned | set(todo))
        self._remove(gone)
        for name in before - others:
            self._records.pop(name, None)
        self._unfinished = self._planned & others
        self._planned, self._mine, self._whole = self._unfinished | set(todo), set(keys), {}
        self._rewrite()
        self._tell_edited()
        for name in sorted(self._mine - set(todo)):
            detail(f"kept {self.folder / name}")
        return todo

    def _note(self, todo: Collection[str], wanted: set[str], gone: set[str]) -> None:
        """Note the plan of a dry run."""
        there = {name for name in todo if (self.folder / name).exists()}
        removed = sorted(name for name in gone if (self.folder / name).exists() and not self._stays(name))
        keep = sorted(wanted - set(todo))
        make, redo = ([name for name in todo if (name in there) == known] for known in (False, True))
        note(Plan(self.folder, tuple(make), tuple(redo), tuple(keep), tuple(removed)))

    def _is_kept(self, name: str, key: str) -> bool:
        """Whether `name` is finished, or was changed by hand and is to be kept: then it is noted as it is now."""
        if self.is_finished(name, key):
            return True
        record, path = self._records.get(name), self.folder / name
        if record is None or not self._keeps_edits(name) or not path.is_file():
            return False
        sha = digest(path)
        if sha == record["sha256"] and not record.get("edited"):
            return False
        self._records[name] = {**record, "key": key, "sha256": sha, "edited": True}
        return True

    def _keeps_edits(self, name: str) -> bool:
        """Whether a change of `name` by hand is kept; that of a style is without being asked for."""
        return self.keep_edits or (name.endswith(STYLE) and not self.overwrite)

    def _is_yours(self, name: str) -> bool:
        """Whether `name` is a style that somebody else put there, which stays."""
        is_free = self.overwrite or self.owns(name)
        return name.endswith(STYLE) and not is_free and (self.folder / name).exists()

    def _remove(self, names: Collection[str]) -> None:
        """Remove artifacts that are not made any more; one that was changed by hand stays where such are kept."""
        removed = [name for name in sorted(names) if not self._stays(name) and (self.folder / name).exists()]
        for name in removed:
            detail(f"removed {self.folder / name}")
            (self.folder / name).unlink()
        if removed:
            files = f"{len(removed):,} file{'s' * (len(removed) > 1)}"
            say(
                f"{self.folder}: removed {files} that an earlier run made and this one does not"
                f" ({removed[0]}{', …' * (len(removed) > 1)})"
            )

    def _stays(self, name: str) -> bool:
        """Whether an artifact that is not made any more was changed by hand, and such are kept."""
        record, path = self._records.get(name), self.folder / name
        return bool(record and self._keeps_edits(name) and path.is_file() and _is_edited(record, digest(path)))

    def record(self, name: str, key: str, *, sha256: str | None = None, **facts: Any) -> None:
        """Note that `name` is finished, with facts that a later run reports without looking at the artifact again.

        Its `sha256` is worked out where it is not known.
        """
        sha = digest(self.folder / name) if sha256 is None else sha256
        entry = {"name": name, "key": key, "sha256": sha, **facts}
        self._records[name] = entry
        with disk_errors(self._ledger):
            if self._log is None:
                self._log = open_plain(self._ledger)
            self._log.write(line_of(entry))
            self._log.flush()
        detail(f"made {self.folder / name}")

    def leave_out(self, name: str) -> None:
        """Note that `name` is not to exist, and remove what an earlier run made of it."""
        self._records.pop(name, None)
        (self.folder / name).unlink(missing_ok=True)

    def record_nothing(self, name: str, key: str) -> None:
        """The same, and a later run need not find out again that nothing is to be made from what `key` says."""
        (self.folder / name).unlink(missing_ok=True)
        self.record(name, key, sha256=NOTHING)

    def has(self, name: str) -> bool:
        """Whether `name` is finished, and exists."""
        return bool(self._records.get(name, {}).get("sha256"))

    def is_edited(self, name: str) -> bool:
        """Whether `name` was changed by hand, and is kept as it is."""
        return bool(self._records.get(name, {}).get("edited"))

    def protect(self, name: str) -> None:
        """Raise OutputError where `name` is kept as edited by hand, but would be written anew with others."""
        if self.is_edited(name):
            advice = "Move it away, or run with --overwrite to make it again."
            raise OutputError(self.folder / name, "edited by hand, and made anew with others", "no edited file", advice)

    def owns(self, name: str) -> bool:
        """Whether an earlier run of this stage finished `name`, or had set out to write it."""
        return name in self._records or name in self._planned

    def names(self) -> list[str]:
        """What earlier runs of this stage finished, sorted."""
        return sorted(self._records)

    def facts(self, name: str) -> dict[str, Any]:
        """What was recorded with `name`."""
        return self._records[name]

    @property
    def may_be_whole(self) -> bool:
        """Whether an earlier run noted what all artifacts were made from, and nothing says that this has changed."""
        return bool(self._whole) and not (self.overwrite or self._planned or any(map(self.is_edited, self._records)))

    def whole(self, key: str) -> dict[str, Any] | None:
        """The facts that were noted with `finish` under that key, if all artifacts are as they were then."""
        if not self.may_be_whole or self._whole["all"] != key:
            return None
        as_noted = all(self.is_finished(name, record["key"]) for name, record in self._records.items())
        return dict(self._whole["facts"]) if as_noted else None

    def finish(self, key: str | None = None, facts: Mapping[str, Any] | None = None) -> None:
        """Put the ledger in its final form: sorted, nothing planned, those of shards taken over.

        Args:
            key: What all artifacts together were made from; a later run may ask for it (see `whole`), but not a shard.
            facts: What such a run wants to know.
        """
        if is_rehearsal():  # without a plan: all was finished before
            note(Plan(self.folder, keep=tuple(self.names())))
            raise Rehearsed
        _remove_parts(self.folder, self._planned)  # of workers that were lost, whose tasks others did
        self._planned = set(self._unfinished)
        self._whole = {} if key is None or self.shard else {"all": key, "facts": dict(facts or {})}
        self._rewrite()
        for ledger in () if self.shard else self._of_shards("ledger.jsonl"):
            ledger.unlink()

    def is_finished(self, name: str, key: str) -> bool:
        """Whether `name` was made from what `key` says, and is as it was then."""
        record = self._records.get(name)
        path = self.folder / name
        if self.overwrite or record is None or record["key"] != key:
            return False
        if record["sha256"] == NOTHING:
            return not path.exists()  # and nobody put one there
        return path.is_file() and bool(digest(path) == record["sha256"])

    def _check_free(self, name: str) -> None:
        path, record = self.folder / name, self._records.get(name)
        if not path.exists() or name in self._planned:
            return
        if record is None:
            raise OutputError(
                path, "a file that this stage did not write", "no file there", "Move it away, or run with --overwrite."
            )
        if not self._keeps_edits(name) and _is_edited(record, digest(path)):
            raise OutputError(path, "changed since this stage wrote it", "the file as it was written", EDITED)

    def _tell_edited(self) -> None:
        names = sorted(name for name in self._mine if self.is_edited(name))
        if names:
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            say(
                f"{self.folder}: edited by hand, and kept: {', '.join(names[:3])}{more}; the report is of the originals"
            )

    def _rewrite(self) -> None:
        if self._log:
            self._log.close()
            self._log = None
        names = sorted(self._planned)
        if self.shard and not (names or self._mine):
            return  # nothing is this shard's own
        own = [self._records[name] for name in sorted(self._records) if not self.shard or name in self._mine]
        lines = [record for record in own if record["name"] in self._planned]  # of an earlier run
        lines += [{"planned": names}] if names else []
        lines += [record for record in own if record["name"] not in self._planned]
        lines += [self._whole] if self._whole else []
        text = "".join(map(line_of, lines))
        if self._ledger.is_file() and self._ledger.read_bytes() == text.encode():
            return
        with committed(self._ledger) as part:
            part.write_text(text, encoding="utf-8")


def _is_edited(record: Mapping[str, Any], sha: str) -> bool:
    return bool(record["sha256"] != sha or record.get("edited"))


def recorded(folder: Path, stage: str) -> dict[str, dict[str, Any]]:
    """What a stage recorded of the artifacts that it finished in a folder, by their names; {} where it did not."""
    return read_ledger(folder / f".{stage}.ledger.jsonl").records


class _Lock:
    """A lock on a file, held from the start; the system lets go of it when this process ends, however it ends.

    Raises:
        LockedError: Another process holds it, and not both want to share it.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        self._file = self._take(fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            os.ftruncate(self._file.fileno(), 0)
            os.write(self._file.fileno(), f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())

    def _take(self, kind: int) -> TextIO:
        while True:
            with disk_errors(self._path):
                file = open_plain(self._path)
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(file)
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


def _holder(file: TextIO) -> str:
    """Who holds a lock, as its file says; who has just taken it may not have written that yet."""
    for _ in range(20):
        file.seek(0)
        if holder := file.read().strip():
            return holder
        time.sleep(0.05)
    return "another run"
