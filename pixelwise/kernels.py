"""The inner loops of the pixel classifiers, compiled when first used (numba).

They let go of the interpreter's lock, so that threads share out the windows of a scene. Images are (rows, cols),
float32.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])
OPTIONS = dict(nogil=True, fastmath={"contract"}, error_model="numpy")
LANES = 16  # pixels that walk through a tree side by side: their memory accesses overlap
BLOCK = 1024  # pixels that are taken through one tree after another; a multiple of LANES


def _compiled(kernel: Kernel) -> Kernel:
    """The kernel as machine code, made anew in each process: what numba keeps on disk it reads back by pickle."""
    return numba.njit(**OPTIONS)(kernel)  # type: ignore[no-any-return]


@_compiled
def convolve(image: Floats, weights: Floats) -> Floats:
    """An image after a symmetric kernel along both axes: (rows - 2r, cols - 2r) for 2r + 1 weights.

    Four pairs of weights at a time, so that the sum is fetched and stored less often.
    """
    radius, whole = weights.size // 2, weights.size // 8 * 4
    rows, wide, cols = image.shape[0] - 2 * radius, image.shape[1], image.shape[1] - 2 * radius
    down = np.empty((rows, wide), np.float32)
    out = np.empty((rows, cols), np.float32)
    for row in range(rows):
        for col in range(wide):
            down[row, col] = weights[radius] * image[row + radius, col]
        for k in range(0, whole, 4):
            a, b, c, d = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
            i, j = row + k, row + 2 * radius - k
            for col in range(wide):
                down[row, col] += (
                    a * (image[i, col] + image[j, col])
                    + b * (image[i + 1, col] + image[j - 1, col])
                    + c * (image[i + 2, col] + image[j - 2, col])
                    + d * (image[i + 3, col] + image[j - 3, col])
                )
        for k in range(whole, radius):
            for col in range(wide):
                down[row, col] += weights[k] * (image[row + k, col] + image[row + 2 * radius - k, col])
    for row in range(rows):
        for col in range(cols):
            out[row, col] = weights[radius] * down[row, col + radius]
        for k in range(0, whole, 4):
            a, b, c, d = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
            j = 2 * radius - k
            for col in range(cols):
                out[row, col] += (
                    a * (down[row, col + k] + down[row, col + j])
                    + b * (down[row, col + k + 1] + down[row, col + j - 1])
                    + c * (down[row, col + k + 2] + down[row, col + j - 2])
                    + d * (down[row, col + k + 3] + down[row, col + j - 3])
                )
        for k in range(whole, radius):
            for col in range(cols):
                out[row, col] += weights[k] * (down[row, col + k] + down[row, col + 2 * radius - k])
    return out


@_compiled
def deviation(mean: Floats, mean_square: Floats, out: Floats) -> None:
    """The square root of the mean square less the square of the mean."""
    for row in range(out.shape[0]):
        for col in range(out.shape[1]):
            out[row, col] = np.sqrt(max(mean_square[row, col] - mean[row, col] * mean[row, col], np.float32(0)))


@_compiled
def edges(image: Floats, out: Floats) -> None:
    """Sobel's magnitude as skimage.filters.sobel has it; `image` is one pixel larger on every side."""
    for row in range(out.shape[0]):
        for col in range(out.shape[1]):
            above, level, below = image[row], image[row + 1], image[row + 2]
            left = above[col] + 2 * level[col] + below[col]
            right = above[col + 2] + 2 * level[col + 2] + below[col + 2]
            top = above[col] + 2 * above[col + 1] + above[col + 2]
            bottom = below[col] + 2 * below[col + 1] + below[col + 2]
            down, along = bottom - top, right - left
            out[row, col] = np.sqrt((down * down + along * along) * np.float32(1 / 32))


@_compiled
def gradients(image: Floats) -> tuple[Floats, Floats, Floats]:
    """Products of the two central differences: down², along², down × along; one pixel less on every side."""
    rows, cols = image.shape[0] - 2, image.shape[1] - 2
    dd, aa, da = (
        np.empty((rows, cols), np.float32),
        np.empty((rows, cols), np.float32),
        np.empty((rows, cols), np.float32),
    )
    for row in range(rows):
        for col in range(cols):
            down = (image[row + 2, col + 1] - image[row, col + 1]) * np.float32(0.5)
            along = (image[row + 1, col + 2] - image[row + 1, col]) * np.float32(0.5)
            dd[row, col], aa[row, col], da[row, col] = down * down, along * along, down * along
    return dd, aa, da


@_compiled
def coherence(dd: Floats, aa: Floats, da: Floats, out: Floats) -> None:
    """How much the gradients around a pixel agree in direction: 0 not at all, 1 wholly."""
    for row in range(out.shape[0]):
        for col in range(out.shape[1]):
            apart, cross = dd[row, col] - aa[row, col], 2 * da[row, col]
            total = dd[row, col] + aa[row, col] + np.float32(1e-6)
            out[row, col] = np.sqrt(apart * apart + cross * cross) / total


@_compiled
def hessian(image: Floats, high: Floats, low: Floats) -> None:
    """The two eigenvalues of the second derivatives (central differences twice); `image` is two pixels larger."""
    quarter = np.float32(0.25)
    for row in range(high.shape[0]):
        for col in range(high.shape[1]):
            r, c = row + 2, col + 2
            middle = 2 * image[r, c]
            down = (image[r + 2, c] - middle + image[r - 2, c]) * quarter
            along = (image[r, c + 2] - middle + image[r, c - 2]) * quarter
            cross = (image[r + 1, c + 1] - image[r + 1, c - 1] - image[r - 1, c + 1] + image[r - 1, c - 1]) * quarter
            half, apart = (down + along) * np.float32(0.5), (down - along) * np.float32(0.5)
            root = np.sqrt(apart * apart + cross * cross)
            high[row, col], low[row, col] = half + root, half - root


@_compiled
def walk(
    thresholds: Floats,
    children: NDArray[np.uint32],
    features: NDArray[np.uint16],
    values: Floats,
    roots: NDArray[np.int64],
    pixels: Floats,
) -> NDArray[np.float64]:
    """The mean over trees of the value of the leaf that each pixel falls into.

    Args:
        thresholds: For each node: up to it a pixel goes to the first child, beyond it to the next one. (nodes,)
        children: The first child, counted from the tree's root; a leaf names itself. (nodes,)
        features: Which feature is compared. (nodes,)
        values: Of the leaves. (nodes,)
        roots: Where each tree starts, and the number of nodes. (trees + 1,)
        pixels: (features, pixels).
    """
    count = pixels.shape[1]
    out = np.zeros(-(-count // LANES) * LANES, np.float64)
    place = np.empty(LANES, np.uint32)
    near = np.zeros((pixels.shape[0], BLOCK), np.float32)  # in one piece, so that it stays in the processor's cache
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        for feature in range(pixels.shape[0]):
            for pixel in range(size):
                near[feature, pixel] = pixels[feature, start + pixel]
        for tree in range(roots.size - 1):
            first, last = roots[tree], roots[tree + 1]
            threshold, child, compared = thresholds[first:last], children[first:last], features[first:last]
            value = values[first:last]
            for wave in range(0, size, LANES):
                for lane in range(LANES):
                    place[lane] = 0
                moving = True
                while moving:
                    moved = np.uint32(0)
                    for lane in range(LANES):
                        here = place[lane]
                        beyond = near[compared[here], np.uint32(wave + lane)] > threshold[here]
                        there = child[here] + np.uint32(beyond)
                        moved |= there ^ here
                        place[lane] = there
                    moving = moved != 0
                for lane in range(LANES):
                    out[start + wave + lane] += value[place[lane]]
    return out[:count] / (roots.size - 1)
