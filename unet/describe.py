"""What there is to say of a trained network: its shape, its scores on validation frames, how to use it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roofkit import scores
from roofkit.model_card import About, Array, frame_scores
from roofkit.pairs import Pair
from roofkit.settings import EvaluateArgs
from unet.datagen import RoofFrames
from unet.inference import KerasInference
from unet.model_file import LoadedModel, load_model
from unet.plan import TrainSettings

USE = """```
python predict/predict.py {name} SCENES MASKS --probabilities PROBABILITIES --vectors footprints.gpkg
```

or with Keras alone, on frames {axes} in the file's own values, float32, with invalid pixels set to the
mean of their band:

```python
import keras

model = keras.models.load_model("{name}", compile=False)
probability = model.predict(frames)
roof = probability >= {threshold}
```
"""


def frame_counts(loaded: LoadedModel, frames: RoofFrames) -> NDArray[np.int64]:
    """Counts of pixels (frames, 4), as `roofkit.scores.pixel_counts` gives them, at the size that the network sees."""
    network, found = KerasInference(loaded, loaded.model.name), []
    for index in range(-(-len(frames.pairs) // frames.settings.batch_size)):
        images, roofs, weights = frames.batch(index)
        for probability in network.map([images]):
            for predicted, roof, valid in zip(probability >= loaded.threshold, roofs[..., -1] > 0.5, weights > 0):
                found.append(scores.pixel_counts(predicted, roof, valid))
    return np.array(found)


def _start(settings: TrainSettings) -> str | None:
    """What the first weights were of."""
    if settings.training.pretrained:
        return "an earlier model of this project"
    return f"encoder weights: {Path(settings.model.encoder_weights).name}" if settings.model.encoder_weights else None


def describe(
    path: Path,
    settings: TrainSettings,
    frames: tuple[Sequence[Pair], Sequence[Pair]],
    evaluation: EvaluateArgs,
    *,
    calibration_error: float,
) -> About:
    """What there is to say of the model in a file.

    Args:
        path: The model.
        settings: Those that it was trained with.
        frames: Those for training, and those for validation.
        evaluation: How intervals are drawn.
        calibration_error: On the validation frames.

    Raises:
        BadInputError: The model or a frame is broken.
    """
    loaded = load_model(path)
    counts = frame_counts(loaded, RoofFrames(frames[1], settings.data, num_classes=settings.model.num_classes))
    rows, cols = (side or -1 for side in loaded.input_size)
    last = loaded.data_format == "channels_last"
    sides, axes = [rows, cols], ["height", "width"]
    shapes = [[-1, *sides, bands] if last else [-1, bands, *sides] for bands in (loaded.channels, loaded.num_classes)]
    taken, given = (["batch", *axes, name] if last else ["batch", name, *axes] for name in ("bands", "channel"))
    names = loaded.band_names or tuple(f"band {number}" for number in range(1, loaded.channels + 1))
    preparation = "It takes pixels in the file's own values: scaling is inside the model."
    if loaded.frame_size != (rows, cols):
        size = "x".join(map(str, loaded.frame_size))
        preparation += f" Training frames of {size} pixels were resized to {rows}x{cols}."
    blocks = {"model_args": settings.model, "load_dataset_args": settings.data, "training_args": settings.training}
    return About(
        architecture=settings.model.architecture, framework=("Keras", "keras"),
        parameters=int(loaded.model.count_params()), bands=names, taken=Array(shapes[0], taken),
        given=Array(shapes[1], given), preparation=preparation, threshold=loaded.threshold, frames=frames,
        scored=frame_scores(counts, calibration_error, evaluation),
        settings={name: block.model_dump(mode="json") for name, block in blocks.items()},
        artifact="tf.keras.Model.save", started_from=_start(settings),
        use=USE.format(name=path.name, axes=f"({', '.join(taken)})", threshold=loaded.threshold),
    )  # fmt: skip
