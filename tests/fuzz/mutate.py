"""Damage sound files at random and give them to the readers, each in a process of its own that may crash.

    python tests/fuzz/mutate.py KIND [--minutes 30] [--seed 0] [--keep FOLDER]
    python tests/fuzz/mutate.py KIND --seed 0 --case 1234     one case again, with what it says

KIND is tif, vector, h5, keras or skops. A case is made of kind, seed and number alone. What is told apart: fine (read,
or a named error), traceback, wrong (a stage said something that it should not), noise (a library printed something),
leftovers, crash, hang (more than 20 s of work) and memory (more than 1.5 GiB beyond the start).
"""

import argparse
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent.parent)]

from corpus import FORMATS, make_corpus, repacked

HANG = 20.0  # seconds of the processor
WAIT = 180.0  # seconds of the clock: other work, and a worker that does nothing at all
TICKS = os.sysconf("SC_CLK_TCK")
MEMORY = 1.5 * 2**30
ODD = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1)
WORDS = (
    b"null",
    b"-1",
    b"0",
    b"1e999",
    b"[]",
    b"{}",
    b'""',
    b"true",
    b"NaN",
    b"99999999999999999999",
    b'"\\ud800"',
    b"0.5",
)


# ------------------------------------------------------------------------------------------------------- the damage


def damaged(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Some bytes of a file changed in one to four ways."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice((_flip, _flip, _odd, _odd, _number, _cut, _drop, _twice, _noise, _splice))(data, rng, others)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    """A place in the file, more often near its ends, where headers and directories are."""
    if not data:
        return 0
    end = rng.choice((len(data), min(len(data), 512), -min(len(data), 512)))
    return rng.randrange(end) if end > 0 else len(data) + end + rng.randrange(-end)


def _put(data: bytes, at: int, piece: bytes) -> bytes:
    return data[:at] + piece + data[at + len(piece) :]


def _flip(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    at = _place(data, rng)
    return _put(data, at, bytes([data[at] ^ 1 << rng.randrange(8)])) if data else data


def _odd(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    size, order = rng.choice("BHIQ"), rng.choice("<>")
    return _put(data, _place(data, rng), struct.pack(order + size, rng.choice(ODD) % 256 ** struct.calcsize(size)))


def _number(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    kind = rng.choice(("<d", ">d", "<f"))
    value = rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e300 if "d" in kind else 1e38, 1e-300))
    return _put(data, _place(data, rng), struct.pack(kind, value))


def _cut(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 4, 64, 1024)) :]


def _twice(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at : at + rng.choice((1, 4, 64, 1024))] + data[at:]


def _noise(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return _put(data, _place(data, rng), rng.randbytes(rng.choice((1, 4, 16, 256))))


def _splice(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def damaged_tiff(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One field of a directory changed: its tag, type, number of values, or value."""
    from roofkit.tiff import BIG, CLASSIC

    form = CLASSIC if data[:4] == CLASSIC.header[:4] else BIG if data[:4] == BIG.header[:4] else None
    if form is None:
        return damaged(data, rng, others)
    entries, (place,) = [], struct.unpack_from(form.offset, data, form.first)
    size = struct.calcsize(form.entry)
    while place:
        (number,) = struct.unpack_from(form.number, data, place)
        start = place + struct.calcsize(form.number)
        entries += [start + i * size for i in range(number)]
        (place,) = struct.unpack_from(form.offset, data, start + number * size)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.choice(entries)
        tag, kind, count, value = struct.unpack_from(form.entry, data, at)
        part = rng.choice(("tag", "kind", "count", "value", "value", "value"))
        room = len(value)
        tag = rng.choice((tag + 1, rng.randrange(254, 350), rng.randrange(65536))) if part == "tag" else tag
        kind = rng.randrange(20) if part == "kind" else kind
        count = rng.choice((0, 1, count + 1, count * 2, rng.choice(ODD))) % 2**32 if part == "count" else count
        if part == "value":
            new = rng.choice((*ODD, rng.randrange(300), rng.randrange(len(data))))
            value = (new % 2 ** (8 * room)).to_bytes(room, "little")
        data = _put(data, at, struct.pack(form.entry, tag % 65536, kind, count, value))
    return data


def damaged_json(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A document in which values are other values, missing, doubled or deep."""
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        parent, key = rng.choice(list(_children(document)))
        kind = rng.randrange(6)
        if kind == 0:
            del parent[key]
        elif kind == 1:
            other, at = rng.choice(list(_children(document)) or [(parent, key)])
            parent[key] = json.loads(json.dumps(other[at]))
        elif kind == 2:
            parent[key] = [parent[key]]
        elif kind == 3 and isinstance(parent, list):
            parent.insert(key, parent[key])
        else:
            parent[key] = _marker(rng)
        if not list(_children(document)):
            break
    text = json.dumps(document)
    for i, word in enumerate(WORDS):
        text = text.replace(f'"@{i}@"', word.decode())
    return text.encode()


def _marker(rng: random.Random) -> object:
    return rng.choice((f"@{rng.randrange(len(WORDS))}@", rng.choice(ODD), rng.uniform(-1e9, 1e9), "", "é\n", 1e300))


def _children(node: object) -> "list[tuple[object, object]]":
    """Every place in a document: what holds it, and the key there."""
    found = []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        found += [(node, key), *_children(child)]
    return found


def damaged_zip(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """An archive in good order, one entry of which is damaged."""
    import io

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = rng.choice(archive.namelist())
        content = archive.read(name)
    if name.endswith(".json") and rng.random() < 0.7:
        return repacked(data, {name: damaged_json(content, rng, others)})
    if name.endswith(".npy") and rng.random() < 0.5:
        return repacked(data, {name: _array(content, rng)})
    if name.endswith(".h5") and rng.random() < 0.5:
        return repacked(data, {name: damaged_h5(content, rng, others)})
    return repacked(data, {name: damaged(content, rng, [content])})


def _array(content: bytes, rng: random.Random) -> bytes:
    """An array some values of which are others."""
    import io

    import numpy as np

    array = np.load(io.BytesIO(content))
    flat = array.reshape(-1)
    for _ in range(rng.choice((1, 1, 3))):
        values = [rng.choice(ODD), rng.uniform(-5, 5), rng.randrange(9)]
        values += [float("nan"), float("inf"), -1e38] if array.dtype.kind == "f" else []
        if flat.size:
            flat[rng.randrange(flat.size)] = np.array(rng.choice(values)).astype(array.dtype)
    array = rng.choice((array, array, array[: rng.randrange(len(array) + 1)], array[::-1], array.astype("f8")))
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def damaged_h5(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A file in good order, of which a text (the network's description, say), an array or a name is damaged."""
    import io

    import h5py
    import numpy as np

    memory = io.BytesIO(data)
    with h5py.File(memory, "a") as file:
        items = [file]
        file.visititems(lambda name, item: items.append(item))
        texts = [(item, name) for item in items for name in item.attrs if isinstance(item.attrs[name], str | bytes)]
        arrays = [item for item in items if isinstance(item, h5py.Dataset)]
        kind = rng.randrange(6)
        if kind < 3 and texts:
            item, name = rng.choice(texts)
            text = item.attrs[name]
            text = text.encode() if isinstance(text, str) else text
            change = damaged_json if text.startswith(b"{") and rng.random() < 0.8 else damaged
            item.attrs[name] = np.bytes_(change(text, rng, [text]) or b" ")
        elif kind < 5 and arrays:
            array = rng.choice(arrays)
            values = array[()]
            flat = np.ravel(values)
            for _ in range(rng.choice((1, 1, 5))):
                if flat.size and flat.dtype.kind in "fiu":
                    flat[rng.randrange(flat.size)] = rng.choice((0, -1, float("nan"), float("inf"), 1e38, 3e4))
            parent, name = array.parent, array.name.rpartition("/")[2]
            del parent[name]
            shape = rng.choice((values.shape, values.shape, values.shape[::-1], (flat.size,), (*values.shape, 1)))
            with np.errstate(invalid="ignore"):
                parent[name] = flat.reshape(shape).astype(rng.choice((values.dtype, values.dtype, "f8", "i4")))
        else:
            item = rng.choice(items[1:])
            del item.parent[item.name.rpartition("/")[2]]
    return memory.getvalue()


def damaged_geopackage(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A database in good order, one value in a table of which is another one."""
    import sqlite3

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gpkg"
        path.write_bytes(data)
        base = sqlite3.connect(path)
        tables = ["gpkg_geometry_columns", "gpkg_contents", "gpkg_spatial_ref_sys", "roofs", "roofs", "sqlite_master"]
        try:
            base.execute("PRAGMA writable_schema = 1")
            for (trigger,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                base.execute(f'DROP TRIGGER "{trigger}"')
            table = rng.choice(tables)
            columns = [row[1] for row in base.execute(f"PRAGMA table_info({table})")]
            rows = [row[0] for row in base.execute(f"SELECT rowid FROM {table}")]
            column, row = rng.choice(columns), rng.choice(rows)
            (old,) = base.execute(f'SELECT "{column}" FROM {table} WHERE rowid = ?', (row,)).fetchone()
            raw = old if isinstance(old, bytes) else str(old).encode()
            new = damaged(raw, rng, [raw])
            value = rng.choice((new, new, new.decode(errors="replace"), None, rng.choice(ODD), float("inf"), ""))
            base.execute(f'UPDATE {table} SET "{column}" = ? WHERE rowid = ?', (value, row))
            base.commit()
        except (sqlite3.Error, OverflowError):
            pass
        base.close()
        return path.read_bytes()


SHAPED: dict[str, Callable[[bytes, random.Random, list[bytes]], bytes]] = {
    ".tif": damaged_tiff, ".geojson": damaged_json, ".gpkg": damaged_geopackage, ".h5": damaged_h5,
    ".keras": damaged_zip, ".skops": damaged_zip,
}  # fmt: skip


def make_case(kind: str, corpus: list[Path], seed: int, number: int, folder: Path) -> Path:
    """Write a damaged file, with the parts that belong to it, into an empty folder; its path."""
    rng = random.Random(f"{kind} {seed} {number}")
    sound = rng.choice(corpus)
    parts = sorted(sound.parent.glob(f"{sound.stem}.*")) if sound.suffix == ".shp" else [sound]
    parts = [part for part in parts if part.suffix in (".shp", ".shx", ".dbf", ".prj", ".cpg")] or [sound]
    victim = rng.choice(parts)
    others = [path.read_bytes() for path in corpus if path.suffix == sound.suffix]
    shaped = SHAPED.get(victim.suffix)
    change = shaped if shaped and rng.random() < 0.5 else damaged
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in parts:
        shutil.copy(part, folder)
    if victim.suffix == ".shx" and rng.random() < 0.2:
        (folder / victim.name).unlink()
    else:
        (folder / victim.name).write_bytes(change(victim.read_bytes(), rng, others))
    return folder / sound.name


# ------------------------------------------------------------------------------------------------------- the workers


class Worker:
    """A process that reads damaged files; another takes its place when it is gone."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.tasks = kind, folder, 0
        self.start()

    def start(self) -> None:
        """Start the process, and wait until it is ready."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        line = [sys.executable, str(Path(__file__).with_name("readers.py")), self.kind, str(self.folder)]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer = self._answer(WAIT, float("inf"))
        if answer.get("outcome") != "ready":
            raise RuntimeError(f"no worker for {self.kind}: {answer}")
        self.resting = self.memory()

    def memory(self) -> int:
        """Bytes that the process holds."""
        try:
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096
        except (OSError, IndexError):
            return 0

    def seconds(self) -> float:
        """How long the process has worked."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / TICKS
        except (OSError, IndexError):
            return 0.0

    def ask(self, path: Path, how: int) -> dict[str, str]:
        """Have a file read; how that went."""
        self.tasks += 1
        self.process.stdin.write(json.dumps({"path": str(path), "how": how}) + "\n")
        self.process.stdin.flush()
        answer = self._answer(HANG, self.resting + MEMORY)
        if answer["outcome"] in ("crash", "hang", "memory") or self.memory() > self.resting + 2**29:
            self.stop()
            self.start()
        return answer

    def _answer(self, seconds: float, memory: float) -> dict[str, str]:
        end, before = time.monotonic() + WAIT, self.seconds()
        while time.monotonic() < end and self.seconds() < before + seconds:
            if select.select([self.process.stdout], [], [], 0.02)[0]:
                line = self.process.stdout.readline()
                if line:
                    return json.loads(line)
                return {"outcome": "crash", "what": f"exit {self.process.wait()}"}
            if self.memory() > memory:
                return {"outcome": "memory", "what": f"{self.memory() / 2**30:.1f} GiB"}
        return {"outcome": "hang", "what": f"{self.seconds() - before:.0f} s of work"}

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def run(kind: str, *, seed: int, minutes: float, keep: Path, cases: range | None = None) -> Counter[str]:
    """Try cases until the time is up; those with a defect are kept, and listed in `keep/KIND.jsonl`."""
    found: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        corpus = make_corpus(kind, Path(scratch) / "corpus")
        worker = Worker(kind, Path(scratch) / "worker")
        end = time.monotonic() + 60 * minutes
        for number in cases or range(10**9):
            if time.monotonic() > end:
                break
            path = make_case(kind, corpus, seed, number, Path(scratch) / "case")
            answer = worker.ask(path, number)
            found[answer["outcome"]] += 1
            if answer["outcome"] == "fine":
                found[f"fine: {answer['what']}"] += 1
                continue
            signature = answer["outcome"] + answer["what"].strip().rpartition("\n")[2][:60]
            seen[signature] += 1
            if seen[signature] <= 5:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copytree(path.parent, keep / f"{kind}_{seed}_{number}", dirs_exist_ok=True)
                line = {"kind": kind, "seed": seed, "case": number, "file": path.name, **answer}
                with (keep / f"{kind}.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
                if cases:
                    print(answer["what"])
        worker.stop()
    return found


def main() -> int:
    """Run from the command line; 1 where a defect was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=FORMATS)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int)
    parser.add_argument("--keep", type=Path, default=Path("found"), help="folder for files that showed a defect")
    given = parser.parse_args()
    cases = None if given.case is None else range(given.case, given.case + 1)
    found = run(given.kind, seed=given.seed, minutes=given.minutes, keep=given.keep, cases=cases)
    tried = sum(count for name, count in found.items() if ":" not in name)
    print(
        f"{given.kind}, seed {given.seed}: {tried:,} cases; "
        + ", ".join(f"{n} {c:,}" for n, c in sorted(found.items()))
    )
    return int(tried > found["fine"])


if __name__ == "__main__":
    sys.exit(main())
