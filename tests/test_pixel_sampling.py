"""pixelwise.sampling: which pixels are drawn."""

import numpy as np
import pytest

from pixelwise.features import Features
from pixelwise.sampling import count_classes, draw, quotas, read_bands, read_truth, unique
from roofkit.errors import BadInputError, MismatchError
from roofkit.pairs import Pair
from roofkit.settings import PixelArgs

ONLY_VALUES = dict(mean=(), deviation=(), edges=(), texture=(), hessian=(), values=("bands",))


@pytest.mark.parametrize(
    ("counts", "total", "expected"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([1, 10, 10], 9, [1, 4, 4]),
        ([0, 2, 3], 100, [0, 2, 3]),
        ([100, 0, 5], 11, [6, 0, 5]),
        ([5, 5], 3, [1, 2]),
        ([], 3, []),
    ],
)
def test_quotas_by_hand(counts, total, expected):
    assert quotas(np.array(counts, np.int64), total).tolist() == expected


@pytest.fixture
def pairs(make_raster):
    """Two frames; the value of a pixel is its place, roof is what is in the first rows: 20 and 10 pixels."""

    def make(dtype="uint16", **options):
        found = []
        for i, rows in enumerate((2, 1)):
            frame = (np.arange(100).reshape(1, 10, 10) + 1000 * i).astype(dtype)
            roof = np.zeros((10, 10), "uint8")
            roof[:rows] = 255
            found.append(Pair(make_raster(frame, f"f{i}.tif", **options), make_raster(roof, f"m{i}.tif")))
        return found

    return make


def test_a_sample_is_half_roof_and_spread_over_frames(pairs):
    listed = pairs()
    features = Features(PixelArgs(**ONLY_VALUES, pixels=40), read_bands(listed))
    sample = draw(listed, features)
    assert sample.features.shape == (40, 1)
    assert sample.features.dtype == np.float32
    assert np.bincount(sample.frame[sample.roof]).tolist() == [10, 10]
    assert np.bincount(sample.frame[~sample.roof]).tolist() == [10, 10]
    values = sample.features[:, 0] * features.bands.deviation[0] + features.bands.mean[0]
    assert ((np.rint(values) % 1000 < 20 - 10 * sample.frame) == sample.roof).all()
    assert len(set(np.rint(values).astype(int))) == 40


def test_the_seed_decides(pairs):
    listed = pairs()
    bands = read_bands(listed)
    one, same, other = (draw(listed, Features(PixelArgs(**ONLY_VALUES, pixels=20, seed=s), bands)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.features, same.features)
    assert not np.array_equal(one.features, other.features)


def test_a_sample_of_all_there_is(pairs):
    listed = pairs()
    sample = draw(listed, Features(PixelArgs(**ONLY_VALUES, pixels=10_000), read_bands(listed)))
    assert np.bincount(sample.roof).tolist() == [170, 30]


def test_invalid_pixels_are_not_drawn(pairs):
    listed = pairs(nodata=5)
    assert count_classes(listed).tolist() == [[80, 19], [90, 10]]
    roof, valid = read_truth(listed[0])
    assert not valid[0, 5]
    assert not roof[0, 5]


def test_infinite_pixels_are_not_drawn(pairs):
    import rasterio

    listed = pairs("float32")
    with rasterio.open(listed[0].frame, "r+") as dst:
        dst.write(np.full((1, 1, 4), np.inf, "f4"), window=((9, 10), (0, 4)))
    assert count_classes(listed)[0].tolist() == [76, 20]
    assert np.isfinite(read_bands(listed).mean).all()


def test_bands_by_hand(make_raster):
    frame = np.stack([np.full((4, 4), 7), np.tile([1, 3], (4, 2))]).astype("int16")
    bands = read_bands([Pair(make_raster(frame), make_raster(frame[:1], "mask.tif"))])
    assert bands.names == ("band 1", "band 2")
    assert bands.mean == (7, 2)
    assert bands.deviation == (1, 1)  # the first has none, and is not divided by 0


def test_names_that_stand_twice_get_their_number():
    assert unique(["nir", "red", "nir"]) == ["nir (1)", "red", "nir (3)"]
    assert unique(["red", "brightness"]) == ["red", "brightness (2)"]


def test_frames_of_other_bands_are_named(make_raster):
    listed = [
        Pair(make_raster(np.zeros((n, 4, 4), "uint8"), f"{n}.tif"), make_raster(np.zeros((4, 4), "uint8")))
        for n in (1, 2)
    ]
    with pytest.raises(MismatchError, match=r"2\.tif: 2 bands; expected 1"):
        read_bands(listed)


def test_nothing_valid_is_an_error(make_raster):
    path = make_raster(np.zeros((1, 4, 4), "uint8"), nodata=0)
    with pytest.raises(BadInputError, match="no valid pixel in any frame"):
        read_bands([Pair(path, path)])


@pytest.mark.parametrize(("value", "missing"), [(0, "roof"), (255, "background")])
def test_a_missing_class_is_named(make_raster, value, missing):
    pair = Pair(
        make_raster(np.zeros((1, 4, 4), "uint8"), "f.tif"), make_raster(np.full((4, 4), value, "uint8"), "m.tif")
    )
    with pytest.raises(BadInputError, match=f"no valid {missing} pixel in any mask"):
        count_classes([pair])
