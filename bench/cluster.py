"""What a task costs beside its work: here, in a pool of processes, on a Dask cluster of this machine, in shards.

python bench/cluster.py OUT [--tasks 400] [--rounds 5] [--json FILE]

`nothing` are tasks without work: milliseconds a task is what handing it out costs. `chip` cuts one scene of 4,096 x
4,096 pixels into chips of 128, whole processes: seconds, and whether every way gives the same bytes. Dask's scheduler
and two workers are started here and stopped again.
"""

import argparse
import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from roofkit.workers import map_items

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stages import make_scene, run, spread, stage

WORKERS = 2


def nothing(number: int) -> int:
    """A task without work."""
    return number


@contextlib.contextmanager
def dask(folder: Path) -> Iterator[str]:
    """The address of a scheduler with two workers of one thread each."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{found.getsockname()[1]}"
    start = [sys.executable, "-m"]
    lines = [[*start, "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]]
    worker = [*start, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    lines += [[*worker, "--local-directory", str(folder)]] * WORKERS
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(line, **quiet) for line in lines]
    try:
        time.sleep(5)
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def per_task(tasks: int, rounds: int, **where: Any) -> list[float]:
    """Milliseconds a task, without the start of the pool or client: the difference of many tasks and few."""
    found = []
    for _ in range(rounds):
        seconds = []
        for count in (WORKERS * 4, tasks):
            started = time.perf_counter()
            assert list(map_items(nothing, range(count), **where)) == list(range(count))
            seconds.append(time.perf_counter() - started)
        found.append((seconds[1] - seconds[0]) / (tasks - WORKERS * 4) * 1000)
    return found


def bytes_of(folder: Path) -> str:
    """A hash of all files in a folder, names included."""
    sha = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        sha.update(path.name.encode() + path.read_bytes())
    return sha.hexdigest()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    scene = make_scene(out / "scene.tif", 4096, 4, "uint8")
    table = Table("way", "nothing, ms a task", "chip, s", "bytes", title="medians (least to most)")
    found, digests = {}, set()
    with dask(out / "dask") as address:
        cut = [*stage("chip", scene, "OUT", "--size", "128")]
        ways: dict[str, tuple[dict[str, Any], list[list[str]]]] = {
            "one process": ({"workers": 1}, [[*cut, "--workers", "1"]]),
            f"pool of {WORKERS}": ({"workers": WORKERS}, [[*cut, "--workers", str(WORKERS)]]),
            f"Dask, {WORKERS} workers": ({"scheduler": address}, [[*cut, "--scheduler", address]]),
            "4 shards, one after another": ({}, [*([*cut, "--shard", f"{i}/4"] for i in range(4)), cut]),
        }
        for name, (where, commands) in ways.items():
            cost = per_task(options.tasks, options.rounds, **where) if where else []
            seconds = [run(commands, out / "chips") for _ in range(options.rounds)]
            digests.add(bytes_of(out / "chips"))
            found[name] = {"ms a task": median(cost) if cost else None, "chip seconds": median(seconds)}
            same = "same" if len(digests) == 1 else "OTHER"
            table.add_row(name, spread(cost) if cost else "", spread(seconds), same)
    shutil.rmtree(out / "chips")
    Console(width=110).print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
