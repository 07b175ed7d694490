"""unet.model_file: whole files with facts inside, and nothing loaded that is broken or carries code."""

import json
import logging
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from roofkit.errors import BadInputError, MissingInputError, OutputError
from roofkit.settings import ModelArgs, OutputArgs
from unet.backend import start_keras

keras = start_keras()
from keras import layers

from unet import model_file, model_plan
from unet.model_file import load_model, save_model
from unet.network import Preparation, build_unet

FACTS = dict(threshold=0.37, frame_size=[650, 640], band_names=["red", "nir"], data_format="channels_last")
TINY = ModelArgs(input_shape=(8, 8, 2), num_layers=1, filters=2, upconv_filters=3)
IMAGE = np.random.default_rng(0).uniform(0, 4000, (1, 8, 8, 2)).astype("float32")


def network(data_format="channels_last"):
    shape = (8, 8, 2) if data_format == "channels_last" else (2, 8, 8)
    args = TINY.model_copy(update={"input_shape": shape})
    return build_unet(args, OutputArgs(), data_format, Preparation(1 / 4000, [0.5, 0.25], [0.1, 3.0]))


def keras_saved(model, path):
    logging.getLogger("absl").setLevel(logging.ERROR)
    model.save(path)
    return path


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_round_trip(tmp_path, suffix, caplog, capfd):
    model, path = network(), tmp_path / f"deep/model{suffix}"
    save_model(model, path, FACTS)
    loaded = load_model(path)
    np.testing.assert_array_equal(loaded.model.predict(IMAGE, verbose=0), model.predict(IMAGE, verbose=0))
    assert (loaded.threshold, loaded.frame_size, loaded.input_size) == (0.37, (650, 640), (8, 8))
    assert (loaded.band_names, loaded.data_format) == (("red", "nir"), "channels_last")
    assert (loaded.num_classes, loaded.channels) == (1, 2)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert not [
        record for record in caplog.records if "retracing" not in record.getMessage()
    ]  # that is TensorFlow's own
    assert "legacy" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_preparation_survives(tmp_path, suffix):
    save_model(network(), tmp_path / f"m{suffix}", FACTS)
    layer = load_model(tmp_path / f"m{suffix}").model.get_layer("normalise")
    np.testing.assert_allclose(np.ravel(layer.scale), [10, 1 / 3])
    np.testing.assert_allclose(np.ravel(layer.offset), [-5, -0.25 / 3])
    assert layer.compute_dtype == "float32"


def test_channels_first_is_kept(tmp_path):
    save_model(network("channels_first"), tmp_path / "m.h5", FACTS | {"data_format": "channels_first"})
    loaded = load_model(tmp_path / "m.h5")
    assert (loaded.data_format, loaded.input_size, loaded.channels) == ("channels_first", (8, 8), 2)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_foreign_model_without_facts(tmp_path, suffix):
    inputs = keras.Input((16, 24, 3))
    model = keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax")(inputs))
    model.compile("adam", "mse")
    loaded = load_model(keras_saved(model, tmp_path / f"theirs{suffix}"))
    assert (loaded.threshold, loaded.frame_size, loaded.input_size) == (0.5, (16, 24), (16, 24))
    assert (loaded.band_names, loaded.data_format, loaded.num_classes, loaded.channels) == ((), "channels_last", 2, 3)


def test_foreign_model_channels_first_and_of_any_size(tmp_path):
    inputs = keras.Input((4, 16, 16))
    outputs = layers.Permute((3, 1, 2))(layers.Conv2D(1, 1)(layers.Permute((2, 3, 1))(inputs)))
    loaded = load_model(keras_saved(keras.Model(inputs, outputs), tmp_path / "first.keras"))
    assert (loaded.data_format, loaded.channels) == ("channels_first", 4)
    inputs = keras.Input((None, None, 5))
    loaded = load_model(keras_saved(keras.Model(inputs, layers.Conv2D(1, 1)(inputs)), tmp_path / "any.h5"))
    assert (loaded.input_size, loaded.frame_size) == ((None, None), (640, 640))


def test_keras_unet_model_loads(tmp_path):
    models = pytest.importorskip("keras_unet.models", reason="keras-unet is not installed")
    model = models.satellite_unet((32, 32, 3))
    assert load_model(keras_saved(model, tmp_path / "unet.h5")).frame_size == (32, 32)


# ------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("name", ["model.pb", "model", "model.weights"])
def test_other_suffixes(tmp_path, name):
    with pytest.raises(OutputError, match=r"expected \.h5 or \.keras"):
        save_model(network(), tmp_path / name, FACTS)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_failed_write_leaves_the_earlier_model(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"m{suffix}"
    save_model(network(), path, FACTS)
    before = path.read_bytes()
    monkeypatch.setattr(model_file, "_stored", lambda part: [0])
    with pytest.raises(OutputError, match="other weights came back"):
        save_model(network(), path, FACTS)
    writer = {".h5": "_write_h5", ".keras": "_write_keras"}[suffix]
    monkeypatch.setattr(model_file, writer, lambda *rest: (_ for _ in ()).throw(RuntimeError("no space")))
    with pytest.raises(OutputError, match=r"not written \(no space\)"):
        save_model(network(), path, FACTS)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


FULL_DISK = """
import resource, sys
from unet.backend import start_keras
from roofkit.errors import OutputError
from unet.model_file import Path, save_model
keras = start_keras()
model = keras.Sequential([keras.Input((8, 8, 2)), *(keras.layers.Conv2D(16, 3, padding="same") for _ in range(6))])
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    save_model(model, Path(sys.argv[1]), {})
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", [".h5", pytest.param(".keras", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_error(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not written (" in done.stdout
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ broken, hostile


def test_no_such_file(tmp_path):
    with pytest.raises(MissingInputError, match=r"m\.h5: no such file; expected a trained model"):
        load_model(tmp_path / "m.h5")


@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04 torn"])
def test_files_of_another_kind(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=rf"{name}: (0 bytes|not a Keras model)") as caught:
        load_model(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_other_suffix_on_load(tmp_path):
    (tmp_path / "m.skops").write_bytes(b"x")
    with pytest.raises(BadInputError, match=r"a \.skops file; expected \.h5 or \.keras"):
        load_model(tmp_path / "m.skops")


def test_weights_without_a_network(tmp_path):
    network().save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(BadInputError, match="weights without a network"):
        load_model(tmp_path / "m.weights.h5")


@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_torn_files(tmp_path, name):
    save_model(network(), tmp_path / name, FACTS)
    whole = (tmp_path / name).read_bytes()
    for share in (0.2, 0.6, 0.95):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(BadInputError, match=r"expected a whole model"):
            load_model(tmp_path / name)


@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_lambda_layers(tmp_path, name):
    inputs = keras.Input((8, 8, 2))
    model = keras.Model(inputs, layers.Conv2D(1, 1)(layers.Lambda(lambda x: x + 1)(inputs)))
    with pytest.raises(BadInputError, match="it holds Lambda; expected layers of Keras alone"):
        load_model(keras_saved(model, tmp_path / name))


@keras.saving.register_keras_serializable("theirs")
class Plus(layers.Layer):
    def call(self, x):
        return x + 1


@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_custom_objects(tmp_path, name):
    inputs = keras.Input((8, 8, 2))
    model = keras.Model(inputs, layers.Conv2D(1, 1)(Plus()(inputs)))
    with pytest.raises(BadInputError, match=r"it holds .*Plus; expected layers of Keras alone"):
        load_model(keras_saved(model, tmp_path / name))


@pytest.mark.parametrize(
    "gadget",
    [
        {"class_name": "function", "config": "system", "module": "os", "registered_name": "function"},
        {"class_name": "__lambda__", "config": {"value": "4wEAAA=="}},
    ],
)
def test_gadgets_in_the_description(tmp_path, gadget):
    path = keras_saved(network(), tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][-1]["config"]["activation"] = gadget
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(BadInputError, match="expected layers of Keras alone"):
        load_model(path)


@pytest.mark.parametrize("classes", [3, 8])
def test_wrong_output_channels(tmp_path, classes):
    inputs = keras.Input((8, 8, 2))
    with pytest.raises(BadInputError, match=rf"to \[None, 8, 8, {classes}\]; expected one image to one mask"):
        load_model(keras_saved(keras.Model(inputs, layers.Conv2D(classes, 1)(inputs)), tmp_path / "m.keras"))


def test_models_that_are_no_maps(tmp_path):
    inputs = keras.Input((8,))
    with pytest.raises(BadInputError, match="expected one image to one mask"):
        load_model(keras_saved(keras.Model(inputs, layers.Dense(1)(inputs)), tmp_path / "m.keras"))
    inputs = keras.Input((8, 8, 2))
    with pytest.raises(BadInputError, match=r"to \[None, 4, 4, 1\]; expected one image to one mask"):
        load_model(keras_saved(keras.Model(inputs, layers.Conv2D(1, 2, 2)(inputs)), tmp_path / "small.h5"))


@pytest.mark.parametrize(
    "change",
    [{"threshold": 2}, {"threshold": "x"}, {"frame_size": [0, 8]}, {"frame_size": 8}, {"data_format": "sideways"}],
)
def test_facts_that_make_no_sense(tmp_path, change):
    save_model(network(), tmp_path / "m.h5", FACTS | change)
    with pytest.raises(BadInputError, match="not a Keras model"):
        load_model(tmp_path / "m.h5")


def test_description_too_long(tmp_path, monkeypatch):
    save_model(network(), tmp_path / "m.keras", FACTS)
    monkeypatch.setattr(model_plan, "JSON_BYTES", 10)
    with pytest.raises(BadInputError, match=r"\.json is too long"):
        load_model(tmp_path / "m.keras")


def test_zip_without_a_network(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("other.txt", "x")
    with pytest.raises(BadInputError, match=r"no config\.json"):
        load_model(tmp_path / "m.keras")
