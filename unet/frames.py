"""Frames and masks in files: which belong together, and what of them the network sees.

Pixels keep the file's own values: scaling is a layer of the model, so that it happens once, and in the same way when
the model predicts. Masks are exactly 0 or 1, whatever is done to them.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from rasterio.io import DatasetReader

from roofkit.errors import SettingsError
from roofkit.pairs import Pair, read_mask
from roofkit.raster import Pixels, Valid, data_bands, finite, open_raster, read_pixels
from unet.resize import Image, Resized, resized

__all__ = ["FrameStatistics", "Image", "Sample", "network_input", "read_frame", "read_sample", "resize_frame"]


@dataclass(frozen=True)
class Sample:
    """A frame at the network's size.

    Args:
        image: (rows, cols, bands), in the file's dtype, or float32 where it was resized; `Resized` in what
            `read_frame` gives.
        roof: (rows, cols) bool.
        valid: (rows, cols) bool, where frame and mask are both valid.
    """

    image: Pixels
    roof: Valid
    valid: Valid

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return self.image.nbytes + self.roof.nbytes + self.valid.nbytes


@dataclass(frozen=True)
class FrameStatistics:
    """What the valid pixels of a set of frames are like, in the file's own values.

    Args:
        mean: For each band.
        deviation: Standard deviation for each band.
        valid_pixels: How many there are.
        roof_pixels: How many of those are roof.
        pixels: All, valid or not.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    valid_pixels: int
    roof_pixels: int
    pixels: int


def resize_frame(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Pixels (bands, rows, cols) at another size, linear between neighbours, averaged when shrinking; never scaled.

    Returns:
        float32 (bands, *size) in the same value range; the array itself where it has that size already.
    """
    if pixels.shape[1:] == tuple(size):
        return pixels
    return np.ascontiguousarray(np.moveaxis(np.asarray(resized(pixels, size)), -1, 0))


def resize_flags(flags: Valid, size: tuple[int, int]) -> Valid:
    """A bool array (rows, cols) at another size: each pixel takes the nearest one."""
    rows, cols = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, flags.shape))
    return np.asarray(flags.take(rows, axis=0).take(cols, axis=1), bool)


def fill_invalid(pixels: Pixels, valid: Valid) -> Pixels:
    """Pixels (bands, rows, cols) in which invalid ones hold their band's mean over the valid ones (0 with none).

    A nodata value such as -9999 would otherwise spread to its neighbours in resizing and in the network.
    """
    if valid.all():
        return pixels
    means = pixels[:, valid].mean(axis=1, dtype=np.float64) if valid.any() else np.zeros(len(pixels))
    fill = np.rint(means) if pixels.dtype.kind in "iu" else means
    return np.where(valid, pixels, fill.astype(pixels.dtype)[:, None, None])


def network_input(pixels: Pixels, valid: Valid, size: tuple[int, int]) -> tuple[Pixels, Valid]:
    """A frame as the network takes it, in training and in prediction alike.

    Args:
        pixels: (bands, rows, cols), the file's values.
        valid: (rows, cols).
        size: Rows and columns that the network sees.

    Returns:
        Pixels (*size, bands), unscaled, and their validity (*size). Infinite values are invalid.
    """
    image, valid = _lazy_input(pixels, valid, size)
    return np.asarray(image), valid


def _lazy_input(pixels: Pixels, valid: Valid, size: tuple[int, int]) -> tuple[Pixels, Valid]:
    """What `network_input` gives, but where it is resized, only when asked for."""
    valid = finite(pixels, valid)
    pixels, flags = fill_invalid(pixels, valid), resize_flags(valid, size)
    if pixels.shape[1:] == tuple(size):
        return np.ascontiguousarray(np.moveaxis(pixels, 0, -1)), flags
    return cast(Pixels, resized(pixels, size)), flags  # is used as an array would be


def read_frame(pair: Pair, size: tuple[int, int], channels: int) -> Sample:
    """A frame and its mask at the network's size, the image `Resized` only when it is used.

    So it takes no more memory than its file's pixels, and a window of it no more time than it is large.

    Raises:
        SettingsError: The frame has not as many bands as `load_dataset_args.channels` says.
        BadInputError: A file is broken, or no mask.
    """
    with open_raster(pair.frame) as src:
        check_bands(src, pair.frame, channels)
        image, valid = _lazy_input(*read_pixels(src), size)
    with open_raster(pair.mask) as src:
        roof, labelled = read_mask(src)
    valid = valid & resize_flags(labelled, size)
    return Sample(image, resize_flags(roof, size) & valid, valid)


def read_sample(pair: Pair, size: tuple[int, int], channels: int) -> Sample:
    """A frame and its mask at the network's size; raises as `read_frame` does."""
    frame = read_frame(pair, size, channels)
    return replace(frame, image=np.asarray(frame.image))


def write_image(image: Pixels, out: Image) -> None:
    """Write an image (rows, cols, bands), `Resized` or not, into an array of its shape, without a copy on the way."""
    if isinstance(image, Resized):
        image.fill(out)
    else:
        out[...] = image


def check_bands(src: DatasetReader, path: Path, channels: int) -> None:
    """Raise SettingsError where a frame has not as many bands as `load_dataset_args.channels` says."""
    bands = len(data_bands(src))
    if bands != channels:
        expected = f"{bands}, as {path} has"
        advice = "Change it, and model_args.input_shape with it."
        raise SettingsError("load_dataset_args.channels", str(channels), expected, advice)


def targets(roof: Valid, num_classes: int) -> Image:
    """Masks (…, classes) of 0.0 and 1.0 from bool (…): the roof, with two classes after the background."""
    layers = [roof] if num_classes == 1 else [~roof, roof]
    return np.stack(layers, axis=-1).astype(np.float32)
