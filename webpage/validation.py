"""The validation frames as predict left them: their files, and what is counted on them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roofkit.artifacts import recorded
from roofkit.cli import Run, progress
from roofkit.errors import MissingInputError
from roofkit.pairs import by_stem, mask_files, pair_rasters
from roofkit.paths import Paths, holds_files
from roofkit.raster import raster_files
from roofkit.workers import map_items
from webpage.counts import Frame, Tally, empty, tally, thresholds

NETWORK = "network"
FEW = 256


@dataclass(frozen=True)
class Validation:
    """What is known of the validation frames.

    Attributes:
        frames: Their files, as the network predicted them.
        pixels: Counts (4,) of each frame's mask, as `roofkit.scores.pixel_counts` gives them.
        total: Counts over all frames.
        others: The same of forest and regression, where they predicted them all.
        own: The threshold that made the masks; None: not known.
        model: The file of the model that made them; None: not known.
    """

    frames: list[Frame]
    pixels: list[NDArray[np.int64]]
    total: Tally
    others: dict[str, Tally]
    own: float | None
    model: str | None = None

    @property
    def shown(self) -> NDArray[np.float64]:
        """The thresholds, as people write them."""
        return thresholds(self.own)[0]

    @property
    def pixel_model(self) -> str | None:
        """The file of the pixel classifier that made the masks; None: a network did, or it is not known."""
        return self.model if self.model and self.model.endswith(".skops") else None

    @property
    def start(self) -> int:
        """Where among them the slider starts: at the project's own, or in the middle."""
        return int(np.abs(self.shown - (0.5 if self.own is None else self.own)).argmin())

    @property
    def models(self) -> dict[str, Tally]:
        """Counts of each model that wrote probabilities."""
        every = {NETWORK: self.total, **self.others}
        return {name: counted for name, counted in every.items() if counted.histogram.any()}


def find_frames(predictions: Path, masks: Path, probabilities: Path) -> list[Frame]:
    """The frames; their probabilities only where all of them have one.

    Raises:
        MissingInputError: A folder is empty, or a file has no partner.
    """
    if not holds_files(predictions):
        raise MissingInputError(predictions, "no predictions", "masks of frames", "Run python predict/predict.py.")
    pairs = pair_rasters(mask_files(predictions), mask_files(masks), kinds=("prediction", "mask"))
    known = by_stem(raster_files(probabilities)) if holds_files(probabilities) else {}
    whole = all(prediction.stem in known for prediction, _ in pairs)
    return [Frame(one, mask, known[one.stem] if whole else None, name=one.stem) for one, mask in pairs]


def made_with(predictions: Path) -> tuple[float | None, str | None]:
    """The threshold, and the file of the model, that predict recorded with its masks."""
    for facts in recorded(predictions, "predict").values():
        if "threshold" in facts:
            return float(facts["threshold"]), facts.get("model")
    return None, None


def other_frames(frames: list[Frame], paths: Paths) -> dict[str, list[Frame]]:
    """The same frames as forest and regression predicted them."""
    found = {}
    for name, classifier in paths.classifiers.items():
        if holds_files(classifier.predictions):
            made = find_frames(classifier.predictions, paths.val_masks, classifier.probabilities)
            if len(made) == len(frames) and all(frame.probability for frame in made):
                found[name] = made
    return found


def count_frames(frames: list[Frame], run: Run) -> Validation:
    """Count the frames of all models.

    Raises:
        MismatchError, BadInputError: The files of a frame do not fit each other, or are not what they should be.
    """
    own, model = made_with(run.paths.predictions)
    every = {NETWORK: frames, **other_frames(frames, run.paths)}
    tasks = [frame for listed in every.values() for frame in listed]
    work = partial(tally, levels=thresholds(own)[1])
    workers = 1 if len(tasks) < FEW else run.workers  # starting processes takes longer than counting a few frames
    pixels, totals = [], {name: empty(thresholds(own)[1]) for name in every}
    counted = progress(map_items(work, tasks, workers=workers), len(tasks), "count", quiet=run.quiet)
    for number, one in enumerate(counted):
        name = list(every)[number // len(frames)]
        totals[name] = totals[name].plus(one)
        pixels += [one.pixels] if name == NETWORK else []
    return Validation(frames, pixels, totals.pop(NETWORK), totals, own, model)
