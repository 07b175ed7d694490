"""What a pixel classifier sees of a pixel: its own values, and how its neighbourhood looks at several scales.

Any number of bands; windows are computed with a margin, so that a scene gives the same features however it is cut.
Arrays are (bands or features, rows, cols).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from roofkit.errors import SettingsError
from roofkit.raster import Pixels, Valid, finite, read_pixels
from roofkit.settings import PixelArgs

Floats = NDArray[np.float32]
TRUNCATE = 4.0  # deviations at which a Gaussian ends, as in scipy and skimage
GRADIENT = 0.7  # deviation of the smoothing before texture: corrugation is a pixel or two wide
FILL = 4.0  # deviation of the neighbourhood that invalid pixels are filled from
FEW_BANDS = 4  # of which all pairs are looked at
STEEPEST = 10.0  # the largest ratio of two bands
FARTHEST = np.float32(1e6)  # deviations from the mean: what lies beyond is no measurement, and its square no float32
KINDS = ("values", "mean", "deviation", "edges", "texture", "hessian")
EXTRA = {"mean": 0, "deviation": 0, "edges": 1, "hessian": 2}  # pixels around a smoothed window that a kind needs


@dataclass(frozen=True)
class Bands:
    """Names of the data bands, and mean and standard deviation of their valid training pixels."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def gaussian(sigma: float) -> Floats:
    """Weights of a Gaussian of that deviation in pixels, (2 r + 1,) with r = 4 deviations; their sum is 1."""
    radius = int(TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


class Features:
    """The features that settings name, for imagery of some bands.

    Args:
        settings: Which features.
        bands: Of the training imagery: bands are centred and scaled by them.

    Raises:
        SettingsError: There is not one feature.
    """

    def __init__(self, settings: PixelArgs, bands: Bands) -> None:
        self.settings, self.bands = settings, bands
        numbers = range(len(bands.names))
        every = settings.pairs == "all" or (settings.pairs == "auto" and len(numbers) <= FEW_BANDS)
        self.pairs = list(combinations(numbers, 2) if every else pairwise(numbers))
        if not self.names:
            found = f"no feature for imagery of {len(bands.names)} bands"
            raise SettingsError("pixel_args", found, "at least one", "Name layers in values or mean.")

    @cached_property
    def names(self) -> list[str]:
        """A name for each feature, in their order."""
        settings = self.settings
        found = [name for layer in settings.values for name in self.layers(layer)]
        for scale in settings.scales:
            for kind in KINDS[1:]:
                for name in (name for layer in getattr(settings, kind) for name in self.layers(layer)):
                    if kind == "hessian":
                        found += [f"ridge of {name} at {scale:g} px", f"valley of {name} at {scale:g} px"]
                    else:
                        found.append(f"{kind} of {name} at {scale:g} px")
        return found

    def layers(self, layer: str) -> list[str]:
        """The names of the images that a layer of the settings stands for."""
        names = self.bands.names
        if layer == "bands":
            return list(names)
        if layer == "brightness":
            return ["brightness"]
        pattern = "({0} - {1}) / ({0} + {1})" if layer == "differences" else "{0} / {1}"
        return [pattern.format(names[a], names[b]) for a, b in self.pairs]

    @cached_property
    def reach(self) -> int:
        """Pixels around a window that its features depend on, where all of them are valid."""
        reach = 0
        for kind in KINDS[1:]:
            if getattr(self.settings, kind) and self.settings.scales:
                extra = gaussian(GRADIENT).size // 2 + 1 if kind == "texture" else EXTRA[kind]
                reach = max(reach, gaussian(max(self.settings.scales)).size // 2 + extra)
        return reach

    @property
    def margin(self) -> int:
        """Pixels around a window that its features depend on."""
        return self.reach + gaussian(FILL).size // 2

    def of(self, pixels: Pixels, valid: Valid) -> Floats:
        """The features of a window.

        Args:
            pixels: (bands, rows + 2 margins, cols + 2 margins), the file's values.
            valid: (rows + 2 margins, cols + 2 margins).

        Returns:
            (features, rows, cols).
        """
        images = self._images(pixels, valid)
        shape = tuple(side - 2 * self.reach for side in images[next(iter(images))].shape)
        out = np.empty((len(self.names), *shape), np.float32)
        places = iter(out)
        for name in self._named("values"):
            next(places)[:] = cropped(images[name], self.reach)
        products = {name: _products(images[name]) for name in self._named("texture")}
        for scale in self.settings.scales:
            self._at_scale(images, products, gaussian(scale), places)
        return out

    def _named(self, kind: str) -> list[str]:
        return [name for layer in getattr(self.settings, kind) for name in self.layers(layer)]

    def _at_scale(
        self,
        images: dict[str, Floats],
        products: dict[str, tuple[Floats, Floats, Floats]],
        weights: Floats,
        places: Iterator[Floats],
    ) -> None:
        """Fill in the features of one scale, in the order of `names`."""
        from pixelwise import kernels  # late: numba, which compiles them, takes a while to load

        margin = self.reach - weights.size // 2
        wanted = {kind: self._named(kind) for kind in KINDS[1:]}
        smooth: dict[str, Floats] = {}
        for name in dict.fromkeys(wanted["mean"] + wanted["deviation"] + wanted["edges"] + wanted["hessian"]):
            extra = max(pixels for kind, pixels in EXTRA.items() if name in wanted[kind])
            smooth[name] = kernels.convolve(cropped(images[name], margin - extra), weights)
        for name in wanted["mean"]:
            place = next(places)
            place[:] = centre(smooth[name], place.shape)
        for name in wanted["deviation"]:
            place = next(places)
            square = kernels.convolve(cropped(images[name] ** 2, margin), weights)
            kernels.deviation(centre(smooth[name], place.shape), square, place)
        for name in wanted["edges"]:
            place = next(places)
            rows, cols = place.shape
            kernels.edges(centre(smooth[name], (rows + 2, cols + 2)), place)
        for name in wanted["texture"]:
            place = next(places)
            around = [(side - size) // 2 for side, size in zip(products[name][0].shape, place.shape)]
            parts = [cropped(part, around[0] - weights.size // 2) for part in products[name]]
            down, along, both = (kernels.convolve(part, weights) for part in parts)
            kernels.coherence(down, along, both, place)
        for name in wanted["hessian"]:
            high, low = next(places), next(places)
            rows, cols = high.shape
            kernels.hessian(centre(smooth[name], (rows + 4, cols + 4)), high, low)

    def _images(self, pixels: Pixels, valid: Valid) -> dict[str, Floats]:
        """The layers as images by name, less the margin that filling invalid pixels needs."""
        mean, deviation = (np.array(v, np.float32)[:, None, None] for v in (self.bands.mean, self.bands.deviation))
        raw = filled(pixels, valid, mean)
        scaled = (raw - mean) / deviation
        np.clip(scaled, -FARTHEST, FARTHEST, out=scaled)
        images = dict(zip(self.bands.names, map(np.ascontiguousarray, scaled)))
        layers = {layer for kind in KINDS for layer in getattr(self.settings, kind)}
        if "brightness" in layers:
            images["brightness"] = scaled.mean(axis=0)
        for layer, work in (("differences", difference), ("ratios", ratio)):
            if layer in layers:
                images |= {name: work(raw[a], raw[b]) for name, (a, b) in zip(self.layers(layer), self.pairs)}
        return images


def difference(one: Floats, other: Floats) -> Floats:
    """The normalised difference (one - other) / (one + other), -1 to 1; 0 where the sum is 0."""
    with np.errstate(over="ignore", invalid="ignore"):  # untagged nodata such as -3.4e38
        total = one + other
        found = np.divide(one - other, total, out=np.zeros_like(one), where=total != 0)
    return np.asarray(np.nan_to_num(np.clip(found, -1.0, 1.0)), np.float32)


def ratio(one: Floats, other: Floats) -> Floats:
    """One divided by the other, -10 to 10; 0 where the other is 0."""
    with np.errstate(over="ignore"):
        found = np.divide(one, other, out=np.zeros_like(one), where=other != 0)
    return np.asarray(np.clip(found, -STEEPEST, STEEPEST), np.float32)


def filled(pixels: Pixels, valid: Valid, mean: Floats) -> Floats:
    """Pixels in float32 in which invalid ones hold the mean of valid ones around them, or `mean` where there are none.

    So neither nodata nor the border beside it looks like an edge. Normalised convolution (Knutsson and Westin 1993).

    Returns:
        (bands, rows - 2 r, cols - 2 r) with r the radius of the neighbourhood.
    """
    weights = gaussian(FILL)
    radius = weights.size // 2
    inner = np.s_[..., radius : valid.shape[0] - radius, radius : valid.shape[1] - radius]
    valid = finite(pixels, valid)
    if valid.all():
        return np.asarray(pixels[inner], np.float32)
    from pixelwise import kernels

    measured = np.where(valid, pixels.astype(np.float32) - mean, np.float32(0))
    share = kernels.convolve(valid.astype(np.float32), weights)
    near = np.stack([kernels.convolve(band, weights) for band in measured])
    around = np.divide(near, share, out=np.zeros_like(near), where=share > 1e-6) + mean
    return np.where(valid[inner], pixels[inner], around).astype(np.float32)


def cropped(image: Floats, margin: int) -> Floats:
    """An image without a margin on every side, in one piece of memory."""
    rows, cols = image.shape
    return np.ascontiguousarray(image[margin : rows - margin, margin : cols - margin])


def centre(image: Floats, shape: tuple[int, ...]) -> Floats:
    """The middle of an image, of that shape."""
    return cropped(image, (image.shape[0] - shape[0]) // 2)


def _products(image: Floats) -> tuple[Floats, Floats, Floats]:
    from pixelwise import kernels

    down, along, both = kernels.gradients(kernels.convolve(image, gaussian(GRADIENT)))
    return down, along, both


def read_around(src: DatasetReader, window: Window, margin: int) -> tuple[Pixels, Valid]:
    """Pixels and validity of a window and a margin around it; what lies outside the raster mirrors its inside.

    Raises:
        BadInputError: The file's pixels are broken.
    """
    (top, bottom), (left, right) = (
        (int(start) - margin, int(start + size) + margin)
        for start, size in ((window.row_off, window.height), (window.col_off, window.width))
    )
    first, last = max(top, 0), min(bottom, src.height)
    start, stop = max(left, 0), min(right, src.width)
    pixels, valid = read_pixels(src, Window(start, first, stop - start, last - first))
    missing: Sequence[tuple[int, int]] = ((first - top, bottom - last), (start - left, right - stop))
    return np.pad(pixels, ((0, 0), *missing), mode="symmetric"), np.pad(valid, missing, mode="symmetric")
