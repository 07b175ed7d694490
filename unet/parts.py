"""Layers that the architectures share."""

from typing import Any

from keras import layers

from roofkit.settings import ModelArgs

FORMAT = "channels_last"  # of all layers; a CPU has no convolutions for the other
GROUPS = 8  # at most, of group normalisation


def normalisation(x: Any, args: ModelArgs) -> Any:
    """Batch normalisation, or group normalisation (Wu and He 2018, arXiv:1803.08494), which knows no batch.

    Groups are the most, up to 8, that divide the channels.
    """
    if args.normalization == "batch":
        return layers.BatchNormalization(momentum=args.bachnorm_momentum)(x)
    groups = max(n for n in range(1, GROUPS + 1) if x.shape[-1] % n == 0)
    return layers.GroupNormalization(groups)(x)


def dropout(x: Any, args: ModelArgs) -> Any:
    """Whole channels left out in training (Tompson et al. 2015, arXiv:1411.4280)."""
    return layers.SpatialDropout2D(args.dropout, data_format=FORMAT)(x) if args.dropout else x


def convolution(x: Any, filters: int, args: ModelArgs, *, size: Any = None, stride: int = 1) -> Any:
    """A convolution without bias or activation, for before a normalisation."""
    return layers.Conv2D(
        filters, size or args.kernel_size, strides=stride, padding="same", use_bias=False,
        kernel_initializer=args.kernel_initializer, data_format=FORMAT,
    )(x)  # fmt: skip


def active(x: Any, args: ModelArgs) -> Any:
    """Normalised, then through the activation."""
    return layers.Activation(args.activation)(normalisation(x, args))


def residual_block(x: Any, filters: int, args: ModelArgs) -> Any:
    """Two convolutions beside a shortcut, normalised before each (He et al. 2016, arXiv:1603.05027)."""
    y = active(x, args)
    shortcut = x if x.shape[-1] == filters else convolution(y, filters, args, size=1)
    y = active(convolution(y, filters, args), args)
    return layers.Add()([shortcut, convolution(y, filters, args)])


def climb(x: Any, skip: Any, filters: int, args: ModelArgs) -> Any:
    """One level up: twice as large, joined with the same level of the way down."""
    x = convolution(active(x, args), filters, args, size=1)
    x = layers.UpSampling2D(2, data_format=FORMAT)(x)
    return residual_block(layers.Concatenate()([x, skip]), filters, args)


def to_full_size(x: Any, filters: int, args: ModelArgs) -> Any:
    """From half size to full size: learnt upsampling of few channels, since full-size layers cost most."""
    x = layers.Activation(args.activation)(convolution(active(x, args), filters, args))
    return layers.Conv2DTranspose(
        max(filters // 4, 4), 2, strides=2, activation=args.activation, data_format=FORMAT,
        kernel_initializer=args.kernel_initializer,
    )(x)  # fmt: skip
