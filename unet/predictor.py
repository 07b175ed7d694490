"""Roof probabilities of whole scenes: overlapping windows, blended; memory does not grow with a scene."""

import contextlib
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import cached_property, reduce
from itertools import chain, islice, pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from roofkit.errors import BadInputError, MismatchError
from roofkit.raster import BLOCK, Pixels, Valid, data_bands, read_pixels
from roofkit.settings import PredictArgs
from roofkit.workers import ahead, cores, map_threads

if TYPE_CHECKING:
    from unet.inference import Inference
    from unet.model_file import LoadedModel

PART_WIDTH = 8192  # columns that are blended at a time: with it, memory does not grow with a scene's width
SLACK = 0.01  # by which rounding may take a probability out of its range
PREPARING = 4  # threads, at most: more would hold more windows than the network keeps up with
Floats = NDArray[np.float32]
Scanned = tuple[Window, Floats, Valid]  # a window, its roof probability (rows, cols), 0 to 1, and where it is valid
Turn = tuple[int, bool]  # quarter turns to the left, then mirrored or not


def starts(length: int, size: int, overlap: float) -> list[int]:
    """Where windows of `size` start along a side, so that neighbours share at least that share and none sticks out."""
    if length <= size:
        return [0]
    step = max(1, round(size * (1 - overlap)))
    return [*range(0, length - size, step), length - size]


def blend_weights(offsets: Sequence[int], size: int, length: int) -> list[Floats]:
    """For each window along a side its share (0 to 1) at each of its pixels; over all windows they add up to 1.

    Shares rise linearly from a window's edge to where its neighbour ends; they do not fall towards the scene's edge.
    """
    size = min(size, length)
    gaps = [b - a for a, b in pairwise(offsets)]
    ramp = max(1, size - max(gaps, default=0))
    rise = np.minimum((np.arange(size) + 0.5) / ramp, 1.0)
    tapers = [
        np.minimum(rise if offset else 1.0, rise[::-1] if offset + size < length else np.ones(size))
        for offset in offsets
    ]
    total = np.zeros(length)
    for offset, taper in zip(offsets, tapers):
        total[offset : offset + size] += taper
    return [(taper / total[offset : offset + size]).astype(np.float32) for offset, taper in zip(offsets, tapers)]


def parts(region: Window, size: int) -> Iterator[Window]:
    """A region in parts that start at a block and are narrow enough for memory, from left to right."""
    span = max(PART_WIDTH, 4 * size) // BLOCK * BLOCK
    for first in range(0, region.width, span):
        yield Window(region.col_off + first, region.row_off, min(span, region.width - first), region.height)


class Predictor(ABC):
    """A model that gives roof probabilities for scenes of any size."""

    def __init__(self, path: Path, settings: PredictArgs) -> None:
        self.path = path
        self.settings = settings

    @property
    def threshold(self) -> float:
        """From this probability on a pixel is roof."""
        return float(self.loaded.threshold if self.settings.threshold == "auto" else self.settings.threshold)

    @property
    @abstractmethod
    def loaded(self) -> Any:
        """The model, which knows the threshold that was best on the validation frames, and the bands that it takes."""

    @abstractmethod
    def scan(self, src: DatasetReader, region: Window) -> Generator[Scanned, None, None]:
        """Windows that cover a region of a scene once.

        They are aligned to blocks, as the region is. Those without a valid pixel may be left out. Until the generator
        is closed the scene may be read in another thread, and may not be read in this one.
        """

    def check(self, src: DatasetReader, path: Path) -> None:
        """Raise MismatchError when the raster has another number of bands than the model takes."""
        if len(data_bands(src)) != self.loaded.channels:
            found, expected = f"{len(data_bands(src))} bands", f"{self.loaded.channels}, as {self.path} takes"
            raise MismatchError(path, found, expected, "Choose a model that was trained on such imagery.")


class NetworkPredictor(Predictor):
    """A network: overlapping windows, prepared as the training frames were, and blended."""

    @cached_property
    def loaded(self) -> "LoadedModel":
        """The model, read when first needed."""
        from unet.model_file import load_model

        return load_model(self.path)

    @cached_property
    def inference(self) -> "Inference":
        """What runs the network."""
        from unet.inference import open_inference

        settings = self.settings
        return open_inference(self.loaded, runtime=settings.runtime, precision=settings.precision, name=self.path)

    def scan(self, src: DatasetReader, region: Window) -> Generator[Scanned, None, None]:
        """Strips of blended windows."""
        for part in parts(region, self.loaded.frame_size[1]):
            yield from _strips(src, self, part)

    @property
    def input_size(self) -> tuple[int, int]:
        """Rows and columns that the network sees; a model that takes any gets windows as they are."""
        rows, cols = self.loaded.input_size
        return rows or self.loaded.frame_size[0], cols or self.loaded.frame_size[1]

    @property
    def turns(self) -> list[Turn]:
        """How frames are turned for the network; several with the setting `flips`."""
        square = all(rows == cols for rows, cols in (self.loaded.frame_size, self.input_size))
        every = [(quarters, mirror) for quarters in (range(4) if square else (0, 2)) for mirror in (False, True)]
        return every if self.settings.flips else every[:1]

    def windows(self, src: DatasetReader, windows: Iterable[Window]) -> Generator[Scanned, None, None]:
        """Each window that holds a valid pixel, its roof probability at the window's own size.

        One thread reads, a few prepare what was read, and one runs the network; the caller has the rest to itself.
        """
        waiting: deque[list[tuple[Window, Valid]]] = deque()
        over = threading.Event()  # a sparse scene may have a million windows before the next that is valid

        def read() -> Iterator[tuple[Window, Pixels, Valid]]:
            for window in takewhile(lambda _: not over.is_set(), windows):
                pixels, valid = read_pixels(src, window)
                if valid.any():
                    yield window, pixels, valid

        def frame(found: tuple[Window, Pixels, Valid]) -> tuple[tuple[Window, Valid], Pixels]:
            window, pixels, valid = found
            return (window, valid), self._frame(pixels, valid)

        def batches() -> Iterator[Pixels]:
            with contextlib.closing(map_threads(frame, read(), workers=min(PREPARING, cores()))) as frames:
                while batch := list(islice(frames, self.settings.batch_size)):
                    waiting.append([place for place, _ in batch])
                    images = np.stack([image for _, image in batch])
                    yield from (turned(images, turn) for turn in self.turns)

        inference = self.inference  # what fails, fails before anything is read
        with contextlib.ExitStack() as stack:
            coming = stack.enter_context(ahead(batches(), 1))
            stack.callback(over.set)
            results = stack.enter_context(ahead(inference.map(coming), 1))
            stack.callback(over.set)  # before anybody waits for a thread that reads
            for first in results:
                others = islice(results, len(self.turns) - 1)
                back = (turned_back(one, turn) for one, turn in zip(chain([first], others), self.turns))
                total = reduce(np.add, back) / len(self.turns)
                self._check_range(total)
                for (window, valid), probability in zip(waiting.popleft(), total):
                    yield window, self._back(probability, window), valid

    def _check_range(self, output: NDArray[np.floating[Any]]) -> None:
        """Raise BadInputError where a network's output is no probability; what is no number is found elsewhere."""
        lowest, highest = float(output.min()), float(output.max())
        if lowest < -SLACK or highest > 1 + SLACK:
            found, advice = f"values from {lowest:.3g} to {highest:.3g}", "End the network with a sigmoid or softmax."
            raise BadInputError(self.path, found, "roof probabilities, 0 to 1", advice)

    def _frame(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
        """What the network sees (rows, cols, bands) of a window."""
        from unet.datagen import network_input

        size = self.loaded.frame_size
        return network_input(mirrored(pixels, size), mirrored(valid, size), self.input_size)[0]

    def _back(self, probability: Floats, window: Window) -> Floats:
        """What the network made (rows, cols) of a window, on the window's own pixels."""
        from unet.datagen import resize_frame

        rows, cols = int(window.height), int(window.width)
        return np.clip(resize_frame(probability[None], self.loaded.frame_size)[0, :rows, :cols], 0, 1)


def turned(frames: NDArray[Any], turn: Turn) -> NDArray[Any]:
    """Frames (frames, rows, cols, …) after quarter turns, then mirrored left to right where `turn` says so."""
    quarters, mirror = turn
    frames = np.rot90(frames, quarters, axes=(1, 2))
    return frames[:, :, ::-1] if mirror else frames


def turned_back(frames: NDArray[Any], turn: Turn) -> NDArray[Any]:
    """The frames that `turned` made these of."""
    quarters, mirror = turn
    return np.rot90(frames[:, :, ::-1] if mirror else frames, -quarters, axes=(1, 2))


def mirrored(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """(…, rows, cols) grown to `size` at the lower and right edge by its mirror image, for small scenes."""
    missing = [(0, max(0, full - have)) for full, have in zip(size, array.shape[-2:])]
    return np.pad(array, [(0, 0)] * (array.ndim - 2) + missing, mode="symmetric")


def _strips(src: DatasetReader, predictor: NetworkPredictor, part: Window) -> Iterator[Scanned]:
    """Finished rows of a part of a scene, a few blocks high.

    Windows lie where they would for the whole scene, so that nothing shows where two parts meet.
    """
    overlap = predictor.settings.overlap
    size = tuple(min(*sides) for sides in zip(predictor.loaded.frame_size, src.shape))
    row_shares, col_shares = (
        _shares(length, side, overlap, *span) for length, side, span in zip(src.shape, size, part.toranges())
    )
    windows = (Window(col, row, size[1], size[0]) for row in row_shares for col in col_shares)
    strip = _Strip(part, size[0])
    with contextlib.closing(predictor.windows(src, windows)) as found:
        for window, probability, valid in found:
            yield from strip.finished(window.row_off)
            strip.add(window, probability * (row_shares[window.row_off][:, None] * col_shares[window.col_off]), valid)
    yield from strip.finished(part.row_off + part.height)


def _shares(length: int, size: int, overlap: float, first: int, last: int) -> dict[int, Floats]:
    """Where the windows start that reach into `first` to before `last` along a side, and their shares in the blend."""
    offsets = starts(length, size, overlap)
    every = zip(offsets, blend_weights(offsets, size, length))
    return {offset: share for offset, share in every if first - size < offset < last}


class _Strip:
    """The rows of a part of a scene that windows are being added to."""

    def __init__(self, part: Window, rows: int) -> None:
        self._part = part
        self._top = int(part.row_off)
        self._sums = np.zeros((-(-rows // BLOCK) * BLOCK + BLOCK, int(part.width)), np.float32)
        self._valid = np.zeros(self._sums.shape, bool)

    def finished(self, row: int) -> Iterator[Scanned]:
        """The rows above `row` in whole blocks, or to the end of the part; they are forgotten here."""
        end = int(self._part.row_off + self._part.height)
        last = end if row >= end else self._top + (row - self._top) // BLOCK * BLOCK
        while self._top < last:
            count = min(last - self._top, len(self._sums))
            window = Window(self._part.col_off, self._top, self._part.width, count)
            yield window, np.minimum(self._sums[:count], 1), self._valid[:count].copy()  # shares may add up to more
            self._sums, self._valid = (
                np.concatenate([rows[count:], np.zeros_like(rows[:count])]) for rows in (self._sums, self._valid)
            )
            self._top += count

    def add(self, window: Window, share: Floats, valid: Valid) -> None:
        """Add what a window (rows, cols) gives to those of its pixels that lie in the part."""
        inside = window.intersection(self._part)
        here, there = ((inside.row_off - w.row_off, inside.col_off - w.col_off) for w in (self._part, window))
        row, rows, cols = inside.row_off - self._top, int(inside.height), int(inside.width)
        taken = slice(there[0], there[0] + rows), slice(there[1], there[1] + cols)
        place = slice(row, row + rows), slice(here[1], here[1] + cols)
        self._sums[place] += share[taken]
        self._valid[place] |= valid[taken]
