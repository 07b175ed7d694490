"""What lies at the final path after a fault: this project beside GDAL, rasterio and Keras, as a table in Markdown.

python bench/faults.py OUT [--part kill|disk|bits|mixed] [--side 3000]
kill   SIGKILL at ten points of a run, evenly spaced over the time that it takes undisturbed: what is at the final path?
disk   A file system in memory of 23 sizes up to more than the result needs (as root; else a limit on the size of
       files): how often does the tool end with 0 and leave a wrong file?
bits   150 single-bit flips of a GeoTIFF, for each codec: how often are wrong pixels read without a word? Ours are
       looked at as stages do before they read them.
mixed  Two tiles that do not belong together: the exit status, and what comes out.
The tools get the same two tiles of --side pixels, and write deflate. Needs gdal-bin and python3-gdal for their rows.
"""

import argparse
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("kill", "disk", "bits", "mixed")
POINTS, SIZES, FLIPS = 10, 23, 150
STATES = ("wrong", "unreadable", "0 bytes", "absent", "complete")
DEFLATE = ("-co", "COMPRESS=DEFLATE", "-co", "TILED=YES")
KERAS = """
import sys, numpy as np
sys.path.insert(0, {root!r})
from unet.backend import start_keras
keras = start_keras()
keras.utils.set_random_seed(0)
layers = [keras.Input((64, 64, 4)), *(keras.layers.Conv2D(256, 3, padding="same") for _ in range(12))]
model = keras.Sequential([*layers, keras.layers.Conv2D(1, 1, activation="sigmoid")])
from pathlib import Path
path = Path({path!r})
print("ready", flush=True)
{save}
print("saved", flush=True)
"""
OURS = """
from unet.model_file import save_model
save_model(model, path, {"threshold": 0.5, "frame_size": [64, 64], "data_format": "channels_last", "band_names": []})
"""


@dataclass(frozen=True)
class Tool:
    """A command that writes one file, and how that file is looked at."""

    name: str
    line: list[str]
    out: Path
    read: Callable[[Path], Any]
    ready: bool = False
    """It says when it begins to write, and when it has: it is killed between."""


def make_tiles(folder: Path, side: int) -> list[Path]:
    """Two tiles side by side, in blocks, that shrink to about a half."""
    rng = np.random.default_rng(0)
    paths = [folder / "tiles" / name for name in ("west.tif", "east.tif")]
    for number, path in enumerate(paths):
        pixels = rng.integers(0, 16, (3, side, side)).astype("uint8") * 9
        write(path, pixels, Affine(0.5, 0, 735000 + number * side * 0.5, 0, -0.5, 2960000))
    return paths


def write(path: Path, pixels: NDArray[Any], transform: Affine, crs: str = "EPSG:32644", **options: Any) -> Path:
    """Write a GeoTIFF the plain way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = dict(driver="GTiff", count=len(pixels), height=pixels.shape[1], width=pixels.shape[2], dtype=pixels.dtype)
    profile |= dict(crs=crs, transform=transform, tiled=True, compress="deflate") | options
    with rasterio.open(path, "w", **profile) as dst:
        dst.write(pixels)
    return path


def pixels_of(path: Path) -> NDArray[Any]:
    """All pixels of a raster."""
    with rasterio.open(path) as src:
        return np.asarray(src.read())


def weights_of(path: Path) -> list[Any]:
    """The weights in a file of Keras, by their names."""
    import h5py

    found: list[Any] = []
    source: Any = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5")) if path.suffix == ".keras" else path
    with h5py.File(source) as file:
        file.visititems(lambda name, item: found.append((name, item[()].tobytes())) if hasattr(item, "shape") else None)
    return sorted(found)


def rasters(out: Path, tiles: Sequence[Path]) -> list[Tool]:
    """The tools that write rasters, those that are there."""
    west, east = map(str, tiles)
    lines = {
        "gdal_translate": ["gdal_translate", "-q", *DEFLATE, west],
        "gdalwarp": ["gdalwarp", "-q", *DEFLATE, west, east],
        "gdal_merge.py": ["gdal_merge.py", "-q", *DEFLATE, west, east, "-o"],
        "rio merge": [str(ROOT / ".venv/bin/rio"), "merge", "--co", "compress=deflate", west, east],
        "ours: mosaic": [sys.executable, str(ROOT / "mosaic/mosaic.py"), "--quiet", str(tiles[0].parent)],
    }
    found = {name: line for name, line in lines.items() if shutil.which(line[0])}
    for name in set(lines) - set(found):
        print(f"{name} is not installed: left out", file=sys.stderr)
    return [Tool(name, [*line, str(out / "x.tif")], out / "x.tif", pixels_of) for name, line in found.items()]


def models(out: Path) -> list[Tool]:
    """Ways of saving a network."""
    saves = {
        "Keras .h5": ("x.h5", "model.save(path)"),
        "Keras .keras": ("x.keras", "model.save(path)"),
        "Keras .weights.h5": ("x.weights.h5", "model.save_weights(path)"),
        "ours: train .h5": ("y.h5", OURS),
        "ours: train .keras": ("y.keras", OURS),
    }
    return [
        Tool(title, [sys.executable, "-c", KERAS.format(root=str(ROOT), path=str(out / name), save=save)],
             out / name, weights_of, ready=True)
        for title, (name, save) in saves.items()
    ]  # fmt: skip


def start(tool: Tool, limit: int | None = None) -> "subprocess.Popen[bytes]":
    """Start a tool; return when it begins to write, where it says so."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)) if limit else None
    process = subprocess.Popen(
        tool.line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, preexec_fn=limited
    )
    if tool.ready and process.stdout:
        process.stdout.readline()
    return process


def clear(folder: Path) -> None:
    """Have an empty folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder.mkdir(exist_ok=True)


def state_of(tool: Tool, whole: Any) -> str:
    """What lies at the final path."""
    if not tool.out.exists():
        return "absent"
    if not tool.out.stat().st_size:
        return "0 bytes"
    try:
        found = tool.read(tool.out)
    except (RasterioError, OSError, KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile):
        return "unreadable"
    same = np.array_equal(found, whole) if isinstance(whole, np.ndarray) else found == whole
    return "complete" if same else "wrong"


def undisturbed(tool: Tool, runs: int = 3) -> tuple[Any, float]:
    """What a tool writes when nothing disturbs it, and the seconds that it takes: the median of some runs."""
    seconds = []
    for _ in range(runs):
        clear(tool.out.parent)
        with start(tool) as process:
            started = time.monotonic()
            if tool.ready and process.stdout:
                process.stdout.readline()
            else:
                process.communicate()
            seconds.append(time.monotonic() - started)
        if process.returncode:
            sys.exit(f"{tool.name} does not work: {' '.join(tool.line)}")
    return tool.read(tool.out), float(np.median(seconds))


def kill(folder: Path, tiles: Sequence[Path]) -> None:
    """SIGKILL at ten points of each tool; for models an earlier, good one is in place first."""
    out = folder / "out"
    print(f"\n| kill -9 at {POINTS} points | {' | '.join(STATES)} |\n|---|{'---|' * len(STATES)}")
    for tool in [*rasters(out, tiles), *models(out)]:
        whole, seconds = undisturbed(tool)
        counts: Counter[str] = Counter()
        for point in range(POINTS):
            if not tool.ready:
                clear(out)
            with start(tool) as process:
                time.sleep(seconds * (point + 0.5) / POINTS)
                process.send_signal(signal.SIGKILL)
            counts[state_of(tool, whole)] += 1
            if tool.ready and state_of(tool, whole) != "complete":
                undisturbed(tool, 1)
        print(f"| {tool.name} | {' | '.join(str(counts[state]) for state in STATES)} |", flush=True)


def disk(folder: Path, tiles: Sequence[Path]) -> None:
    """Disks, or files, of 23 sizes."""
    out = folder / "disk"
    clear(out)
    is_mounted = mount(out, 2**30)
    way = "disks" if is_mounted else "limits on a file's size"
    print(f"\n| {SIZES} {way} | exit 0, wrong file | exit 0, complete | error |\n|---|---|---|---|")
    for tool in rasters(out, tiles):
        whole, _ = undisturbed(tool)
        need = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        counts: Counter[str] = Counter()
        for size in np.linspace(0.02, 1.1, SIZES) * need:
            if is_mounted:
                mount(out, int(size))
            clear(out)
            with start(tool, None if is_mounted else int(size)) as process:
                process.communicate()
            state = state_of(tool, whole)
            counts["error" if process.returncode else "complete" if state == "complete" else "wrong"] += 1
        print(
            f"| {tool.name} | {' | '.join(str(counts[kind]) for kind in ('wrong', 'complete', 'error'))} |", flush=True
        )
        if is_mounted:
            mount(out, 2**30)
    if is_mounted:
        subprocess.run(["umount", str(out)], check=True)


def mount(folder: Path, size: int) -> bool:
    """Have a file system in memory of that size at a folder; whether that is allowed."""
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)
    line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return not subprocess.run(line, capture_output=True).returncode


def bits(folder: Path) -> None:
    """Single-bit flips, read by rasterio as they are, and looked at as our stages do."""
    from roofkit.artifacts import Outputs
    from roofkit.errors import BadInputError
    from roofkit.ledger import input_digest

    rng, side = np.random.default_rng(0), 256
    base = np.add.outer(np.arange(side), np.arange(side)) // 4
    pixels = np.stack([base + band for band in range(3)]).astype("uint8") + rng.integers(0, 2, (3, side, side), "uint8")
    print(f"\n| {FLIPS} flips | silently wrong with rasterio | read as before | error | not found by ours |")
    print("|---|---|---|---|---|")
    for codec in ("none", "zstd", "lzw", "deflate"):
        place = folder / "bits" / codec
        shutil.rmtree(place, ignore_errors=True)
        path = write(place / "x.tif", pixels, Affine(0.5, 0, 0, 0, -0.5, 0), compress=codec)
        with Outputs(place, "chip") as outputs:
            outputs.plan({})
            outputs.record("x.tif", "1")
            outputs.finish()
        whole, counts = path.read_bytes(), Counter[str]()
        for _ in range(FLIPS):
            found = bytearray(whole)
            found[int(rng.integers(len(found)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(found)
            try:
                counts["same" if np.array_equal(pixels_of(path), pixels) else "wrong"] += 1
            except (RasterioError, ValueError, MemoryError):
                counts["error"] += 1
            try:
                input_digest(path)
                counts["unseen"] += 1
            except BadInputError:
                pass
        print(
            f"| {codec} | {' | '.join(str(counts[kind]) for kind in ('wrong', 'same', 'error', 'unseen'))} |",
            flush=True,
        )


def mixed(folder: Path) -> None:
    """Tiles that do not belong together."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 200, (3, 300, 300)).astype("uint8")
    place, beside = Affine(0.5, 0, 735000, 0, -0.5, 2960000), Affine(0.5, 0, 735150, 0, -0.5, 2960000)
    second: dict[str, Callable[[Path], object]] = {
        "another CRS": lambda path: write(path, pixels, beside, "EPSG:32645"),
        "uint16 beside uint8": lambda path: write(path, np.full((3, 300, 300), 40000, "uint16"), beside),
        "half a pixel off": lambda path: write(path, pixels, beside @ Affine.translation(0.5, 0)),
        "not an image": lambda path: path.write_bytes(b"junk" * 999),
    }
    print("\n| mixed inputs | tool | exit status | what comes out |\n|---|---|---|---|")
    for fault, make in second.items():
        tiles = [folder / "mixed" / fault.replace(" ", "_") / name for name in ("a.tif", "b.tif")]
        write(tiles[0], pixels, place)
        make(tiles[1])
        out = folder / "out"
        merging = [tool for tool in rasters(out, tiles) if "merge" in tool.name or "ours" in tool.name]
        for tool in [*merging, *vrt(out, tiles)]:
            clear(out)
            with start(tool) as process:
                process.communicate()
            print(f"| {fault} | {tool.name} | {process.returncode} | {comes_out(tool)} |", flush=True)


def vrt(out: Path, tiles: Sequence[Path]) -> list[Tool]:
    """gdalbuildvrt, where it is installed."""
    line = ["gdalbuildvrt", "-q", str(out / "x.vrt"), *map(str, tiles)]
    return [Tool("gdalbuildvrt", line, out / "x.vrt", pixels_of)] if shutil.which(line[0]) else []


def comes_out(tool: Tool) -> str:
    """What a tool made of two tiles, of which the first is fine."""
    if not tool.out.exists():
        return "no file"
    found = tool.read(tool.out)
    right = found[:, :, 300:]
    return f"{found.shape[2]} columns of {found.dtype}; the second tile's: {'none' if not right.any() else right.max()}"


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder for scratch files")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--side", type=int, default=3000, metavar="N", help="pixels along a tile's side")
    options = parser.parse_args()
    folder = options.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tiles = make_tiles(folder, options.side)
    parts: dict[str, Callable[[], None]] = {
        "kill": lambda: kill(folder, tiles),
        "disk": lambda: disk(folder, tiles),
        "bits": lambda: bits(folder),
        "mixed": lambda: mixed(folder),
    }
    for part in options.part:
        parts[part]()


if __name__ == "__main__":
    main()
