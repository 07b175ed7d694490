"""Makes hostile models in a folder, tries to load each, and prints one line of JSON for each: its name, what came.

Usage: hostile_models.py FOLDER SECRET
"""

import json
import logging
import os
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np

from roofkit.errors import BadInputError
from unet.backend import start_keras

keras = start_keras()
from unet.model_file import load_model

folder, secret = Path(sys.argv[1]), Path(sys.argv[2])
OS = {"class_name": "function", "config": "system", "module": "os", "registered_name": "system"}
MARKER = folder / "executed"


class Command:
    """What pickle would run."""

    def __reduce__(self):
        return os.system, (f"touch {MARKER}",)


def honest(path):
    logging.getLogger("absl").setLevel(logging.ERROR)
    inputs = keras.Input((8, 8, 2))
    keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid", name="last")(inputs)).save(path)
    return path


def edited(name, change):
    """An .h5 file with another description."""
    path = shutil.copy(HONEST, folder / name)
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        config = change(config) or config
        file.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)


def last(config):
    return config["config"]["layers"][-1]


def weights(name, change):
    """An .h5 file with other weights."""
    path = shutil.copy(HONEST, folder / name)
    with h5py.File(path, "a") as file:
        where = next(iter(found for found in _arrays(file["model_weights"]) if found.endswith("kernel")))
        group, key = file["model_weights"][where.rpartition("/")[0]], where.rpartition("/")[2]
        del group[key]
        change(group, key)


def _arrays(group):
    found = []
    group.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found


def packed(name, change):
    """A .keras file with other entries."""
    with zipfile.ZipFile(ZIPPED) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in (change(entries) or entries).items():
            archive.writestr(entry, data)


def layer(**values):
    """Sets values of the last layer."""
    return lambda config: last(config)["config"].update(values)


def replaced(**values):
    """Makes the last layer another object."""
    return lambda config: last(config).update(values)


def virtual(group, key):
    layout = h5py.VirtualLayout((1, 1, 2, 1), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "x", (1, 1, 2, 1))
    group.create_virtual_dataset(key, layout)


def huge(group, key):
    group.create_dataset(key, (2**20, 2**20), "f4", chunks=(1024, 1024), compression="gzip")


def outside(group, key):
    group.create_dataset(key, (1, 1, 2, 1), "f4", external=[(str(secret), 0, 8)])


def objects(group, key):
    group.create_dataset(key, data=np.array(["x"], dtype=h5py.string_dtype()))


def link(kind, *where):
    return lambda group, key: group.__setitem__(key, kind(*where))


def named(name, data):
    return lambda archive: archive | {name: data}


def chain(config):
    """A network of a great many weights, of which the file holds none."""
    last(config)["config"]["filters"] = 10**9


def spread(config):
    """A network of hardly any weight and a huge array."""
    layers = config["config"]["layers"]
    layers[0]["config"]["batch_shape"] = [None, 10**6, 10**6, 2]
    for name in ("build_config",):
        layers[-1].pop(name, None)


HONEST, ZIPPED = honest(folder / "honest.h5"), honest(folder / "honest.keras")
edited("system.h5", layer(activation=OS))
edited("lambda.h5", replaced(class_name="Lambda", module="keras.layers"))
edited("lambda_code.h5", layer(kernel_initializer={"class_name": "__lambda__", "config": {"value": "4wEA"}}))
edited("get_file.h5", layer(activation={"class_name": "get_file", "module": "keras.utils", "config": {"origin": "x"}}))
edited("words.h5", replaced(class_name="StringLookup", module="keras.layers", config={"vocabulary": str(secret)}))
edited("saved_model.h5", replaced(class_name="TFSMLayer", module="keras.layers", config={"filepath": str(folder)}))
edited("typespec.h5", layer(dtype={"class_name": "__typespec__", "spec_name": "x", "module": "os", "config": []}))
edited("custom.h5", replaced(class_name="Own", module="builtins", registered_name="theirs>Own"))
edited(
    "unsafe.h5",
    layer(activation={"class_name": "enable_unsafe_deserialization", "module": "keras.config", "config": {}}),
)
edited("deep.h5", lambda config: '{"a":' * 5000 + "1" + "}" * 5000)
edited("list.h5", lambda config: "[1]")
edited("many_weights.h5", chain)
edited("large_arrays.h5", spread)
weights("external_link.h5", link(h5py.ExternalLink, str(secret), "/x"))
weights("soft_link.h5", link(h5py.SoftLink, "/model_weights"))
weights("virtual.h5", virtual)
weights("external.h5", outside)
weights("huge.h5", huge)
weights("objects.h5", objects)
packed("traversal.keras", named("../../escaped.txt", b"x"))
packed("absolute.keras", named(str(folder / "escaped.txt"), b"x"))
packed("assets.keras", named("assets/../../escaped.txt", b"x"))
packed("bomb.keras", named("config.json", b" " * 2**25))
packed("no_weights.keras", lambda entries: {k: v for k, v in entries.items() if k.endswith(".json")})
packed("weights_link.keras", named("model.weights.h5", (folder / "external_link.h5").read_bytes()))
packed("pickle.keras", named("model.weights.h5", __import__("pickle").dumps(Command())))
(folder / "pickle.h5").write_bytes(__import__("pickle").dumps(Command()))

for path in sorted([*folder.glob("*.h5"), *folder.glob("*.keras")]):
    try:
        load_model(path)
        line = "loaded"
    except BadInputError as error:
        line = str(error)
    print(json.dumps([path.name, line]), flush=True)
