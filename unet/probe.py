"""A network looked at from outside: on small windows of frames around roofs, in training and in prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray
from scipy import ndimage

from roofkit.checks import spread
from roofkit.raster import Valid
from unet.forms import remade
from unet.frames import Image, Sample

SIDE = 96  # pixels that a window has at least, a side
CALL = 2**16  # pixels that a network sees at a time: what it holds of them stays below some gigabytes
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """Equal windows of frames around roofs.

    Args:
        images: (windows, rows, cols, bands), the file's own values.
        roof: (windows, rows, cols) bool.
        valid: The same.
    """

    images: Image
    roof: Valid
    valid: Valid

    @property
    def truth(self) -> Valid:
        """Roof at each valid pixel, one-dimensional."""
        return self.roof[self.valid]

    @property
    def base(self) -> float:
        """Share of roof: the IoU of calling every pixel a roof."""
        return float(self.truth.mean()) if self.valid.any() else 0.0


def window_side(size: int) -> int:
    """A side for windows of frames of that side: as often divisible by 2, and no larger than it must be."""
    step = min(size & -size, 128)
    return min(size, -(-SIDE // step) * step) if step >= 8 else size


def cut_windows(samples: Sequence[Sample], count: int) -> Windows:
    """A window of each of `count` samples with roofs: the one in which roof and background are most alike in area."""
    with_roofs = [sample for sample in samples if sample.roof.any()] or list(samples)
    cut = [_cut(sample) for sample in spread(with_roofs, count)]
    return Windows(*(np.stack(parts) for parts in zip(*cut)))


def _cut(sample: Sample) -> tuple[Image, Valid, Valid]:
    sides = [window_side(side) for side in sample.roof.shape]
    share = ndimage.uniform_filter(sample.roof.astype(np.float32), sides, mode="constant")
    inner = tuple(slice(side // 2, full - (side - 1) // 2) for side, full in zip(sides, sample.roof.shape))
    score = (share * (1 - share))[inner]
    corner = np.unravel_index(score.argmax(), score.shape)
    place = tuple(slice(int(first), int(first) + side) for first, side in zip(corner, sides))
    return sample.image[place].astype(np.float32), sample.roof[place], sample.valid[place]


class Probe:
    """A copy of a network that takes frames of any size, and may be run as in training without harm to the original.

    Args:
        model: The network.
        data_format: channels_last or channels_first, of its input and output.

    Raises:
        ValueError: It works for one size only.
    """

    def __init__(self, model: Any, data_format: str = "channels_last") -> None:
        self.first = data_format == "channels_first"
        bands = model.input_shape[1 if self.first else 3]
        plain = keras.Model(model.inputs[0], model.outputs[0])  # without loss and optimizer
        size = (bands, None, None) if self.first else (None, None, bands)
        self.model = remade(plain, input_tensors=keras.Input(size))
        self.weights = model.get_weights()
        self.norms = [
            layer for layer in self.model.layers if isinstance(layer, layers.BatchNormalization) and layer.trainable
        ]
        for layer in self.norms:
            layer.momentum = 0.0  # after a run as in training, the stored statistics are those of that batch
        leading = (layers.InputLayer, layers.Rescaling, layers.Normalization, layers.Permute)
        own = [isinstance(layer, leading) for layer in self.model.layers]
        head = self.model.layers[: own.index(False)]
        self.prepares = any(isinstance(layer, (layers.Rescaling, layers.Normalization)) for layer in head)
        self._head = keras.Model(self.model.inputs[0], head[-1].output)
        last = next(layer for layer in reversed(self.model.layers) if layer.weights)
        self._features = keras.Model(self.model.inputs[0], last.input)

    def answer(self, images: Image, *, training: bool = False) -> Floats:
        """Roof probabilities (windows, rows, cols); as in training: normalised by statistics of these images alone."""
        self.model.set_weights(self.weights)
        step = len(images) if training else max(1, CALL // images[0, ..., 0].size)
        parts = [self._run(self.model, images[i : i + step], training) for i in range(0, len(images), step)]
        output = np.concatenate(parts)
        return np.asarray(output[:, -1] if self.first else output[..., -1], np.float32)

    def inputs(self, images: Image) -> Floats:
        """What the first layer that learns gets, (windows, rows, cols, bands)."""
        output = self._run(self._head, images, False)
        return output if output.shape[-1] == images.shape[-1] else np.moveaxis(output, 1, -1)

    def features(self, images: Image) -> Floats:
        """What the last layer gets, run as in training, (windows, rows, cols, channels)."""
        self.model.set_weights(self.weights)
        return self._run(self._features, images, True)

    def variances(self, images: Image) -> list[tuple[Floats, Floats]]:
        """For each batch normalisation the stored variance and that of these images; channels always 0 left out."""
        self.model.set_weights(self.weights)
        stored = [layer.moving_variance.numpy() for layer in self.norms]
        self._run(self.model, images, True)
        measured = [layer.moving_variance.numpy() for layer in self.norms]
        pairs = [(s[m > 0], m[m > 0], layer.epsilon) for s, m, layer in zip(stored, measured, self.norms)]
        return [(s + epsilon, m + epsilon) for s, m, epsilon in pairs if len(s)]

    def _run(self, model: Any, images: Image, training: bool) -> Floats:
        batch = images.transpose(0, 3, 1, 2) if self.first else images
        return np.asarray(keras.ops.convert_to_numpy(model(batch, training=training)), np.float32)


def best_threshold(probability: Floats, truth: Valid) -> tuple[float, float]:
    """The threshold of highest IoU among the probabilities themselves, and that IoU; both one-dimensional arrays."""
    order = np.argsort(-probability, kind="stable")
    ordered, hits = probability[order], np.cumsum(truth[order])
    iou = hits / (truth.sum() + np.arange(1, len(order) + 1) - hits)
    iou[:-1][ordered[:-1] == ordered[1:]] = -1.0  # equal ones go together
    best = int(iou.argmax())
    return float(ordered[best]), float(iou[best])


def iou_at(probability: Floats, truth: Valid, threshold: float) -> float:
    """IoU of the roof class at a threshold."""
    roof = probability >= threshold
    return int((roof & truth).sum()) / max(int((roof | truth).sum()), 1)
