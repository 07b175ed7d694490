"""What a training is to be: its settings, how fast it learns at each step, how many epochs fit into a time."""

import math
from dataclasses import dataclass

from roofkit.settings import LoadDatasetArgs, ModelArgs, OutputArgs, TrainingArgs


@dataclass(frozen=True)
class TrainSettings:
    """The blocks that decide the result."""

    data: LoadDatasetArgs
    model: ModelArgs
    output: OutputArgs
    training: TrainingArgs
    extension: str = "tif"

    @property
    def frame_model(self) -> ModelArgs:
        """The network for whole frames (rows, cols, bands), in whatever order the saved one takes them."""
        return self.model.model_copy(update={"input_shape": (*self.data.target_size, self.data.channels)})

    @property
    def crop_model(self) -> ModelArgs:
        """The network that learns: for windows of frames where `crop_size` says so."""
        size = self.data.crop_size or self.data.target_size
        return self.model.model_copy(update={"input_shape": (*size, self.data.channels)})


def rate_factor(step: int, total: int, settings: TrainingArgs) -> float:
    """The share of the learning rate at a step.

    It rises in a line over the warm-up (Goyal et al. 2017, arXiv:1706.02677); then it stays, or falls to 0 as half a
    cosine (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Args:
        step: From 0.
        total: Steps of the whole training.
        settings: `warmup` and `schedule`.

    Returns:
        Above 0, to 1.
    """
    warm = settings.warmup * total
    if step < warm:
        return (step + 1) / (warm + 1)
    if settings.schedule != "cosine":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(total - warm, 1.0)))


def epochs_that_fit(minutes: float | None, epoch_seconds: float, epochs: int) -> int:
    """Epochs to plan for: all, or as many as end within `minutes`; at least 1."""
    if minutes is None:
        return epochs
    return max(1, min(epochs, int(minutes * 60 / max(epoch_seconds, 1e-9))))


def duration(seconds: float) -> str:
    """A time as a person says it: 40 s, 12 min, 3.5 h, 2.1 days."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{1 if name == 'h' else 0}f} {name}"
    return f"{seconds / 86400:.1f} days"
