"""pixelwise.features: names, layers by hand, invalid pixels, and no seam however a scene is cut."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagery import TRANSFORM
from rasterio.windows import Window

from pixelwise.features import Bands, Features, difference, filled, ratio, read_around
from roofkit.errors import SettingsError
from roofkit.raster import open_raster
from roofkit.settings import PixelArgs

NONE = dict.fromkeys(("values", "mean", "deviation", "edges", "texture", "hessian"), ())


def made(bands=2, at=0.0, spread=1.0, **options):
    names = tuple("abcdefgh"[:bands])
    return Features(PixelArgs(**(NONE | options)), Bands(names, (at,) * bands, (spread,) * bands))


def test_names_by_hand():
    features = made(
        values=("bands", "brightness", "differences", "ratios"),
        mean=("bands",),
        hessian=("brightness",),
        scales=(2, 4.5),
    )
    assert features.names == [
        "a", "b", "brightness", "(a - b) / (a + b)", "a / b",
        "mean of a at 2 px", "mean of b at 2 px", "ridge of brightness at 2 px", "valley of brightness at 2 px",
        "mean of a at 4.5 px", "mean of b at 4.5 px", "ridge of brightness at 4.5 px", "valley of brightness at 4.5 px",
    ]  # fmt: skip


def test_pairs_of_bands():
    assert len(made(5, values=("differences",), pairs="all").names) == 10
    assert len(made(5, values=("differences",)).names) == 4
    assert len(made(4, values=("differences",)).names) == 6
    assert made(3, values=("ratios",), pairs="adjacent").names == ["a / b", "b / c"]


def test_every_kind_of_feature_has_its_place():
    kinds = [k for k in NONE if k != "values"]
    for chosen in itertools.product(((), ("bands", "brightness", "differences")), repeat=len(kinds)):
        features = made(3, values=("bands",), scales=(1.0, 2.0), **dict(zip(kinds, chosen)))
        around = 2 * features.margin
        pixels = np.random.default_rng(0).integers(0, 9, (3, 4 + around, 6 + around)).astype("uint8")
        found = features.of(pixels, np.ones(pixels.shape[1:], bool))
        assert found.shape == (len(features.names), 4, 6)
        assert np.isfinite(found).all()


def test_not_one_feature_is_an_error():
    with pytest.raises(SettingsError, match="no feature for imagery of 1 bands"):
        made(1, values=("differences",))


def test_layers_by_hand():
    features = made(at=10.0, spread=2.0, values=("bands", "brightness", "differences", "ratios"))
    pixels = np.full((2, 1 + 2 * features.margin, 1 + 2 * features.margin), 12, "int16")
    pixels[1] = 4
    found = features.of(pixels, np.ones(pixels.shape[1:], bool))
    np.testing.assert_allclose(found.ravel(), [1, -3, -1, 0.5, 3])


def test_differences_and_ratios_without_a_sum():
    one, other = np.array([3, -3, 0, 5, -1], "f4"), np.array([1, 3, 0, -4, 0.01], "f4")
    np.testing.assert_allclose(difference(one, other), [0.5, 0, 0, 1, 1])
    np.testing.assert_allclose(ratio(one, other), [3, -1, 0, -1.25, -10])


def test_nodata_without_a_tag_gives_numbers_all_the_same():
    least = np.full(3, np.finfo("f4").min)
    other = np.array([0, least[0], -least[0]], "f4")
    np.testing.assert_allclose(difference(least, other), [1, 0, 0])
    np.testing.assert_allclose(ratio(least, other), [0, 1, -1])


def test_mean_and_deviation_of_a_checkerboard():
    features = made(1, mean=("bands",), deviation=("bands",), scales=(4.0,))
    side = 2 * features.margin + 3
    board = (np.indices((side, side)).sum(axis=0) % 2 * 8).astype("uint8")[None]
    found = features.of(board, np.ones((side, side), bool))
    np.testing.assert_allclose(found[0], 4, atol=1e-3)
    np.testing.assert_allclose(found[1], 4, atol=1e-3)


def test_each_feature_is_what_its_name_says():
    """Against scikit-image's multi-scale features and scipy, away from the edges, where they go on in other ways."""
    from scipy import ndimage
    from skimage.feature import multiscale_basic_features

    image = np.random.default_rng(4).integers(0, 200, (2, 90, 100)).astype("uint8")
    features = made(2, **dict.fromkeys(NONE, ("bands",)), scales=(1.0, 2.0))
    edge = np.s_[features.margin : -features.margin, features.margin : -features.margin]
    found = dict(zip(features.names, features.of(image, np.ones(image.shape[1:], bool))))
    planes = image.astype("f4").transpose(1, 2, 0)
    theirs = multiscale_basic_features(planes, channel_axis=-1, sigma_min=1, sigma_max=2, num_sigma=2)
    columns = iter(np.moveaxis(theirs, -1, 0))
    for band, plane in zip("ab", image.astype(float)):
        np.testing.assert_array_equal(found[band], plane[edge])
        down, along = (np.gradient(ndimage.gaussian_filter(plane, 0.7), axis=axis) for axis in (0, 1))
        for scale in (1, 2):
            for kind in ("mean", "edges", "ridge", "valley"):
                np.testing.assert_allclose(found[f"{kind} of {band} at {scale} px"], next(columns)[edge], atol=1e-3)
            mean, square, dd, aa, da = (
                ndimage.gaussian_filter(a, scale)[edge] for a in (plane, plane**2, down**2, along**2, down * along)
            )
            spread = np.sqrt(square - mean**2)
            np.testing.assert_allclose(found[f"deviation of {band} at {scale} px"], spread, rtol=1e-3)
            agreed = np.hypot(dd - aa, 2 * da) / (dd + aa)
            np.testing.assert_allclose(found[f"texture of {band} at {scale} px"], agreed, atol=1e-3)
    assert next(columns, None) is None


def test_what_is_invalid_is_filled_from_around_it_and_does_not_matter():
    rng = np.random.default_rng(1)
    pixels, valid = rng.integers(100, 120, (2, 80, 90)).astype("int16"), np.ones((80, 90), bool)
    valid[30:50, 40:55] = False
    results = []
    for value in (-9999, 0, 32767):
        pixels[:, ~valid] = value
        results.append(filled(pixels, valid, np.zeros((2, 1, 1), "f4")))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert results[0].min() >= 100
    assert results[0].max() < 120


def test_nan_and_infinity_are_invalid():
    pixels = np.full((1, 40, 40), 5, "float32")
    pixels[0, 20, 20], pixels[0, 22, 22] = np.nan, np.inf
    np.testing.assert_allclose(filled(pixels, np.ones((40, 40), bool), np.zeros((1, 1, 1), "f4")), 5, rtol=1e-6)


def test_values_at_the_end_of_float32_make_numbers(recwarn):
    features = made(1, **dict.fromkeys(NONE, ("bands",)), scales=(1,))
    side = 2 * features.margin + 8
    pixels = np.full((1, side, side), 5, "float32")
    pixels[0, side // 2, side // 2] = 3e38
    assert np.isfinite(features.of(pixels, np.ones((side, side), bool))).all()
    assert not recwarn.list


def test_far_from_all_that_is_valid_stands_the_mean():
    pixels, valid = np.zeros((1, 200, 200), "uint8"), np.zeros((200, 200), bool)
    valid[:5] = True
    assert filled(pixels, valid, np.full((1, 1, 1), 7, "f4"))[0, -1, -1] == 7


def test_reading_around_mirrors_at_the_edge(make_raster):
    path = make_raster(np.arange(12, dtype="uint8").reshape(1, 3, 4))
    with open_raster(path) as src:
        pixels, valid = read_around(src, Window(1, 0, 2, 2), 2)
    np.testing.assert_array_equal(pixels[0], np.pad(np.arange(12).reshape(3, 4), 2, "symmetric")[:6, 1:7])
    assert valid.all()


@settings(max_examples=25, deadline=None)
@given(
    row=st.integers(0, 50), col=st.integers(0, 60), height=st.integers(1, 30), width=st.integers(1, 30),
    holes=st.booleans(),
)  # fmt: skip
def test_no_seam_however_a_scene_is_cut(tmp_path_factory, row, col, height, width, holes):
    import rasterio

    rng = np.random.default_rng(2)
    features = made(2, at=3.0, spread=2.0, **dict.fromkeys(NONE, ("bands", "differences")), scales=(0.8, 3.0))
    path = tmp_path_factory.mktemp("seam") / "scene.tif"
    profile = dict(driver="GTiff", count=2, height=60, width=70, dtype="uint16", nodata=0, transform=TRANSFORM)
    with rasterio.open(path, "w", **profile) as dst:
        dst.write(rng.integers(0 if holes else 1, 9, (2, 60, 70)).astype("uint16"))
    height, width = min(height, 60 - row), min(width, 70 - col)
    with open_raster(path) as src:
        whole = features.of(*read_around(src, Window(0, 0, 70, 60), features.margin))
        part = features.of(*read_around(src, Window(col, row, width, height), features.margin))
    np.testing.assert_allclose(part, whole[:, row : row + height, col : col + width], atol=1e-5)
