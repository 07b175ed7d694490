"""unet.frames and unet.datagen: any bands, sizes and dtypes; masks stay 0 and 1; nothing is scaled."""

import threading
from functools import partial

import numpy as np
import pytest
from imagery import real
from PIL import Image

from roofkit.errors import BadInputError, MismatchError, MissingInputError, SettingsError
from roofkit.pairs import Pair, find_pairs
from roofkit.settings import LoadDatasetArgs
from roofkit.stopping import Terminated
from roofkit.workers import map_threads
from unet.backend import start_keras

keras = start_keras()
from unet import datagen
from unet.datagen import Augmentation, KerasFrames, RoofFrames
from unet.frames import (
    FrameStatistics,
    fill_invalid,
    network_input,
    resize_flags,
    resize_frame,
    targets,
)

STILL = dict(horizontal_flip=False)


def args(side=4, channels=2, **changes):
    return LoadDatasetArgs(**STILL | dict(target_size=(side, side), channels=channels, batch_size=2) | changes)


@pytest.fixture
def make_pairs(make_raster):
    """Writes frames train_0, train_1, … and their masks; the pairs."""

    def make(count=3, *, side=4, bands=2, dtype="uint16", **options):
        pairs = []
        for i in range(count):
            frame = 1000 * i + np.arange(bands * side * side).reshape(bands, side, side)
            mask = np.where(np.arange(side * side).reshape(side, side) % (i + 2) == 0, 255, 0)
            pairs.append(
                Pair(
                    make_raster(frame.astype(dtype), f"train_frames/train_{i}.tif", **options),
                    make_raster(mask.astype("uint8"), f"train_masks/train_{i}.tif"),
                )
            )
        return pairs

    return make


# ----------------------------------------------------------------------------------------------------- pure functions


def test_resize_keeps_values_and_the_array_of_the_same_size():
    pixels = np.array([[[0, 4000], [0, 4000]]], "uint16")
    assert resize_frame(pixels, (2, 2)) is pixels
    wider = resize_frame(pixels, (2, 4))
    np.testing.assert_allclose(wider[0, 0], [0, 1000, 3000, 4000])
    assert wider.dtype == np.float32


def test_shrinking_averages():
    checks = np.indices((8, 8)).sum(axis=0)[None] % 2 * 100.0
    np.testing.assert_allclose(resize_frame(checks, (4, 4)), 50, atol=12)  # without averaging: 0 or 100 somewhere


def test_flags_are_resized_to_the_nearest():
    flags = np.array([[True, False, False], [False, False, True]])
    np.testing.assert_array_equal(resize_flags(flags, (2, 6))[1], [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(resize_flags(flags, (1, 3)), [[0, 0, 1]])


def test_invalid_pixels_take_their_bands_mean():
    pixels = np.array([[[10, 20], [-9999, 33]], [[1, 2], [-9999, 4]]], "int16")
    valid = np.array([[True, True], [False, True]])
    np.testing.assert_array_equal(fill_invalid(pixels, valid)[:, 1, 0], [21, 2])  # 63/3, 7/3 rounded
    np.testing.assert_array_equal(fill_invalid(pixels, np.zeros((2, 2), bool)), 0)
    assert fill_invalid(pixels, valid).dtype == np.int16


def test_nodata_does_not_bleed_into_its_neighbours():
    pixels = np.full((1, 4, 4), 500, "int16")
    pixels[0, 1, 1] = -9999
    image, valid = network_input(pixels, pixels[0] != -9999, (8, 8))
    np.testing.assert_array_equal(image, 500)
    assert (~valid).sum() == 4


def test_infinite_values_are_invalid():
    pixels = np.array([[[1.0, np.inf], [3.0, -np.inf]]], "float32")
    image, valid = network_input(pixels, np.ones((2, 2), bool), (2, 2))
    np.testing.assert_array_equal(valid, [[1, 0], [1, 0]])
    np.testing.assert_array_equal(image[..., 0], [[1, 2], [3, 2]])


def test_targets_of_one_and_two_classes():
    roof = np.array([[True, False]])
    np.testing.assert_array_equal(targets(roof, 1), [[[1.0], [0.0]]])
    np.testing.assert_array_equal(targets(roof, 2), [[[0.0, 1.0], [1.0, 0.0]]])


# --------------------------------------------------------------------------------------------------------------- pairs


def test_pairs_by_name_in_natural_order(make_raster, tmp_path):
    for i in (10, 9, 1):
        make_raster(np.zeros((2, 2), "uint8"), f"f/train_{i}.tif")
        make_raster(np.zeros((2, 2), "uint8"), f"m/train_{i}.tif")
    pairs = find_pairs(tmp_path / "f", tmp_path / "m")
    assert [pair.frame.name for pair in pairs] == ["train_1.tif", "train_9.tif", "train_10.tif"]
    assert all(pair.frame.name == pair.mask.name for pair in pairs)


def test_png_mask_beside_a_georeferenced_frame(make_raster, tmp_path):
    make_raster(np.zeros((3, 2, 2), "uint8"), "f/a.tif")
    (tmp_path / "m").mkdir()
    Image.fromarray(np.zeros((2, 2), "uint8")).save(tmp_path / "m/a.png")
    assert [pair.mask.name for pair in find_pairs(tmp_path / "f", tmp_path / "m")] == ["a.png"]


def test_missing_partners_are_counted_and_named(make_raster, tmp_path):
    for i in range(5):
        make_raster(np.zeros((2, 2), "uint8"), f"f/train_{i}.tif")
    make_raster(np.zeros((2, 2), "uint8"), "m/train_2.tif")
    names = r"\(train_0.tif, train_1.tif, train_3.tif, …\)"
    with pytest.raises(MissingInputError, match=rf"f/train_0\.tif: 4 of 5 frames without mask {names}"):
        find_pairs(tmp_path / "f", tmp_path / "m")
    with pytest.raises(MissingInputError, match=rf"f/train_0\.tif: 4 of 5 masks without frame {names}"):
        find_pairs(tmp_path / "m", tmp_path / "f")


def test_folders_without_masks(make_raster, tmp_path):
    make_raster(np.zeros((2, 2), "uint8"), "f/a.tif")
    with pytest.raises(MissingInputError, match="m: no such file or folder"):
        find_pairs(tmp_path / "f", tmp_path / "m")
    (tmp_path / "m").mkdir()
    with pytest.raises(MissingInputError, match="m: no mask"):
        find_pairs(tmp_path / "f", tmp_path / "m")


def test_two_masks_of_one_name(make_raster, tmp_path):
    make_raster(np.zeros((2, 2), "uint8"), "f/a.tif")
    make_raster(np.zeros((2, 2), "uint8"), "m/a.tif")
    Image.fromarray(np.zeros((2, 2), "uint8")).save(tmp_path / "m/a.png")
    with pytest.raises(MismatchError, match="the same name as"):
        find_pairs(tmp_path / "f", tmp_path / "m")


def test_other_grids(make_raster, tmp_path):
    make_raster(np.zeros((2, 2), "uint8"), "f/a.tif")
    make_raster(np.zeros((2, 2), "uint8"), "m/a.tif", crs="EPSG:32645")
    with pytest.raises(MismatchError, match=r"m/a\.tif: on another grid \(2 x 2 px, EPSG:32645.* than .*f/a\.tif"):
        find_pairs(tmp_path / "f", tmp_path / "m")


def test_a_mask_with_other_values(make_raster):
    pair = Pair(make_raster(np.ones((2, 2, 2), "uint8"), "f.tif"), make_raster(np.eye(2, dtype="uint8") * 7, "m.tif"))
    with pytest.raises(BadInputError, match=r"m\.tif: values 0, 7; expected 0 and 255, or 0 and 1"):
        RoofFrames([pair], args(2))[0]


# ------------------------------------------------------------------------------------------------------------- batches


def test_batches_hold_the_files_values(make_pairs):
    frames = RoofFrames(make_pairs(), args())
    assert len(frames) == 2
    images, masks, weights = frames[0]
    assert (images.shape, masks.shape, weights.shape) == ((2, 4, 4, 2), (2, 4, 4, 1), (2, 4, 4))
    assert images.dtype == masks.dtype == weights.dtype == np.float32
    assert [array.ctypes.data % 64 for array in frames[0]] == [0, 0, 0]  # else TensorFlow copies them
    np.testing.assert_array_equal(images[1, 0, :, 0], [1000, 1001, 1002, 1003])
    np.testing.assert_array_equal(images[1, 0, :, 1], [1016, 1017, 1018, 1019])
    np.testing.assert_array_equal(masks[1, 0, :, 0], [1, 0, 0, 1])
    np.testing.assert_array_equal(weights, 1)
    assert frames[1][0].shape == (1, 4, 4, 2)  # the short last batch


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 8])
def test_any_dtype_and_band_count_resized(make_pairs, dtype, bands):
    pairs = make_pairs(1, side=5, bands=bands, dtype=dtype)
    images, masks, _ = RoofFrames(pairs, args(8, bands))[0]
    assert images.shape == (1, 8, 8, bands)
    assert 0 <= images.min() < images.max() <= bands * 25 - 1
    assert set(np.unique(masks)) == {0.0, 1.0}


def test_invalid_pixels_of_frame_or_mask_weigh_nothing(make_raster):
    frame = make_raster(np.full((2, 2, 2), 7, "uint8"), "f.tif", valid=[[1, 0], [1, 1]])
    mask = make_raster(np.full((2, 2), 255, "uint8"), "m.tif", valid=[[1, 1], [0, 1]])
    _, masks, weights = RoofFrames([Pair(frame, mask)], args(2))[0]
    np.testing.assert_array_equal(weights[0], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(masks[0, ..., 0], [[1, 0], [0, 1]])


def test_wrong_band_count_names_the_setting_and_the_error_is_kept(make_pairs):
    frames = RoofFrames(make_pairs(1), args(channels=3))
    with pytest.raises(SettingsError, match=r"load_dataset_args\.channels: 3; expected 2, as .*train_0\.tif has"):
        frames[0]
    assert isinstance(frames.error, SettingsError)


def test_each_frame_once_an_epoch_in_an_order_of_seed_and_epoch(make_pairs):
    pairs = make_pairs(5, side=2)

    def order(seed, epoch):
        frames = RoofFrames(pairs, args(2), seed=seed)
        frames.epoch = epoch
        return [number for index in range(len(frames)) for number in frames.places(index)]

    assert sorted(order(0, 0)) == list(range(5))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) > 3
    assert order(None, 3) == list(range(5))


def test_a_short_batch_divides_by_the_devices(make_pairs):
    frames = RoofFrames(make_pairs(5), args(), devices=3)
    assert [[len(array) for array in batch] for batch in frames] == [[3] * 3] * 3
    assert frames[0][2].any(axis=(1, 2)).tolist() == [True, True, False]
    images, masks, weights = frames[2]
    alone = RoofFrames(frames.pairs, args())[2]
    for array, one in zip((images, masks), alone):
        np.testing.assert_array_equal(array, np.repeat(one, 3, axis=0))
    assert weights[0].all()
    assert not weights[1:].any()


def test_epochs_move_on(make_pairs):
    frames = RoofFrames(make_pairs(1), args(), seed=0)
    frames.on_epoch_end()
    assert frames.epoch == 1


def test_steps_more_and_fewer_than_the_frames(make_pairs):
    frames = RoofFrames(make_pairs(3), args(), steps=5)
    assert [frames.places(i) for i in range(len(frames))] == [[0, 1], [2], [0, 1], [2], [0, 1]]
    assert len(RoofFrames(frames.pairs, args(), steps=1)) == 1


def test_frames_are_read_once_while_there_is_room(make_pairs, monkeypatch):
    pairs, reads = make_pairs(3), []
    read = datagen.read_frame
    monkeypatch.setattr(datagen, "read_frame", lambda pair, *rest: reads.append(pair) or read(pair, *rest))
    frames = RoofFrames(pairs, args())
    for _ in range(2):
        frames.measure()
    assert len(reads) == 3
    monkeypatch.setattr(datagen, "CACHE_BYTES", 2 * frames.sample(0).nbytes)
    frames = RoofFrames(pairs, args())
    for _ in range(2):
        frames.measure()
    assert len(reads) == 3 + 3 + 1
    assert frames.sample(0).image.dtype == np.uint16


def test_an_eighth_of_free_memory_is_kept_as_the_files_pixels(make_pairs, monkeypatch):
    size = 2 * 4 * 4 * 2 + 2 * 8 * 8  # 2 bands of uint16 at 4 x 4, roof and validity at 8 x 8
    monkeypatch.setattr(datagen, "free_memory", lambda: 8 * (2 * size + 1))
    frames = RoofFrames(make_pairs(3), args(8))
    frames.measure()
    assert [frame.nbytes for frame in frames._kept.values()] == [size] * 2
    assert frames.sample(0).image.nbytes == 2 * 8 * 8 * 4


def test_statistics_of_valid_pixels(make_raster):
    pairs = []
    for i, values in enumerate(([1, 3, 900, 900], [5, 7, 9, 900])):
        frame = np.array([values, np.multiply(values, -2)], "int16").reshape(2, 2, 2)
        path = make_raster(frame, f"{i}.tif", valid=np.array(values).reshape(2, 2) < 900)
        pairs.append(Pair(path, make_raster(np.full((2, 2), 255, "uint8"), f"m{i}.tif")))
    found = RoofFrames(pairs, args(2)).measure()
    np.testing.assert_allclose(found.mean, [5, -10])
    np.testing.assert_allclose(found.deviation, [np.sqrt(8), 2 * np.sqrt(8)])
    assert (found.valid_pixels, found.roof_pixels, found.pixels) == (5, 5, 8)


@pytest.mark.parametrize("side", [12, 9])
def test_statistics_are_of_the_resized_frames_to_the_last_digits(make_pairs, side):
    frames = RoofFrames(make_pairs(3, side=12), args(side))
    pixels = np.concatenate([frames.sample(number).image.reshape(-1, 2) for number in range(3)]).astype(float)
    found = frames.measure()
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, pixels.std(axis=0), rtol=1e-12)
    assert found.roof_pixels == sum(frames.sample(number).roof.sum() for number in range(3))


# --------------------------------------------------------------------------------------------------- ahead, in threads


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def equal(one, other):
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def test_the_number_of_threads_changes_nothing(make_pairs, monkeypatch):
    changes = dict(horizontal_flip=True, rotation_range=20, crop_size=(6, 6), gamma_range=0.2, roof_balance=0.5)

    def made(count):
        monkeypatch.setattr(datagen, "map_threads", partial(map_threads, workers=count))
        frames = RoofFrames(make_pairs(7, side=12), args(9, **changes), seed=5, steps=6)
        statistics = frames.measure()
        frames.augmentation = Augmentation(frames.settings, statistics)
        return statistics, [array for _ in range(2) for batch in frames for array in batch]

    alone, several, many = made(1), made(2), made(5)
    assert alone[0] == several[0] == many[0]
    assert equal(alone[1], several[1])
    assert equal(alone[1], many[1])


def test_batches_made_ahead_are_those_made_alone_in_any_order(make_pairs):
    frames = RoofFrames(make_pairs(7), args(3, horizontal_flip=True), seed=5)
    frames.augmentation = Augmentation(frames.settings, frames.measure())
    for epoch in range(2):
        frames.on_epoch_begin()
        for index in (0, 1, 0, 1, 2, 3, 2):  # Keras looks at the first two before it starts
            assert equal(frames[index], frames.batch(index))
        assert workers()
        frames.on_epoch_end()
        assert frames.epoch == epoch + 1
        assert not workers()
    assert equal(frames[0], frames.batch(0))
    assert not workers()


def test_an_error_ahead_is_raised_where_its_batch_is_asked_for(make_pairs):
    pairs = make_pairs(6)
    pairs[3].frame.write_bytes(b"")
    frames = RoofFrames(pairs, args())
    frames.on_epoch_begin()
    frames[0]
    assert frames.error is None
    with pytest.raises(BadInputError, match=r"train_3\.tif: 0 bytes"):
        frames[1]
    assert isinstance(frames.error, BadInputError)
    assert not workers()
    assert len(frames[2][0]) == 2
    frames.on_epoch_end()


def test_a_loop_that_is_left_leaves_no_thread(make_pairs):
    frames = RoofFrames(make_pairs(7), args())
    batches = iter(frames)
    next(batches)
    assert workers()
    batches.close()
    assert not workers()
    assert (frames.epoch, len(list(frames))) == (0, 4)


@pytest.mark.parametrize("kind", [Terminated, KeyboardInterrupt, ValueError])
def test_training_that_ends_early_leaves_no_thread(make_pairs, kind):
    from unet.learner import _unhidden

    def stop(batch, logs):
        raise kind

    frames = RoofFrames(make_pairs(9), args())
    network = keras.Sequential([keras.layers.Conv2D(1, 1)])
    network.compile(loss="mse")
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    with pytest.raises(kind):
        _unhidden(frames, lambda: network.fit(frames, verbose=0, shuffle=False, callbacks=[watch]))
    assert not workers()


def test_keras_goes_through_epochs_in_threads(make_pairs):
    frames, seen = RoofFrames(make_pairs(9), args()), []
    network = keras.Sequential([keras.layers.Conv2D(1, 1)])
    network.compile(loss="mse")
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(len(workers())))
    network.fit(frames, epochs=2, verbose=0, shuffle=False, callbacks=[watch])
    assert len(seen) == 2 * len(frames)
    assert min(seen) > 0
    assert not workers()


# -------------------------------------------------------------------------------------------------------- augmentation

STATISTICS = FrameStatistics((10.0, 20.0, 30.0, 40.0, 50.0), (1.0, 2.0, 3.0, 4.0, 5.0), 1, 1, 1)


def test_augmented_batches_repeat_with_seed_and_epoch(make_pairs):
    def batch(epoch):
        frames = RoofFrames(make_pairs(3, bands=5), args(4, 5, zoom_range=0.2, contrast_range=0.2), seed=1)
        frames.augmentation = Augmentation(frames.settings, STATISTICS)
        frames.epoch = epoch
        return frames[0][0]

    np.testing.assert_array_equal(batch(2), batch(2))
    assert not np.array_equal(batch(2), batch(3))


def test_windows_in_training_and_whole_frames_without_augmentation(make_pairs):
    frames = RoofFrames(make_pairs(3, side=8), args(8, crop_size=(4, 6)), num_classes=2, seed=1)
    assert [array.shape for array in frames[0]] == [(2, 8, 8, 2), (2, 8, 8, 2), (2, 8, 8)]
    frames.augmentation = Augmentation(frames.settings, frames.measure())
    assert len(frames) == 2
    assert [array.shape for array in frames[0]] == [(2, 4, 6, 2), (2, 4, 6, 2), (2, 4, 6)]


def test_a_frame_has_other_windows_in_each_turn(make_pairs):
    frames = RoofFrames(make_pairs(1, side=8), args(8, crop_size=(2, 2)), seed=1, steps=8)
    frames.augmentation = Augmentation(frames.settings, frames.measure())
    assert len({frames[index][0].tobytes() for index in range(8)}) > 4


@pytest.fixture
def one_roof(make_raster):
    """Nine frames without roofs and one, number 3, that is a quarter roof."""
    roof = np.kron([[255, 0], [0, 0]], np.ones((2, 2))).astype("uint8")
    frame = np.arange(32, dtype="uint8").reshape(2, 4, 4)
    return [Pair(make_raster(frame, f"f/{i}.tif"), make_raster(roof * (i == 3), f"m/{i}.tif")) for i in range(10)]


def test_frames_are_drawn_by_their_roofs(one_roof):
    def share(balance):
        frames = RoofFrames(one_roof, args(roof_balance=balance), seed=2, steps=500)
        drawn = np.concatenate([frames.places(index) for index in range(500)])
        again = np.concatenate([frames.places(index) for index in range(500)])
        np.testing.assert_array_equal(drawn, again)
        assert set(drawn) == set(range(10))
        return (drawn == 3).mean()

    assert share(0.0) == pytest.approx(0.1, abs=1e-9)
    by_roof = 0.26 / (0.26 + 9 * 0.01)
    assert share(0.5) == pytest.approx(0.05 + by_roof / 2, abs=0.05)
    assert share(1.0) == pytest.approx(by_roof, abs=0.05)


def test_a_frame_drawn_twice_is_changed_in_two_ways(one_roof):
    frames = RoofFrames(one_roof, args(roof_balance=1.0, batch_size=10, brightness_range=1.0), seed=2)
    frames.augmentation = Augmentation(frames.settings, frames.measure())
    assert len(set(frames.places(0))) < 10
    assert len({image.tobytes() for image in frames[0][0]}) == 10


def test_validation_takes_every_frame_in_turn(one_roof):
    frames = RoofFrames(one_roof, args(roof_balance=1.0))
    assert [number for index in range(len(frames)) for number in frames.places(index)] == list(range(10))


# ---------------------------------------------------------------------------------------------- Keras' own generator


@pytest.fixture
def rgb_pairs(make_raster):
    pairs = []
    for i in range(3):
        roof = np.zeros((16, 16), bool)
        roof[2 + i : 9, 3:12] = True
        frame = np.stack([np.where(roof, 200 + i, 20), np.where(roof, 90, 10), np.full((16, 16), i)]).astype("uint8")
        pairs.append(
            Pair(
                make_raster(frame, f"train_frames/train_{i}.tif", photometric="rgb"),
                make_raster(np.where(roof, 255, 0).astype("uint8"), f"train_masks/train_{i}.tif"),
            )
        )
    return pairs


def test_keras_generator_gives_the_same_batches(rgb_pairs):
    ours, theirs = (kind(rgb_pairs, args(16, 3)) for kind in (RoofFrames, KerasFrames))
    for index in range(len(ours)):
        for a, b in zip(ours[index], theirs[index], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def test_keras_generator_moves_frames_and_masks_alike(rgb_pairs):
    changes = dict(horizontal_flip=True, zoom_range=0.3, shear_range=10)
    frames = KerasFrames(rgb_pairs, args(16, 3, **changes), seed=0)
    frames.augmentation = Augmentation(frames.settings, STATISTICS)
    for epoch in range(4):
        frames.epoch = epoch
        images, masks, weights = frames[0]
        assert set(np.unique(masks)) <= {0.0, 1.0}
        assert masks.sum() > 0
        apart = ((images[..., 0] > 110) != (masks[..., 0] > 0)) & (weights > 0)
        assert apart.mean() < 0.04
        np.testing.assert_array_equal(frames[0][0], images)


def test_keras_generator_knows_no_windows_and_no_balance(rgb_pairs):
    frames = KerasFrames(rgb_pairs, args(16, 3, crop_size=(8, 8), roof_balance=1.0), seed=0)
    frames.augmentation = Augmentation(frames.settings, STATISTICS)
    assert sorted([*frames.places(0), *frames.places(1)]) == [0, 1, 2]
    assert frames[0][0].shape == (2, 16, 16, 3)


def test_keras_generator_knows_validity(rgb_pairs, make_raster):
    valid = np.ones((16, 16), bool)
    valid[:, 10:] = False
    frame = make_raster(np.full((3, 16, 16), 9, "uint8"), "train_frames/train_0.tif", photometric="rgb", valid=valid)
    assert frame == rgb_pairs[0].frame
    np.testing.assert_array_equal(KerasFrames(rgb_pairs, args(16, 3))[0][2][0], valid)


@pytest.mark.parametrize(("bands", "dtype"), [(3, "uint16"), (8, "uint8"), (1, "float32")])
def test_what_pillow_cannot_read_says_which_setting_helps(make_pairs, bands, dtype):
    message = rf"{bands} bands of {dtype}, which Keras' .* Set load_dataset_args\.custom: 1\."
    with pytest.raises(BadInputError, match=message):
        KerasFrames(make_pairs(1, bands=bands, dtype=dtype), args(channels=bands))


def test_four_bands_that_pillow_changes_are_refused(make_pairs):
    with pytest.raises(BadInputError, match=r"Set load_dataset_args\.custom: 1\."):
        KerasFrames(make_pairs(1, bands=4, dtype="uint8", photometric="rgb"), args(channels=4))
    with pytest.raises(BadInputError, match=r"Set load_dataset_args\.custom: 1\."):
        KerasFrames(make_pairs(1, bands=4, dtype="uint8"), args(channels=4))


@pytest.mark.parametrize("mode", ["binary", "categorical", "sparse", "input"])
def test_any_class_mode_gives_the_same_batches(rgb_pairs, mode):
    for a, b in zip(KerasFrames(rgb_pairs, args(16, 3, class_mode=mode))[0], KerasFrames(rgb_pairs, args(16, 3))[0]):
        np.testing.assert_array_equal(a, b)


def test_strangers_in_the_folder(rgb_pairs):
    Image.fromarray(np.zeros((16, 16, 3), "uint8")).save(rgb_pairs[0].frame.with_name("stranger.png"))
    with pytest.raises(MismatchError, match="files that are no partners"):
        KerasFrames(rgb_pairs, args(16, 3))[0]


def test_real_eight_band_frames(make_raster):
    frames = sorted(real("spacenet1_rio/8band").glob("*.tif"))[:3]
    import rasterio

    pairs = []
    for i, path in enumerate(frames):
        with rasterio.open(path) as src:
            mask = np.where(src.read(1) > 300, 255, 0).astype("uint8")
        pairs.append(Pair(path, make_raster(mask, f"{i}.tif")))
    images, masks, weights = RoofFrames(pairs, args(64, 8))[0]
    assert images.shape == (2, 64, 64, 8)
    assert images.max() > 255
    assert set(np.unique(masks)) == {0.0, 1.0}
    assert weights.min() >= 0
