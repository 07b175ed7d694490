"""What hostile files are tried with: secrets that must not be read, a server that must not be called, a runner.

Cases run in a process of their own, so that one that ends the interpreter is seen as that.
"""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from roofkit.raster import gdal_env

ROOT = Path(__file__).resolve().parents[2]
WORD = "CANARY-7f3a"
SECRET_PIXEL = 201
GRID = Affine(0.5, 0, 735000, 0, -0.5, 2960000)
RUNNER = """
import contextlib, importlib, io, json, sys
for stage, argv in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            rc = importlib.import_module(f"{stage}.{stage}").main(argv)
        except SystemExit as end:
            rc = end.code
    print(json.dumps({"rc": rc, "out": out.getvalue(), "err": err.getvalue()}), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a case ended."""

    rc: int
    out: str
    err: str

    def check_refused(self, words: str = "") -> None:
        """It is one named problem, and tells nothing of a secret."""
        lines = self.err.splitlines()
        assert self.rc == 1, self
        assert len(lines) == 1, self
        assert lines[0].startswith("error: "), self
        assert "; expected " in lines[0], self
        assert words in lines[0], self
        assert WORD not in self.out + self.err


@dataclass(frozen=True)
class Secrets:
    """Files that lie outside of the project."""

    folder: Path
    text: Path
    raster: Path
    vector: Path


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    """A text, a raster of the grid that hostile ones have, and a polygon on it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    text, raster, vector = folder / "secret.txt", folder / "secret.tif", folder / "secret.gpkg"
    text.write_text(f"{WORD}\n")
    write_tiff(raster, np.full((1, 64, 64), SECRET_PIXEL, np.uint8))
    square = shapely.box(735000, 2959970, 735030, 2960000)
    gpd.GeoDataFrame({"word": [WORD]}, geometry=[square], crs=32644).to_file(vector, driver="GPKG")
    return Secrets(folder, text, raster, vector)


def write_tiff(path: Path, array: np.ndarray, **profile: object) -> Path:
    """A GeoTIFF of an array (bands, rows, cols)."""
    bands, rows, cols = array.shape
    options = {"count": bands, "height": rows, "width": cols, "crs": "EPSG:32644", "transform": GRID} | profile
    with gdal_env(), rasterio.open(path, "w", driver="GTiff", dtype=array.dtype, **options) as dst:
        dst.write(array)
    return path


@pytest.fixture
def listener() -> Iterator[str]:
    """The address of a server of this machine that nobody may call."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()

        def wait() -> None:
            while not ended.is_set():
                try:
                    calls.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=wait)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        thread.join()
    assert not calls


@pytest.fixture(scope="session")
def run_cases() -> Callable[[Sequence[tuple[str, list[object]]]], list[Ended]]:
    """Runs stages one after the other in one process: (name of the stage, its arguments)."""

    def run(cases: Sequence[tuple[str, list[object]]]) -> list[Ended]:
        given = json.dumps([(stage, [str(part) for part in argv]) for stage, argv in cases])
        done = run_python(RUNNER, given)
        found = [Ended(**json.loads(line)) for line in done.stdout.splitlines()]
        assert done.returncode == 0, f"the interpreter ended at case {len(found)}: {cases[len(found)]} {done.stderr}"
        assert len(found) == len(cases)
        return found

    return run


def run_python(code: str, given: str = "", *argv: object) -> "subprocess.CompletedProcess[str]":
    """A process of this interpreter that runs code of this project."""
    line = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}", *map(str, argv)]
    return subprocess.run(line, input=given, capture_output=True, text=True, timeout=600)
