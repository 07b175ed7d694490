"""What hostile files are tried with: secrets that must not be read, a server that must not be called, a runner.

Cases run in a process of their own, so that one that ends the interpreter is seen as that.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
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


def write_tiff(path: Path, array: np.ndarray, **profile: object) -> Path:
    """A GeoTIFF of an array (bands, rows, cols)."""
    bands, rows, cols = array.shape
    options = {"count": bands, "height": rows, "width": cols, "crs": "EPSG:32644", "transform": GRID} | profile
    with gdal_env(), rasterio.open(path, "w", driver="GTiff", dtype=array.dtype, **options) as dst:
        dst.write(array)
    return path


def run_python(code: str, given: str = "", *argv: object) -> "subprocess.CompletedProcess[str]":
    """A process of this interpreter that runs code of this project."""
    line = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}", *map(str, argv)]
    return subprocess.run(line, input=given, capture_output=True, text=True, timeout=600)
