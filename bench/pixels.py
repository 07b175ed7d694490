"""How good and how fast forest and regression are: accuracy, and speed beside scikit-learn and scikit-image.

python bench/pixels.py OUT [--banepa FOLDER] [--sample] [--seeds 0] [--rounds 5] [--picture FILE.jpg]
FOLDER holds scenes/*.tif and labels/*. Accuracy is that of bench/accuracy.py, on the same frames as the network's.
Speed is measured on one scene of that imagery (1024 x 1024 pixels at most), ours and the peer's in turn, results
compared first:
  features  those of skimage.feature.multiscale_basic_features, all cores for both
  forest    probabilities of one feature table: RandomForestClassifier.predict_proba as it comes (one core), the same on
            all cores, and this project's walk through the same trees
With --picture it draws the three validation frames of most roof: labels, forest, regression.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from accuracy import ROOT, STAGES, Case, show
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window
from rich.console import Console
from rich.table import Table
from skimage.feature import multiscale_basic_features
from sklearn.ensemble import RandomForestClassifier

from pixelwise.features import Bands, Features, read_around
from pixelwise.models import Forest
from pixelwise.sampling import draw, feature_windows, read_bands
from roofkit.pairs import find_pairs
from roofkit.raster import open_raster
from roofkit.scores import boundary
from roofkit.settings import check_settings
from roofkit.workers import cores, map_threads

Floats = NDArray[np.float32]
SIDE = 1024  # pixels of a scene that speed is measured on, at most
SCALES = (1.0, 2.0, 4.0, 8.0, 16.0)
PEER_FORM = dict(values=(), mean=("bands",), deviation=(), edges=("bands",), texture=(), hessian=("bands",))


def timed(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, taken in turn, after one round that compiles and warms."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def like_skimage(path: Path) -> tuple[Features, Callable[[], Floats], Callable[[], Floats]]:
    """Features of a raster, by this project (features, rows, cols) and by scikit-image (rows, cols, features)."""
    with open_raster(path) as src:
        image = src.read(window=corner(src)).astype(np.float32)
    settings = check_settings({}).pixel_args.model_copy(update={**PEER_FORM, "scales": SCALES})
    bands = len(image)
    features = Features(settings, Bands(tuple(f"{i}" for i in range(bands)), (0.0,) * bands, (1.0,) * bands))

    def ours() -> Floats:
        out = np.empty((len(features.names), *image.shape[1:]), np.float32)

        def work(task: Any) -> None:
            window, *around = task
            out[:, window.toslices()[0], window.toslices()[1]] = features.of(*around)

        with open_raster(path) as src:
            tiles = list(feature_windows(*image.shape[1:], len(features.names)))
            list(map_threads(work, ((w, *read_around(src, w, features.margin)) for w in tiles)))
        return out

    last = image.transpose(1, 2, 0)

    def theirs() -> Floats:
        found = multiscale_basic_features(
            last, channel_axis=-1, sigma_min=SCALES[0], sigma_max=SCALES[-1], num_sigma=len(SCALES)
        )
        return np.asarray(found)

    return features, ours, theirs


def apart(features: Features, ours: Floats, theirs: Floats) -> float:
    """The largest difference of any feature away from the edges, where the two continue the image in other ways."""
    bands, edge, worst = len(features.bands.names), features.margin, 0.0
    for number, name in enumerate(features.names):
        kind, _, band, _, scale, _ = name.split()
        place = ("mean", "edges", "ridge", "valley").index(kind)
        column = int(band) * len(SCALES) * 4 + SCALES.index(float(scale)) * 4 + place
        inner = np.s_[edge:-edge, edge:-edge]
        worst = max(worst, float(np.abs(ours[number][inner] - theirs[..., column][inner]).max()))
    assert theirs.shape[-1] == bands * len(SCALES) * 4
    return worst


def scene_of(case: Case) -> Path:
    """The first scene."""
    return sorted((case.folder / "data/scenes").glob("*.tif"))[0]


def corner(src: DatasetReader) -> Window:
    """What of a scene speed is measured on."""
    return Window(0, 0, min(SIDE, src.width), min(SIDE, src.height))


def trees(case: Case) -> tuple[RandomForestClassifier, Floats]:
    """A forest as the stage trains it, and the features (pixels, features) of a scene."""
    settings = check_settings(case.values)
    pairs = find_pairs(case.folder / "data/train_frames", case.folder / "data/train_masks")
    features = Features(settings.pixel_args, read_bands(pairs))
    sample, args = draw(pairs, features), settings.forest_args
    forest = RandomForestClassifier(
        args.trees, max_depth=args.depth, min_samples_leaf=args.leaf, max_features=args.share, random_state=args.seed,
        n_jobs=cores(),
    ).fit(sample.features, sample.roof)  # fmt: skip
    with open_raster(scene_of(case)) as src:
        found = features.of(*read_around(src, corner(src), features.margin))
    return forest, np.ascontiguousarray(found.reshape(len(found), -1).T)


def forest_speed(case: Case, rounds: int) -> tuple[dict[str, list[float]], int, float]:
    """Seconds for the probabilities of a scene, its pixels, and the largest difference between the two."""
    forest, table = trees(case)
    packed, planes = Forest.of(forest), np.ascontiguousarray(table.T)
    parts = np.array_split(np.arange(len(table)), cores() * 4)

    def ours() -> NDArray[np.float64]:
        with ThreadPoolExecutor(cores()) as pool:
            return np.concatenate(list(pool.map(lambda p: packed.probability(planes[:, p[0] : p[-1] + 1]), parts)))

    def theirs(jobs: int) -> NDArray[np.float64]:
        forest.n_jobs = jobs
        return np.asarray(forest.predict_proba(table)[:, 1])

    difference = float(np.abs(ours() - theirs(1)).max())
    works: dict[str, Callable[[], Any]] = {
        "scikit-learn, one core": lambda: theirs(1), "scikit-learn, all cores": lambda: theirs(cores()),
        "this project": ours,
    }  # fmt: skip
    return timed(works, rounds), len(table), difference


def speeds(case: Case, rounds: int) -> None:
    """Print the tables of speed."""
    path = scene_of(case)
    features, ours, theirs = like_skimage(path)
    print(f"{case.name}: {len(features.names)} features, largest difference {apart(features, ours(), theirs()):.1e}")
    seconds = timed({"scikit-image": theirs, "this project": ours}, rounds)
    with open_raster(path) as src:
        tell(f"{case.name}: feature extraction", seconds, int(corner(src).width * corner(src).height))
    seconds, pixels, difference = forest_speed(case, rounds)
    print(f"{case.name}: largest difference of the forest's probabilities {difference:.1e}")
    tell(f"{case.name}: forest", seconds, pixels)


def tell(title: str, seconds: dict[str, list[float]], pixels: int) -> None:
    """One table: medians, and how many times as fast this project is in each round."""
    ours = seconds["this project"]
    table = Table("by", "s (median)", "pixels a second", "this project is faster by", title=title)
    for name, taken in seconds.items():
        ratios = sorted(theirs / own for theirs, own in zip(taken, ours))
        shown = f"{median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})" if taken is not ours else ""
        table.add_row(name, f"{median(taken):.3f}", f"{pixels / median(taken):,.0f}", shown)
    Console(width=100).print(table)


def outlined(frame: Path, mask: Path, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A frame (rows, cols, 3) with the outlines of a mask."""
    with open_raster(frame) as src, open_raster(mask) as other:
        image = np.moveaxis(src.read([1, 2, 3]), 0, -1)
        edge = boundary(other.read(1) > 0, 2)
    image[edge] = colour
    return image


def draw_frames(case: Case, picture: Path) -> None:
    """Write the picture."""
    from PIL import Image

    masks = sorted((case.folder / "data/val_masks").glob("*.tif"), key=roof_pixels)[-3:]
    rows = []
    for mask in masks:
        frame = case.folder / "data/val_frames" / mask.name
        found = [case.folder / f"{method}_0/predictions" / mask.name for method in list(STAGES)[1:]]
        colours = ((255, 214, 10), (0, 229, 255), (255, 120, 255))
        rows.append(np.hstack([outlined(frame, path, c) for path, c in zip([mask, *found], colours)]))
    Image.fromarray(np.vstack(rows)[::2, ::2]).save(picture, quality=85)


def roof_pixels(mask: Path) -> int:
    """How many there are."""
    with open_raster(mask) as src:
        return int(np.count_nonzero(src.read(1)))


def main() -> None:
    """Measure what is asked for, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--banepa", type=Path, metavar="FOLDER")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    cases = []
    if options.banepa:
        cases.append(Case("banepa", options.out, ROOT / "bench/banepa.json", options.banepa, 0.1))
    if options.sample:
        cases.append(Case("sample", options.out, ROOT / "settings.dev.json", None, 0.1))
    print(f"{cores()} cores")
    for case in cases:
        case.prepare()
        for method in list(STAGES)[1:]:
            for seed in options.seeds:
                case.measure(method, seed)
        speeds(case, options.rounds)
    if options.picture:
        draw_frames(cases[0], options.picture)
    show(cases)


if __name__ == "__main__":
    main()
