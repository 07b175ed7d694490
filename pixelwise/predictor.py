"""Roof probabilities of whole scenes by a forest or regression."""

from collections.abc import Generator
from functools import cached_property
from pathlib import Path

from rasterio.io import DatasetReader
from rasterio.windows import Window

from pixelwise.classifier import PixelClassifier
from pixelwise.model_file import load_classifier
from roofkit.settings import PredictArgs
from unet.predictor import Predictor, Scanned


class PixelPredictor(Predictor):
    """A forest or regression: each pixel by what is around it."""

    def __init__(self, path: Path, settings: PredictArgs, workers: int | None) -> None:
        super().__init__(path, settings)
        self.workers = workers

    @cached_property
    def loaded(self) -> PixelClassifier:
        """The model, read when first needed."""
        return load_classifier(self.path)

    def scan(self, src: DatasetReader, region: Window) -> Generator[Scanned, None, None]:
        """Windows, worked out side by side on all cores."""
        yield from self.loaded.scan(src, self.workers, region)
