"""How many frames a second the training generator makes, beside scikit-image's resize alone on the same frames.

python bench/generator.py [--size 650] [--bands 8] [--dtype uint16] [--rounds 5] [--json FILE]
The generator reads GeoTIFFs and masks, resizes them, flips them at random and puts them into batches, in a thread for
each core (`taskset -c 0,1` gives it two). First epoch: from files, which the system has in its cache. Second: from what
the generator has kept. The peer resizes, in one process, pixels that are in memory already. All make the same pixels,
which is checked first.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from skimage.transform import resize

from roofkit.pairs import Pair
from roofkit.raster import Grid, open_raster, read_pixels, write_raster
from roofkit.settings import LoadDatasetArgs
from roofkit.workers import cores
from unet.backend import start_keras

start_keras()
from unet.datagen import Augmentation, RoofFrames

RANGES = {"uint8": (90, 30), "uint16": (600, 200), "int16": (600, 200), "float32": (600, 200)}  # mean, deviation
NOISE = (
    0.05  # of the deviation: fine enough that files are a bit more than half of their pixels, as satellite images are
)


def scenery(rng: np.random.Generator, options: argparse.Namespace) -> np.ndarray[Any, Any]:
    """A frame (bands, size, size) that is smooth and noisy, as ground is, so that it compresses as imagery does."""
    mean, deviation = RANGES[options.dtype]
    shape = (options.size, options.size)
    ground = ndimage.gaussian_filter(rng.normal(size=shape), 4)
    ground = ground / ground.std() + NOISE * rng.normal(size=(options.bands, *shape))
    values = np.clip(mean + deviation * ground, 0, 255 if options.dtype == "uint8" else 2047)
    return np.asarray(values.astype(options.dtype))


def make_pairs(folder: Path, options: argparse.Namespace) -> list[Pair]:
    """Frames and masks in files, as chip and mask write them."""
    rng, side = np.random.default_rng(0), options.size
    grid = Grid(CRS.from_epsg(32645), Affine(0.5, 0, 3e5, 0, -0.5, 3e6), side, side)
    pairs = [Pair(folder / f"frames/{i}.tif", folder / f"masks/{i}.tif") for i in range(options.frames)]
    for pair in pairs:
        roof = ndimage.gaussian_filter(rng.normal(size=(1, side, side)), (0, 6, 6)) > 0.05
        for path, pixels in ((pair.frame, scenery(rng, options)), (pair.mask, roof.astype(np.uint8) * 255)):
            path.parent.mkdir(exist_ok=True)
            write_raster(path, pixels, None, grid)
    return pairs


def by_skimage(pixels: np.ndarray[Any, Any], target: int) -> np.ndarray[Any, Any]:
    """A frame (bands, target, target) as the peer resizes it."""
    options = dict(order=1, mode="symmetric", anti_aliasing=target < pixels.shape[1], preserve_range=True)
    return np.stack([resize(band.astype(np.float32), (target, target), **options) for band in pixels])


def check(pairs: Sequence[Pair], frames: Sequence[np.ndarray[Any, Any]], settings: LoadDatasetArgs) -> None:
    """Stop where the generator makes other pixels than the peer."""
    images = np.concatenate([batch[0] for batch in RoofFrames(pairs, settings)])
    for image, pixels in zip(images, frames, strict=True):
        expected = np.moveaxis(by_skimage(pixels, settings.target_size[0]), 0, -1)
        np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6 * float(pixels.max()))


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def timed(pairs: Sequence[Pair], frames: Sequence[np.ndarray[Any, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Frames a second in each round, for the generator's two epochs and the peer."""
    settings = LoadDatasetArgs(
        target_size=(options.target, options.target), channels=options.bands, batch_size=options.batch
    )
    check(pairs, frames, settings)
    statistics = RoofFrames(pairs, settings).measure()
    rates: dict[str, list[float]] = {"first epoch": [], "second epoch": [], "skimage resize": []}
    for round_ in range(options.rounds + 1):
        source = RoofFrames(pairs, settings, seed=round_)
        source.augmentation = Augmentation(settings, statistics)
        work: dict[str, Callable[[], object]] = {
            "first epoch": lambda source=source: [len(batch) for batch in source],
            "second epoch": lambda source=source: [len(batch) for batch in source],
            "skimage resize": lambda: [by_skimage(pixels, options.target) for pixels in frames],
        }
        for name, one in work.items():
            taken = seconds_of(one)
            if round_:  # the first one compiles
                rates[name].append(len(pairs) / taken)
    return rates


def show(rates: dict[str, list[float]], title: str) -> None:
    """Print the table."""
    table = Table("", "frames a second (median)", "least", "most", "times the peer", title=title)
    peer = median(rates["skimage resize"])
    for name, found in rates.items():
        values = (f"{value:.1f}" for value in (median(found), min(found), max(found), median(found) / peer))
        table.add_row(name, *values)
    Console().print(table)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=650, help="side of a frame in its file")
    parser.add_argument("--target", type=int, default=640, help="side of a frame in a batch")
    parser.add_argument("--bands", type=int, default=8)
    parser.add_argument("--dtype", choices=RANGES, default="uint16")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = make_pairs(Path(folder), options)
        frames = []
        for pair in pairs:
            with open_raster(pair.frame) as src:
                frames.append(read_pixels(src)[0])
        share = sum(pair.frame.stat().st_size for pair in pairs) / sum(pixels.nbytes for pixels in frames)
        rates = timed(pairs, frames, options)
    frame = f"{options.size} x {options.size} x {options.bands} {options.dtype}, files {share:.0%} of pixels"
    show(rates, f"{frame}, to {options.target}, batches of {options.batch}, {cores()} cores")
    if options.json:
        facts = {**vars(options), "json": None, "cores": cores(), "file_share": share, "frames_a_second": rates}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
