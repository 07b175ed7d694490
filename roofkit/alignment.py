"""Whether roof masks lie on the roofs of their images, from the pixels alone.

The outline of a roof runs along an edge of the image, whatever the roof's colour. So the directions of image edges are
compared with those of outlines, as a structure tensor has them (Bigün & Granlund 1987): a gradient (x, y) becomes the
complex number (x + iy)², in which light-to-dark and dark-to-light agree, and bands add up. Unrelated directions cancel
out: the real part of the correlation is then 0 but for chance. Scores are in standard deviations of that chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from roofkit.raster import Pixels, Valid

SIDE = 192  # larger frames are averaged down to at most this many pixels a side
SMALLEST = 0.5  # of a chance deviation; below it is only rounding
SURE = 7.0  # deviations from which a shift is believed
ELSEWHERE = 5.0  # deviations by which a mask must fit another frame better than its own
Directions = NDArray[np.complex64]


@dataclass(frozen=True)
class Shift:
    """How far masks lie from their roofs.

    Args:
        rows: Pixels downwards; negative: upwards.
        cols: Pixels to the right.
        score: How well outlines and edges agree there.
        unmoved: The same without a shift.
        iou: Of the masks and the moved masks: what a perfect network could reach, 0 to 1.
        agreed: Two halves of the frames show the same shift.
    """

    rows: int
    cols: int
    score: float
    unmoved: float
    iou: float
    agreed: bool

    @property
    def sure(self) -> bool:
        """Whether this is more than chance."""
        return self.agreed and self.score >= SURE and self.score - self.unmoved >= SURE / 2


@dataclass(frozen=True)
class Fit:
    """Which frames the masks fit.

    Args:
        own: How many masks fit their own frame best, and that frame no other mask better.
        elsewhere: Mask and frame, by number, where a mask fits another frame far better, and that frame no other mask.
        score: How much better own masks fit than those of other frames, in deviations of a random order.
    """

    own: int
    elsewhere: list[tuple[int, int]]
    score: float


class Scene:
    """The directions of edges and outlines in some frames.

    Args:
        images: Frames (rows, cols, bands), all of one size.
        roofs: Their masks (rows, cols) bool.
        valid: Where they count (rows, cols) bool.
    """

    def __init__(self, images: Sequence[Pixels], roofs: Sequence[Valid], valid: Sequence[Valid]) -> None:
        self.factor = max(1, -(-max(roofs[0].shape) // SIDE))
        inner = [_inside(shrink(flags, self.factor) > 0.999) for flags in valid]
        self.roofs = [shrink(roof, self.factor) for roof in roofs]
        self.inner = np.stack(inner)
        self.edges = np.stack([edges(shrink(image, self.factor), flags) for image, flags in zip(images, inner)])
        self.outlines = np.stack([_directions(roof[..., None]) for roof in self.roofs]) * self.inner

    def shift(self) -> Shift:
        """The offset at which outlines and edges agree best, up to a quarter of a frame."""
        reach = min(self.inner.shape[1:]) // 4
        halves = [_agreement(self.edges[start::2], self.outlines[start::2], reach) for start in (0, 1)]
        rows, cols, score, unmoved = _peak(halves[0] + halves[1])
        places = [_peak(half)[:2] for half in halves]
        near = max(2, np.hypot(rows, cols) / 4)
        agreed = all(np.hypot(row - rows, col - cols) <= near for row, col in places)
        iou = _moved_iou([roof > 0.5 for roof in self.roofs], -rows, -cols)
        return Shift(-rows * self.factor, -cols * self.factor, score, unmoved, iou, agreed)

    def fit(self, shift: Shift | None = None) -> Fit:
        """How well each mask fits each frame, after moving all masks back by a shift that is known."""
        outlines = self.outlines
        if shift:
            outlines = np.roll(outlines, (-shift.rows // self.factor, -shift.cols // self.factor), axis=(1, 2))
        scores = _scores(self.edges, outlines, self.inner)
        best = scores.argmax(axis=1).tolist()
        mutual = [(mask, frame) for mask, frame in enumerate(best) if scores[:, frame].argmax() == mask]
        elsewhere = [(m, f) for m, f in mutual if scores[m, f] - scores[m, m] >= ELSEWHERE]
        return Fit(sum(mask == frame for mask, frame in mutual), elsewhere, _against_chance(scores))


def shrink(array: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """(rows, cols, …) averaged over squares of `factor` pixels; what is left over at the end is cut off."""
    rows, cols = (side // factor for side in array.shape[:2])
    cut = array[: rows * factor, : cols * factor].astype(np.float32)
    mean = cut.reshape(rows, factor, cols, factor, *array.shape[2:]).mean(axis=(1, 3))
    return np.asarray(mean, np.float32)


def edges(image: NDArray[np.float32], inside: Valid) -> Directions:
    """Directions of an image's edges (rows, cols), 0 where nothing counts; the strongest twentieth has length 1."""
    if not inside.any():
        return np.zeros(inside.shape, np.complex64)
    deviation = image[inside].std(axis=0)
    scale = np.where(deviation > 0, deviation, np.inf).astype(np.float32)
    found = _directions(image / scale) * inside
    length = np.abs(found)
    strong = max(float(np.quantile(length[inside], 0.95)), 1e-9)
    return np.asarray(found / np.maximum(length, strong), np.complex64)


def _directions(image: NDArray[np.float32]) -> Directions:
    """The sum over bands of squared complex gradients (rows, cols), its length the root of theirs."""
    smooth = ndimage.gaussian_filter(image, (1, 1, 0))
    down, right = np.gradient(smooth, axis=(0, 1))
    squared = ((right + 1j * down) ** 2).sum(axis=-1)
    return np.asarray(squared / np.sqrt(np.maximum(np.abs(squared), 1e-12)), np.complex64)


def _inside(valid: Valid) -> Valid:
    """Pixels that are valid with their neighbours, so that no edge of what is measured counts."""
    return np.asarray(ndimage.binary_erosion(valid, iterations=2))


def _agreement(edge: Directions, outline: Directions, reach: int) -> NDArray[np.float64]:
    """The summed agreement when edges are looked for at each offset, (2 reach + 1) a side, no offset in the middle."""
    size = [fft.next_fast_len(side + reach) for side in edge.shape[1:]]
    product = (fft.fft2(edge, size) * np.conj(fft.fft2(outline, size))).sum(axis=0)
    around = np.arange(-reach, reach + 1)
    return np.asarray(fft.ifft2(product).real[np.ix_(around, around)], np.float64)


def _peak(agreement: NDArray[np.float64]) -> tuple[int, int, float, float]:
    """Rows and columns of the highest value from the middle, its score, and that of the middle."""
    reach = agreement.shape[0] // 2
    row, col = np.unravel_index(agreement.argmax(), agreement.shape)
    rows, cols = np.indices(agreement.shape)
    chance = agreement[np.hypot(rows - row, cols - col) > 3]
    if not chance.size or not chance.std() > 0:
        return 0, 0, 0.0, 0.0
    score, unmoved = ((agreement[place] - chance.mean()) / chance.std() for place in ((row, col), (reach, reach)))
    return int(row) - reach, int(col) - reach, float(score), float(unmoved)


def _moved_iou(roofs: Sequence[Valid], rows: int, cols: int) -> float:
    """IoU of masks and the same masks moved, over what stays inside."""
    both = either = 0
    for roof in roofs:
        moved = ndimage.shift(roof.astype(np.uint8), (rows, cols), order=0) > 0
        both, either = both + int((roof & moved).sum()), either + int((roof | moved).sum())
    return both / max(either, 1)


def _scores(edge: Directions, outline: Directions, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How well each mask (row) fits each frame (column), in deviations of masks in frames that are not theirs."""
    flat = [part.reshape(len(part), -1) for part in (edge, outline)]
    counted = inside.reshape(len(inside), -1).astype(np.float32)
    length = np.sqrt((np.abs(flat[1]) ** 2) @ counted.T)
    agreement = (flat[1].conj() @ flat[0].T).real / np.maximum(length, 1e-6)
    other = agreement[~np.eye(len(agreement), dtype=bool)]
    chance = 1.4826 * np.median(np.abs(other - np.median(other))) if other.size else 0.0  # robust: some may be partners
    return np.asarray((agreement - (np.median(other) if other.size else 0.0)) / max(chance, SMALLEST), np.float64)


def _against_chance(scores: NDArray[np.float64], draws: int = 200) -> float:
    """The sum of the diagonal in deviations of that of random orders."""
    rng = np.random.default_rng(0)
    sums = [scores[np.arange(len(scores)), rng.permutation(len(scores))].sum() for _ in range(draws)]
    return float((np.trace(scores) - np.mean(sums)) / max(np.std(sums), SMALLEST))
