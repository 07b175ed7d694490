"""unet.resize: what scikit-image's resize makes of a frame, whole, in part and mirrored."""

import numpy as np
import pytest
import skimage.transform
from hypothesis import assume, given
from hypothesis import strategies as st

from unet.frames import resize_frame
from unet.resize import mirrored, resized, taps


def by_skimage(pixels, size):
    """As this project did it before it had its own."""
    shrinks = size[0] < pixels.shape[1] or size[1] < pixels.shape[2]
    options = dict(order=1, mode="symmetric", anti_aliasing=shrinks, preserve_range=True)
    return np.stack([skimage.transform.resize(band.astype(np.float32), size, **options) for band in pixels])


def same(pixels, size):
    """Whether both agree to float32 rounding."""
    ours, theirs = resize_frame(pixels, size), by_skimage(pixels, size)
    assert (ours.shape, ours.dtype) == ((len(pixels), *size), np.float32)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(pixels.astype(float)).max())
    return True


def noise(shape, dtype="uint16", low=0, high=200):
    values = np.random.default_rng(0).uniform(low, high, shape)
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else np.rint(values).astype(dtype)


SIZES = [
    ((65, 65), (64, 64)),  # as 650 to 640
    ((16, 12), (32, 48)),  # grows
    ((40, 30), (8, 15)),  # shrinks by whole factors
    ((50, 37), (9, 11)),  # by others
    ((64, 64), (3, 2)),  # by large ones: the filter is wider than the frame
    ((20, 31), (20, 16)),  # along one axis only
    ((20, 31), (33, 31)),
    ((12, 40), (24, 10)),  # grows one way, shrinks the other
    ((1, 1), (1, 5)),
    ((1, 7), (4, 3)),
    ((9, 6), (1, 1)),
    ((2, 2), (3, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("bands", [1, 3, 8])
def test_as_skimage_at_all_sizes(old, new, bands):
    assert same(noise((bands, *old)), new)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 255), ("uint16", 0, 65535), ("int16", -32768, 32767), ("float32", -1e-3, 1e-3),
        ("float64", -50, 1e6), ("int64", -1000, 1000), ("bool", 0, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("new", [(13, 10), (30, 21), (4, 25)])
def test_as_skimage_in_all_dtypes(dtype, low, high, new):
    assert same(noise((2, 20, 16), dtype, low, high), new)


@given(st.tuples(*[st.integers(1, 90)] * 4))
def test_as_skimage_at_any_size(sides):
    assume(sides[:2] != sides[2:])
    assert same(noise((1, *sides[:2])), sides[2:])


def test_by_hand():
    np.testing.assert_allclose(taps(2, 4).weights, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    np.testing.assert_array_equal(taps(2, 4).first, 0)
    np.testing.assert_allclose(resize_frame(np.array([[[0, 100]]], "uint8"), (1, 4))[0], [[0, 25, 75, 100]])


@pytest.mark.parametrize("old", [1, 2, 7, 64, 650])
@pytest.mark.parametrize("new", [1, 2, 5, 63, 640])
def test_weights_add_up_and_stay_inside(old, new):
    found = taps(old, new)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-12)
    assert (found.weights >= 0).all()
    assert found.first.max() + found.weights.shape[1] <= old
    assert taps(old, new) is found


@pytest.mark.parametrize("size", [(5, 7), (31, 40)])
def test_a_flat_frame_stays_as_it_is(size):
    np.testing.assert_array_equal(resize_frame(np.full((2, 20, 20), 0.1, "float32"), size), np.float32(0.1))


def test_frames_that_are_not_in_one_piece():
    pixels = noise((20, 16, 3))
    np.testing.assert_array_equal(
        resize_frame(np.moveaxis(pixels, -1, 0), (9, 9)), resize_frame(np.moveaxis(pixels, -1, 0).copy(), (9, 9))
    )


@pytest.mark.parametrize("size", [(12, 30), (40, 9)])
def test_parts_and_mirror_images_are_those_of_the_whole(size):
    image = resized(noise((3, 20, 16), "float32"), size)
    whole = np.asarray(image)
    assert image.shape == whole.shape == (*size, 3)
    for part in [(slice(3, 9), slice(2, 7)), (slice(None), slice(None, None, -1)), slice(None, None, -1)]:
        np.testing.assert_array_equal(np.asarray(image[part]), whole[part])
    np.testing.assert_array_equal(image[4:10, 1:9][::-1][:, ::-1], whole[4:10, 1:9][::-1, ::-1])
    np.testing.assert_array_equal(np.rot90(image, 3), np.rot90(whole, 3))


def test_an_array_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"an array \(5, 5, 4\) for an image \(5, 5, 3\)"):
        resized(noise((3, 20, 16)), (5, 5)).fill(np.zeros((5, 5, 4), np.float32))


def test_memory_is_that_of_the_files_pixels():
    assert resized(noise((3, 20, 16), "uint8"), (640, 640)).nbytes == 3 * 20 * 16


def test_mirrors():
    np.testing.assert_array_equal(mirrored(np.arange(-3.0, 7.0), 3), [2, 1, 0, 0, 1, 2, 2, 1, 0, 0])
