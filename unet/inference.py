"""A trained network applied to a stream of batches, as fast as this machine allows.

On a processor that is OpenVINO, where it is installed: it fuses layers, works on several frames side by side, and in
bfloat16 where the processor multiplies that fast. On a GPU, or without OpenVINO, it is Keras.
"""

import contextlib
import importlib
import re
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from roofkit import tensorflow_ops
from roofkit.cli import say
from roofkit.errors import BadInputError, SettingsError, named_reason, reason
from roofkit.raster import Pixels
from roofkit.stopping import raise_if_stopped
from roofkit.workers import once
from unet.backend import best_precision, gpu_count, start_keras
from unet.model_file import LoadedModel, bad_model

Floats = NDArray[np.float32]
Shape = tuple[int, ...]  # of a frame: rows, cols, bands
Runtime = Literal["auto", "keras", "openvino"]
Precision = Literal["auto", "float32"]
SETTING = "predict_args.runtime"
REPORTING = "openvino.tools.ovc"  # the part of OpenVINO that reports each import to its maker over the network
PLACES = re.compile(r"(Exception from|Check '[^']*' failed at) \S+:\d+:")  # in OpenVINO's source, before what it says


class Inference(ABC):
    """What applies a network to batches."""

    runtime: str

    @abstractmethod
    def map(self, batches: Iterable[Pixels]) -> Generator[Floats, None, None]:
        """The roof probability (frames, rows, cols), 0 to 1, of each batch, in their order.

        Args:
            batches: (frames, rows, cols, bands), in the file's own values and any dtype, whatever the model's data
                format. They are taken by the calling thread, so that they may come from an open file, and some ahead
                of what comes out; the array is free again when the next one is asked for.
        """


def open_inference(
    loaded: LoadedModel,
    *,
    runtime: Runtime = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
    name: str | Path = "the network",
) -> Inference:
    """What applies that model here.

    Args:
        loaded: The model.
        runtime: keras, openvino, or auto: OpenVINO where it is installed, Keras uses no GPU, and the model allows it.
        precision: auto: bfloat16 where OpenVINO on this processor, or Keras on this GPU, is fast in it, else float32.
        threads: Of OpenVINO, at most; None: as many as it likes.
        name: What messages call the model.

    Raises:
        SettingsError: openvino is asked for, and cannot be used here.
        BadInputError: openvino is asked for, and cannot run this model.
    """
    openvino = _library(runtime)
    if openvino is None:
        return KerasInference(_for_gpu(loaded, precision, name) if gpu_count() else loaded, name)
    try:
        return OpenVinoInference(loaded, openvino, precision, threads)
    except Exception as error:  # for a foreign network converter and compiler raise anything at all
        raise_if_stopped()
        found = f"not usable by OpenVINO ({type(error).__name__}: {reason(PLACES.sub('', str(error)))})"
    if runtime == "openvino":
        raise BadInputError(name, found, "layers that it knows", f"Set {SETTING} to keras.")
    say(f"{name}: {found}; Keras is used instead, which is slower.")
    return KerasInference(loaded, name)


class KerasInference(Inference):
    """Keras, one batch after another."""

    runtime = "keras"

    def __init__(self, loaded: LoadedModel, name: Path | str) -> None:
        self.loaded, self.name = loaded, name

    def map(self, batches: Iterable[Pixels]) -> Generator[Floats, None, None]:
        """The roof probability of each batch."""
        first = self.loaded.data_format == "channels_first"
        for batch in batches:
            images = np.asarray(batch.transpose(0, 3, 1, 2) if first else batch, np.float32)
            try:
                output = self.loaded.model.predict_on_batch(images)
            except Exception as error:  # in a foreign network layers raise anything at all
                raise_if_stopped()
                if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
                    raise MemoryError(reason(error)) from None
                found = f"it fails at {batch.shape[1]} x {batch.shape[2]} pixels ({named_reason(error)})"
                raise bad_model(self.name, found, "a network for such images") from None
            raise_if_stopped()
            output = np.asarray(output, np.float32)
            yield output[:, -1] if first else output[..., -1]  # two classes: background, roof


class OpenVinoInference(Inference):
    """OpenVINO on the processor, several frames at a time.

    A process makes one core and keeps it: where several come and go, or another thread lets go of one, OpenVINO unmaps
    the signal stack that the thread still has, and the next signal is a segmentation fault (seen with 2026.4, AMX).

    Args:
        loaded: The model; Keras has to run on TensorFlow.
        openvino: The library.
        precision: auto or float32.
        threads: At most so many; None: as many as it likes.
    """

    runtime = "openvino"

    def __init__(
        self, loaded: LoadedModel, openvino: ModuleType, precision: Precision = "auto", threads: int | None = None
    ) -> None:
        self.loaded = loaded
        self._core = once(("core", openvino), openvino.Core)
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": _fast_precision(self._core, loaded.model) if precision == "auto" else "f32",
            "ENABLE_CPU_PINNING": False,  # a pinned thread waits while something else has its core: a reader, a worker
        }
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._networks: dict[Shape, _Network] = {}
        rows, cols = (size or usual for size, usual in zip(loaded.input_size, loaded.frame_size))
        self._network((rows, cols, loaded.channels))  # what fails, fails before the work

    def map(self, batches: Iterable[Pixels]) -> Generator[Floats, None, None]:
        """The roof probability of each batch; while one is read, the frames of those before it are worked on."""
        flights: deque[_Flight] = deque()
        try:
            for batch in batches:
                flights.append(self._network(batch.shape[1:]).start(batch))
                while sum(len(flight.requests) for flight in islice(flights, 1, None)) >= flights[-1].network.streams:
                    yield _land_first(flights)
            while flights:
                yield _land_first(flights)
        finally:
            for flight in flights:
                flight.cancel()

    def _network(self, shape: Shape) -> "_Network":
        """The network for frames of that shape, compiled when it is first needed."""
        if shape not in self._networks:
            model = _converted(self.loaded, shape)
            self._networks[shape] = _Network(self._core.compile_model(model, "CPU", self._options))
        return self._networks[shape]


class _Network:
    """The network compiled for frames of one shape, and its requests, which are used again and again.

    A request is one frame: nothing depends on who shares a batch, and a short batch is like any other.
    """

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: list[Any] = []
        self.streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def start(self, batch: Pixels) -> "_Flight":
        """Begin with all frames of a batch."""
        return _Flight(self, [self._ask(frame) for frame in batch], np.empty(batch.shape[:3], np.float32))

    def _ask(self, frame: Pixels) -> Any:
        request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        request.get_input_tensor().data[0] = frame.transpose(2, 0, 1)
        request.start_async()
        return request

    def finish(self, request: Any, result: Floats) -> None:
        """Wait for a frame and put its roof probability into `result` (rows, cols)."""
        request.wait()
        result[:] = request.get_output_tensor().data[0]
        self._idle.append(request)


@dataclass(frozen=True)
class _Flight:
    """A batch on its way: a request for each frame, and the place (frames, rows, cols) for what comes out."""

    network: _Network
    requests: list[Any]
    result: Floats

    def land(self) -> Floats:
        """Wait for all frames."""
        for request, result in zip(self.requests, self.result):
            self.network.finish(request, result)
            raise_if_stopped()
        return self.result

    def cancel(self) -> None:
        """Give up what is not finished, so that nobody waits for it."""
        for request in self.requests:
            request.cancel()


def _land_first(flights: "deque[_Flight]") -> Floats:
    """The oldest batch's result; an interrupted one stays, to be cancelled."""
    result = flights[0].land()
    flights.popleft()
    return result


def _library(runtime: Runtime) -> ModuleType | None:
    """OpenVINO where it is to be used; None: Keras is.

    Raises:
        SettingsError: It is asked for, and not installed, or Keras does not run on TensorFlow.
    """
    if runtime == "keras":
        return None
    keras = start_keras()
    backend = keras.backend.backend()
    fits = backend == "tensorflow" and (runtime == "openvino" or not gpu_count())
    openvino = _import_openvino() if fits else None
    if openvino or runtime == "auto":
        return openvino
    if backend == "tensorflow":
        found, advice = "openvino, which is not installed", "Run python -m pip install openvino, or set it to auto."
    else:
        found, advice = f"openvino, with Keras on {backend}", "Set KERAS_BACKEND to tensorflow, or this to auto."
    raise SettingsError(SETTING, found, "OpenVINO beside Keras on TensorFlow", advice)


def _import_openvino() -> ModuleType | None:
    """OpenVINO, which then sends nothing over the network; None: it is not installed."""
    with _absent(REPORTING):
        try:
            return importlib.import_module("openvino")
        except ImportError:
            return None


@contextlib.contextmanager
def _absent(module: str) -> Iterator[None]:
    """Within the block that module cannot be imported, unless it was before."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python's way to say so
    try:
        yield
    finally:
        del sys.modules[module]


def _fast_precision(core: Any, model: Any) -> str:
    """bf16 where the processor multiplies it natively and fast, and nothing rounds the model's input; else f32."""
    native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")  # the best precision may be a GPU's
    return "bf16" if native and best_precision() == "mixed_bfloat16" and _scales_first(model) else "f32"


def _converted(loaded: LoadedModel, shape: Shape) -> Any:
    """OpenVINO's form of the network for one frame of that shape, from its values to the roof probability.

    By way of TensorFlow's graph in memory. OpenVINO's own `convert_model` would do the same and report it.
    """
    openvino = importlib.import_module("openvino")
    graphs = importlib.import_module("openvino.frontend.tensorflow.graph_iterator")
    loaded = replace(loaded, model=_in_float32(loaded.model))
    traced = _traced(loaded, shape)
    graph = graphs.GraphIteratorTFGraph(traced.graph, False)  # has to live until the end, as has the model
    frontend = openvino.frontend.FrontEndManager().load_by_framework("tf")
    model = frontend.convert(frontend.load(graph))
    (answer,) = (output.get_node() for output in model.outputs if traced.outputs[0].name in output.get_names())
    return openvino.Model([answer], model.get_parameters())  # without the loose ends, which are outputs too


def _traced(loaded: LoadedModel, shape: Shape) -> Any:
    """The network as a TensorFlow function from (1, bands, rows, cols) to (1, rows, cols), both float32.

    Bands come first because OpenVINO, too, then has nothing to do before the model's own scaling. If it had, it would
    round the values to bfloat16 on the way, in which 300 and 301 kelvins are the same.
    """
    ops, first = start_keras().ops, loaded.data_format == "channels_first"
    rows, cols, bands = shape

    def roof(frame: Any) -> Any:
        output = loaded.model(frame if first else ops.transpose(frame, (0, 2, 3, 1)), training=False)
        return ops.cast(output[:, -1] if first else output[..., -1], "float32")

    return tensorflow_ops.traced(roof, (1, bands, rows, cols))


def _for_gpu(loaded: LoadedModel, precision: Precision, name: str | Path) -> LoadedModel:
    """The model in the form and precision in which a GPU computes it fast."""
    from unet.forms import fast

    half = precision == "auto" and best_precision() == "mixed_bfloat16"
    try:
        return replace(loaded, model=fast(_in_bfloat16(loaded.model) if half else loaded.model, learning=False))
    except Exception as error:  # a foreign network may have layers that cannot be made again
        raise_if_stopped()
        say(f"{name}: used as it is, which is slower on a GPU ({type(error).__name__}: {reason(str(error))}).")
        return loaded


def _in_float32(model: Any) -> Any:
    """The model, or its twin in float32 where layers compute in another precision: the converter knows no bfloat16."""
    from unet.forms import all_layers

    if all(layer.compute_dtype == "float32" for layer in all_layers(model)):
        return model
    return _twin(model, lambda layer: "float32")


def _in_bfloat16(model: Any) -> Any:
    """The model's twin in bfloat16, but in float32 what comes before its first kernel, and what makes probabilities.

    In bfloat16, which has the range of float32, 300 and 301 are the same, and so are probabilities 1/256 apart. Of a
    model that holds others nobody knows where they begin: it stays as it is.
    """
    if any(hasattr(layer, "layers") for layer in model.layers):
        return model
    first = next((index for index, layer in enumerate(model.layers) if _has_kernel(layer)), len(model.layers))
    last = max((index for index, layer in enumerate(model.layers) if layer.weights), default=0)
    exact = [*model.layers[:first], *model.layers[last:]]
    return _twin(model, lambda layer: "float32" if layer in exact else "mixed_bfloat16")


def _scales_first(model: Any) -> bool:
    """Whether nothing but layers that scale come before a model's first kernel: OpenVINO computes these exactly."""
    from unet.forms import all_layers

    layers = start_keras().layers
    scaling = layers.InputLayer, layers.Rescaling, layers.Normalization, layers.BatchNormalization, layers.Permute
    return all(isinstance(layer, scaling) for layer in takewhile(lambda one: not _has_kernel(one), all_layers(model)))


def _has_kernel(layer: Any) -> bool:
    return any("kernel" in weight.name for weight in layer.weights)


def _twin(model: Any, policy: Callable[[Any], str]) -> Any:
    """The same network of layers that have other dtype policies, with float32 weights."""
    from unet.forms import remade

    return remade(model, lambda layer: type(layer).from_config(layer.get_config() | {"dtype": policy(layer)}))
