"""A pixel classifier: features, model, calibration and threshold; from a window of imagery to roof probabilities."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from pixelwise.features import Features, read_around
from pixelwise.models import Model, logistic
from pixelwise.sampling import feature_windows
from roofkit.raster import Pixels, Valid
from roofkit.workers import map_threads

Floats = NDArray[np.float32]
LEAST = 1e-4  # probabilities are kept that far from 0 and 1 before they are calibrated: forests say 0 and 1


@dataclass(frozen=True)
class Calibration:
    """Platt's scaling of probabilities (Platt 1999): a line through their log-odds.

    Training pixels are half roof, and a forest's shares are no probabilities; the line mends both.
    """

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, probability: NDArray[Any]) -> NDArray[np.float64]:
        """Calibrated probabilities, 0 to 1, in the order of the others."""
        return logistic(self.slope * log_odds(probability) + self.offset)


def log_odds(probability: NDArray[Any]) -> NDArray[np.float64]:
    """log(p / (1 - p)), of probabilities no nearer to 0 and 1 than `LEAST`."""
    kept = np.clip(np.asarray(probability, np.float64), LEAST, 1.0 - LEAST)
    return np.asarray(np.log(kept / (1.0 - kept)))


@dataclass(frozen=True)
class PixelClassifier:
    """What forest and regression train, and predict applies.

    Args:
        kind: forest or regression.
        features: What it sees of a pixel.
        model: From features to a probability.
        calibration: From that to the probability of roof.
        threshold: From this probability on a pixel is roof.
    """

    kind: str
    features: Features
    model: Model
    calibration: Calibration = Calibration()
    threshold: float = 0.5

    @property
    def channels(self) -> int:
        """Bands that it takes."""
        return len(self.features.bands.names)

    def probability(self, pixels: Pixels, valid: Valid) -> Floats:
        """Roof probability (rows, cols) of a window that is given with the margin of its features."""
        features = self.features.of(pixels, valid)
        raw = self.model.probability(features.reshape(len(features), -1)).astype(np.float32)
        found = self.calibration(raw)  # of what the threshold was chosen on
        return found.astype(np.float32).reshape(features.shape[1:])

    def scan(
        self, src: DatasetReader, workers: int | None = None, region: Window | None = None
    ) -> Generator[tuple[Window, Floats, Valid], None, None]:
        """Windows that cover a raster, or a region, once, with roof probability (rows, cols) and validity of each.

        They are aligned to blocks, as the region is. Those without a valid pixel near them are left out.

        Raises:
            BadInputError: The file's pixels are broken.
        """
        margin = self.features.margin

        def work(task: tuple[Window, Pixels, Valid]) -> tuple[Window, Floats, Valid]:
            window, pixels, valid = task
            rows, cols = (slice(margin, margin + int(size)) for size in (window.height, window.width))
            return window, self.probability(pixels, valid), valid[rows, cols]

        region = region or Window(0, 0, src.width, src.height)
        inside = feature_windows(region.height, region.width, len(self.features.names))
        windows = (Window(w.col_off + region.col_off, w.row_off + region.row_off, w.width, w.height) for w in inside)
        tasks = ((window, *read_around(src, window, margin)) for window in windows)
        yield from map_threads(work, (task for task in tasks if task[2].any()), workers=workers)
