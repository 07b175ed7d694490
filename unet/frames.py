"""Frames and masks in files: which belong together, and what of them the network sees.

Pixels keep the file's own values: scaling is a layer of the model, so that it happens once, and in the same way when
the model predicts. Masks are exactly 0 or 1, whatever is done to them.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from skimage.transform import resize

from roofkit.errors import BadInputError, MismatchError, MissingInputError, SettingsError
from roofkit.raster import Pixels, Valid, data_bands, grid_of, open_raster, raster_files, read_pixels

MASK_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """A frame and its mask."""

    frame: Path
    mask: Path


@dataclass(frozen=True)
class Sample:
    """A frame at the network's size.

    Args:
        image: (rows, cols, bands), in the file's dtype, or float32 where it was resized.
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
    shrinks = size[0] < pixels.shape[1] or size[1] < pixels.shape[2]
    options = dict(order=1, mode="symmetric", anti_aliasing=shrinks, preserve_range=True)
    return np.stack([resize(band.astype(np.float32), size, **options) for band in pixels]).astype(np.float32)


def resize_flags(flags: Valid, size: tuple[int, int]) -> Valid:
    """A bool array (rows, cols) at another size: each pixel takes the nearest one."""
    rows, cols = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, flags.shape))
    return np.asarray(flags[rows][:, cols], bool)


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
    if pixels.dtype.kind == "f":
        valid = valid & np.isfinite(pixels).all(axis=0)
    image = resize_frame(fill_invalid(pixels, valid), size)
    return np.ascontiguousarray(np.moveaxis(image, 0, -1)), resize_flags(valid, size)


def natural(path: Path) -> list[tuple[int, str]]:
    """A sort key by which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def find_pairs(frames: Path, masks: Path, extension: str = "tif") -> list[Pair]:
    """Frames and masks that have the same name but for the suffix, sorted naturally, their grids checked.

    Raises:
        MissingInputError: A folder is absent or empty, or a frame or mask has no partner.
        MismatchError: Two masks have one name, or a mask has another grid than its frame.
    """
    by_frame = _by_stem(raster_files(frames, extension))
    by_mask = _by_stem(_mask_files(masks))
    for here, there, where, kind in ((by_frame, by_mask, masks, "mask"), (by_mask, by_frame, frames, "frame")):
        alone = sorted((path for stem, path in here.items() if stem not in there), key=natural)
        if alone:
            names = ", ".join(path.name for path in alone[:3]) + (", …" if len(alone) > 3 else "")
            advice = "Add what is missing, or remove the others."
            raise MissingInputError(
                where, f"no {kind} for {len(alone)} files ({names})", "files of equal names", advice
            )
    pairs = [Pair(by_frame[stem], by_mask[stem]) for stem in sorted(by_frame, key=lambda stem: natural(by_frame[stem]))]
    for pair in pairs:
        _check_grids(pair)
    return pairs


def _mask_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MissingInputError(folder, "no such folder", "a folder of masks", "Run the mask and split stages first.")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in MASK_SUFFIXES and not p.name.startswith("."))
    if not found:
        raise MissingInputError(folder, "no mask", "*.tif or *.png files", "Run the mask and split stages first.")
    return found


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            found_text = f"the same name as {found[path.stem].name}"
            raise MismatchError(path, found_text, "one file of each name", "Remove one of the two.")
        found[path.stem] = path
    return found


def _check_grids(pair: Pair) -> None:
    with open_raster(pair.frame) as frame, open_raster(pair.mask) as mask:
        one, other = grid_of(frame), grid_of(mask)
    located = all(grid.crs is not None and grid.transform != Affine.identity() for grid in (one, other))
    if (one.height, one.width) != (other.height, other.width):
        found = f"{other.height} x {other.width} pixels beside {one.height} x {one.width} in {pair.frame}"
    elif located and not one.matches(other):
        found = f"another CRS or transform than {pair.frame}"
    else:
        return
    raise MismatchError(pair.mask, found, "the frame's own grid", "Make the mask from that frame.")


def read_mask(path: Path) -> tuple[Valid, Valid]:
    """Where a mask says roof, and where it is valid; both (rows, cols) bool.

    Values are 0 and 255, or 0 and 1. A nodata tag of 0 is passed over: 0 in a mask is background.

    Raises:
        BadInputError: It has several bands, or other values.
    """
    with open_raster(path) as src:
        if len(data_bands(src)) != 1:
            raise BadInputError(path, f"{len(data_bands(src))} bands", "a mask of one band", "Make it again.")
        pixels, valid = read_pixels(src)
        if src.nodata == 0:
            valid = np.ones_like(valid)
    values = np.unique(pixels[0][valid])
    if not (set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}):
        shown = ", ".join(f"{value:g}" for value in values[:6].tolist()) + (", …" if len(values) > 6 else "")
        raise BadInputError(path, f"values {shown}", "0 and 255, or 0 and 1", "Make it with the mask stage.")
    return pixels[0] > 0, valid


def read_sample(pair: Pair, size: tuple[int, int], channels: int) -> Sample:
    """A frame and its mask at the network's size.

    Raises:
        SettingsError: The frame has not as many bands as `load_dataset_args.channels` says.
        BadInputError: A file is broken, or no mask.
    """
    with open_raster(pair.frame) as src:
        check_bands(src, pair.frame, channels)
        image, valid = network_input(*read_pixels(src), size)
    roof, labelled = read_mask(pair.mask)
    valid = valid & resize_flags(labelled, size)
    return Sample(image, resize_flags(roof, size) & valid, valid)


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
