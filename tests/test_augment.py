"""unet.augment: image, roof and validity move alike; masks stay True or False; values change as the settings say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofkit.errors import SettingsError
from roofkit.settings import LoadDatasetArgs
from unet.augment import Augmentation, between, random_centre, span, warp
from unet.frames import FrameStatistics, Sample
from unet.resize import resized

BANDS = 5
STATISTICS = FrameStatistics((10.0, 20.0, 30.0, 40.0, 50.0), (1.0, 2.0, 3.0, 4.0, 5.0), 1, 1, 1)
TURNS = dict(horizontal_flip=True, vertical_flip=True, quarter_turns=True)


def augmentation(**changes):
    return Augmentation(LoadDatasetArgs(**dict(horizontal_flip=False, channels=BANDS) | changes), STATISTICS)


def random(seed=0):
    return np.random.default_rng(seed)


def sample_of(side=6, dtype="float32"):
    """No two pixels alike; every third one is roof."""
    image = np.arange(side * side * BANDS, dtype=dtype).reshape(side, side, BANDS)
    roof = image[..., 0] % 3 == 0
    return Sample(image, roof, np.ones_like(roof))


def ramp_of(rows=32, cols=40):
    """Band 0 holds a pixel's row, band 1 its column; one half is roof."""
    image = np.moveaxis(np.indices((rows, cols)).astype("float32"), 0, -1)
    return Sample(image, image[..., 0] + image[..., 1] > 30, np.ones((rows, cols), bool))


# ------------------------------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize("seed", range(12))
def test_flips_and_turns_move_image_and_mask_alike(seed):
    moved = augmentation(**TURNS)(sample_of(), random(seed))
    np.testing.assert_array_equal(moved.roof, moved.image[..., 0] % 3 == 0)
    assert sorted(moved.image.ravel()) == sorted(sample_of().image.ravel())


def test_all_eight_positions_come_up():
    change = augmentation(**TURNS)
    assert len({change(sample_of(), random(seed)).image.tobytes() for seed in range(100)}) == 8


def test_nothing_set_changes_nothing():
    same = augmentation()(sample_of(dtype="uint16"), random())
    np.testing.assert_array_equal(same.image, sample_of().image)
    assert same.image.dtype == np.float32


def test_windows_hold_the_frames_own_pixels_at_every_place():
    change, corners = augmentation(crop_size=(2, 3)), set()
    for seed in range(200):
        moved = change(sample_of(4), random(seed))
        assert moved.image.shape == (2, 3, BANDS)
        np.testing.assert_array_equal(moved.roof, moved.image[..., 0] % 3 == 0)
        row, col = divmod(int(moved.image[0, 0, 0]) // BANDS, 4)
        np.testing.assert_array_equal(moved.image, sample_of(4).image[row : row + 2, col : col + 3])
        corners.add((row, col))
    assert corners == {(row, col) for row in range(3) for col in range(2)}


def test_zoom_by_hand():
    roof = np.zeros((5, 5), bool)
    roof[2, 2] = True
    image = np.repeat(roof[..., None] * 9.0, BANDS, axis=-1).astype("float32")
    moved = augmentation(zoom_range=(0.5, 0.5))(Sample(image, roof, np.ones((5, 5), bool)), random())
    np.testing.assert_array_equal(moved.roof, roof)  # the centre stays
    np.testing.assert_array_equal(moved.image[..., 0], roof * 9.0)
    np.testing.assert_array_equal(moved.valid[2], [False, True, True, True, False])  # half as large: 0, 2 and 4 of 5
    assert moved.valid.sum() == 9


def test_what_comes_from_outside_mirrors_the_inside():
    line = np.array([[[10.0], [20.0], [40.0]]], "float32")
    cols = np.array([-1.0, -0.25, 0.0, 0.5, 1.25, 2.5, 3.0, 4.0])
    expected = [10, 10, 10, 15, 25, 40, 40, 20]
    np.testing.assert_allclose(between(line, np.zeros(8), cols)[:, 0], expected)


@pytest.mark.parametrize(
    ("places", "expected"),
    [([2.0, 3.5], (2, 5)), ([0.0], (0, 2)), ([-1.5, 1], (0, 3)), ([8.9], (8, 10)), ([-4], (2, 4))],
)
def test_what_is_needed_of_an_axis_of_ten(places, expected):
    assert span(np.array(places, float), 10) == expected


def test_a_quarter_turn_as_an_affine_is_the_exact_one():
    sample = sample_of(5)
    matrix = np.array([[0.0, 1.0], [-1.0, 0.0]])
    moved = warp(sample, np.array([5, 5]), matrix, np.array([2.0, 2.0]))
    for before, after in zip((sample.image, sample.roof), (moved.image, moved.roof)):
        np.testing.assert_array_equal(after, np.rot90(before, 1))
    assert moved.valid.all()


@given(st.integers(0, 10_000), st.floats(0, 180), st.floats(1, 40), st.sampled_from([(8, 8), (12, 20), (32, 40)]))
def test_image_roof_and_validity_come_from_the_same_place(seed, rotation, shear, size):
    change = augmentation(rotation_range=rotation, shear_range=shear, zoom_range=0.3, crop_size=size)
    frame, matrix = ramp_of(), change.matrix(random(seed))
    centre = random_centre(np.array([32, 40]), np.array(size), matrix, random(seed))
    moved = warp(frame, np.array(size), matrix, centre)
    steps = np.moveaxis(np.indices(size), 0, -1) - (np.array(size) - 1) / 2
    place = np.einsum("ij,rcj->rci", matrix, steps) + centre
    inside = ((place > 0) & (place < [31, 39])).all(axis=-1)
    np.testing.assert_allclose(moved.image[inside], place[inside], atol=1e-3)
    nearest = np.clip(np.floor(place + 0.5), 0, [31, 39]).astype(int)
    np.testing.assert_array_equal(moved.roof, frame.roof[nearest[..., 0], nearest[..., 1]] & moved.valid)
    beyond = np.maximum(-place, place - [31, 39]).max(axis=-1)
    np.testing.assert_array_equal(moved.valid[beyond < 0.49], True)
    np.testing.assert_array_equal(moved.valid[beyond > 0.51], False)


@pytest.mark.parametrize("size", [(12, 12), (16, 8)])
def test_windows_reach_every_part_of_the_frame_and_stick_out_at_corners_only(size):
    change = augmentation(rotation_range=180, shear_range=5, zoom_range=0.2, crop_size=size)
    frame = ramp_of()
    seen = np.zeros(frame.roof.shape, bool)
    middle = tuple(slice(side // 2 - side // 4, side // 2 + side // 4) for side in size)
    for seed in range(300):
        moved = change.window(frame, random(seed))
        assert moved.valid[middle].all()
        assert moved.valid.mean() > 0.6
        place = np.rint(moved.image[moved.valid]).astype(int)  # the ramp says where each pixel came from
        seen[place[:, 0], place[:, 1]] = True
    assert seen.mean() > 0.95


def test_a_window_too_wide_for_the_frame_reaches_out_evenly():
    frame = Sample(np.ones((9, 9, BANDS), "float32"), np.ones((9, 9), bool), np.ones((9, 9), bool))
    moved = augmentation(rotation_range=180, crop_size=(9, 9)).window(frame, random(3))
    assert 0 < moved.valid.sum() < 81
    np.testing.assert_array_equal(moved.valid, moved.valid[::-1, ::-1])
    np.testing.assert_array_equal(moved.roof, moved.valid)
    np.testing.assert_allclose(moved.image, 1.0)


def test_invalid_pixels_stay_invalid():
    frame = ramp_of(20, 20)
    valid = frame.image[..., 1] >= 10
    moved = augmentation(rotation_range=30, crop_size=(8, 8))(Sample(frame.image, frame.roof & valid, valid), random(1))
    column = moved.image[..., 1]
    assert not moved.valid[column < 9].any()
    assert moved.valid[column > 10.5].all()


def test_zoom_that_is_no_range():
    with pytest.raises(SettingsError, match=r"load_dataset_args\.zoom_range: \(1\.2, 0\.8\)"):
        augmentation(zoom_range=(1.2, 0.8))


# ------------------------------------------------------------------------------------------------------------- shading


def test_brightness_is_relative_to_each_band():
    for seed in range(20):
        shift = augmentation(brightness_range=1.0)(sample_of(), random(seed)).image - sample_of().image
        np.testing.assert_allclose(shift.std(axis=(0, 1)), 0, atol=1e-4)
        shares = shift[0, 0] / STATISTICS.deviation
        assert (np.abs(shares) <= 1.0 + 1e-5).all()
        assert np.ptp(shares) <= 2 / 3 + 1e-5  # bands change mostly alike


def test_contrast_leaves_the_mean():
    flat = Sample(np.broadcast_to(np.float32(STATISTICS.mean), (6, 6, BANDS)), *[sample_of().roof] * 2)
    change = augmentation(contrast_range=0.5)
    np.testing.assert_allclose(change(flat, random()).image[0, 0], STATISTICS.mean, rtol=1e-6)


def test_draws_fill_their_range():
    draws = np.array([augmentation().draw(0.3, random(seed)) for seed in range(2000)])
    assert np.abs(draws).max() <= 0.3 + 1e-6
    assert (np.ptp(draws, axis=0) > 0.5).all()
    assert np.corrcoef(draws.T).min() > 0.7


def test_gamma_by_hand():
    low, high = 10.0 - 3 * 1.0, 10.0 + 3 * 1.0
    image = np.tile(np.array([low - 5, low, 8.5, 10.0, high, high + 5], "float32")[:, None, None], (1, 1, BANDS))
    augmentation().bend(image, np.full(BANDS, 2.0, "float32"))  # shares 0, 0.25, 0.5 and 1 of 6, squared
    np.testing.assert_allclose(image[:, 0, 0], [low - 5, low, 7.375, 8.5, high, high + 5], rtol=1e-6)


@given(st.floats(0.1, 1.9))
def test_gamma_keeps_the_order_of_values(power):
    values = np.linspace(-100, 200, 301, dtype="float32")
    image = np.repeat(values[:, None, None], BANDS, axis=-1)
    augmentation().bend(image, np.full(BANDS, power, "float32"))
    assert (np.diff(image, axis=0) >= -1e-3).all()
    assert np.isfinite(image).all()


def test_a_band_without_deviation_is_shaded_without_harm():
    change = Augmentation(
        LoadDatasetArgs(gamma_range=0.5, contrast_range=0.5, brightness_range=1.0, channels=1),
        FrameStatistics((7.0,), (0.0,), 1, 1, 1),
    )
    flat = Sample(np.full((4, 4, 1), 7, "uint8"), *[np.ones((4, 4), bool)] * 2)
    moved = change(flat, random()).image
    assert np.isfinite(moved).all()
    assert np.ptp(moved) == 0


# -------------------------------------------------------------------------------------------------------------- blanks


def test_cutouts_are_rectangles_of_the_mean_that_still_count():
    frame = Sample(np.full((20, 30, BANDS), 99.0, "float32"), np.ones((20, 30), bool), np.ones((20, 30), bool))
    areas = set()
    for seed in range(50):
        moved = augmentation(cutouts=1, cutout_size=0.5)(frame, random(seed))
        blank = (moved.image == np.float32(STATISTICS.mean)).all(axis=-1)
        rows, cols = np.flatnonzero(blank.any(axis=1)), np.flatnonzero(blank.any(axis=0))
        assert blank.sum() == len(rows) * len(cols)
        assert 5 <= len(rows) <= 10
        assert 7 <= len(cols) <= 15
        assert (moved.image[~blank] == 99.0).all()
        assert moved.valid.all() & moved.roof.all()
        areas.add(int(blank.sum()))
    assert len(areas) > 10
    assert (frame.image == 99.0).all()  # the frame that is kept in memory


def test_bands_are_dropped_but_never_all():
    frame = Sample(np.full((3, 3, BANDS), 99.0, "float32"), *[np.ones((3, 3), bool)] * 2)
    counts = []
    for seed in range(300):
        moved = augmentation(band_drop=0.5)(frame, random(seed)).image
        dropped = (moved == np.float32(STATISTICS.mean)).all(axis=(0, 1))
        assert (moved[..., ~dropped] == 99.0).all()
        counts.append(dropped.sum())
    assert set(counts) == {0, 1, 2, 3, 4}
    assert np.mean(counts) == pytest.approx(BANDS * 0.5, abs=0.3)


def test_the_only_band_stays():
    change = Augmentation(LoadDatasetArgs(band_drop=0.9, channels=1), FrameStatistics((7.0,), (1.0,), 1, 1, 1))
    frame = Sample(np.full((3, 3, 1), 99.0, "float32"), *[np.ones((3, 3), bool)] * 2)
    assert all((change(frame, random(seed)).image == 99.0).all() for seed in range(20))


# ------------------------------------------------------------------------------------------------------------ together

ALL = dict(
    TURNS, crop_size=(12, 12), rotation_range=30, shear_range=10, zoom_range=0.2, brightness_range=0.5,
    contrast_range=0.3, gamma_range=0.3, cutouts=2, band_drop=0.2,
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_everything_at_once_repeats_and_leaves_the_frame(dtype):
    frame = sample_of(16, dtype)
    before = frame.image.copy()
    one, two, other = (augmentation(**ALL)(frame, random(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.image, two.image)
    assert not np.array_equal(one.image, other.image)
    assert (one.image.shape, one.image.dtype, one.roof.dtype) == ((12, 12, BANDS), np.float32, bool)
    assert np.isfinite(one.image).all()
    np.testing.assert_array_equal(frame.image, before)


@pytest.mark.parametrize("changes", [{}, TURNS, dict(crop_size=(12, 12)), dict(ALL, crop_size=None), ALL], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_a_frame_that_is_resized_when_used_gives_the_same(changes, seed):
    pixels = np.random.default_rng(0).integers(0, 99, (BANDS, 18, 15)).astype("uint16")
    roof = pixels[0, :16, :15] > 50
    lazy = Sample(resized(pixels, (16, 16)), np.pad(roof, [(0, 0), (0, 1)]), np.ones((16, 16), bool))
    whole = Sample(np.asarray(lazy.image), lazy.roof, lazy.valid)
    one, two = (augmentation(**changes)(sample, random(seed)) for sample in (lazy, whole))
    for a, b in ((one.image, two.image), (one.roof, two.roof), (one.valid, two.valid)):
        np.testing.assert_array_equal(a, b)


def test_an_image_is_written_where_it_belongs():
    batch = np.zeros((2, 6, 6, BANDS), "float32")
    moved = augmentation(**TURNS)(sample_of(), random(3), batch[1])
    assert np.shares_memory(moved.image, batch)
    np.testing.assert_array_equal(batch[1], augmentation(**TURNS)(sample_of(), random(3)).image)
    assert not batch[0].any()
