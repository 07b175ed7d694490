"""A model file looked at before Keras sees it: what it is made of, where it leads, how much memory it takes.

Keras' safe mode is the second fence, not the first: only names that a network for images can need get through, only
HDF5 data that lie in the file itself, and only networks whose weights are in the file and fit into memory.
"""

import copy
import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from roofkit.memory import free_memory

WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"
JSON_BYTES = 16 * 2**20  # the longest description of a network that is read
DEPTH = 200  # of brackets in it
OBJECTS = 100_000  # groups and arrays in an HDF5 file at most
MEMORY_SHARE = 0.5  # of the memory that is free: weights, or one array between two layers
FREE_SEEDS = 10_000  # numbers that a network may have beside those in its file: states of its random layers
FILTERS = {1, 2, 3, 4, 5, 6, 32000}  # of HDF5: those that it has built in, and h5py's LZF; others are code from outside
MODULES = (
    "keras", "keras.layers", "keras.models", "keras.initializers", "keras.regularizers", "keras.constraints",
    "keras.dtype_policies", "keras.src.models", "keras.src.layers", "keras.src.ops", "keras.src.initializers",
    "keras.src.dtype_policies", "keras.src.regularizers", "keras.src.constraints",
)  # fmt: skip
NO_LAYERS = {  # they carry code, or read files of words
    "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "function", "__lambda__", "__typespec__",
    "TypeSpec", "CompositeTensor", "StringLookup", "IntegerLookup", "TextVectorization", "FeatureSpace", "IndexLookup",
}  # fmt: skip


def parsed(text: str) -> dict[str, Any]:
    """What a JSON object in a model file says, but for how the model was compiled, which is not looked at.

    Raises:
        ValueError: It is too long, too deep or no JSON object.
    """
    if len(text) > JSON_BYTES:
        raise ValueError(f"a description of {len(text):,} letters")
    try:
        config = json.loads(text)
    except RecursionError:
        raise ValueError("brackets too deep") from None
    if max(depth for _, depth in _walk(config)) > DEPTH:
        raise ValueError("brackets too deep")
    if not isinstance(config, dict):
        raise ValueError(f"a description that is a {type(config).__name__}")
    return {key: value for key, value in config.items() if key != "compile_config"}


def foreign_object(config: Any) -> str | None:
    """What a description holds that is not Keras' own, carries code or reads files; None: nothing."""
    for node, _ in _walk(config):
        if not isinstance(node, dict) or not {"class_name", "module", "registered_name", "spec_name"} & set(node):
            continue
        name, registered = str(node.get("class_name")), str(node.get("registered_name"))
        module = node.get("module")
        foreign = module is not None and not _is_known(str(module))
        if (
            foreign or ">" in name + registered or name in NO_LAYERS
        ):  # Keras writes package>name for what is not its own
            return f"{f'{module}.' if foreign else ''}{name}"
    return None


def _is_known(module: str) -> bool:
    return module in MODULES or any(module.startswith(f"{known}.") for known in MODULES if "src" in known)


def _walk(config: Any) -> Iterator[tuple[Any, int]]:
    """Each object and list in a description, and how deep it lies."""
    waiting = [(config, 0)]
    while waiting:
        node, depth = waiting.pop()
        yield node, depth
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        waiting += [(child, depth + 1) for child in children if isinstance(child, dict | list)]


def check_archive(path: Path, own: str) -> None:
    """Raise ValueError unless a .keras file holds what such a file holds, once each, and no bomb.

    Args:
        path: The file.
        own: The entry that this project adds.
    """
    with zipfile.ZipFile(path) as archive:
        names = [entry.filename for entry in archive.infolist()]
        odd = [name for name in names if name not in (WEIGHTS, CONFIG, METADATA, own)]
        if CONFIG not in names:
            raise ValueError(f"no {CONFIG}")
        if odd or len(set(names)) < len(names):
            raise ValueError(f"{odd[0]!r} in it" if odd else "a name twice")
        for entry in archive.infolist():
            _check_room(entry.file_size if entry.filename == WEIGHTS else 0, "weights")
            if entry.filename != WEIGHTS and entry.file_size > JSON_BYTES:
                raise ValueError(f"{entry.filename} is too long")


def stored_numbers(source: Path | BinaryIO) -> int:
    """How many numbers an HDF5 file holds, all of them in the file itself.

    Raises:
        ValueError: It leads to other files, holds what is no array of numbers, or more than memory.
    """
    count = size = seen = 0

    def look(name: str, link: Any) -> str | None:
        """What is wrong; an exception would not get through HDF5 unharmed."""
        nonlocal count, size, seen
        seen += 1
        if not isinstance(link, h5py.HardLink) or seen > OBJECTS:
            return f"a link that leads elsewhere ({name})" if seen <= OBJECTS else "parts without end"
        item = file[name]
        if odd := odd_attribute(item):
            return odd
        if not isinstance(item, h5py.Dataset):
            return None
        count, size = count + (item.size or 0), size + item.nbytes
        return _fault(item)

    with h5py.File(source, "r") as file:
        fault = file.visititems_links(look)
    if fault:
        raise ValueError(fault)
    _check_room(size, "weights")
    return count


def odd_attribute(item: Any) -> str | None:
    """What HDF5 may crash on when it is read: an attribute that is neither text nor numbers; None: there is none."""
    plain = (h5py.h5t.TypeStringID, h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeEnumID)
    for number in range(h5py.h5a.get_num_attrs(item.id)):
        attribute = h5py.h5a.open(item.id, index=number)
        if not isinstance(attribute.get_type(), plain):
            return f"{attribute.name.decode(errors='replace')}, which is neither text nor a number"
    return None


def _fault(item: Any) -> str | None:
    """Why an array is not one of numbers in its own file; None: it is."""
    created = item.id.get_create_plist()
    if item.external or item.is_virtual:
        return f"an array that lies in another file ({item.name})"
    if item.dtype.kind not in "fiub" or item.shape is None:
        return f"{item.name}, which is no array of numbers"
    if not {created.get_filter(i)[0] for i in range(created.get_nfilters())} <= FILTERS:
        return f"{item.name}, packed in a way that HDF5 does not know"
    return None


def _check_room(size: int, what: str) -> None:
    if size > 2**26 and size > MEMORY_SHARE * free_memory():
        raise ValueError(f"{what} of {size / 2**20:,.0f} MiB, more than fit into memory")


def check_network(config: Any, stored: int, *, legacy: bool) -> None:
    """Raise ValueError unless a network's weights are in its file, and what lies between its layers fits into memory.

    The network is built without a number in it: only shapes are known then.

    Args:
        config: A description that `foreign_object` found nothing in.
        stored: Numbers in the file.
        legacy: It comes from an .h5 file.
    """
    weights, arrays = _shapes(config, legacy)
    wanted = sum(map(math.prod, weights))
    if wanted > stored + FREE_SEEDS:
        raise ValueError(f"a network of {wanted:,} weights, of which the file holds {stored:,}")
    _check_room(4 * max((math.prod(side or 1 for side in shape) for shape in arrays), default=0), "an array")


def _shapes(config: Any, legacy: bool) -> tuple[list[Sequence[int]], list[Sequence[int | None]]]:
    """The shapes of a network's weights, and of what comes out of its layers."""
    import keras
    from keras.src.backend.common.global_state import set_global_attribute

    with keras.StatelessScope():
        try:
            model = (
                _built(config) if legacy else keras.saving.deserialize_keras_object(config | {"compile_config": None})
            )
            steps = [*model._flatten_layers(), *getattr(model, "operations", ())]
            tensors = [tensor for step in steps for node in step._inbound_nodes for tensor in node.outputs]
            return [weight.shape for weight in model.weights], [tensor.shape for tensor in tensors]
        finally:
            set_global_attribute("uninitialized_variables", [])  # which Keras would now fill


def _built(config: Any) -> Any:
    """The network that an .h5 file describes, as Keras itself builds it."""
    from keras.src.legacy.saving.saving_options import keras_option_scope
    from keras.src.legacy.saving.saving_utils import model_from_config

    with keras_option_scope(use_legacy_config=True):
        return model_from_config(copy.deepcopy(config))  # it takes keys out of what it is given
