"""A trained network in the formats of other programs, with its scaling inside: it takes pixels as they lie in files."""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

from roofkit.artifacts import Outputs, committed, committed_folder, fingerprint, recorded
from roofkit.cli import Run, say
from roofkit.errors import OutputError, SettingsError, named_reason
from roofkit.ledger import input_digest
from unet.backend import start_keras
from unet.model_file import load_model

FORMATS = {"onnx": "onnx", "savedmodel": "tf_saved_model"}  # and what Keras calls them
FOLDERS = {"savedmodel": "saved_model.pb"}  # formats of several files, one of which this always is
PACKAGES = {"onnx": ("onnx", "tf2onnx"), "savedmodel": ("tensorflow",)}


def export_path(model: Path, kind: str) -> Path:
    """Where the export of a model lies."""
    return model.with_suffix(f".{kind}")


def check_exports(kinds: Sequence[str]) -> None:
    """Raise SettingsError where a package is missing that writes one of these formats."""
    for kind in kinds:
        missing = [name for name in PACKAGES[kind] if importlib.util.find_spec(name) is None]
        if missing:
            advice = 'Install it: .venv/bin/python -m pip install -e ".[export]"'
            raise SettingsError(f"--export {kind}", f"no {' and no '.join(missing)}", 'the extra "export"', advice)


def export_model(model: Path, kinds: Sequence[str], run: Run) -> list[str]:
    """Write a finished model in these formats, but for those that are there; the paths.

    Raises:
        OutputError: A full disk, a folder that cannot be written to, or files in the way.
        BadInputError: The model is broken.
    """
    key = input_digest(model)
    for kind in FORMATS:
        names = recorded(model.parent, f"train.{export_path(model, kind).name}")
        if kind not in kinds and any(record["key"] != _key(kind, key) for record in names.values()):
            say(f"warning: {export_path(model, kind)}: of an earlier {model.name}; --export {kind} makes it anew")
    return [str(_exported(model, kind, _key(kind, key), run)) for kind in kinds]


def _key(kind: str, digest: str) -> str:
    return fingerprint("export", kind, digest)


def _exported(model: Path, kind: str, key: str, run: Run) -> Path:
    path = export_path(model, kind)
    main = f"{path.name}/{FOLDERS[kind]}" if kind in FOLDERS else path.name
    with Outputs(model.parent, "train", name=path.name, overwrite=run.overwrite, keep_edits=run.keep_edits) as outputs:
        if not outputs.plan(dict.fromkeys(sorted({main, *outputs.names()}), key)):
            say(f"{path}: kept, made from this {model.name}")
            return path
        if kind in FOLDERS and path.is_dir() and any(path.iterdir()) and not (path / FOLDERS[kind]).is_file():
            raise OutputError(path, "a folder of something else", "no folder there", "Move it away.")
        with (committed_folder if kind in FOLDERS else committed)(path) as part:
            _write(model, part, kind, path)
        for file in sorted(path.rglob("*")) if kind in FOLDERS else [path]:
            if file.is_file():
                outputs.record(str(file.relative_to(model.parent)), key)
        outputs.finish()
    return path


def _write(model: Path, part: Path, kind: str, path: Path) -> None:
    network = load_model(model).model
    taken = [
        start_keras().layers.InputSpec(shape=network.input_shape, dtype="float32")
    ]  # else it has to be called first
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of libraries about themselves
            network.export(str(part), format=FORMATS[kind], verbose=False, input_signature=taken)
    except OSError:
        raise
    except Exception as error:  # TensorFlow and ONNX raise anything at all where a disk is full
        found = f"not written ({named_reason(error)})"
        raise OutputError(path, found, "a network that can be exported, and space for it", "Try again.") from None
