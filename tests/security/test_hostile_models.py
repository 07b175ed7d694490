"""The door for models: nothing runs, nothing outside is read, nothing ends the interpreter.

The full sweep of mutated forests: python -m pytest tests/security -m slow
"""

import json
import os
import subprocess
import sys

import pytest
from attacks import ROOT, WORD, run_python, write_tiff

FORESTS = """
import io, json, sys, zipfile
import numpy as np
from pathlib import Path
from sklearn.ensemble import RandomForestClassifier
from pixelwise.classifier import Calibration, PixelClassifier
from pixelwise.features import Bands, Features
from pixelwise.model_file import load_classifier, save_classifier
from pixelwise.models import Forest
from roofkit.errors import BadInputError
from roofkit.settings import PixelArgs

path, count, seed = Path(sys.argv[1]) / "m.skops", int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(seed)
features = Features(PixelArgs(scales=(1.0,)), Bands(("a", "b"), (1.0, 2.0), (3.0, 4.0)))
number = len(features.names)
X = rng.random((300, number)).astype("f4")
forest = Forest.of(RandomForestClassifier(5, random_state=0).fit(X, X[:, 0] > 0.5))
save_classifier(PixelClassifier("forest", features, forest, Calibration(1.0, 0.0), 0.5), path)
whole = path.read_bytes()
with zipfile.ZipFile(io.BytesIO(whole)) as archive:
    entries = {name: archive.read(name) for name in archive.namelist()}
pixels = rng.random((number, 500)).astype("f4")
load_classifier(path).model.probability(pixels)

def mutated(kind):
    if kind == 0:  # a byte of the file
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        return bytes(data)
    changed = {name: bytearray(data) for name, data in entries.items()}
    name = sorted(changed)[rng.integers(len(changed))]
    if kind == 1:  # bytes of what is packed in it
        for _ in range(rng.integers(1, 20)):
            changed[name][rng.integers(len(changed[name]))] = rng.integers(256)
    else:  # numbers of an array, far out of range
        name = sorted(n for n in changed if n.endswith(".npy"))[rng.integers(5)]
        array = np.load(io.BytesIO(changed[name]))
        extreme = [0, 1, len(array), -1, 2**15, 2**31 - 1, 2**32 - 1, np.nan, np.inf, -np.inf, 1e30]
        with np.errstate(all="ignore"):
            values = np.array(extreme, "f8").astype(array.dtype) if array.dtype.kind == "f" else np.array(
                [int(v) for v in extreme[:7]], "i8").astype(array.dtype)
        array[rng.integers(len(array), size=rng.integers(1, 4))] = rng.choice(values)
        file = io.BytesIO()
        np.save(file, array)
        changed[name] = file.getvalue()
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, data in changed.items():
            archive.writestr(name, bytes(data))
    return memory.getvalue()

found = {"refused": 0, "loaded": 0}
for i in range(count):
    path.write_bytes(mutated(i % 3))
    try:
        model = load_classifier(path).model
    except BadInputError as error:
        assert len(str(error).splitlines()) == 1
        found["refused"] += 1
        continue
    share = model.probability(pixels)
    assert share.shape == (500,) and ((share >= 0) & (share <= 1)).all()
    found["loaded"] += 1
print(json.dumps(found))
"""


def test_hostile_networks_are_refused(tmp_path, secrets):
    (tmp_path / "models").mkdir()
    script = [sys.executable, ROOT / "tests/security/hostile_models.py", tmp_path / "models", secrets.text]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    assert {name for name, line in found.items() if line == "loaded"} == {"honest.h5", "honest.keras"}
    assert len(found) >= 22
    assert WORD not in done.stdout + done.stderr
    assert not list(tmp_path.rglob("escaped*"))
    assert not (tmp_path / "models/executed").exists()
    assert "weights, of which the file holds" in found["many_weights.h5"]
    assert "an array of" in found["large_arrays.h5"]
    for name in ("external_link.h5", "soft_link.h5", "weights_link.keras"):
        assert "a link that leads elsewhere" in found[name], found[name]
    for name in ("virtual.h5", "external.h5"):
        assert "lies in another file" in found[name], found[name]
    for name in ("system.h5", "get_file.h5", "words.h5", "unsafe.h5", "custom.h5", "typespec.h5", "saved_model.h5"):
        assert "expected layers of Keras alone" in found[name], found[name]


def test_a_refused_model_leaves_no_output(tmp_path, run_cases):
    """From the command line, before TensorFlow starts."""
    import numpy as np

    write_tiff(tmp_path / "frame.tif", np.ones((3, 64, 64), np.uint8))
    (tmp_path / "bad.h5").write_bytes(b"\x80\x04cos\nsystem\n.")
    (tmp_path / "bad.skops").write_bytes(b"\x80\x04cos\nsystem\n.")
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x04cos\nsystem\n.")
    names = ("bad.h5", "bad.skops", "bad.pkl")
    ended = run_cases([("predict", [tmp_path / name, tmp_path / "frame.tif", tmp_path / "out"]) for name in names])
    for name, how in zip(names, ended):
        how.check_refused(name)
    assert not list(tmp_path.glob("out/**/*.tif"))


@pytest.mark.parametrize(
    ("count", "seed"), [(60, 0), *(pytest.param(200, seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_mutated_forests(tmp_path, count, seed):
    done = run_python(FORESTS, "", tmp_path, count, seed)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert sum(found.values()) == count
    assert found["refused"] > count / 2
