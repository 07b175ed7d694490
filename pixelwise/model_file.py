"""Pixel classifiers in .skops files: arrays and facts alone, checked before anything is made of them.

skops itself would build any scikit-learn object that a file names, and a tree with a wrong child crashes the
interpreter. So what a file names is looked at first, and only arrays, texts and dictionaries are let in.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pixelwise.classifier import Calibration, PixelClassifier
from pixelwise.features import Bands, Features
from pixelwise.models import arrays_of, model_of
from roofkit.artifacts import committed
from roofkit.errors import BadInputError, MissingInputError, OutputError, SettingsError
from roofkit.memory import free_memory
from roofkit.settings import Block, PixelArgs

SUFFIX = ".skops"
TRUSTED = {
    ("builtins", "dict", "DictNode"), ("builtins", "list", "ListNode"), ("builtins", "str", "JsonNode"),
    ("builtins", "str", "TypeNode"), ("numpy", "ndarray", "NdArrayNode"),
}  # fmt: skip
SCHEMA = "schema.json"
SCHEMA_BYTES = 2**20
LARGEST = 4 * 2**30  # bytes of a model when unpacked
MEMORY_SHARE = 0.5  # of the memory that is free: the same
MOST_FEATURES = 2**20  # a forest knows 65,536 at most


class Facts(Block):
    """What a file says beside its arrays."""

    kind: str = Field(pattern="^(forest|regression)$")
    settings: PixelArgs
    band_names: tuple[str, ...]
    band_mean: tuple[float, ...]
    band_deviation: tuple[float, ...]
    slope: float = Field(lt=1e6)
    offset: float = Field(gt=-1e6, lt=1e6)
    threshold: float = Field(gt=0.0, lt=1.0)


def check_suffix(path: Path) -> None:
    """Raise OutputError where a model cannot have that name."""
    if path.suffix != SUFFIX:
        raise OutputError(path, f"a {path.suffix or 'nameless'} file", SUFFIX, "Rename the model.")


def save_classifier(classifier: PixelClassifier, path: Path) -> None:
    """Write a classifier to a .skops file, the same bytes for the same classifier.

    Raises:
        OutputError: Another suffix, a full disk, or a folder that cannot be written to.
    """
    from skops import io as skops

    check_suffix(path)
    bands, calibration = classifier.features.bands, classifier.calibration
    facts = Facts(
        kind=classifier.kind, settings=classifier.features.settings, band_names=bands.names, band_mean=bands.mean,
        band_deviation=bands.deviation, slope=calibration.slope, offset=calibration.offset,
        threshold=classifier.threshold,
    )  # fmt: skip
    content = {"roof_classify": facts.model_dump_json(), "arrays": arrays_of(classifier.model)}
    packed = _renamed(skops.dumps(content))
    with committed(path) as part:
        part.write_bytes(packed)


def _renamed(packed: bytes) -> bytes:
    """The same archive without addresses in memory and without a date, compressed."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed)) as old, zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as new:
        numbers: dict[str, str] = {}

        def number(found: re.Match[str]) -> str:
            return found[1] + numbers.setdefault(found[2], str(len(numbers) + 1))

        schema = re.sub(r'("__id__": |"file": ")(\d+)', number, old.read(SCHEMA).decode())
        names = {name.split(".")[0]: name for name in old.namelist() if name != SCHEMA}
        for address, short in numbers.items():
            if address in names:
                _write(new, f"{short}.npy", old.read(names[address]))
        _write(new, SCHEMA, schema.encode())
    return memory.getvalue()


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)


def load_classifier(path: Path) -> PixelClassifier:
    """The classifier in a .skops file.

    Raises:
        MissingInputError: There is no such file.
        BadInputError: It is broken, or holds anything but a classifier that forest or regression made.
    """
    from skops import io as skops

    if not path.is_file():
        raise MissingInputError(path, "no such file", "a trained model", "Run the forest stage, or name a model.")
    try:
        packed = path.read_bytes()
        _check_archive(packed)
        content = skops.loads(packed, trusted=[])
        return _classifier(content["roof_classify"], content["arrays"])
    except SettingsError as error:
        raise _bad(path, str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise _bad(path, f"{'.'.join(map(str, first['loc'])) or 'facts'}: {first['msg']}") from None
    except Exception as error:  # a damaged or hostile file makes zipfile, numpy and skops raise anything at all
        raise _bad(path, " ".join(f"{type(error).__name__}: {error}".split())[:200]) from None


def _bad(path: Path, found: str) -> BadInputError:
    expected = "a model that forest/forest.py or regression/regression.py made"
    return BadInputError(path, f"not a pixel classifier ({found})", expected, "Train it again, or name another model.")


def _check_archive(packed: bytes) -> None:
    """Raise ValueError where the archive names anything but arrays, texts and dictionaries, or is a bomb."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > min(LARGEST, MEMORY_SHARE * free_memory()):
            raise ValueError("too large")
        if archive.getinfo(SCHEMA).file_size > SCHEMA_BYTES:
            raise ValueError("too long a schema")
        schema = json.loads(archive.read(SCHEMA))
    _check_types(schema)


def _check_types(node: Any) -> None:
    if isinstance(node, dict):
        if "__class__" in node or "__loader__" in node or "__module__" in node:
            kind = tuple(node.get(key) for key in ("__module__", "__class__", "__loader__"))
            if kind not in TRUSTED:
                raise ValueError(f"it holds {kind[0]}.{kind[1]}")
            if node.get("type", "numpy") != "numpy":
                raise ValueError("it holds an array of objects")
        for child in node.values():
            _check_types(child)
    elif isinstance(node, list):
        for child in node:
            _check_types(child)


def _classifier(text: str, arrays: Any) -> PixelClassifier:
    facts = Facts.model_validate_json(text, strict=True)
    if _features_at_most(facts.settings, len(facts.band_names)) > MOST_FEATURES:
        raise ValueError("features without end")
    features = Features(facts.settings, Bands(facts.band_names, facts.band_mean, facts.band_deviation))
    if len({len(facts.band_names), len(facts.band_mean), len(facts.band_deviation)}) != 1:
        raise ValueError("as many names as means and deviations of bands")
    if not all(deviation > 0 for deviation in facts.band_deviation) or facts.slope <= 0:
        raise ValueError("a deviation or slope that is not above 0")
    model = model_of(facts.kind, arrays, len(features.names))
    return PixelClassifier(facts.kind, features, model, Calibration(facts.slope, facts.offset), facts.threshold)


def _features_at_most(settings: PixelArgs, bands: int) -> int:
    """A bound on the number of features, known before any is named."""
    around = (settings.mean, settings.deviation, settings.edges, settings.texture, settings.hessian, settings.hessian)
    layers = len(settings.values) + len(settings.scales) * sum(map(len, around))
    return layers * max(1, bands * (bands - 1) // 2 if settings.pairs == "all" else bands)
