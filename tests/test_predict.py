"""predict: windows that blend without a seam, masks on the input's grid, polygons."""

import json
import re
import threading
import time
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings, strategies
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from predict.predict import Block, Targets, main, predict_block
from roofkit.artifacts import recorded
from roofkit.errors import BadInputError, MismatchError, MissingInputError
from roofkit.raster import read_pixels
from roofkit.settings import PredictArgs, RasterArgs
from unet.predictor import NetworkPredictor, blend_weights, mirrored, parts, starts, turned, turned_back

SIDE = 32


def test_starts_by_hand():
    assert starts(100, 40, 0.25) == [0, 30, 60]
    assert starts(105, 40, 0.25) == [0, 30, 60, 65]
    assert starts(40, 40, 0.25) == [0]
    assert starts(10, 40, 0.25) == [0]
    assert starts(80, 40, 0.0) == [0, 40]


@settings(max_examples=60, deadline=None)
@given(length=strategies.integers(1, 400), size=strategies.integers(1, 90), overlap=strategies.floats(0, 0.9))
def test_windows_cover_a_side_and_their_shares_add_up_to_one(length, size, overlap):
    offsets = starts(length, size, overlap)
    total = np.zeros(length)
    shared = min((first + size - second for first, second in pairwise(offsets)), default=size)
    for offset, weight in zip(offsets, blend_weights(offsets, size, length), strict=True):
        assert 0 <= offset <= max(0, length - size)
        total[offset : offset + len(weight)] += weight
        with_neighbours = [0] * (offset > 0) + weight.tolist() + [0] * (offset + size < length)
        assert np.abs(np.diff(with_neighbours)).max(initial=0) <= 3 / max(1, shared)
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_blend_weights_by_hand():
    first, second = blend_weights([0, 2], 4, 6)
    np.testing.assert_allclose(first, [1, 1, 0.75, 0.25])
    np.testing.assert_allclose(second, [0.25, 0.75, 1, 1])


def test_blend_weights_where_the_last_window_hardly_moves_on():
    first, second = blend_weights([0, 1], 5, 6)  # shared: 4 pixels
    np.testing.assert_allclose(first[[0, 1, -1]], [1, 7 / 8, 1 / 8])
    np.testing.assert_allclose(second, first[::-1])


def test_parts_by_hand(monkeypatch):
    monkeypatch.setattr("unet.predictor.PART_WIDTH", 512)
    found = list(parts(Window(256, 7, 1300, 9), 32))
    assert found == [Window(256, 7, 512, 9), Window(768, 7, 512, 9), Window(1280, 7, 276, 9)]


class Brightness:
    """A stand-in for a network: the probability is the first band / 255, a pure function of each pixel."""

    def predict_on_batch(self, batch):
        return batch[..., :1] / 255


class Position(Brightness):
    """Another: each window's own horizontal position, so that neighbouring windows disagree everywhere."""

    def predict_on_batch(self, batch):
        ramp = np.linspace(0, 1, batch.shape[2], dtype=np.float32)
        return np.broadcast_to(ramp[None, None, :, None], (*batch.shape[:3], 1))


class LeftNeighbour(Brightness):
    """Another: each pixel has the probability of the one to its left."""

    def __init__(self, axis):
        self.axis = axis

    def predict_on_batch(self, batch):
        return np.roll(batch, 1, self.axis) / 255


def predictor(tmp_path, network=None, *, threshold=0.5, flips=False, **facts):
    values = dict(
        model=network or Brightness(), threshold=threshold, frame_size=(SIDE, SIDE), input_size=(SIDE, SIDE),
        band_names=(), data_format="channels_last", num_classes=1, channels=1,
    )  # fmt: skip
    made = NetworkPredictor(tmp_path / "model.h5", PredictArgs(batch_size=3, flips=flips, runtime="keras"))
    made.__dict__["loaded"] = SimpleNamespace(**(values | facts))
    return made


def predicted(path, predictor, targets, *, rasters, window=None, name=None):
    return predict_block(Block(path, name or path.stem, window), predictor, targets, rasters=rasters)


def scene(rows, cols):
    return np.random.default_rng(3).integers(0, 256, (1, rows, cols), dtype=np.uint8)


def read(path):
    with rasterio.open(path) as src:
        return src.read(1), src.dataset_mask() > 0, src.profile


def test_mirrored_by_hand():
    np.testing.assert_array_equal(mirrored(np.array([[[1, 2]]]), (2, 5)), [[[1, 2, 2, 1, 1], [1, 2, 2, 1, 1]]])


@pytest.mark.parametrize("shape", [(300, 600), (20, 31), (33, 700), (256, 256), (601, 40)])
@pytest.mark.parametrize("part_width", [8192, 256])
def test_each_pixel_gets_its_own_probability(make_raster, tmp_path, monkeypatch, shape, part_width):
    monkeypatch.setattr("unet.predictor.PART_WIDTH", part_width)
    pixels = scene(*shape)
    targets = Targets(tmp_path / "masks", (tmp_path / "probabilities",))
    predicted(make_raster(pixels), predictor(tmp_path), targets, rasters=RasterArgs())
    probability = read(tmp_path / "probabilities" / "scene.tif")[0]
    np.testing.assert_allclose(probability, pixels[0] / 255, atol=1e-5)
    mask, _, profile = read(tmp_path / "masks" / "scene.tif")
    np.testing.assert_array_equal(mask, np.where(pixels[0] >= 127.5, 255, 0))
    assert (profile["dtype"], profile["count"], profile["crs"].to_epsg()) == ("uint8", 1, 32644)


def test_no_seam_where_windows_disagree(make_raster, tmp_path):
    targets = Targets(tmp_path / "masks", (tmp_path / "probabilities",))
    predicted(make_raster(scene(64, 300)), predictor(tmp_path, Position()), targets, rasters=RasterArgs())
    probability = read(tmp_path / "probabilities" / "scene.tif")[0]
    assert np.abs(np.diff(probability, axis=1)).max() < 0.15  # side by side, windows would jump by 1
    assert np.abs(np.diff(probability, axis=0)).max() < 1e-5


def test_parts_give_what_the_whole_gives(make_raster, tmp_path, monkeypatch):
    path = make_raster(scene(64, 700))
    found = []
    for width in (8192, 256):
        monkeypatch.setattr("unet.predictor.PART_WIDTH", width)
        targets = Targets(tmp_path / f"m{width}", (tmp_path / f"p{width}",))
        predicted(path, predictor(tmp_path, Position()), targets, rasters=RasterArgs())
        found.append(read(targets.probabilities[0] / "scene.tif")[0])
    np.testing.assert_array_equal(*found)


def test_invalid_pixels_are_0_and_invalid(make_raster, tmp_path):
    pixels = np.full((1, 40, 50), 200, np.uint8)
    pixels[0, :, :7] = 0
    path = make_raster(pixels, nodata=0)
    tally = predicted(path, predictor(tmp_path), Targets(tmp_path / "m", (tmp_path / "p",)), rasters=RasterArgs())
    mask, valid, _ = read(tmp_path / "m" / "scene.tif")
    assert not mask[:, :7].any()
    assert not valid[:, :7].any()
    assert (mask[:, 7:] == 255).all()
    assert valid[:, 7:].all()
    assert not read(tmp_path / "p" / "scene.tif")[0][:, :7].any()
    count, share = 40 * 43, pytest.approx(200 / 255)
    assert (tally.valid, tally.roof, tally.lowest, tally.highest) == (count, count, share, share)
    assert (tally.total / count, tally.squares / count) == (share, pytest.approx((200 / 255) ** 2))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_validity_is_that_of_the_file_pixel_by_pixel(make_raster, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("unet.predictor.PART_WIDTH", 256)
    holes = np.random.default_rng(5).random((600, 700)) < 0.3
    holes[100:300, :500] = True
    pixels = np.where(holes, 0 if dtype == "uint8" else np.nan, scene(600, 700) | 1).astype(dtype)
    path = make_raster(pixels, nodata=0 if dtype == "uint8" else None)
    predicted(path, predictor(tmp_path), Targets(tmp_path / "m"), rasters=RasterArgs())
    np.testing.assert_array_equal(read(tmp_path / "m" / "scene.tif")[1] > 0, ~holes)


def test_windows_are_read_while_the_network_works(make_raster, tmp_path, monkeypatch):
    looked, enough = [], threading.Event()

    def read(src, window):
        looked.append(window)
        if len(looked) > 5:  # the first batch, and two that are prepared beside it
            enough.set()
        return read_pixels(src, window)

    class Patient(Brightness):
        def predict_on_batch(self, batch):
            assert enough.wait(10)
            assert threading.current_thread() is not threading.main_thread()
            return super().predict_on_batch(batch)

    monkeypatch.setattr("unet.predictor.read_pixels", read)
    monkeypatch.setattr("unet.predictor.PREPARING", 2)
    path = make_raster(scene(600, 300))
    tally = predicted(path, predictor(tmp_path, Patient()), Targets(tmp_path / "m"), rasters=RasterArgs())
    assert tally.valid == 600 * 300


def test_the_settings_choose_how_the_network_is_run(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("unet.inference.open_inference", lambda loaded, **options: asked.update(options))
    made = predictor(tmp_path)
    made.settings = PredictArgs(runtime="keras", precision="float32")
    _ = made.inference
    assert asked == {"runtime": "keras", "precision": "float32", "name": tmp_path / "model.h5"}


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


@pytest.mark.parametrize("windows", [1, 5])
def test_no_thread_reads_on_when_the_scan_is_closed(make_raster, tmp_path, windows):
    with rasterio.open(make_raster(scene(2000, 300))) as src:
        found = predictor(tmp_path).scan(src, Window(0, 0, 300, 2000))
        assert len(list(islice(found, windows))) == windows
        found.close()
        assert not reading_threads()


def test_nobody_looks_for_valid_pixels_when_the_scan_is_closed(make_raster, tmp_path, monkeypatch):
    looked = []

    def read(src, window):
        looked.append(window)
        return np.zeros((1, SIDE, SIDE), np.uint8), np.full((SIDE, SIDE), len(looked) < 8)

    monkeypatch.setattr("unet.predictor.read_pixels", read)
    many = 300_000
    with rasterio.open(make_raster(scene(SIDE, SIDE))) as src:
        found = predictor(tmp_path).windows(src, (Window(0, 0, SIDE, SIDE) for _ in range(many)))
        next(found)
        while len(looked) < 20:  # for the second batch
            time.sleep(0.001)
        found.close()
    assert len(looked) < many


def test_a_network_that_does_not_start_says_so_before_a_scene_is_read(make_raster, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr("unet.predictor.read_pixels", lambda src, window: looked.append(window))
    monkeypatch.setattr("unet.inference.open_inference", lambda *_, **__: 1 / 0)
    with rasterio.open(make_raster(scene(SIDE, SIDE))) as src, pytest.raises(ZeroDivisionError):
        next(predictor(tmp_path).windows(src, [Window(0, 0, SIDE, SIDE)]))
    assert looked == []


@pytest.mark.parametrize(("values", "said"), [((-4.0, 9.0), "from -4 to 9"), ((0.2, 1.5), "from 0.2 to 1.5")])
def test_what_is_no_probability_is_refused(make_raster, tmp_path, values, said):
    class Logits(Brightness):
        def predict_on_batch(self, batch):
            return np.broadcast_to(np.where(np.arange(SIDE) % 2, *values)[:, None, None], (*batch.shape[:3], 1))

    path = make_raster(scene(100, 100))
    with pytest.raises(
        BadInputError, match=rf"model\.h5: values {said}; expected roof probabilities, 0 to 1\. End the"
    ):
        predicted(path, predictor(tmp_path, Logits()), Targets(tmp_path / "m"), rasters=RasterArgs())
    assert not list((tmp_path / "m").glob("*"))


def test_no_probability_is_more_than_1(make_raster, tmp_path):
    class Certain(Brightness):
        def predict_on_batch(self, batch):
            return np.ones((*batch.shape[:3], 1), np.float32)

    targets = Targets(tmp_path / "m", (tmp_path / "p",))
    tally = predicted(make_raster(scene(300, 211)), predictor(tmp_path, Certain()), targets, rasters=RasterArgs())
    assert tally.highest == 1
    assert read(tmp_path / "p/scene.tif")[0].max() == 1


def test_an_error_of_the_network_ends_every_thread(make_raster, tmp_path):
    class Failing(Brightness):
        def predict_on_batch(self, batch):
            raise OverflowError("too large")

    with pytest.raises(BadInputError, match="it fails at 32 x 32 pixels"):
        predicted(
            make_raster(scene(2000, 300)), predictor(tmp_path, Failing()), Targets(tmp_path / "m"), rasters=RasterArgs()
        )
    assert not reading_threads()
    assert not list((tmp_path / "m").glob("*"))


def test_a_scene_that_breaks_off(make_raster, tmp_path):
    path = make_raster(scene(2000, 300))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)
    with pytest.raises(BadInputError, match=r"scene\.tif: broken pixels"):
        predicted(path, predictor(tmp_path), Targets(tmp_path / "m"), rasters=RasterArgs())
    assert not reading_threads()


def test_two_classes_and_channels_first(make_raster, tmp_path):
    class Classes:
        def predict_on_batch(self, batch):
            assert batch.shape[1] == 1  # (frames, bands, rows, cols)
            return np.concatenate([1 - batch / 255, batch / 255], axis=1)

    pixels = scene(40, 40)
    made = predictor(tmp_path, Classes(), data_format="channels_first", num_classes=2)
    predicted(make_raster(pixels), made, Targets(tmp_path / "m", (tmp_path / "p",)), rasters=RasterArgs())
    np.testing.assert_allclose(read(tmp_path / "p" / "scene.tif")[0], pixels[0] / 255, atol=1e-5)


def test_frames_are_resized_for_the_network_and_back(make_raster, tmp_path):
    pixels = np.zeros((1, 64, 64), np.uint8)
    pixels[:, 16:48, 16:48] = 255
    made = predictor(tmp_path, frame_size=(64, 64), input_size=(32, 32))
    predicted(make_raster(pixels), made, Targets(tmp_path / "m"), rasters=RasterArgs())
    np.testing.assert_array_equal(read(tmp_path / "m" / "scene.tif")[0] > 0, pixels[0] > 0)


@pytest.mark.parametrize(("data_format", "axis"), [("channels_last", 2), ("channels_first", 3)])
@pytest.mark.parametrize(
    ("cols", "around"),
    [(SIDE, [[0, 1 / 4, 0], [1 / 4, 0, 1 / 4], [0, 1 / 4, 0]]), (SIDE // 2, [[0, 0, 0], [1 / 2, 0, 1 / 2], [0, 0, 0]])],
)
def test_flips_average_over_the_turns_that_a_window_allows(make_raster, tmp_path, data_format, axis, cols, around):
    pixels = np.zeros((1, SIDE, cols), np.uint8)
    pixels[0, 10, 6] = 255
    size = dict(frame_size=(SIDE, cols), input_size=(SIDE, cols))
    made = predictor(tmp_path, LeftNeighbour(axis), flips=True, data_format=data_format, **size)
    predicted(make_raster(pixels), made, Targets(tmp_path / "m", (tmp_path / "p",)), rasters=RasterArgs())
    probability = read(tmp_path / "p" / "scene.tif")[0]
    np.testing.assert_allclose(probability[9:12, 5:8], around)
    assert np.count_nonzero(probability) == np.count_nonzero(around)


@pytest.mark.parametrize("turn", [(quarters, mirror) for quarters in range(4) for mirror in (False, True)])
def test_turns_and_back(turn):
    frames = np.arange(36).reshape(2, 3, 3, 2)
    np.testing.assert_array_equal(turned_back(turned(frames, turn), turn), frames)
    assert turn == (0, False) or (turned(frames, turn) != frames).any()


def test_another_number_of_bands_is_refused(make_raster, tmp_path):
    path = make_raster(np.zeros((8, 40, 40), np.uint16))
    with pytest.raises(MismatchError, match=r"8 bands; expected 1, as .*model\.h5 takes"):
        predicted(path, predictor(tmp_path), Targets(tmp_path / "m"), rasters=RasterArgs())
    assert not list(tmp_path.glob("m/*"))


def test_polygons_need_a_crs(make_raster, tmp_path):
    path = make_raster(scene(40, 40), crs=None)
    with pytest.raises(MissingInputError, match="no CRS"):
        predicted(path, predictor(tmp_path), Targets(tmp_path / "m", vectors=tmp_path / "v.gpkg"), rasters=RasterArgs())


@pytest.fixture
def fake_model(monkeypatch, tmp_path):
    """A model file whose loading gives the stand-in network."""
    (tmp_path / "model.h5").write_bytes(b"model")
    monkeypatch.setattr("unet.model_file.load_model", lambda path: predictor(tmp_path).loaded)
    return str(tmp_path / "model.h5")


def bright_roofs():
    pixels = np.zeros((1, 300, 300), np.uint8)
    pixels[:, 20:40, 30:50] = 255  # 20 x 20 px of 0.5 m: 100 m2
    pixels[:, 250:262, 100:110] = 204  # across the edge of a block: 30 m2
    return pixels


def test_main_writes_masks_and_polygons_and_keeps_them(fake_model, make_raster, tmp_path, capsys):
    import geopandas as gpd

    make_raster(bright_roofs(), "scenes/a.tif")
    line = [fake_model, str(tmp_path / "scenes"), str(tmp_path / "out"), "--vectors", str(tmp_path / "roofs.gpkg")]
    assert main([*line, "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["made"], report["kept"], report["footprints"], report["threshold"]) == (1, 0, 2, 0.5)
    assert recorded(tmp_path / "out", "predict")["a.tif"]["model"] == Path(fake_model).name
    roofs = gpd.read_file(tmp_path / "roofs.gpkg", layer="roofs")
    assert roofs.crs.to_epsg() == 32644
    assert list(roofs["scene"]) == ["a", "a"]
    np.testing.assert_allclose(roofs["area_m2"], [100, 30], rtol=2e-3)
    np.testing.assert_allclose(roofs["mean_probability"], [1.0, 0.8], atol=1e-3)
    np.testing.assert_allclose(roofs.geometry.iloc[0].bounds, (735015, 2959980, 735025, 2959990))
    before = {p.name: p.read_bytes() for p in [tmp_path / "out" / "a.tif", tmp_path / "roofs.gpkg"]}
    assert main([*line, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kept"] == 1
    assert main([*line, "--overwrite", "--quiet"]) == 0
    assert {p.name: p.read_bytes() for p in [tmp_path / "out" / "a.tif", tmp_path / "roofs.gpkg"]} == before


@pytest.mark.parametrize("name", ["roofs.geojson", "roofs.parquet", "roofs.fgb"])
def test_polygons_by_suffix(fake_model, make_raster, tmp_path, name):
    import geopandas as gpd

    path = make_raster(bright_roofs())
    assert main([fake_model, str(path), str(tmp_path / "out"), "--vectors", str(tmp_path / name), "--quiet"]) == 0
    roofs = gpd.read_parquet(tmp_path / name) if name.endswith("parquet") else gpd.read_file(tmp_path / name)
    assert sorted(roofs["id"]) == ["scene_r256_c105", "scene_r30_c40"]
    assert sorted(roofs["area_m2"].round()) == [30, 100]
    assert roofs.crs.to_epsg() == (4326 if name.endswith("geojson") else 32644)


def test_small_roofs_are_left_out(fake_model, make_raster, tmp_path, capsys):
    settings_path = tmp_path / "settings.json"
    settings_path.write_text(json.dumps({"predict_args": {"min_area": 50}}))
    line = [fake_model, str(make_raster(bright_roofs())), str(tmp_path / "out"), "--settings", str(settings_path)]
    main([*line, "--vectors", str(tmp_path / "roofs.gpkg"), "--json", "--quiet"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["footprints"] == 1


def test_no_roof_at_all_is_said_and_an_empty_file_written(fake_model, make_raster, tmp_path, capsys):
    import geopandas as gpd

    path = make_raster(np.full((1, 40, 40), 51, np.uint8))
    line = [fake_model, str(path), str(tmp_path / "out"), "--vectors", str(tmp_path / "roofs.gpkg"), "--quiet"]
    assert main(line) == 0
    assert "every mask is blank: the highest probability is 0.2000, the threshold 0.5000" in capsys.readouterr().err
    assert len(gpd.read_file(tmp_path / "roofs.gpkg", layer="roofs")) == 0


def test_a_project_gets_frames_then_scenes(fake_model, make_raster, tmp_path, capsys):
    make_raster(bright_roofs(), "data/scenes/town.tif")
    make_raster(bright_roofs()[:, :32, :32], "data/val_frames/val_0.tif")
    line = [fake_model, "--data", str(tmp_path / "data"), "--results", str(tmp_path / "results"), "--json", "--quiet"]
    assert main(line) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    made = [tmp_path / "results" / name for name in ("predictions/val_0.tif", "map/town.tif", "footprints.gpkg")]
    assert all(path.is_file() for path in made)
    assert report["rasters"] == 2
    assert report["footprints"] == 2
    assert [path.name for path in (tmp_path / "results/probabilities").glob("*.tif")] == ["val_0.tif"]
    assert main([*line, "--probabilities", str(tmp_path / "p")]) == 0
    made = [
        tmp_path / name for name in ("p/predictions/val_0.tif", "p/map/town.tif", "results/probabilities/val_0.tif")
    ]
    assert all(path.is_file() for path in made)


@pytest.mark.parametrize(
    ("setting", "option", "expected"),
    [(False, [], 1), (False, ["--flips"], 1 / 4), (True, [], 1 / 4), (True, ["--no-flips"], 1)],
)
def test_flips_by_setting_and_option(fake_model, make_raster, tmp_path, monkeypatch, setting, option, expected):
    network = predictor(tmp_path, LeftNeighbour(2)).loaded
    monkeypatch.setattr("unet.model_file.load_model", lambda path: network)
    (tmp_path / "settings.json").write_text(json.dumps({"predict_args": {"flips": setting}}))
    pixels = np.zeros((1, SIDE, SIDE), np.uint8)
    pixels[0, 10, 6] = 255
    line = [fake_model, str(make_raster(pixels)), str(tmp_path / "m"), "--probabilities", str(tmp_path / "p")]
    assert main([*line, *option, "--settings", str(tmp_path / "settings.json"), "--quiet"]) == 0
    assert read(tmp_path / "p" / "scene.tif")[0][10, 7] == expected


def test_outlines_as_the_settings_say(fake_model, make_raster, tmp_path, capsys):
    import geopandas as gpd

    pixels = bright_roofs()
    pixels[:, 29:31, 50:54] = pixels[:, 20:40, 54:74] = 255  # a neck of 1 m to a second roof
    pixels[:, 5, 5] = 255  # a speck
    args = {"separate": 0.6, "min_area": 1, "simplify": 0.5, "square": True}
    (tmp_path / "settings.json").write_text(json.dumps({"predict_args": args}))
    line = [fake_model, str(make_raster(pixels)), str(tmp_path / "out"), "--vectors", str(tmp_path / "roofs.gpkg")]
    line += ["--settings", str(tmp_path / "settings.json"), "--json", "--quiet"]
    for _ in range(2):  # made, then kept
        assert main(line) == 0
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (report["footprints"], report["separated"], report["specks"]) == (3, 1, 1)
    roofs = gpd.read_file(tmp_path / "roofs.gpkg", layer="roofs")
    assert list(roofs.count_coordinates()) == [5, 5, 5]
    np.testing.assert_allclose(roofs["area_m2"], [100, 100, 30], rtol=0.02)


def test_a_patch_too_large_to_separate_is_said(fake_model, make_raster, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("roofkit.footprints.LARGEST", 99)
    (tmp_path / "settings.json").write_text(json.dumps({"predict_args": {"separate": 1}}))
    line = [fake_model, str(make_raster(bright_roofs())), str(tmp_path / "m"), "--vectors", str(tmp_path / "v.gpkg")]
    assert main([*line, "--settings", str(tmp_path / "settings.json"), "--quiet"]) == 0
    assert "scene.tif: 2 patches of roof are too large to be separated" in capsys.readouterr().err


# Blocks


def block_settings(tmp_path, **args):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"predict_args": {"block_size": 256, "runtime": "keras", **args}}))
    return ["--settings", str(path), "--quiet", "--json"]


def town(rows=600, cols=700):
    """Roofs across the edges of blocks; the lower left block has no valid pixel."""
    pixels = np.full((1, rows, cols), 20, np.uint8)
    pixels[0, 240:270, 300:330] = 255
    pixels[0, 20:50, 250:262] = 204
    pixels[0, 500:530, 505:530] = 230
    pixels[0, 512:, :256] = 0
    return pixels


def test_a_map_in_blocks_is_the_map(fake_model, make_raster, tmp_path, capsys):
    import geopandas as gpd
    import pystac

    path = make_raster(town(), nodata=0)
    assert main([fake_model, str(path), str(tmp_path / "whole"), "--vectors", str(tmp_path / "whole.gpkg")]) == 0
    line = [fake_model, str(path), str(tmp_path / "out"), "--vectors", str(tmp_path / "roofs.gpkg")]
    line += ["--probabilities", str(tmp_path / "p"), *block_settings(tmp_path)]
    capsys.readouterr()
    assert main(line) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["rasters"], report["made"], report["footprints"]) == (1, 9, 3)
    names = sorted(p.name for p in (tmp_path / "out/scene").iterdir())
    assert len(names) == 8
    assert "scene_r512_c0.tif" not in names
    mask, valid, _ = read(tmp_path / "whole/scene.tif")
    for there in ("out/scene.vrt", "p/scene.vrt"):
        found, found_valid, profile = read(tmp_path / there)
        np.testing.assert_array_equal(found >= (128 if "out" in there else 0.5), mask == 255)
        np.testing.assert_array_equal(found_valid, valid)
        assert (profile["crs"].to_epsg(), profile["transform"]) == (32644, rasterio.open(path).transform)
    with rasterio.open(tmp_path / "out/scene/scene_r0_c256.tif") as src:
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert src.window(*src.bounds).height == 256
    item = pystac.Item.from_file(str(tmp_path / "out/scene.json"))
    assert item.bbox == pytest.approx([83.3, 26.7, 83.4, 26.8], abs=0.1)
    assert {key: asset.href for key, asset in item.assets.items()} == {
        "mask": "scene.vrt", "probability_0": "../p/scene.vrt",
    }  # fmt: skip
    assert (item.properties["proj:code"], item.properties["proj:shape"]) == ("EPSG:32644", [600, 700])
    roofs, expected = (
        gpd.read_file(tmp_path / "roofs.gpkg", layer="roofs"),
        gpd.read_file(tmp_path / "whole.gpkg", layer="whole"),
    )
    assert roofs.geometry.geom_equals(expected.geometry).all()
    assert list(roofs["id"]) == list(expected["id"]) == ["scene_r35_c256", "scene_r255_c315", "scene_r515_c517"]
    np.testing.assert_allclose(roofs["mean_probability"], expected["mean_probability"], atol=1e-6)
    before = contents(tmp_path / "out")
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["made"] <= 1  # the block of which nothing is
    assert contents(tmp_path / "out") == before


def map_facts(path):
    """Description, colours of 0 and 255, and what the statistics in a file say beside what its pixels do."""
    with rasterio.open(path) as src:
        pixels, table = src.read(1, masked=True).astype(float), {}
        if src.colorinterp[0].name == "palette":
            table = src.colormap(1)
        stored = [float(src.tags(1)[f"STATISTICS_{key}"]) for key in ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV")]
        found = [pixels.min(), pixels.max(), pixels.mean(), pixels.std()]
        np.testing.assert_allclose(stored, found, rtol=1e-5, atol=1e-6)
        return src.descriptions[0], table.get(0), table.get(255)


def test_rasters_show_themselves(fake_model, make_raster, tmp_path):
    path = make_raster(town(), nodata=0)
    line = [fake_model, str(path)]
    assert main([*line, str(tmp_path / "m"), "--probabilities", str(tmp_path / "p"), "--quiet"]) == 0
    blocks = [str(tmp_path / "bm"), "--probabilities", str(tmp_path / "bp"), *block_settings(tmp_path)]
    assert main([*line, *blocks]) == 0
    masks = [tmp_path / "m/scene.tif", *tmp_path.glob("bm/scene/*.tif"), tmp_path / "bm/scene.vrt"]
    probabilities = [tmp_path / "p/scene.tif", *tmp_path.glob("bp/scene/*.tif"), tmp_path / "bp/scene.vrt"]
    assert len(masks) == len(probabilities) == 10
    for path in [*masks, *probabilities]:
        about = ("metal roof", (235, 235, 235, 255), (213, 94, 0, 255))
        assert map_facts(path) == (about if path in masks else ("roof probability", None, None))
        if path.suffix == ".tif":
            assert cog_validate(str(path), strict=True, quiet=True) == (True, [], [])
    assert not list(tmp_path.rglob("*.aux.xml"))


def palette(path):
    """The band of validity that a style for QGIS counts on, and the colours and names of values."""
    renderer = ElementTree.parse(path).find("pipe/rasterrenderer")
    entries = {int(e.get("value")): (e.get("label"), e.get("color")) for e in renderer.iter("paletteEntry")}
    return int(renderer.get("alphaBand")), entries


def test_qgis_is_told_how_to_draw_a_map(fake_model, make_raster, tmp_path):
    whole = make_raster(np.full((1, 40, 50), 9, "uint8"), "scenes/whole.tif")
    make_raster(town(), "scenes/part.tif", nodata=0)
    line = [fake_model, str(whole.parent), str(tmp_path / "map"), "--quiet"]
    assert main(line) == 0
    colours = {0: ("ground", "#ebebeb"), 255: ("metal roof", "#d55e00")}
    assert palette(tmp_path / "map/whole.qml") == (-1, colours)  # no such band: nothing would be drawn
    assert palette(tmp_path / "map/part.qml") == (2, colours)
    before = contents(tmp_path / "map")
    assert main(line) == 0
    assert contents(tmp_path / "map") == before
    assert main([*line[:2], str(tmp_path / "blocks"), *block_settings(tmp_path)]) == 0
    assert palette(tmp_path / "blocks/part.qml") == (2, colours)
    assert sorted(path.name for path in (tmp_path / "blocks").glob("*.qml")) == ["part.qml", "whole.qml"]
    (tmp_path / "scenes/part.tif").unlink()
    assert main(line) == 0
    assert not (tmp_path / "map/part.qml").exists()


def test_a_style_of_your_own_stays(fake_model, make_raster, tmp_path, capsys):
    path, out = make_raster(np.full((1, 40, 50), 9, "uint8")), tmp_path / "map"
    line, style = [fake_model, str(path), str(out), "--quiet"], out / "scene.qml"
    out.mkdir()
    style.write_text("mine")  # before the first run
    assert main(line) == 0
    assert style.read_text() == "mine"
    style.unlink()
    assert main(line) == 0
    style.write_text("mine")  # between two runs
    for threshold in ("0.4", "0.3"):
        assert main([*line, "--threshold", threshold]) == 0
        assert style.read_text() == "mine"
    assert "edited by hand, and kept: scene.qml" in capsys.readouterr().err
    assert main([*line, "--overwrite"]) == 0
    assert style.read_text() != "mine"
    style.write_text("mine")
    path.rename(path.with_name("other.tif"))  # the scene of the style is gone
    assert main([fake_model, str(path.parent), *line[2:]]) == 0
    assert "removed 1 file that an earlier run made and this one does not (scene.tif)" in capsys.readouterr().err
    assert style.read_text() == "mine"
    assert sorted(one.name for one in out.glob("[!.]*")) == ["other.qml", "other.tif", "scene.qml"]


@pytest.mark.parametrize("blocks", [False, True])
def test_scenes_one_after_another_stay(fake_model, make_raster, tmp_path, capsys, blocks):
    paths = [make_raster(town(), f"scenes/{name}.tif") for name in ("a", "a_r0_c0", "b")]
    options = block_settings(tmp_path) if blocks else []
    for path in paths:
        assert main([fake_model, str(path), str(tmp_path / "each"), *options]) == 0
    assert "removed" not in capsys.readouterr().err
    assert main([fake_model, str(tmp_path / "scenes"), str(tmp_path / "all"), *options]) == 0
    assert contents(tmp_path / "each") == contents(tmp_path / "all")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_blocks_in_shares_are_those_of_one_run(fake_model, make_raster, tmp_path, capsys):
    for name in ("a", "b"):
        make_raster(town(), f"scenes/{name}.tif", nodata=0)
    made = []
    for where in ("one", "shares"):
        line = [fake_model, str(tmp_path / "scenes"), str(tmp_path / where / "m"), *block_settings(tmp_path)]
        line += ["--vectors", str(tmp_path / where / "roofs.gpkg")]
        for i in range(3) if where == "shares" else ():
            assert main([*line, "--shard", f"{i}/3"]) == 0
            made.append(json.loads(capsys.readouterr().out.splitlines()[-1])["made"])
            assert not (tmp_path / where / "roofs.gpkg").exists()
        assert main(line) == 0
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made == [6, 6, 6]
    assert (last["made"], last["footprints"]) == (0, 6)  # the two blocks without a valid pixel are finished, too
    assert contents(tmp_path / "one") == contents(tmp_path / "shares")


def test_a_scene_no_larger_than_a_block_is_one_file(fake_model, make_raster, tmp_path):
    path = make_raster(town(256, 256))
    assert main([fake_model, str(path), str(tmp_path / "out"), *block_settings(tmp_path)]) == 0
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == ["scene.qml", "scene.tif"]


def test_a_scene_without_a_valid_pixel(fake_model, make_raster, tmp_path):
    path = make_raster(town() * 0, nodata=0)
    for where, options in (("whole", ["--quiet"]), ("blocks", block_settings(tmp_path))):
        assert main([fake_model, str(path), str(tmp_path / where), *options]) == 0
        mask, valid, _ = read(tmp_path / where / ("scene.tif" if where == "whole" else "scene.vrt"))
        assert (mask.any(), valid.any(), mask.shape) == (False, False, (600, 700))


def test_windows_without_a_valid_pixel_do_not_reach_the_network(make_raster, tmp_path):
    seen = []

    class Counting(Brightness):
        def predict_on_batch(self, batch):
            seen.extend(batch[:, 0, 0, 0])
            return super().predict_on_batch(batch)

    pixels = np.zeros((1, 2000, 300), np.uint8)
    pixels[:, 1900:1910, 200:210] = 255
    predicted(
        make_raster(pixels, nodata=0), predictor(tmp_path, Counting()), Targets(tmp_path / "m"), rasters=RasterArgs()
    )
    mask, valid, _ = read(tmp_path / "m" / "scene.tif")
    np.testing.assert_array_equal(mask, pixels[0])
    np.testing.assert_array_equal(valid, pixels[0] > 0)
    assert len(seen) <= 4


def test_an_empty_folder_of_scenes_counts_as_none(fake_model, make_raster, tmp_path):
    make_raster(bright_roofs()[:, :32, :32], "data/val_frames/val_0.tif")
    (tmp_path / "data/scenes").mkdir()
    (tmp_path / "data/scenes/.gitkeep").touch()
    assert main([fake_model, "--data", str(tmp_path / "data"), "--results", str(tmp_path / "results"), "--quiet"]) == 0
    assert (tmp_path / "results/predictions/val_0.tif").is_file()


def test_nothing_to_predict_and_no_model(fake_model, tmp_path, capsys):
    folders = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    assert main([fake_model, *folders]) == 1
    assert "neither val_frames nor scenes" in capsys.readouterr().err
    assert main(folders) == 1
    assert "no such model" in capsys.readouterr().err


def test_threshold_and_suffix_are_checked_before_the_work(fake_model, make_raster, tmp_path, capsys):
    path = str(make_raster(bright_roofs()))
    assert main([fake_model, path, str(tmp_path / "out"), "--threshold", "1.5"]) == 1
    assert "--threshold" in capsys.readouterr().err
    assert main([fake_model, path, str(tmp_path / "out"), "--vectors", str(tmp_path / "roofs.txt")]) == 1
    assert "expected one of .gpkg .geojson .fgb .parquet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scenes_of_one_name_are_refused(fake_model, make_raster, tmp_path, capsys):
    make_raster(bright_roofs(), "s/a.tif")
    make_raster(bright_roofs(), "s/a.tiff")
    assert main([fake_model, str(tmp_path / "s"), str(tmp_path / "out")]) == 1
    assert "the same name as" in capsys.readouterr().err


def test_scenes_without_a_crs_get_masks_and_no_polygons(fake_model, make_raster, tmp_path, capsys):
    make_raster(bright_roofs(), "data/scenes/plain.tif", crs=None)
    line = [fake_model, "--data", str(tmp_path / "data"), "--results", str(tmp_path / "results"), "--quiet"]
    assert main(line) == 0
    assert re.search(r"footprints\.gpkg is not made: .*plain\.tif: no CRS;", capsys.readouterr().err)
    assert (tmp_path / "results" / "map" / "plain.tif").is_file()
    assert not (tmp_path / "results" / "footprints.gpkg").exists()
