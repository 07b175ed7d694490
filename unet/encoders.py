"""Networks of keras.applications as encoders of a U-Net, for any number of bands."""

from pathlib import Path
from typing import Any

import keras
from keras import layers

from roofkit.errors import MissingInputError, SettingsError, reason
from roofkit.settings import ModelArgs
from unet.model_plan import stored_numbers
from unet.parts import climb, dropout, to_full_size
from unet.weights import adapt

HALVINGS = 5
UNPREPARED = ("EfficientNetV2B0",)  # scale their input unless told not to


def encoder_body(x: Any, args: ModelArgs) -> Any:
    """Everything up to the last layer: the encoder's features at each size, joined on the way up.

    The way up has `filters` at half size, and twice as many at each level below.
    """
    options = {"include_preprocessing": False} if args.architecture in UNPREPARED else {}
    make = getattr(keras.applications, args.architecture)
    encoder = make(include_top=False, weights=None, input_tensor=x, **options)
    _load_weights(encoder, make, args, options)
    for layer in encoder.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = args.bachnorm_momentum  # its own 0.99 needs hundreds of steps to be of use
    *skips, x = features(encoder, x)
    x = dropout(x, args)
    for level, skip in reversed(list(enumerate(skips))):
        x = climb(x, skip, args.filters * 2**level, args)
    return to_full_size(x, args.filters, args)


def features(encoder: Any, x: Any) -> list[Any]:
    """The last output at a half, a quarter, … and a 32nd of the input's size."""
    rows, cols = x.shape[1:3]
    found: dict[tuple[int, int], Any] = {}
    for layer in encoder.layers:
        shape = getattr(layer.output, "shape", ())
        if len(shape) == 4:
            found[tuple(shape[1:3])] = layer.output
    return [found[(rows >> n, cols >> n)] for n in range(1, HALVINGS + 1)]


def _load_weights(encoder: Any, make: Any, args: ModelArgs, options: dict[str, Any]) -> None:
    """Put trained weights in, those of the first layer spread over the bands.

    Raises:
        MissingInputError: There is no such file, or ImageNet's weights could not be fetched.
        SettingsError: They are of another network.
    """
    name = args.encoder_weights
    if name is None:
        return
    if name != "imagenet" and not Path(name).is_file():
        advice = "Name a weights file, imagenet, or null."
        raise MissingInputError(name, "no such file", "weights for model_args.encoder_weights", advice)
    try:
        if name != "imagenet":
            stored_numbers(Path(name))  # raises where it leads to other files
        trained = make(include_top=False, weights=name, input_shape=(None, None, 3), **options)
    except Exception as error:  # Keras raises anything for a file that does not fit, and wraps what the network raised
        why = reason(error, 120)
        if name == "imagenet":
            advice = "Connect to the network once, or set model_args.encoder_weights to null."
            raise MissingInputError("ImageNet weights", f"not fetched ({why})", "a download", advice) from None
        found, expected = f"{name}, which does not fit ({why})", f"weights of {args.architecture} without its top"
        raise SettingsError("model_args.encoder_weights", found, expected, "Name others, or null.") from None
    shapes = [tuple(weight.shape) for weight in encoder.weights]
    encoder.set_weights(adapt(trained.get_weights(), shapes))
