"""Random changes to a sample: the same to image, roof and validity, for any number of bands.

All geometry is one affine transform, so that pixels are interpolated once; flips, quarter turns and plain windows
move pixels and change none. Roof and validity take the nearest pixel, and stay True or False.
"""

import numpy as np
from numpy.typing import NDArray

from roofkit.errors import SettingsError
from roofkit.settings import LoadDatasetArgs
from unet.frames import FrameStatistics, Image, Sample, write_image
from unet.resize import mirrored

EXTREMES = 3.0  # deviations from a band's mean: the range within which gamma bends its values
Numbers = NDArray[np.float64]


class Augmentation:
    """Windows of frames, moved, shaded and blanked in parts.

    Args:
        settings: How much of each.
        statistics: Of the training frames; brightness, contrast, gamma and blanks are relative to them.

    Raises:
        SettingsError: `zoom_range` is not a range.
    """

    def __init__(self, settings: LoadDatasetArgs, statistics: FrameStatistics) -> None:
        zoom = settings.zoom_range
        self.zoom = zoom if isinstance(zoom, tuple) else (1.0 - zoom, 1.0 + zoom)
        if not 0.0 < self.zoom[0] <= self.zoom[1]:
            raise SettingsError("load_dataset_args.zoom_range", str(zoom), "[low, high] above 0", "Correct it.")
        self.settings = settings
        self.mean = np.asarray(statistics.mean, np.float32)
        self.deviation = np.asarray(statistics.deviation, np.float32)

    def __call__(self, sample: Sample, rng: np.random.Generator, out: Image | None = None) -> Sample:
        """The sample, changed as `rng` draws; image in float32, in `out` where that is given."""
        sample = self.turn(self.window(sample, rng), rng)
        image = np.empty(sample.image.shape, np.float32) if out is None else out
        write_image(sample.image, image)
        self.shade(image, rng)
        self.blank(image, rng)
        return Sample(image, sample.roof, sample.valid)

    def window(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """`crop_size` (null: all) of the frame, rotated, sheared and zoomed, at a random place.

        What comes from outside mirrors the inside, and is invalid.
        """
        frame = np.array(sample.roof.shape)
        size = np.array(self.settings.crop_size or sample.roof.shape)
        matrix = self.matrix(rng)
        if matrix is not None:
            return warp(sample, size, matrix, random_centre(frame, size, matrix, rng))
        top, left = rng.integers(frame - size, endpoint=True)
        part = slice(top, top + size[0]), slice(left, left + size[1])
        return Sample(sample.image[part], sample.roof[part], sample.valid[part])

    def matrix(self, rng: np.random.Generator) -> Numbers | None:
        """From steps in the window to steps in the frame, (2, 2), rows before columns; None where they are the same."""
        settings = self.settings
        if self.zoom == (1.0, 1.0) and not settings.shear_range and not settings.rotation_range:
            return None
        angle, slant = np.deg2rad([rng.uniform(-r, r) for r in (settings.rotation_range, settings.shear_range)])
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shear = np.array([[1.0, -np.sin(slant)], [0.0, np.cos(slant)]])
        return np.asarray(rotation @ shear / rng.uniform(*self.zoom))

    def turn(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Flipped and turned by quarters: no pixel changes its value."""
        arrays = [sample.image, sample.roof, sample.valid]
        if self.settings.horizontal_flip and rng.random() < 0.5:
            arrays = [array[:, ::-1] for array in arrays]
        if self.settings.vertical_flip and rng.random() < 0.5:
            arrays = [array[::-1] for array in arrays]
        if self.settings.quarter_turns:
            turns = int(rng.integers(4))
            arrays = [np.rot90(array, turns) for array in arrays]
        return Sample(*arrays)

    def shade(self, image: Image, rng: np.random.Generator) -> None:
        """Bend each band between its extremes, stretch it about its mean, and make it lighter or darker; in place."""
        settings = self.settings
        if settings.gamma_range:
            self.bend(image, 1.0 + self.draw(settings.gamma_range, rng))
        if settings.contrast_range or settings.brightness_range:
            factor = 1.0 + self.draw(settings.contrast_range, rng)
            image *= factor
            image += self.mean * (1.0 - factor) + self.draw(settings.brightness_range, rng) * self.deviation

    def draw(self, reach: float, rng: np.random.Generator) -> Image:
        """A number for each band, within ±reach: two thirds of it shared by all bands, one third its own.

        Bands that change alike keep their hue, which tells metal from other roofs.
        """
        shared, own = rng.uniform(-1.0, 1.0), rng.uniform(-1.0, 1.0, len(self.mean))
        return np.asarray(reach / 3.0 * (2.0 * shared + own), np.float32)

    def bend(self, image: Image, power: Image) -> None:
        """Raise each band, as a share of the way from mean - 3 to mean + 3 deviations, to its power; in place.

        Values beyond those extremes stay; so the order of values does too.
        """
        width = np.where(self.deviation > 0, 2 * EXTREMES * self.deviation, np.float32(1))
        share = np.clip((image - self.mean) / width + np.float32(0.5), 0.0, 1.0)
        image += (share**power - share) * width

    def blank(self, image: Image, rng: np.random.Generator) -> None:
        """Set rectangles and bands to the mean, in place (DeVries and Taylor 2017, arXiv:1708.04552).

        Roof and validity stay: the network learns to tell from the surroundings what it does not see.
        """
        rows, cols = image.shape[:2]
        for _ in range(self.settings.cutouts):
            height, width = (np.array([rows, cols]) * self.settings.cutout_size * rng.uniform(0.5, 1.0, 2)).astype(int)
            top, left = rng.integers([rows - height, cols - width], endpoint=True)
            image[top : top + height, left : left + width] = self.mean
        if self.settings.band_drop:
            dropped = rng.random(len(self.mean)) < self.settings.band_drop
            if dropped.all():
                dropped[rng.integers(len(dropped))] = False
            image[..., dropped] = self.mean[dropped]


def random_centre(
    frame: NDArray[np.int64], size: NDArray[np.int64], matrix: Numbers, rng: np.random.Generator
) -> Numbers:
    """A place for the centre of a window: wherever the largest square that fits into it at every angle is in the frame.

    So corners of turned windows may stick out, and all of the frame is seen, its edges too. A window of the frame's
    own size stays inside with its corners, or in the middle where they cannot be inside.

    Args:
        frame: Rows and columns of the frame.
        size: Rows and columns of the window.
        matrix: From steps in the window to steps in the frame.
        rng: What draws.

    Returns:
        Row and column in the frame, (2,).
    """
    middle = (frame - 1) / 2
    half = (size - 1) / 2
    reach = np.abs(matrix) @ half
    if (size < frame).all():
        reach = np.minimum(reach, half.max() * np.sqrt(np.abs(np.linalg.det(matrix)) / 2))
    room = np.maximum(middle - reach, 0.0)
    return np.asarray(middle + rng.uniform(-1.0, 1.0, 2) * room)


def warp(sample: Sample, size: NDArray[np.int64], matrix: Numbers, centre: Numbers) -> Sample:
    """A window of a frame: linear between pixels of the image, the nearest of roof and validity.

    Args:
        sample: The frame.
        size: Rows and columns of the window.
        matrix: From steps in the window to steps in the frame, (2, 2).
        centre: Row and column in the frame of the window's centre.

    Returns:
        Image in float32. What comes from outside the frame mirrors the inside; it is invalid and no roof.
    """
    down, right = (np.arange(side) - (side - 1) / 2 for side in size)
    rows, cols = (step[0] * down[:, None] + step[1] * right + start for step, start in zip(matrix, centre))
    height, width = sample.roof.shape
    row, col = np.floor(rows + 0.5), np.floor(cols + 0.5)
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    nearest = mirrored(row, height) * width + mirrored(col, width)
    return Sample(
        between(sample.image, rows, cols), sample.roof.take(nearest) & inside, sample.valid.take(nearest) & inside
    )


def between(image: NDArray[np.generic], rows: Numbers, cols: Numbers) -> Image:
    """Values of an image (height, width, bands) at places between its pixels, linear, in float32 (*places, bands).

    Places are worked out once for all bands: two to three times as fast as scipy.ndimage, which takes bands one by one.
    """
    height, width, bands = image.shape
    (top, bottom), (first, last) = span(rows, height), span(cols, width)
    pixels = np.asarray(image[top:bottom, first:last], np.float32).reshape(-1, bands)
    above, before = np.floor(rows), np.floor(cols)
    down, right = ((places - whole).astype(np.float32)[..., None] for places, whole in ((rows, above), (cols, before)))
    columns = [mirrored(before + i, width) - first for i in (0, 1)]
    starts = [(mirrored(above + i, height) - top) * (last - first) for i in (0, 1)]
    upper, lower = (
        mixed(pixels.take(start + columns[0], axis=0), pixels.take(start + columns[1], axis=0), right)
        for start in starts
    )
    return mixed(upper, lower, down)


def span(places: Numbers, count: int) -> tuple[int, int]:
    """The first of the pixels beside some places of an axis of `count` pixels, and the one after the last."""
    used = mirrored(np.arange(np.floor(places.min()), np.floor(places.max()) + 2), count)
    return int(used.min()), int(used.max()) + 1


def mixed(first: Image, second: Image, share: Image) -> Image:
    """From the first (share 0) to the second (share 1), in the second's memory: large arrays are slow to come by."""
    second -= first
    second *= share
    second += first
    return second
