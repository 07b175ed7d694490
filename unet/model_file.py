"""Models in files: written whole or not at all, with the facts that prediction needs inside, and loaded with care.

A file may come from anywhere. Only Keras' own layers are let in, without Lambda and what else carries code, before
Keras sees it; Keras then loads in safe mode and does not compile.
"""

import contextlib
import io
import json
import logging
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from roofkit.artifacts import committed
from roofkit.cli import say
from roofkit.errors import BadInputError, MissingInputError, OutputError, named_reason, reason
from unet.backend import start_keras
from unet.model_plan import WEIGHTS, check_archive, check_network, foreign_object, odd_attribute, parsed, stored_numbers

FACTS = "roof_classify"  # the attribute of an .h5 file, and with .json the entry of a .keras file
SUFFIXES = (".h5", ".keras")
LARGEST_FRAME = 2**28  # pixels
DEFAULT_THRESHOLD = 0.5
DEFAULT_SIZE = (640, 640)


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to predict, and how.

    Args:
        model: From the file's own pixel values (float32) to probabilities; preparation is part of it.
        threshold: What makes a probability a roof, 0..1.
        frame_size: Rows and columns of a training frame in its own pixels, before any resizing.
        input_size: Rows and columns that the model takes; None: any.
        band_names: Of the training frames; empty when not known.
        data_format: channels_last or channels_first, of input and output.
        num_classes: 1: roof; 2: background and roof.
        channels: Bands.
    """

    model: Any
    threshold: float
    frame_size: tuple[int, int]
    input_size: tuple[int | None, int | None]
    band_names: tuple[str, ...]
    data_format: str
    num_classes: int
    channels: int


def save_model(model: Any, path: Path, facts: Mapping[str, Any]) -> None:
    """Write the model and its facts (JSON-able; see `LoadedModel`) to an .h5 or .keras file.

    The file is read back and compared before it takes its name; until then an earlier one stays.

    Raises:
        OutputError: Another suffix, a full disk, or a folder that cannot be written to.
    """
    check_suffix(path)
    with committed(path) as part:
        try:
            text = json.dumps(dict(facts))
            _write_h5(model, part, text) if path.suffix == ".h5" else _write_keras(model, part, text)
            same = sorted(_stored(part)) == sorted(map(_checksum, model.get_weights()))
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # h5py has both for a full disk
            raise _not_written(path, reason(error)) from error
        if not same:
            raise _not_written(path, "other weights came back")


def check_suffix(path: Path) -> None:
    """Raise OutputError where a model cannot have that name."""
    if path.suffix not in SUFFIXES:
        raise OutputError(path, f"a {path.suffix or 'nameless'} file", " or ".join(SUFFIXES), "Rename the model.")


def _not_written(path: Path, reason: str) -> OutputError:
    advice = "Free space or choose another folder, then run again."
    return OutputError(path, f"not written ({reason})", "a writable folder with space left", advice)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Keras' advice to leave .h5 behind: the name is the user's choice."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _write_h5(model: Any, path: Path, text: str) -> None:
    """Write by way of memory: on a full disk HDF5 crashes the interpreter when it cannot close what it wrote."""
    from keras.src.legacy.saving.legacy_h5_format import save_model_to_hdf5  # Keras' save takes no file in memory

    memory = io.BytesIO()
    with _quiet(), h5py.File(memory, "w") as file:
        save_model_to_hdf5(model, file, include_optimizer=False)
        file.attrs[FACTS] = text
    path.write_bytes(memory.getbuffer())


def _write_keras(model: Any, path: Path, text: str) -> None:
    model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{FACTS}.json", text)


def _checksum(array: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _stored(path: Path) -> list[int]:
    """A checksum of each array of weights in a file."""
    found: list[int] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(_checksum(item[()]))

    with contextlib.ExitStack() as stack:
        source: Any = path
        if path.suffix == ".keras":
            source = io.BytesIO(stack.enter_context(zipfile.ZipFile(path)).read(WEIGHTS))
        file = stack.enter_context(h5py.File(source, "r"))
        (file["model_weights"] if path.suffix == ".h5" else file).visititems(visit)
    return found


def load_model(path: Path) -> LoadedModel:
    """The model in an .h5 or .keras file, ours or anybody's.

    Raises:
        MissingInputError: There is no such file.
        BadInputError: It is broken, no model, holds code, or does not make roof masks.
    """
    if not path.is_file():
        raise MissingInputError(path, "no such file", "a trained model", "Run the train stage first, or name a model.")
    if path.suffix not in SUFFIXES:
        raise bad_model(path, f"a {path.suffix or 'nameless'} file", " or ".join(SUFFIXES))
    config, facts = _read_text(path)
    if (name := foreign_object(config)) is not None:
        raise bad_model(path, f"it holds {name}", "layers of Keras alone")
    keras = start_keras()
    try:
        with _quiet(), warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always", UserWarning)
            check_network(config, _numbers_in(path), legacy=path.suffix == ".h5")
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged or hostile file makes Keras raise anything at all
        raise bad_model(path, f"not loadable by Keras ({named_reason(error)})", "a whole model") from None
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise bad_model(path, "weights that are no numbers", "a network that was trained well")
    for remark in remarks:  # in a line of its own, without a place in Keras' source
        if issubclass(remark.category, UserWarning):
            say(f"warning: {path}: {' '.join(str(remark.message).split())}")
    return _describe(model, facts, path)


def _numbers_in(path: Path) -> int:
    """How many numbers a model's weights are; ValueError where they do not all lie in the file."""
    if path.suffix == ".h5":
        return stored_numbers(path)
    with zipfile.ZipFile(path) as archive:
        return stored_numbers(io.BytesIO(archive.read(WEIGHTS)))


def bad_model(path: Path | str, found: str, expected: str) -> BadInputError:
    """The error for a model that is of no use."""
    return BadInputError(path, found, expected, "Train it again, or name another model.")


def _read_text(path: Path) -> tuple[Any, dict[str, Any]]:
    """The network's description and our facts, out of a file that Keras has not touched yet."""
    if path.stat().st_size == 0:
        raise bad_model(path, "0 bytes", "a Keras model")
    try:
        config, facts = _h5_text(path) if path.suffix == ".h5" else _zip_text(path)
        return parsed(config), _known(parsed(facts)) if facts else {}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise bad_model(path, f"not a Keras model ({named_reason(error)})", "a whole model") from None


def _h5_text(path: Path) -> tuple[str, str | None]:
    with h5py.File(path, "r") as file:
        if odd := odd_attribute(file):
            raise ValueError(odd)
        config, facts = file.attrs.get("model_config"), file.attrs.get(FACTS)
    if config is None:
        raise ValueError("weights without a network")
    return config.decode() if isinstance(config, bytes) else config, facts


def _zip_text(path: Path) -> tuple[str, str | None]:
    check_archive(path, f"{FACTS}.json")
    with zipfile.ZipFile(path) as archive:
        texts = [_entry(archive, name) for name in ("config.json", f"{FACTS}.json")]
    if texts[0] is None:
        raise ValueError("no config.json")
    return texts[0], texts[1]


def _entry(archive: zipfile.ZipFile, name: str) -> str | None:
    if name not in archive.namelist():
        return None
    return archive.read(name).decode()


def _known(facts: Any) -> dict[str, Any]:
    """Facts with the types that they should have; ValueError, KeyError or TypeError where they have not."""
    rows, cols = facts["frame_size"]
    threshold = float(facts["threshold"])
    if not (0.0 < threshold < 1.0 and min(int(rows), int(cols)) > 0 and int(rows) * int(cols) <= LARGEST_FRAME):
        raise ValueError("facts out of range")
    if facts["data_format"] not in ("channels_last", "channels_first"):
        raise ValueError("an unknown data format")
    names = tuple(str(name) for name in facts["band_names"])
    return {
        "threshold": threshold,
        "frame_size": (int(rows), int(cols)),
        "band_names": names,
        "data_format": facts["data_format"],
    }


def _describe(model: Any, facts: dict[str, Any], path: Path) -> LoadedModel:
    """The model with its facts, or with what its shapes tell where it has none."""
    try:
        inputs, outputs = tuple(model.input_shape), tuple(model.output_shape)
    except (AttributeError, ValueError, TypeError):
        inputs = outputs = ()
    data_format = facts.get("data_format") or _guess(inputs, outputs)
    if data_format is None or len(inputs) != 4 or len(outputs) != 4:
        raise bad_model(
            path, f"{list(inputs)} to {list(outputs)}", "one image to one mask of 1 or 2 classes, the same size"
        )
    axis = 3 if data_format == "channels_last" else 1
    size, mask = (tuple(s for i, s in enumerate(shape) if i not in (0, axis)) for shape in (inputs, outputs))
    if outputs[axis] not in (1, 2) or size != mask or inputs[axis] is None:
        raise bad_model(
            path, f"{list(inputs)} to {list(outputs)}", "one image to one mask of 1 or 2 classes, the same size"
        )
    frame_size = (size[0] or DEFAULT_SIZE[0], size[1] or DEFAULT_SIZE[1])
    return LoadedModel(
        model, facts.get("threshold", DEFAULT_THRESHOLD), facts.get("frame_size", frame_size), (size[0], size[1]),
        facts.get("band_names", ()), data_format, int(outputs[axis]), int(inputs[axis]),
    )  # fmt: skip


def _guess(inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> str | None:
    """The data format in which a model's output is a mask of its input's size; None: in neither."""
    if len(inputs) != 4 or len(outputs) != 4:
        return None
    if outputs[3] in (1, 2) and outputs[1:3] == inputs[1:3]:
        return "channels_last"
    if outputs[1] in (1, 2) and outputs[2:] == inputs[2:]:
        return "channels_first"
    return None
