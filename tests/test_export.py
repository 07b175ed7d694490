"""Networks in other formats: the same probabilities of raw pixels, whole or not at all, and only when missing."""

import importlib.util

import numpy as np
import pytest

from roofkit.errors import OutputError, SettingsError
from roofkit.settings import ModelArgs, OutputArgs
from unet.backend import start_keras

keras = start_keras()

from unet import export
from unet.export import check_exports, export_model, export_path
from unet.model_file import load_model, save_model
from unet.network import Preparation, build_unet

SIDE = 16
FACTS = {"threshold": 0.5, "frame_size": [SIDE, SIDE], "band_names": [], "data_format": "channels_last"}


def small(seed):
    keras.utils.set_random_seed(seed)
    args = ModelArgs(architecture="residual_unet", input_shape=(SIDE, SIDE, 2), filters=4, num_layers=1)
    return build_unet(args, OutputArgs(), preparation=Preparation(None, [900.0, 700.0], [60.0, 50.0]))


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "results" / "network.h5"
    save_model(small(1), path, FACTS)
    return path


@pytest.fixture
def frames():
    return np.random.default_rng(0).normal(800, 90, (3, SIDE, SIDE, 2)).astype(np.float32)


def test_a_saved_model_gives_the_same_probabilities_and_is_kept(model, run, frames, capsys):
    import tensorflow as tf

    path = export_path(model, "savedmodel")
    assert export_model(model, ["savedmodel"], run) == [str(path)]
    expected = load_model(model).model.predict_on_batch(frames)
    assert expected.std() > 0.01
    loaded = tf.saved_model.load(path)
    np.testing.assert_allclose(loaded.serve(frames), expected, atol=1e-6)
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}
    assert export_model(model, ["savedmodel"], run) == [str(path)]
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()} == before
    assert "network.savedmodel: kept" in capsys.readouterr().err


def test_onnx_gives_the_same_probabilities(model, run, frames):
    for name in ("onnxruntime", "tf2onnx", "onnx"):
        pytest.importorskip(name, reason=f"{name} is not installed: it comes with the extras export and dev")
    import onnxruntime

    assert export_model(model, ["onnx"], run) == [str(model.with_suffix(".onnx"))]
    session = onnxruntime.InferenceSession(model.with_suffix(".onnx"))
    [taken] = session.get_inputs()
    assert taken.shape[1:] == [SIDE, SIDE, 2]
    found = session.run(None, {taken.name: frames})[0]
    np.testing.assert_allclose(found, load_model(model).model.predict_on_batch(frames), atol=1e-4)


def test_an_export_that_lacks_a_file_is_made_anew(model, run, monkeypatch):
    monkeypatch.setattr(export, "_write", lambda model, part, kind, path: whole(part, "a", "b"))
    export_model(model, ["savedmodel"], run)
    (export_path(model, "savedmodel") / "b").unlink()
    export_model(model, ["savedmodel"], run)
    assert sorted(file.name for file in export_path(model, "savedmodel").iterdir()) == ["a", "b", "saved_model.pb"]


class Broken:
    """A network whose export ends half-way."""

    input_shape = (None, SIDE, SIDE, 2)

    def __init__(self, error):
        self.error = error

    def export(self, path, **options):
        from pathlib import Path

        if Path(path).is_dir():
            (Path(path) / "saved_model.pb").write_bytes(b"half")
        else:
            Path(path).write_bytes(b"half")
        raise self.error


@pytest.mark.parametrize("kind", ["onnx", "savedmodel"])
@pytest.mark.parametrize("error", [RuntimeError("no\nspace"), OSError(28, "No space left on device")])
def test_an_export_that_fails_leaves_what_was_there(model, run, monkeypatch, kind, error):
    path = export_path(model, kind)
    monkeypatch.setattr(export, "load_model", lambda path: type("Loaded", (), {"model": Broken(error)}))
    with pytest.raises(OutputError, match=rf"network\.{kind}: not written \(.*[nN]o space"):
        export_model(model, [kind], run)
    assert not path.exists()
    assert not list(model.parent.glob(".part*"))
    monkeypatch.setattr(export, "_write", lambda model, part, kind, path: whole(part))
    export_model(model, [kind], run)
    before = contents(model.parent, path)
    monkeypatch.undo()
    monkeypatch.setattr(export, "load_model", lambda path: type("Loaded", (), {"model": Broken(error)}))
    save_model(small(2), model, FACTS)
    with pytest.raises(OutputError):
        export_model(model, [kind], run)
    assert contents(model.parent, path) == before


def whole(part, *others):
    for file in [part / name for name in ("saved_model.pb", *others)] if part.is_dir() else [part]:
        file.write_bytes(b"whole")


def contents(folder, path):
    files = [path] if path.is_file() else path.rglob("*")
    return {file.relative_to(folder): file.read_bytes() for file in files if file.is_file()}


def test_an_export_of_an_earlier_model_is_told_and_made_anew_when_asked_for(model, run, monkeypatch, capsys):
    monkeypatch.setattr(export, "_write", lambda model, part, kind, path: whole(part))
    export_model(model, ["onnx"], run)
    export_model(model, [], run)
    assert "earlier" not in capsys.readouterr().err
    save_model(small(2), model, FACTS)
    export_model(model, [], run)
    assert "network.onnx: of an earlier network.h5; --export onnx makes it anew" in capsys.readouterr().err
    export_model(model, ["onnx"], run)
    export_model(model, [], run)
    assert "earlier" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["saved_model.pb", "letters.txt"])
def test_a_folder_of_something_else_stays(model, run, monkeypatch, name):
    monkeypatch.setattr(export, "_write", lambda model, part, kind, path: whole(part))
    folder = export_path(model, "savedmodel")
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(OutputError, match="Move it away"):
        export_model(model, ["savedmodel"], run)
    assert (folder / name).read_text() == "mine"


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else "there")
    check_exports(["savedmodel"])
    with pytest.raises(SettingsError, match=r'--export onnx: no tf2onnx; expected the extra "export"\. .*\[export\]'):
        check_exports(["savedmodel", "onnx"])
