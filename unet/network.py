"""The network that the settings describe: scaling in front, one of three architectures, a layer of probabilities.

`satellite_unet` is keras-unet's, with every number taken from the settings; `residual_unet` and the encoders of
keras.applications have files of their own.

Source: keras-unet 0.1.2, `models/satellite_unet.py`, after deepsense.ai's network for DSTL's satellite imagery contest
(a U-Net, Ronneberger et al. 2015, arXiv:1505.04597, with batch normalisation before each convolution).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from roofkit.errors import SettingsError
from roofkit.settings import ModelArgs, OutputArgs
from unet.encoders import encoder_body
from unet.parts import FORMAT, dropout, normalisation
from unet.residual import residual_body


@dataclass(frozen=True)
class Preparation:
    """How the file's pixels become the network's input: times `rescale`, then (value - mean) / std for each band.

    Args:
        rescale: A factor on every pixel; None: none.
        mean: A number for each band, after `rescale`.
        std: The same; above 0.
    """

    rescale: float | None
    mean: Sequence[float]
    std: Sequence[float]


def build_unet(
    model_args: ModelArgs,
    output_args: OutputArgs,
    data_format: str = FORMAT,
    preparation: Preparation | None = None,
) -> keras.Model:
    """The untrained network, of probabilities in 0..1 at every pixel.

    It follows Keras' precision policy of the moment; its input, its preparation and its last layer are float32.

    Args:
        model_args: Its size; `input_shape` is (rows, cols, bands), or (bands, rows, cols) with channels_first.
        output_args: The last layer.
        data_format: Of input and output. With channels_first the axes are moved at both ends, so that it runs on a CPU.
        preparation: Layers in front of the network that hold the scaling; they have no weights.

    Returns:
        A model from (frames, rows, cols, bands) to (frames, rows, cols, num_classes); with channels_first the last
        axis of both comes second.

    Raises:
        SettingsError: A layer is unknown, or sizes do not fit at a skip connection or at the end.
    """
    _check_names(model_args)
    inputs = keras.Input(model_args.input_shape)
    x = inputs if data_format == FORMAT else layers.Permute((2, 3, 1))(inputs)
    try:
        outputs = _output(body_of(model_args)(_prepare(x, preparation), model_args), model_args, output_args)
    except SettingsError:
        raise
    except ValueError:  # Keras: a side fell below one pixel
        raise _misfit(model_args, "a size below one pixel") from None
    _check_size(x, outputs, output_args)
    if data_format != FORMAT:
        outputs = layers.Permute((3, 1, 2), dtype="float32")(outputs)
    return keras.Model(inputs, outputs, name=model_args.architecture.lower())


def body_of(args: ModelArgs) -> Callable[[Any, ModelArgs], Any]:
    """What lies between scaling and the last layer."""
    return {"satellite_unet": _body, "residual_unet": residual_body}.get(args.architecture, encoder_body)


def _prepare(x: Any, preparation: Preparation | None) -> Any:
    """The scaling layers. Lists are nested to (1, 1, bands), so that they hold whatever Keras' own data format is."""
    if preparation is None:
        return x
    if preparation.rescale is not None:
        x = layers.Rescaling(float(preparation.rescale), name="rescale", dtype="float32")(x)
    scale = [1.0 / float(std) for std in preparation.std]
    offset = [-float(mean) / float(std) for mean, std in zip(preparation.mean, preparation.std)]
    return layers.Rescaling([[scale]], [[offset]], name="normalise", dtype="float32")(x)


def _body(x: Any, args: ModelArgs) -> Any:
    """satellite_unet up to its last layer: down `num_layers` + 1 times, and up again with skip connections."""
    x = _convolution(args, args.filters)(x)
    entry = _norm_conv(x, args, args.filters)
    x = _norm_conv(entry, args, args.filters)
    x = _pooling(args)(x)
    skips = []
    for _ in range(args.num_layers):
        x = _norm_conv(x, args, args.filters)
        x = _norm_conv(x, args, args.filters)
        skips.append(x)
        x = _norm_conv(x, args, args.filters)
        x = _pooling(args)(x)
    x = _norm_conv(x, args, args.filters)
    x = dropout(_norm_conv(x, args, args.filters), args)
    x = _norm_upconv(x, args)
    for skip in reversed(skips):
        x = _norm_upconv(_merge(x, skip, args), args)
    return _merge(x, entry, args)


def _merge(x: Any, skip: Any, args: ModelArgs) -> Any:
    """Join the way up with the same level of the way down."""
    if x.shape[1:3] != skip.shape[1:3]:
        raise _misfit(args, f"{list(x.shape[1:3])} meets {list(skip.shape[1:3])} at a skip connection")
    x = layers.Concatenate()([x, skip])
    x = _norm_conv(x, args, args.upconv_filters)
    return _norm_conv(x, args, args.filters)


def _norm_conv(x: Any, args: ModelArgs, filters: int) -> Any:
    return _convolution(args, filters)(normalisation(x, args))


def _convolution(args: ModelArgs, filters: int) -> Any:
    return layers.Conv2D(
        filters, args.kernel_size, strides=args.strides, padding=args.padding, activation=args.activation,
        kernel_initializer=args.kernel_initializer, data_format=FORMAT,
    )  # fmt: skip


def _pooling(args: ModelArgs) -> Any:
    return layers.MaxPooling2D(args.pool_size, strides=args.pool_strides, padding=args.pool_padding, data_format=FORMAT)


def _norm_upconv(x: Any, args: ModelArgs) -> Any:
    """Undo one pooling: as many times larger as `pool_strides` made it smaller."""
    x = normalisation(x, args)
    odd = all(side % 2 for side in args.kernel_size)
    padding = tuple(step - 1 for step in args.pool_strides) if odd else None
    return layers.Conv2DTranspose(
        args.filters, args.kernel_size, strides=args.pool_strides, padding=args.padding, output_padding=padding,
        activation=args.activation, data_format=FORMAT,
    )(x)  # fmt: skip


def _output(x: Any, args: ModelArgs, output_args: OutputArgs) -> Any:
    """The last layer: float32 under every policy, because bfloat16 has only 3 digits for a probability."""
    return layers.Conv2D(
        args.num_classes, output_args.kernel_size, strides=output_args.strides, padding=output_args.padding,
        activation=output_args.activation, data_format=FORMAT, dtype="float32",
    )(x)  # fmt: skip


def _check_names(args: ModelArgs) -> None:
    """Raise where Keras knows no such activation or initializer."""
    for key, find in (("activation", keras.activations.get), ("kernel_initializer", keras.initializers.get)):
        try:
            find(getattr(args, key))
        except (ValueError, TypeError):
            raise SettingsError(
                f"model_args.{key}", repr(getattr(args, key)), "a name that Keras knows", "Correct that name."
            ) from None


def _check_size(x: Any, outputs: Any, args: OutputArgs) -> None:
    if outputs.shape[1:3] == x.shape[1:3]:
        return
    key = "strides" if args.strides != (1, 1) else "padding"
    found = f"{_plain(getattr(args, key))}, which makes the mask {list(outputs.shape[1:3])}"
    raise SettingsError(f"output_args.{key}", found, f"a mask of {list(x.shape[1:3])}", _FIXES[key])


def _misfit(args: ModelArgs, found: str) -> SettingsError:
    """The error for sizes that do not fit, naming the key that most likely did it."""
    if args.strides != (1, 1):
        key = "strides"
    elif args.padding == "valid" and args.kernel_size != (1, 1):
        key = "padding"
    else:
        key = "pool_size" if args.pool_size != args.pool_strides else "pool_strides"
    found = f"{_plain(getattr(args, key))}, and {found}"
    return SettingsError(f"model_args.{key}", found, "sides that come back to what they were", _FIXES[key])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_FIXES = {
    "strides": "Use [1, 1].",
    "padding": "Use same.",
    "pool_size": "Make pool_size and pool_strides equal.",
    "pool_strides": "Use an input_shape that divides by it at every level, or fewer num_layers.",
}
