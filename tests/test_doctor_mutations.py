"""doctor names each cause of blank masks when it is put into a sound project, and is silent about a sound one."""

import json
import shutil
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from imagery import TRANSFORM, UTM
from scipy import ndimage

import doctor.doctor as stage
from roofkit.errors import MismatchError, SettingsError
from roofkit.settings import check_settings
from unet.backend import start_keras

keras = start_keras()
from keras import layers

from roofkit.pairs import find_pairs
from unet.checks import quick_checks
from unet.datagen import RoofFrames
from unet.frames import targets
from unet.model_checks import PREPARATIONS, model_checks
from unet.model_file import save_model
from unet.probe import best_threshold

SIDE, BANDS = 48, 8
COUNTS = {"train": 16, "val": 8}
ROOF = np.array([900, 1000, 1100, 1150, 1200, 1250, 900, 800])[:, None, None]  # of 2047, as an 11-bit sensor has them
HOUSE = np.array([300, 350, 500, 700, 900, 1000, 1100, 1200])[:, None, None]
GROUND = np.array([250, 280, 350, 320, 300, 400, 700, 750])[:, None, None]
TINY = PREPARATIONS["values / 65535 / 255"]
pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")  # see `uncompiled`


@pytest.fixture(autouse=True, scope="module")
def uncompiled():
    """Without compiling, which takes seconds for a network of milliseconds."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


# ------------------------------------------------------------------------------------------------------ a sound project


@dataclass(frozen=True)
class Place:
    """One frame: its pixels, its roofs as (top, left, bottom, right), and where it lies."""

    name: str
    pixels: np.ndarray
    roofs: list[tuple[int, int, int, int]]
    transform: Affine

    def mask(self, rows=0, cols=0):
        roof = np.zeros((SIDE, SIDE), bool)
        for top, left, bottom, right in self.roofs:
            roof[max(0, top + rows) : max(0, bottom + rows), max(0, left + cols) : max(0, right + cols)] = True
        return roof


def make_place(name, index, *, share=1.0):
    rng = np.random.default_rng(index)
    pixels = GROUND + ndimage.gaussian_filter(rng.normal(0, 400, (1, SIDE, SIDE)), (0, 4, 4)) + np.zeros((BANDS, 1, 1))
    roofs = []
    for kind in (HOUSE, HOUSE, ROOF, ROOF):
        height, width = (int(v * share) for v in rng.integers(9, 16, 2))
        top, left = rng.integers(0, SIDE - height), rng.integers(0, SIDE - width)
        taken = any(t < top + height and top < b and le < left + width and left < r for t, le, b, r in roofs)
        if not taken:
            pixels[:, top : top + height, left : left + width] = kind
            if kind is ROOF:
                roofs.append((int(top), int(left), int(top + height), int(left + width)))
    pixels = np.clip(pixels + rng.normal(0, 40, pixels.shape), 0, 2047).astype("uint16")
    return Place(name, pixels, roofs, TRANSFORM @ Affine.translation(index * SIDE, 0))


PLACES = {
    kind: [make_place(f"{kind}_{i}", i + 100 * (kind == "val")) for i in range(count)] for kind, count in COUNTS.items()
}


def write(path, array, transform=TRANSFORM, crs=UTM):
    array = array[None] if array.ndim == 2 else array
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = dict(count=array.shape[0], height=array.shape[1], width=array.shape[2], dtype=array.dtype)
    with rasterio.open(
        path, "w", driver="GTiff", crs=crs, transform=transform, photometric="minisblack", **profile
    ) as dst:
        dst.write(array)


class Project:
    """A folder with settings, labels, frames and masks, and what doctor says about it."""

    def __init__(self, folder, places=PLACES):
        self.folder, self.places = folder, places
        self.values = {
            "load_dataset_args": dict(target_size=[SIDE, SIDE], channels=BANDS, batch_size=8),
            "model_args": dict(input_shape=[SIDE, SIDE, BANDS], num_layers=0, filters=8, upconv_filters=8),
            "training_args": dict(epochs=20, learning_rate=0.01, precision="float32"),
            "doctor_args": dict(overfit_steps=60),
        }
        for kind, some in places.items():
            for place in some:
                write(folder / f"data/{kind}_frames/{place.name}.tif", place.pixels, place.transform)
        self.label()

    def label(self, rows=0, cols=0, crs=UTM):
        """Draw labels and masks, moved by that many pixels."""
        shapes = []
        for kind, some in self.places.items():
            for place in some:
                mask = np.where(place.mask(rows, cols), 255, 0).astype("uint8")
                write(self.folder / f"data/{kind}_masks/{place.name}.tif", mask, place.transform)
                for top, left, bottom, right in place.roofs:
                    corners = [
                        place.transform @ (col + cols, row + rows) for col, row in ((left, top), (right, bottom))
                    ]
                    shapes.append(shapely.box(*corners[0], *corners[1]))
        (self.folder / "data/labels").mkdir(exist_ok=True)
        gpd.GeoDataFrame(geometry=shapes, crs=crs).to_file(self.folder / "data/labels/roofs.gpkg")

    def files(self, *folders):
        return sorted(path for folder in folders for path in self.files_of(folder).iterdir())

    def files_of(self, folder):
        return self.folder / "data" / folder

    def change(self, work, *folders):
        """Replace each file's pixels (bands, rows, cols) by what `work` makes of them."""
        for path in self.files(*folders):
            with rasterio.open(path) as src:
                pixels, transform = src.read(), src.transform
            write(path, work(pixels), transform)

    def doctor(self, capsys, *given):
        """Exit status and findings."""
        path = self.folder / "settings.json"
        path.write_text(json.dumps(self.values))
        status = stage.main([*map(str, given), "--settings", str(path), "--quiet", "--json"])
        printed = capsys.readouterr()
        self.error = printed.err
        return status, json.loads(printed.out.splitlines()[-1])["findings"]


def causes(findings, status="fail"):
    return {finding["cause_id"] for finding in findings if finding["status"] == status}


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def no_overfit(monkeypatch):
    """Without the check that trains: the test is about a model that is trained already."""
    monkeypatch.setattr(stage, "CHECKS", [check for check in stage.CHECKS if check.run is not stage.network])


# --------------------------------------------------------------------------------------------------------------- models


AS_IS, *_ = PREPARATIONS


def arrays(places):
    """Images (frames, rows, cols, bands) and their roofs."""
    images = np.stack([np.moveaxis(place.pixels, 0, -1) for place in places]).astype("float32")
    return images, np.stack([place.mask() for place in places])


def make_model(prepared=AS_IS, *, frames=AS_IS, first=(), norm=None, softer=1.0, bias=0.0, dead=False, places=PLACES):
    """A model whose weights are worked out, not learnt: a pixel is a roof when it has about the colour of roofs.

    Its layers: scaling, batch normalisation, a ReLU for what is above that colour and one for what is below, the sum.

    Args:
        prepared: How pixels were prepared when it was trained.
        frames: What was done to the pixels before that, in the files.
        first: Layers in front, that do `prepared` themselves.
        norm: How much of the statistics of its training batch normalisation has taken up, 0 to 1; None: none there.
        softer: A factor on what it answers before the sigmoid; then `bias` is added.
        dead: Its ReLU is always 0.
    """
    images, roofs = arrays(places["train"])
    images = np.asarray(PREPARATIONS[prepared](PREPARATIONS[frames](images)))
    mean, variance = images.mean((0, 1, 2)), images.var((0, 1, 2))
    x = inputs = keras.Input((SIDE, SIDE, BANDS))
    for layer in first:
        x = layer(x)
    normed = layers.BatchNormalization()
    x = normed(x) if norm is not None else x
    x = layers.Conv2D(2 * BANDS, 1, activation="relu", name="relu")(x)
    model = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid", name="roof")(x))
    if norm is not None:
        normed.set_weights([np.ones(BANDS), np.zeros(BANDS), mean * norm, variance * norm + 1 - norm])
        images = (images - mean) / np.sqrt(variance + normed.epsilon)
    colour, noise = images[roofs].mean(0), images[roofs].std(0)
    limit = -best_threshold(-(np.abs(images - colour) / noise).sum(-1).ravel(), roofs.ravel())[0]
    sides = np.concatenate([np.diag(1 / noise), np.diag(-1 / noise)], axis=1)[None, None]
    shift = np.concatenate([-colour / noise, colour / noise])
    model.get_layer("relu").set_weights([sides, shift - (1e9 if dead else 0.0)])
    model.get_layer("roof").set_weights([np.full((1, 1, 2 * BANDS, 1), -softer), np.array([limit * softer + bias])])
    return model


@pytest.fixture
def foreign(tmp_path):
    """Saves a model as Keras does it, without facts of ours."""

    def keep(*options, **more):
        make_model(*options, **more).save(tmp_path / "foreign.keras")
        return tmp_path / "foreign.keras"

    return keep


@pytest.fixture
def sound_model(tmp_path):
    """Saved as train saves it: scaling and threshold inside."""
    images, _ = arrays(PLACES["train"])
    mean, deviation = images.mean((0, 1, 2)), images.std((0, 1, 2))
    first = [layers.Rescaling((1 / deviation)[None, None], (-mean / deviation)[None, None])]
    facts = {"threshold": 0.45, "frame_size": [SIDE, SIDE], "band_names": [], "data_format": "channels_last"}
    save_model(make_model("each band standardised", first=first, norm=1.0), tmp_path / "sound.h5", facts)
    return tmp_path / "sound.h5"


# ------------------------------------------------------------------------------------------------------------ the tests


def test_a_sound_project_has_no_failure(project, sound_model, capsys):
    status, findings = project.doctor(capsys, sound_model)
    assert causes(findings) == set()
    assert status == 0
    assert causes(findings, "warn") == set()


def test_1_masks_scaled_twice_on_disk(project, capsys):
    project.change(lambda mask: (mask / 255 / 255).astype("float32"), "train_masks", "val_masks")
    status, findings = project.doctor(capsys)
    assert (status, causes(findings)) == (1, {"masks_scaled"})


def test_1_masks_scaled_twice_by_the_generator(project, capsys, monkeypatch):
    monkeypatch.setattr("unet.datagen.targets", lambda roof, classes: targets(roof, classes) / 255)
    assert causes(project.doctor(capsys)[1]) == {"masks_scaled"}


def test_1_masks_of_0_and_1_are_read_rightly(project, capsys):
    project.change(lambda mask: mask // 255, "train_masks", "val_masks")
    status, findings = project.doctor(capsys)
    assert (status, causes(findings), causes(findings, "warn")) == (0, set(), {"masks_scaled"})


@pytest.mark.usefixtures("no_overfit")
def test_2_images_scaled_twice(project, foreign, capsys):
    project.change(lambda pixels: TINY(pixels).astype("float32"), "train_frames", "val_frames")
    nothing_learnt = foreign(softer=0.0, bias=-2.2)  # the base rate everywhere
    assert causes(project.doctor(capsys, nothing_learnt)[1]) == {"images_scaled"}


def test_2_only_the_validation_frames_are_scaled(project, capsys):
    project.change(lambda pixels: (pixels / 65535).astype("float32"), "val_frames")
    assert causes(project.doctor(capsys)[1]) == {"images_scaled"}


@pytest.mark.usefixtures("no_overfit")
def test_3_batch_normalisation_of_tiny_images(project, foreign, capsys):
    project.change(lambda pixels: TINY(pixels).astype("float32"), "train_frames", "val_frames")
    model = foreign(frames="values / 65535 / 255", norm=1 - 0.99**100)
    assert causes(project.doctor(capsys, model)[1]) == {"batch_statistics", "images_scaled"}


@pytest.mark.usefixtures("no_overfit")
def test_3_batch_normalisation_of_few_steps(project, foreign, capsys):
    assert causes(project.doctor(capsys, foreign(norm=1 - 0.99**5))[1]) == {"batch_statistics"}


@pytest.mark.parametrize(("norm", "name"), [(1.0, "values / 255"), (None, "each band standardised")])
@pytest.mark.usefixtures("no_overfit")
def test_4_prediction_prepares_otherwise(project, foreign, capsys, norm, name):
    findings = project.doctor(capsys, foreign(name, norm=norm))[1]
    assert causes(findings) == {"preparation_differs"}
    assert name in next(f["expected"] for f in findings if f["status"] == "fail")


@pytest.mark.usefixtures("no_overfit")
def test_5_zero_and_one_are_written(project, sound_model, capsys):
    for place in PLACES["val"]:
        write(project.folder / f"out/{place.name}.tif", place.mask().astype("uint8"), place.transform)
    assert causes(project.doctor(capsys, sound_model, project.folder / "out")[1]) == {"written_wrong"}


@pytest.mark.usefixtures("no_overfit")
def test_5_probabilities_cut_to_whole_numbers(project, sound_model, capsys):
    for place in PLACES["val"]:
        write(project.folder / f"out/{place.name}.tif", (place.mask() * 0.98).astype("uint8"), place.transform)
    assert causes(project.doctor(capsys, sound_model, project.folder / "out")[1]) == {"written_wrong"}


def test_6_labels_elsewhere(project, capsys):
    project.label(crs="EPSG:32645")
    assert causes(project.doctor(capsys)[1]) == {"labels_miss_imagery"}


def test_6_masks_without_roofs(project, capsys):
    project.change(lambda mask: mask * 0, "train_masks", "val_masks")
    assert causes(project.doctor(capsys)[1]) == {"labels_miss_imagery"}


def shuffle(project):
    """Give each frame the mask of another one, on its own grid."""
    for kind, places in PLACES.items():
        masks = [np.where(place.mask(), 255, 0).astype("uint8") for place in places]
        order = np.random.default_rng(0).permutation(len(masks))
        for place, number in zip(places, order):
            write(project.folder / f"data/{kind}_masks/{place.name}.tif", masks[number], place.transform)


def test_7_wrong_pairs(project, capsys):
    shuffle(project)
    assert causes(project.doctor(capsys)[1]) == {"wrong_pairs"}


@pytest.mark.usefixtures("no_overfit")
def test_8_rare_roofs_and_a_short_training(tmp_path, foreign, capsys):
    places = {kind: [make_place(p.name, i, share=0.4) for i, p in enumerate(some)] for kind, some in PLACES.items()}
    project = Project(tmp_path, places)
    project.values["training_args"] |= dict(loss="bce", epochs=4)
    findings = project.doctor(capsys, foreign(norm=1.0, softer=0.1, bias=-4.0, places=places))[1]
    assert causes(findings) == {"imbalance"}


@pytest.mark.usefixtures("no_overfit")
def test_9_dead_last_layers(project, foreign, capsys):
    assert causes(project.doctor(capsys, foreign(norm=1.0, dead=True))[1]) == {"dead_units"}


@pytest.mark.parametrize(
    "scramble",
    [
        lambda pixels: pixels.transpose(1, 2, 0),
        lambda pixels: pixels.transpose(2, 0, 1),
        lambda pixels: pixels.transpose(1, 2, 0).reshape(pixels.shape),
        lambda pixels: pixels.reshape(SIDE, SIDE, BANDS).transpose(2, 0, 1),
    ],
)
def test_10_scrambled_axes(project, capsys, scramble):
    project.change(scramble, "train_frames", "val_frames")
    assert causes(project.doctor(capsys)[1]) == {"axes_scrambled"}


@pytest.mark.usefixtures("no_overfit")
def test_11_threshold_of_an_uncalibrated_model(project, foreign, capsys):
    assert causes(project.doctor(capsys, foreign(norm=1.0, softer=0.1, bias=-4.0))[1]) == {"threshold"}


@pytest.mark.parametrize(("rows", "cols"), [(10, 0), (-6, 8)])
def test_12_shifted_labels(project, capsys, rows, cols):
    project.label(rows, cols)
    findings = project.doctor(capsys)[1]
    assert causes(findings) == {"labels_shifted"}
    measured = next(f["measured"] for f in findings if f["status"] == "fail")
    assert causes(findings, "warn") == set()
    assert f"{np.hypot(rows, cols):.0f} pixels" in measured
    assert f"({np.hypot(rows, cols) / 2:.1f} m)" in measured


@pytest.mark.parametrize(
    ("block", "options", "cause"),
    [
        ("training_args", {"learning_rate": 1e-7}, "cannot_learn"),
        ("model_args", {"kernel_initializer": "zeros"}, "dead_units"),
    ],
)
def test_a_network_that_cannot_learn(project, capsys, block, options, cause):
    project.values[block] |= options
    project.values["doctor_args"]["overfit_steps"] = 5
    assert causes(project.doctor(capsys)[1]) == {cause}


def test_chips_serve_where_nothing_was_split_yet(project, capsys):
    for kind, name in (("frames", "chips"), ("masks", "masks")):
        for path in project.files(f"train_{kind}"):
            shutil.copytree(path.parent, project.files_of(name), dirs_exist_ok=True)
        for part in COUNTS:
            shutil.rmtree(project.files_of(f"{part}_{kind}"))
    findings = project.doctor(capsys)[1]
    assert causes(findings) == set()
    assert "pairs: chips" in {finding["check"] for finding in findings}


@pytest.mark.usefixtures("no_overfit")
def test_a_model_for_other_bands(project, tmp_path, capsys):
    inputs = keras.Input((SIDE, SIDE, 3))
    keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(inputs)).save(tmp_path / "rgb.keras")
    assert causes(project.doctor(capsys, tmp_path / "rgb.keras")[1]) == {"bands"}


# ------------------------------------------------------------------------------------------------- as train asks for it


def quick(project, **training):
    project.values["training_args"] |= training
    settings = check_settings(project.values)
    frames = [
        RoofFrames(
            find_pairs(project.files_of(f"{kind}_frames"), project.files_of(f"{kind}_masks")),
            settings.load_dataset_args,
        )
        for kind in COUNTS
    ]
    blocks = dict(training=settings.training_args, model=settings.model_args, sample=settings.doctor_args.sample)
    return quick_checks(*frames, statistics=frames[0].measure(), **blocks)


def test_quick_checks_of_a_sound_project_are_silent(project):
    assert quick(project) == []


def test_quick_checks_stop_where_masks_are_of_other_frames(project):
    shuffle(project)
    with pytest.raises(MismatchError, match=r"train_masks: \d+ of \d+ masks .* fit another frame \(train_"):
        quick(project)


def test_quick_checks_stop_where_labels_are_shifted(project):
    project.label(10, 0)
    with pytest.raises(MismatchError, match="masks lie 10 rows down from their roofs: 10 pixels"):
        quick(project)


def test_quick_checks_stop_where_validation_frames_are_scaled(project):
    project.change(lambda pixels: (pixels / 65535).astype("float32"), "val_frames")
    with pytest.raises(SettingsError, match=r"val_frames: bands with mean .* expected a deviation of 0\.05 to 20"):
        quick(project)


def test_quick_checks_warn_of_a_plan_that_is_too_short(project):
    project.values["model_args"]["bachnorm_momentum"] = 0.99
    (warning,) = quick(project, epochs=20)
    assert (warning.cause_id, warning.status) == ("batch_statistics", "warn")
    assert "0.99: after 40 steps 67%" in warning.measured


def after_an_epoch(model, *, work=AS_IS, momentum=0.9, steps_left=100):
    images, roofs = arrays(PLACES["train"])
    batch = np.asarray(PREPARATIONS[work](images), np.float32), targets(roofs, 1), np.ones(roofs.shape, np.float32)
    before = model.get_weights()
    findings = model_checks(model, batch, momentum=momentum, steps_left=steps_left)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, model.get_weights()))
    return {(finding.cause_id, finding.status) for finding in findings}


def test_model_checks_of_a_sound_network_are_silent():
    assert after_an_epoch(make_model("each band standardised", norm=1.0), work="each band standardised") == set()


def test_model_checks_do_not_mind_a_network_that_lags_behind_but_will_catch_up():
    model = make_model("each band standardised", norm=1 - 0.99**10)
    assert after_an_epoch(model, work="each band standardised", momentum=0.99, steps_left=500) == set()


def test_model_checks_stop_what_no_epoch_can_mend():
    tiny = "values / 65535 / 255"
    assert ("batch_statistics", "fail") in after_an_epoch(
        make_model(tiny, norm=1 - 0.99**10), work=tiny, momentum=0.99, steps_left=100
    )
    assert after_an_epoch(make_model("each band standardised", dead=True), work="each band standardised") == {
        ("dead_units", "fail")
    }
    assert after_an_epoch(make_model("each band standardised", bias=np.nan), work="each band standardised") == {
        ("cannot_learn", "fail")
    }


# ------------------------------------------------------------------------------------------------ with a real training


def learnt(work, *, norm=None, epochs=60):
    """A small network without preparation, trained on frames that were prepared in that way."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((SIDE, SIDE, BANDS))
    for _ in range(3):
        x = layers.Conv2D(8, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
        x = layers.BatchNormalization(momentum=norm)(x) if norm else x
    model = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))
    images, roofs = arrays(PLACES["train"])
    tf.config.run_functions_eagerly(False)
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    model.fit(PREPARATIONS[work](images), targets(roofs, 1), batch_size=8, epochs=epochs, verbose=0)
    tf.config.run_functions_eagerly(True)
    return keras.Model(model.inputs[0], model.outputs[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "work", "expected"),
    [
        (dict(work="values / 65535 / 255", epochs=5), "values / 65535 / 255", {"images_scaled"}),
        (dict(work="values / 65535 / 255", norm=0.99), "values / 65535 / 255", {"batch_statistics"}),
        (dict(work=AS_IS, norm=0.999, epochs=30), AS_IS, {"batch_statistics"}),
        (dict(work="values / 255", norm=0.8), AS_IS, {"preparation_differs"}),
        (dict(work="each band standardised", norm=0.8), AS_IS, {"preparation_differs"}),
        (dict(work="each band standardised", norm=0.8), "each band standardised", set()),
    ],
)
@pytest.mark.usefixtures("no_overfit")
def test_models_that_have_learnt(project, tmp_path, capsys, options, work, expected):
    if work != AS_IS:
        project.change(lambda pixels: prepared(pixels, work), "train_frames", "val_frames")
    learnt(**options).save(tmp_path / "foreign.keras")
    assert causes(project.doctor(capsys, tmp_path / "foreign.keras")[1]) - {"images_scaled"} == expected - {
        "images_scaled"
    }


def prepared(pixels, work):
    return np.moveaxis(PREPARATIONS[work](np.moveaxis(pixels, 0, -1)[None].astype("float32"))[0], -1, 0).astype(
        "float32"
    )
