"""Which pixels a classifier learns from: as many of roof as of background, spread evenly over the frames.

Where there is less roof than that, all of it, and it is not weighted up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from pixelwise.features import Bands, Features, read_around
from roofkit.cli import progress
from roofkit.errors import BadInputError, MismatchError
from roofkit.pairs import Pair, read_mask
from roofkit.raster import Pixels, Valid, band_names, data_bands, finite, open_raster, read_pixels, windows
from roofkit.workers import map_threads

SIDE = 256  # rows of a window
FEW = 128  # features of which a window of twice as many columns takes 64 MB
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PixelSample:
    """Training pixels.

    Args:
        features: (pixels, features) float32.
        roof: (pixels,) bool.
        frame: (pixels,) int64, the number of the frame that each comes from: the groups of a cross-validation.
    """

    features: Floats
    roof: NDArray[np.bool_]
    frame: NDArray[np.int64]


def quotas(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """How many pixels to draw from each frame: alike from all that have enough, and all of those that have fewer.

    Args:
        counts: Pixels of each frame, (frames,).
        total: How many to draw in all, at most.

    Returns:
        (frames,), nowhere more than `counts`; `total` in all, or everything where there are fewer.
    """
    taken = np.zeros_like(counts)
    order = np.argsort(counts, kind="stable")
    left = total
    for place, frame in enumerate(order):
        taken[frame] = min(int(counts[frame]), left // (len(order) - place))
        left -= int(taken[frame])
    return taken


def read_bands(pairs: Sequence[Pair]) -> Bands:
    """Names, means and deviations of the bands over all valid pixels.

    Raises:
        MismatchError: Two frames have different numbers of bands.
        BadInputError: Not one pixel is valid.
    """
    check_bands(pairs, like=pairs[0])
    with open_raster(pairs[0].frame) as src:
        names = band_names(src)
    count, total, squares = 0, np.zeros(len(names)), np.zeros(len(names))
    for pair in pairs:
        with open_raster(pair.frame) as src:
            for window in windows(src.height, src.width, 2048):
                pixels, valid = read_pixels(src, window)
                measured = pixels[:, finite(pixels, valid)].astype(np.float64)
                count += measured.shape[1]
                total += measured.sum(axis=1)
                squares += (measured**2).sum(axis=1)
    if not count:
        advice = "Check the nodata value, or chip again."
        raise BadInputError(pairs[0].frame.parent, "no valid pixel in any frame", "some", advice)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return Bands(tuple(unique(names)), tuple(mean.tolist()), tuple(np.where(deviation > 0, deviation, 1.0).tolist()))


def check_bands(pairs: Sequence[Pair], like: Pair) -> None:
    """Raise MismatchError where a frame has not as many bands as another."""
    with open_raster(like.frame) as src:
        bands = len(data_bands(src))
    for pair in pairs:
        with open_raster(pair.frame) as src:
            if len(data_bands(src)) != bands:
                found, expected = f"{len(data_bands(src))} bands", f"{bands}, as {like.frame} has"
                raise MismatchError(pair.frame, found, expected, "Keep to frames of one kind.")


def unique(names: Sequence[str]) -> list[str]:
    """The names, with the band's number behind those that stand twice, or that are the name of a layer."""
    plain = [names.count(name) == 1 and name != "brightness" for name in names]
    return [name if alone else f"{name} ({i})" for i, (name, alone) in enumerate(zip(names, plain), start=1)]


def read_truth(pair: Pair) -> tuple[Valid, Valid]:
    """Where the mask says roof, and where frame and mask are valid; both (rows, cols)."""
    with open_raster(pair.frame) as src:
        pixels, valid = read_pixels(src)
    valid = finite(pixels, valid)
    with open_raster(pair.mask) as src:
        roof, labelled = read_mask(src)
    return roof & valid & labelled, valid & labelled


def count_classes(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Valid pixels of background and of roof in each frame, (frames, 2).

    Raises:
        BadInputError: There are none of one of the two in all frames.
    """
    counts = np.zeros((len(pairs), 2), np.int64)
    for number, pair in enumerate(pairs):
        roof, valid = read_truth(pair)
        counts[number] = np.count_nonzero(valid & ~roof), np.count_nonzero(roof)
    for kind, found in zip(("background", "roof"), counts.sum(axis=0)):
        if not found:
            advice = "Check that the polygons cover these frames (mask stage), or split with another seed."
            raise BadInputError(pairs[0].mask.parent, f"no valid {kind} pixel in any mask", "some of both", advice)
    return counts


def draw(pairs: Sequence[Pair], features: Features, *, workers: int | None = None, quiet: bool = True) -> PixelSample:
    """Training pixels, with their features, drawn by the seed of the settings.

    Raises:
        BadInputError: One of the classes has no pixel, or a file is broken.
    """
    counts, half = count_classes(pairs), features.settings.pixels // 2
    wanted = np.stack([quotas(column, half) for column in counts.T], axis=1)
    used = [number for number in range(len(pairs)) if wanted[number].any()]
    found: list[tuple[Floats, NDArray[np.bool_]]] = []
    for number in progress(used, len(used), "features", quiet=quiet):
        rng = np.random.default_rng([features.settings.seed, number])
        found.append(draw_frame(pairs[number], features, wanted[number], rng, workers))
    numbers = np.repeat(np.array(used, np.int64), [len(roof) for _, roof in found])
    return PixelSample(np.concatenate([f for f, _ in found]), np.concatenate([r for _, r in found]), numbers)


def draw_frame(
    pair: Pair, features: Features, wanted: NDArray[np.int64], rng: np.random.Generator, workers: int | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Features (pixels, features) and class (pixels,) of that many background and roof pixels of one frame."""
    roof, valid = read_truth(pair)
    chosen = np.zeros(roof.shape, bool)
    for kind, count in zip((valid & ~roof, roof), wanted):
        places = np.flatnonzero(kind)
        chosen.ravel()[places[rng.choice(places.size, count, replace=False, shuffle=False)]] = True

    def pick(task: tuple[Window, Pixels, Valid]) -> tuple[Floats, NDArray[np.bool_]]:
        window, *around = task
        here = window.toslices()
        return features.of(*around)[:, chosen[here]].T, roof[here][chosen[here]]

    with open_raster(pair.frame) as src:
        tasks = (
            (window, *read_around(src, window, features.margin))
            for window in feature_windows(src.height, src.width, len(features.names))
            if chosen[window.toslices()].any()
        )
        found = list(map_threads(pick, tasks, workers=workers))
    return np.concatenate([f for f, _ in found]), np.concatenate([r for _, r in found])


def feature_windows(height: int, width: int, num_features: int) -> Iterator[Window]:
    """Windows that cover a raster once, aligned to its blocks, for whose features memory is enough."""
    cols = 2 * SIDE if num_features <= FEW else SIDE
    for row in range(0, height, SIDE):
        for col in range(0, width, cols):
            yield Window(col, row, min(cols, width - col), min(SIDE, height - row))
