"""cluster: on Dask, with workers that are killed or absent, stages give the bytes that one process gives."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roofkit.artifacts import Outputs, committed, show_run
from roofkit.cluster import _attempted, map_on_cluster
from roofkit.errors import BadInputError, ClusterError, OutputError
from roofkit.options import stage_parser
from roofkit.shards import Shard
from roofkit.workers import once

pytest.importorskip("distributed", reason="Dask is not installed (the extra cluster)")
ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Cluster:
    """A Dask scheduler and workers, each a process of its own."""

    folder: Path
    address: str = field(default_factory=lambda: f"tcp://127.0.0.1:{free_port()}")
    processes: list[Any] = field(default_factory=list)

    def start(self, *words: str) -> Any:
        command = [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:], "--no-dashboard"]
        with (self.folder / f"{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        self.processes.append(process)
        return process

    def scheduler(self) -> None:
        self.start("scheduler", "--host", self.address)

    def worker(self) -> Any:
        return self.start("worker", self.address, "--nthreads", "1", "--no-nanny", "--memory-limit", "0")

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    found.scheduler()
    for _ in range(2):
        found.worker()
    yield found
    found.stop()


def run(stage: str, *words: object) -> dict[str, Any]:
    """The report of a stage that ran as a script."""
    line = [sys.executable, str(ROOT / stage / f"{stage}.py"), *map(str, words), "--quiet", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def scenes(tmp_path: Path, make_raster: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 200, (3, 300, 280)).astype("uint16")
    pixels[:, :, :70] = 0
    make_raster(pixels, "scenes/a.tif", nodata=0)
    make_raster(pixels[:, ::-1], "scenes/b.tif", nodata=0)
    return tmp_path / "scenes"


def labels(path: Path) -> Path:
    import geopandas as gpd
    from shapely.geometry import box

    corners = [(735000 + 40 + 11 * i, 2960000 - 20 - 9 * i) for i in range(9)]
    shapes = [box(x, y - 6, x + 8, y) for x, y in corners]
    path.parent.mkdir(parents=True, exist_ok=True)
    gpd.GeoDataFrame(geometry=shapes, crs="EPSG:32644").to_file(path)
    return path


@pytest.mark.slow  # test_a_worker_killed_half_way compares chips
def test_chips_masks_and_tables_are_those_of_one_process(cluster, scenes, tmp_path):
    (tmp_path / "labels").mkdir()
    roofs = labels(tmp_path / "labels/roofs.gpkg")
    for where, options in (("one", ["--workers", 1]), ("dask", ["--scheduler", cluster.address])):
        out = tmp_path / where
        run("chip", scenes, out / "chips", "--size", 64, *options)
        run("mask", out / "chips", roofs, out / "masks", *options)
        run("flatten", out / "chips", out / "pixels.csv", "--sample", 900, *options)
        run("flatten", scenes, out / "pixels.parquet", *options)
    found, expected = contents(tmp_path / "dask"), contents(tmp_path / "one")
    assert found == expected
    assert len(expected) > 100


@pytest.mark.slow
def test_a_map_is_that_of_one_process(cluster, scenes, tmp_path):
    from unet.backend import start_keras

    keras = start_keras()
    from unet.model_file import save_model

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Rescaling(1 / 200), keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")]
    facts = {"threshold": 0.5, "frame_size": [64, 64], "data_format": "channels_last", "band_names": []}
    save_model(keras.Sequential([keras.Input((64, 64, 3)), *layers]), tmp_path / "model.h5", facts)
    (tmp_path / "settings.json").write_text(json.dumps({"predict_args": {"block_size": 256}}))
    for where, options in (("one", []), ("dask", ["--scheduler", cluster.address])):
        words = ["--vectors", tmp_path / where / "roofs.fgb", "--settings", tmp_path / "settings.json", *options]
        run("predict", tmp_path / "model.h5", scenes, tmp_path / where / "map", *words)
    found, expected = contents(tmp_path / "dask"), contents(tmp_path / "one")
    assert found == expected
    assert "map/a/a_r256_c256.tif" in expected


def test_a_worker_killed_half_way(cluster, scenes, tmp_path):
    """Its tasks run again on the others; nothing of it is left."""
    victim = cluster.worker()
    words = [scenes, tmp_path / "dask", "--size", 16, "--quiet", "--scheduler", cluster.address]
    process = subprocess.Popen([sys.executable, str(ROOT / "chip/chip.py"), *map(str, words)])
    while process.poll() is None and len(list((tmp_path / "dask").glob("*.tif"))) < 60:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    run("chip", scenes, tmp_path / "one", "--size", 16)
    assert contents(tmp_path / "dask") == contents(tmp_path / "one")


def double(number: int) -> int:
    if number == 7:
        raise BadInputError("seven.tif", "a seven", "another number", "Leave it out.")
    return 2 * number


def test_results_come_in_order_and_an_error_ends_the_run(cluster):
    work = eval("lambda number: __import__('time').sleep(0.2 if number == 0 else 0) or 2 * number")  # sent by value
    assert list(map_on_cluster(work, range(20), cluster.address)) == [2 * n for n in range(20)]
    by_value = type(double)(double.__code__, {"BadInputError": BadInputError, "__name__": "__main__"})
    with pytest.raises(BadInputError, match=r"^seven.tif: a seven; expected another number. Leave it out.$"):
        list(map_on_cluster(by_value, range(9), cluster.address))


def test_a_task_that_ends_every_worker(tmp_path):
    lonely = Cluster(tmp_path)
    lonely.scheduler()
    for _ in range(5):
        lonely.worker()
    try:
        work = eval("lambda number: __import__('os').kill(__import__('os').getpid(), 9)")
        with pytest.raises(ClusterError, match="a task that ended 4 workers"):
            list(map_on_cluster(work, [0], lonely.address))
    finally:
        lonely.stop()


def unreadable(number: int) -> int:
    try:
        raise OSError(number)
    except OSError as error:
        raise BadInputError("a.tif", "broken pixels", "a whole file", "Replace it.") from error


def test_a_problem_comes_without_its_cause():
    """GDAL's errors cannot be unpickled; with one as the cause, Dask hands on a text instead of the problem."""
    with pytest.raises(BadInputError, match=r"a\.tif: broken pixels") as caught:
        _attempted(unreadable, 1, True, ())
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_nobody_there(tmp_path, monkeypatch):
    monkeypatch.setattr("roofkit.cluster.TIMEOUT", 1)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers.*Start one: dask scheduler"):
        list(map_on_cluster(double, [1], f"tcp://127.0.0.1:{free_port()}"))
    alone = Cluster(tmp_path)
    alone.scheduler()
    monkeypatch.setattr("roofkit.cluster.TIMEOUT", 8)
    try:
        with pytest.raises(ClusterError, match="a scheduler without workers; expected at least one"):
            list(map_on_cluster(double, [1], alone.address))
    finally:
        alone.stop()


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://127.0.0.1", "tcp://127.0.0.1:notaport", "http://a:1", "tcp://:1"]
)
def test_what_is_no_address_of_a_scheduler(address, capsys):
    with pytest.raises(SystemExit) as ended:
        stage_parser("", cluster=True).parse_args(["--scheduler", address])
    assert ended.value.code == 2
    assert "is not an address like tcp://10.0.0.5:8786" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["tcp://10.0.0.5:8786", "tls://host.example:1", "tcp://[::1]:8786"])
def test_what_is_one(address):
    assert stage_parser("", cluster=True).parse_args(["--scheduler", address]).scheduler == address


def write(path: Path) -> str:
    with committed(path) as part:
        part.write_text("new")
    return path.read_text()


def test_a_worker_without_the_folder_is_named_before_any_work(cluster, tmp_path, monkeypatch):
    """It sees another folder of that name, in which an older result lies."""
    with Outputs(tmp_path / "here", "chip"):
        (sign,) = show_run("0" * 12)
        assert sign.name == f".chip.run-{'0' * 12}.{socket.gethostname()}"
        assert _attempted(write, tmp_path / "here" / "a", True, (sign,)) == "new"
        monkeypatch.setattr("roofkit.cluster.LATE", 0.3)
        elsewhere = tmp_path / "elsewhere" / sign.name
        with pytest.raises(ClusterError, match=r"elsewhere: a worker on .* that does not see it .*Mount it there"):
            _attempted(write, tmp_path / "b", True, (elsewhere,))
        monkeypatch.setattr("roofkit.cluster.show_run", lambda run: (elsewhere,))
        with pytest.raises(ClusterError, match=r"elsewhere: a worker on .* that does not see it"):
            list(map_on_cluster(write, [tmp_path / "b"], cluster.address))
    assert not (tmp_path / "b").exists()
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["a"]


def test_a_late_task_of_a_run_that_has_ended_changes_nothing(tmp_path):
    def late(path: Path) -> None:
        with committed(path) as part:
            part.write_text("late")
            first.__exit__(None, None, None)  # the run ends, and the next one writes the file
            path.write_text("new")

    with Outputs(tmp_path, "chip") as first:
        shown = show_run("1" * 12)
        with pytest.raises(OutputError, match=r"not the folder that the run on .* writes to"):
            _attempted(late, tmp_path / "a", True, shown)
    assert (tmp_path / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_sign_that_a_killed_run_left_goes_with_the_next(tmp_path):
    mine, other = (tmp_path / f".chip{shard}.run-{'a' * 12}.host" for shard in (".0of2", ".1of2"))
    for path in (mine, other):
        path.touch()
    with Outputs(tmp_path, "chip", shard=Shard(0, 2)):
        assert not mine.exists()
        assert other.exists()  # that shard may be at work
    with Outputs(tmp_path, "chip"):
        assert not other.exists()


def test_a_scheduler_that_goes_away(tmp_path):
    lonely = Cluster(tmp_path)
    lonely.scheduler()
    lonely.worker()
    script = (
        "import sys, time; from roofkit.cluster import map_on_cluster\n"
        "work = eval('lambda number: __import__(\"time\").sleep(number) or number')\n"
        "try:\n"
        "    for number in map_on_cluster(work, [0, 60], sys.argv[1]): print('done', flush=True)\n"
        "except Exception as error: sys.exit(f'{type(error).__name__}: {error}')\n"
    )
    try:
        line = [sys.executable, "-c", script, lonely.address]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "done\n"
        lonely.processes[0].kill()
        _, said = process.communicate(timeout=60)
    finally:
        lonely.stop()
    assert said.startswith(f"ClusterError: {lonely.address}: it went away")
    assert said.count("\n") == 1


def test_what_is_made_once_in_a_process():
    made = []
    for _ in range(3):
        assert once("a key of this test", lambda: made.append(1) or len(made)) == 1
    assert made == [1]
