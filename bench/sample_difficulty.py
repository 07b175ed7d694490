"""How hard the synthetic town is for methods that look at colour: thresholds and a forest of pixels.

Reads nothing; prints a table of the IoU of the metal class. The forest trains on the left half of the town and is
tested on the right half, with the threshold that suits the right half best: it is flattered.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from sources.sample import Town, make_town
from sources.synthetic import BANDS

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


def metal_mask(town: Town) -> Bools:
    """True (rows, cols) where a pixel's centre is on a metal roof."""
    metal = town.roofs[town.roofs["material"] == "metal"]
    burnt: Bools = rasterize(metal.geometry, town.valid.shape, transform=town.transform).astype(bool)
    return burnt


def indices(pixels: NDArray[np.uint16]) -> Iterator[tuple[str, Floats]]:
    """Each band and the normalised difference of each two (which orders pixels as their ratio does)."""
    bands = pixels.astype(np.float32)
    yield from zip(BANDS, bands, strict=True)
    for (one, a), (other, b) in combinations(zip(BANDS, bands, strict=True), 2):
        yield f"{one} / {other}", (a - b) / np.maximum(a + b, 1)


def best_interval_iou(values: Floats, truth: Bools, *, bins: int = 256) -> float:
    """The IoU of the best rule low <= value < high; thresholds in either direction are among them."""
    edges = np.quantile(values, np.linspace(0, 1, bins + 1))
    slot = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    hits = np.concatenate([[0], np.cumsum(np.bincount(slot[truth], minlength=bins))])
    chosen = np.concatenate([[0], np.cumsum(np.bincount(slot, minlength=bins))])
    hit, taken = hits[None, :] - hits[:, None], chosen[None, :] - chosen[:, None]
    return float(np.triu(hit / np.maximum(taken + truth.sum() - hit, 1)).max())


def features(pixels: NDArray[np.uint16]) -> Floats:
    """(rows, cols, features): indices; per band and scale the mean, deviation, gradient and Hessian eigenvalues."""
    layers = [layer for _, layer in indices(pixels)]
    for band in pixels.astype(np.float32):
        for sigma in (1, 2, 4, 8):
            layers.extend(_neighbourhood(band, sigma))
    return np.stack(layers, axis=-1)


def _neighbourhood(band: Floats, sigma: float) -> list[Floats]:
    mean = ndimage.gaussian_filter(band, sigma)
    deviation = np.sqrt(np.maximum(ndimage.gaussian_filter(band**2, sigma) - mean**2, 0))
    gradient = ndimage.gaussian_gradient_magnitude(band, sigma)
    yy, xx, xy = (ndimage.gaussian_filter(band, sigma, order=order) for order in ((2, 0), (0, 2), (1, 1)))
    half, root = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    return [mean, deviation, gradient, half + root, half - root]


def forest_iou(town: Town, truth: Bools, *, seed: int, samples: int = 20_000, tests: int = 200_000) -> float:
    """The IoU of a random forest on the right half after training on balanced pixels of the left half."""
    rng = np.random.default_rng(seed)
    middle = truth.shape[1] // 2
    left, right = (np.s_[:, :middle], np.s_[:, middle:])
    stack = features(town.pixels[:, :, :middle])
    metal, rest = (np.argwhere(town.valid[left] & (truth[left] == kind)) for kind in (True, False))
    rows, cols = np.concatenate([rng.permutation(kind)[: samples // 2] for kind in (metal, rest)]).T
    forest = RandomForestClassifier(150, min_samples_leaf=2, random_state=seed, n_jobs=1)
    forest.fit(stack[rows, cols], truth[left][rows, cols])
    del stack
    stack = features(town.pixels[:, :, middle:])
    rows, cols = rng.permutation(np.argwhere(town.valid[right]))[:tests].T
    score = forest.predict_proba(stack[rows, cols])[:, 1].astype(np.float32)
    answer = truth[right][rows, cols]
    return max(
        float((answer & (score >= cut)).sum() / (answer | (score >= cut)).sum()) for cut in np.linspace(0.3, 0.98, 69)
    )


def main() -> int:
    """Print the table for one seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of the town (default: 0)")
    parser.add_argument("--size", type=int, default=2048, help="rows and columns (default: 2048)")
    args = parser.parse_args()
    town = make_town(seed=args.seed, size=args.size)
    truth = metal_mask(town)
    table = Table("method", "IoU of metal", title=f"Synthetic town, seed {args.seed}, {args.size} x {args.size} pixels")
    for name, values in indices(town.pixels):
        table.add_row(f"best interval of {name}", f"{best_interval_iou(values[town.valid], truth[town.valid]):.3f}")
    table.add_row("everything is metal", f"{truth[town.valid].mean():.3f}")
    table.add_row("forest of pixels, 90 features", f"{forest_iou(town, truth, seed=args.seed):.3f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
