"""How fast the network of settings.json is on this GPU: frames a second, share of the GPU's peak, memory, compiling.

KERAS_BACKEND=torch python bench/gpu.py --json FILE [--quick] [--plain] [--frames FOLDER] [--scene FILE] [--minutes 9]
Every case (train or predict, batch, precision, compiled or not) runs in a process of its own, so that its peak memory
is its own and a crash loses one case; running out of memory is noted. Inputs are random, and on the GPU before the
clock starts. KERAS_BACKEND is tensorflow, jax (always compiled) or torch (compiled: torch.compile). Besides it, keras,
numpy, pydantic and rich are all that is needed; for --frames and --scene what the stages need. The project need not
be installed. With 8 cores or more, a process starts while another works.

  train    train_on_batch as training compiles it; it ends with loss and metrics on the host
  predict  the network with its probabilities averaged on the GPU; copying them to the host is timed apart
  TFLOP/s  multiplications and additions of convolutions and dense layers, from their shapes; backward = 2 x forward
  GB/s     what layers run one by one have to read and write at least (see `network_bytes`); fused ones may do with less
  compile  the first step, less an ordinary one
  copy     bringing a batch to the GPU, and for predict bringing its probabilities back
  feeding  (--frames) frames a second of the generator alone, and of training as train/train.py does it, from the
           generator, in the batch and precision of the fastest `train`; both after a first epoch, so from memory
  scanning (--scene) windows a second of predict as predict/predict.py does it, from the scene to its mask, in the batch
           of the fastest `predict`; and of the same with a network that costs nothing: what the stage itself can do
Peaks are dense ones of NVIDIA's data sheets; float32 is measured against TF32 where the GPU has it, which convolutions
use. Of MIG slices and other GPUs shares are null, unless --peak-tflops and --bandwidth say more. Operations need not be
deterministic here, as TensorFlow would not compile them: TF_DETERMINISTIC_OPS=1 measures it as training runs it.
"""

import argparse
import contextlib
import datetime
import importlib
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
FULL = dict(
    task=["train", "predict"], batch=[4, 8, 16, 32, 64], precision=list(PRECISIONS), compiled="both", size=640,
    rounds=5, seconds=1.0,
)  # fmt: skip
QUICK = FULL | dict(batch=[2], precision=["float32"], compiled="no", size=32, rounds=2, seconds=0.0)
PASSES = {"train": 3, "predict": 1}  # a backward pass counts as two forward ones
OPTIMIZER = 7 * 4  # bytes a weight: AdamW reads it, its gradient and two moments, and writes all but the gradient
SPARE_CORES = 8  # from so many on, a process can start without slowing the one that is measured
FITTED = 512  # frames of an epoch of `fit`, at least
WARM = 3  # steps after the first that are not counted: a backend may trace or tune once more
MOST = 200  # steps in a round
PACKAGES = ("keras", "numpy", "tensorflow", "tensorflow-cpu", "jax", "jaxlib", "torch", "triton")
MEMORY_WORDS = ("out of memory", "resource_exhausted", "resourceexhausted", "alloc_failed", "memoryerror")
Answer = dict[str, Any]


# ----------------------------------------------------------------------------------------------------- what GPUs can do


@dataclass(frozen=True)
class Peaks:
    """What a GPU can do at most: dense TFLOP/s of each kind of number (None: no such units), and GB/s of its memory."""

    fp32: float | None
    tf32: float | None
    fp16: float | None
    bf16: float | None
    bandwidth: float | None

    def tflops(self, precision: str) -> float | None:
        """Those of a Keras policy."""
        return {"mixed_float16": self.fp16, "mixed_bfloat16": self.bf16}.get(precision, self.tf32 or self.fp32)


# Source: NVIDIA data sheets of each GPU; where they give figures with sparsity, half of those. The first row counts
# whose words are all in the device's name.
PEAKS = (
    ("H200 NVL", Peaks(60, 417.5, 835.5, 835.5, 4800)),
    ("H200", Peaks(67, 494.5, 989.5, 989.5, 4800)),
    ("H100 PCIE", Peaks(51, 378, 756.5, 756.5, 2000)),
    ("H100 NVL", Peaks(60, 417.5, 835.5, 835.5, 3900)),
    ("H100", Peaks(67, 494.5, 989.5, 989.5, 3350)),  # SXM, whose name says HBM3
    ("A100 80GB PCIE", Peaks(19.5, 156, 312, 312, 1935)),
    ("A100 80GB", Peaks(19.5, 156, 312, 312, 2039)),
    ("A100", Peaks(19.5, 156, 312, 312, 1555)),
    ("L4", Peaks(30.3, 60, 121, 121, 300)),
    ("T4", Peaks(8.1, None, 65, None, 320)),
)


def peaks_of(device: str) -> Peaks | None:
    """The peaks of a GPU of that name; None where they are not known, as for a slice of one."""
    words = set(re.findall(r"[A-Z0-9]+", device.upper()))
    if "MIG" in words:
        return None
    return next((peaks for names, peaks in PEAKS if set(names.split()) <= words), None)


def chosen_peaks(device: str, tflops: float | None, bandwidth: float | None) -> tuple[Peaks | None, str | None]:
    """Peaks to compare with, and where they come from; what the options say goes before the data sheet."""
    peaks = peaks_of(device)
    if tflops is None and bandwidth is None:
        return peaks, "NVIDIA data sheet" if peaks else None
    source = "options, and NVIDIA data sheet for the rest" if peaks else "options"
    peaks = peaks or Peaks(None, None, None, None, None)
    if tflops is not None:
        peaks = replace(peaks, fp32=tflops, tf32=tflops, fp16=tflops, bf16=tflops)
    return replace(peaks, bandwidth=peaks.bandwidth if bandwidth is None else bandwidth), source


# ---------------------------------------------------------------------------------------------------- what a case costs


def network_flops(model: Any) -> int:
    """Floating-point operations of a forward pass, for one frame.

    A multiplication and an addition count as two. Convolutions count padding too; biases, activations, normalisation
    and pooling count as nothing, as they cost memory traffic. Each layer has to be used once.

    Raises:
        TypeError: A layer has weights and is of a kind that is not counted.
    """
    return sum(_layer_flops(layer) for layer in _layers(model))


def _layers(model: Any) -> list[Any]:
    """All layers that compute, those of inner models too."""
    from keras import layers

    from unet.forms import all_layers

    return [layer for layer in all_layers(model) if not isinstance(layer, layers.InputLayer)]


def _layer_flops(layer: Any) -> int:
    """Every element of the output (transposed: of the input) meets the kernel's other axes once."""
    from keras import layers

    if isinstance(layer, layers.Conv2DTranspose):
        return 2 * math.prod(layer.kernel.shape[:-1]) * _elements(layer.input)
    if isinstance(layer, layers.DepthwiseConv2D):
        return 2 * math.prod(layer.kernel.shape[:2]) * _elements(layer.output)
    if type(layer) in (layers.Conv2D, layers.Dense):
        return 2 * math.prod(layer.kernel.shape[:-1]) * _elements(layer.output)
    if layer.trainable_weights and not isinstance(layer, (layers.BatchNormalization, layers.GroupNormalization)):
        raise TypeError(f"{layer.name}: a {type(layer).__name__}, whose operations network_flops does not count")
    return 0


def _elements(tensors: Any) -> int:
    """Numbers in one or more tensors, for one frame."""
    import keras

    return sum(math.prod(tensor.shape[1:]) for tensor in keras.tree.flatten(tensors))


def network_bytes(model: Any, batch: int, *, training: bool) -> int:
    """Bytes that a step has to move at least, where layers run one by one and each finds nothing in a cache.

    Forward, a layer reads its inputs and weights and writes its outputs, once, in its compute precision. Backward, it
    reads the gradient of its outputs and writes that of its inputs; one with weights reads inputs and weights again and
    writes the weights' gradient. Then the optimizer moves seven float32 numbers a weight.
    """
    moved = sum(_layer_bytes(layer, batch, training) for layer in _layers(model))
    return moved + training * OPTIMIZER * sum(math.prod(w.shape) for w in model.trainable_weights)


def _layer_bytes(layer: Any, batch: int, training: bool) -> int:
    inputs, outputs = batch * _elements(layer.input), batch * _elements(layer.output)
    weights = sum(math.prod(w.shape) for w in layer.weights)
    numbers = inputs + outputs + weights
    if training:
        numbers += inputs + outputs + (inputs + 2 * weights if weights else 0)
    return numbers * (2 if layer.compute_dtype in ("float16", "bfloat16") else 4)


# ---------------------------------------------------------------------------------------------- in a case's own process


@dataclass(frozen=True)
class Request:
    """What a process of its own is to do.

    Args:
        task: train or predict; facts: say which device this is; feed and fit: time the generator on the folder
            `frames`, and training from it; scan: predict `scene`.
        settings: The settings file.
        size: Rows and columns of a frame.
        bands: Of a frame.
        layout: channels_last or channels_first, of all layers.
        rounds: Times that a round of steps is timed.
        seconds: About how long a round lasts; 0: one step.
        batch: Frames in a step.
        precision: A Keras policy.
        compiled: Keras' `jit_compile`.
        plain: Layers are Keras' own, not those of unet/forms.py.
        frames: Holds train_frames and train_masks.
        scene: A raster.
    """

    task: str
    settings: str
    size: int
    bands: int
    layout: str
    rounds: int
    seconds: float
    batch: int = 1
    precision: str = "float32"
    compiled: bool = False
    plain: bool = False
    frames: str | None = None
    scene: str | None = None

    def name(self) -> str:
        """For people."""
        return f"{self.task}, batch {self.batch}, {self.precision}, {'' if self.compiled else 'not '}compiled"


def answer(folder: Path) -> None:
    """Do what a line of stdin says and leave the result, or the error, in `answer.json`.

    Before that line comes, Keras is imported, and nothing asked of the GPU.
    """
    importlib.import_module("keras")
    request = Request(**json.loads(sys.stdin.readline()))
    work = {"facts": facts, "feed": feed, "fit": fit, "scan": scan}.get(request.task, measure)
    try:
        found = work(request)
    except Exception as error:  # of any backend: it is the result of this case, and the next one is tried
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    (folder / "answer.json").write_text(json.dumps(found))


def facts(request: Request) -> Answer:
    """Which device, which versions, and how large the network is."""
    network = build(request)
    import keras

    return {
        "backend": keras.backend.backend(),
        "device": _device(),
        "versions": {"python": platform.python_version()} | dict(_versions()),
        "flops_per_frame": network_flops(network),
        "parameters": network.count_params(),
    }


def _device() -> str:
    """The name of the GPU that Keras computes on; CPU where it does not."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    if keras.backend.backend() == "jax":
        import jax

        first = jax.devices()[0]
        return "CPU" if first.platform == "cpu" else first.device_kind
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"


def _versions() -> Iterable[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def build(request: Request) -> Any:
    """The network of the settings, for frames of the size, bands, precision and layout asked for."""
    from unet.backend import start_keras

    start_keras().utils.set_random_seed(0)
    import keras

    from roofkit.settings import load_settings
    from unet.network import Preparation, build_unet

    keras.config.set_dtype_policy(request.precision)
    settings = load_settings(Path(request.settings))
    shape = (request.size, request.size, request.bands)
    args = settings.model_args.model_copy(update={"input_shape": shape})
    scaling = Preparation(None, [128.0] * request.bands, [64.0] * request.bands)
    network = build_unet(args, settings.output_args, preparation=scaling)
    return network if request.layout == "channels_last" else channels_first(network)


def channels_first(model: Any) -> Any:
    """The same network of layers that take (frames, bands, rows, cols), as its input does too; its output stays."""
    import keras

    rows, cols, bands = model.input_shape[1:]
    turned = keras.models.clone_model(model, keras.Input((bands, rows, cols)), clone_function=_turned)
    return keras.Model(turned.input, keras.layers.Permute((2, 3, 1), dtype="float32")(turned.output))


def _turned(layer: Any) -> Any:
    """The layer, its channels' axis second instead of last."""
    config = layer.get_config()
    config |= {key: value for key, value in (("data_format", "channels_first"), ("axis", 1)) if key in config}
    for key in {"scale", "offset"} & set(config):  # of Rescaling, (1, 1, bands)
        config[key] = np.moveaxis(np.array(config[key]), -1, 0).tolist() if np.ndim(config[key]) else config[key]
    return type(layer).from_config(config)


def compile_as_training(network: Any, request: Request) -> None:
    """Optimizer, loss and metrics as `unet.learner` has them, which needs rasterio, so it is not asked."""
    import keras

    from roofkit.settings import load_settings
    from unet.losses import RoofLoss
    from unet.metrics import RoofF1, RoofIoU

    training = load_settings(Path(request.settings)).training_args
    loss = RoofLoss(
        training.loss, label_smoothing=training.label_smoothing, focal_gamma=training.focal_gamma,
        tversky_alpha=training.tversky_alpha,
    )  # fmt: skip
    optimizer = keras.optimizers.AdamW(
        training.learning_rate, weight_decay=training.weight_decay, global_clipnorm=training.clip_norm
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    network.compile(optimizer, loss, weighted_metrics=[RoofIoU(), RoofF1()], jit_compile=request.compiled)
    network.optimizer.build(network.trainable_variables)


def host_batch(network: Any, batch: int) -> list[np.ndarray]:
    """Images, masks and weights as the generator makes them, of random pixels."""
    rng = np.random.default_rng(0)
    masks = (batch, *network.output_shape[1:])
    image = rng.random((batch, *network.input_shape[1:]), dtype=np.float32) * 255
    return [image, (rng.random(masks, dtype=np.float32) < 0.2).astype(np.float32), np.ones(masks[:-1], np.float32)]


def measure(request: Request) -> Answer:
    """Time the steps of a case."""
    network = build(request)
    arrays = host_batch(network, request.batch)[: None if request.task == "train" else 1]
    tensors, copied = _copied_in(arrays)
    step, model = _step(network, tensors, request)
    if model.jit_compile != request.compiled:
        raise RuntimeError(f"Keras made jit_compile {model.jit_compile} of {request.compiled}")
    first, seconds = timed(step, lambda: finish(model.variables), request.rounds, request.seconds)
    return {
        "seconds_per_step": median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "first_step_seconds": first,
        "compile_seconds": max(0.0, first - median(seconds)),
        "copy_in_seconds": copied,
        "peak_memory_bytes": peak_memory(),  # before another tensor is made
        "copy_out_seconds": None if request.task == "train" else _copied_out(network, request.batch),
        "flops_per_frame": network_flops(network) * PASSES[request.task],
        "bytes_per_step": network_bytes(network, request.batch, training=request.task == "train"),
    }


def _step(network: Any, tensors: Sequence[Any], request: Request) -> tuple[Callable[[], Any], Any]:
    """What is timed, and the model that it runs; both end with numbers on the host."""
    import keras

    from unet.forms import fast

    if not request.plain:
        network = fast(network, learning=request.task == "train")
    if request.task == "train":
        compile_as_training(network, request)
        image, mask, weights = tensors
        return lambda: network.train_on_batch(image, mask, sample_weight=weights), network
    averages = keras.ops.mean(keras.ops.cast(network.output, "float32"), axis=(1, 2, 3))
    model = keras.Model(network.input, averages)
    model.compile(jit_compile=request.compiled)
    return lambda: model.predict_on_batch(tensors[0]), model


def timed(step: Callable[[], Any], wait: Callable[[], None], rounds: int, seconds: float) -> tuple[float, list[float]]:
    """Seconds of the first step, and of a step in each round; all work is done whenever the clock is read."""

    def taken(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        return time.perf_counter() - started

    first = taken(1)
    taken(WARM)
    count = max(1, min(MOST, round(seconds / max(taken(1), 1e-9))))
    return first, [taken(count) / count for _ in range(rounds)]


def finish(values: Sequence[Any] = ()) -> None:
    """Wait until the device has done all that it was asked to; JAX: what `values` (Keras variables, tensors) need."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
    elif keras.backend.backend() == "jax":
        import jax

        jax.block_until_ready([getattr(value, "value", value) for value in values])
    else:
        import tensorflow as tf

        tf.test.experimental.sync_devices()


def _copied_in(arrays: Sequence[np.ndarray]) -> tuple[list[Any], float]:
    """The arrays on the device, and the seconds that took, at best of three: the first one wakes the device."""
    import keras

    seconds, tensors = [], []
    for _ in range(3):
        tensors.clear()  # or the peak of memory would hold two batches
        started = time.perf_counter()
        tensors += [keras.ops.convert_to_tensor(array) for array in arrays]
        finish(tensors)
        seconds.append(time.perf_counter() - started)
    return tensors, min(seconds)


def _copied_out(network: Any, batch: int) -> float:
    """Seconds for a batch of probabilities on its way to the host; a new one each time, as JAX keeps a copy."""
    import keras

    seconds = []
    for number in range(3):
        masks = keras.ops.full((batch, *network.output_shape[1:]), float(number), "float32")
        finish([masks])
        started = time.perf_counter()
        np.array(keras.ops.convert_to_numpy(masks))
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def peak_memory() -> int | None:
    """The most bytes that this process had in tensors on the GPU; None on a CPU."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    if keras.backend.backend() == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpus else None


def feed(request: Request) -> Answer:
    """Time the generator on a folder: reading all frames once, and its second epoch, which finds them in memory."""
    frames, settings, _, read = _frames(request)
    _epoch_seconds(frames)
    frames.on_epoch_end()
    seconds, count = _epoch_seconds(frames), len(frames.pairs)
    return {
        "frames": count, "bands": settings.data.channels, "batch": settings.data.batch_size, "read_seconds": read,
        "seconds": seconds, "frames_per_second": count / seconds,
    }  # fmt: skip


def fit(request: Request) -> Answer:
    """Time training from the generator, as train/train.py does it: the third of three epochs."""
    from unet.learner import Learner

    frames, settings, preparation, _ = _frames(request)
    frames.steps = -(-FITTED // settings.data.batch_size)
    learner = Learner(settings, preparation, contextlib.nullcontext())
    for epoch in (1, 2, 3):
        started = time.perf_counter()
        learner.learn(frames, epoch, epochs=3, live=False)
        finish(learner.network.variables)
        seconds = time.perf_counter() - started
    learnt = sum(len(frames.places(step)) for step in range(frames.steps))  # the last batch of a turn is short
    return {"frames_per_second": learnt / seconds, "seconds": seconds}


def scan(request: Request) -> Answer:
    """Time predict on a scene, after once that does not count: with the network, and with one that costs nothing."""
    from predict.predict import Block, Targets, predict_block
    from roofkit.raster import data_bands, open_raster
    from roofkit.settings import load_settings
    from unet.inference import Inference
    from unet.model_file import LoadedModel
    from unet.predictor import NetworkPredictor

    class Nothing(Inference):
        """A network that costs nothing."""

        def map(self, batches: Iterable[np.ndarray]) -> Any:
            """The first band of each frame."""
            self.windows = 0
            for batch in batches:
                self.windows += len(batch)  # those with a valid pixel
                yield (batch[..., 0] > 0).astype(np.float32)

    settings, path = load_settings(Path(request.settings)), Path(request.scene or "")
    args, size = settings.predict_args.model_copy(update={"batch_size": request.batch}), (request.size, request.size)
    with open_raster(path) as src:
        request = replace(request, bands=len(data_bands(src)), precision="float32", layout="channels_last")
    predictor, nothing, taken = NetworkPredictor(path, args), Nothing(), []
    predictor.loaded = LoadedModel(build(request), 0.5, size, size, (), "channels_last", 1, request.bands)
    for inference in (predictor.inference, nothing):
        predictor.inference = inference
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                predict_block(Block(path, path.stem), predictor, Targets(Path(folder)), rasters=settings.raster_args)
                seconds = time.perf_counter() - started
        taken.append(seconds)
    rates = [nothing.windows / seconds for seconds in taken]
    return {"windows": nothing.windows, "bands": request.bands, "windows_per_second": rates[0], "stage_alone": rates[1]}


def _frames(request: Request) -> tuple[Any, Any, Any, float]:
    """The generator as training makes it, its settings, how pixels are scaled, and the seconds for reading all once.

    Size, batch and precision are those asked for; bands those that the frames have.
    """
    from unet.backend import start_keras

    start_keras().utils.set_random_seed(0)
    from roofkit.pairs import find_pairs
    from roofkit.raster import band_names, open_raster
    from roofkit.settings import load_settings
    from train.train import positive_deviations
    from unet.datagen import Augmentation, RoofFrames
    from unet.network import Preparation
    from unet.plan import TrainSettings

    settings = load_settings(Path(request.settings))
    folder, paths = Path(request.frames or ""), settings.path_args
    pairs = find_pairs(folder / paths.train_frames, folder / paths.train_masks, settings.extension_args.extension)
    with open_raster(pairs[0].frame) as src:
        names = band_names(src)
    size = (request.size, request.size)
    changed = {"target_size": size, "crop_size": None, "channels": len(names), "batch_size": request.batch}
    blocks = TrainSettings(
        settings.load_dataset_args.model_copy(update=changed), settings.model_args, settings.output_args,
        settings.training_args.model_copy(update={"precision": request.precision}),
    )  # fmt: skip
    frames = RoofFrames(pairs, blocks.data, num_classes=blocks.model.num_classes, seed=0)
    started = time.perf_counter()
    statistics = frames.measure()
    seconds = time.perf_counter() - started
    frames.augmentation = Augmentation(blocks.data, statistics)
    preparation = Preparation(None, statistics.mean, positive_deviations(statistics.deviation, names))
    return frames, blocks, preparation, seconds


def _epoch_seconds(frames: Any) -> float:
    started = time.perf_counter()
    for _ in frames:
        pass
    return time.perf_counter() - started


# ------------------------------------------------------------------------------------------------- in the first process


class Child:
    """A process for one case, which is given what to do later; by then it may have imported Keras."""

    def __init__(self) -> None:
        self._held = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # a compiler's helpers may still write
        self.folder = Path(self._held.name)
        command, environment = [sys.executable, __file__, "--child", self._held.name], _environment(self.folder)
        with open(self.folder / "log", "w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, text=True
            )

    def ask(self, request: Request, timeout: float) -> Answer:
        """What it answers; {"error": why} where it failed, crashed or took too long."""
        try:
            self.process.communicate(json.dumps(asdict(request)) + "\n", timeout)
            return _read_answer(self.folder, self.process.returncode)
        except subprocess.TimeoutExpired:
            return {"error": f"no answer within {timeout:g} s", "log": _log_end(self.folder)}
        finally:
            self.close()

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.communicate()
        self._held.cleanup()


class Children:
    """Answers of one process after another; each is started while the one before it works, where cores are free."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.next: Child | None = None

    def ask(self, request: Request) -> Answer:
        """As `Child.ask`."""
        child, self.next = self.next or Child(), Child() if (os.cpu_count() or 1) >= SPARE_CORES else None
        return child.ask(request, self.timeout)

    def close(self) -> None:
        """End the one that waits."""
        if self.next:
            self.next.close()


def _environment(folder: Path) -> dict[str, str]:
    """The environment; where it says nothing else, so that no backend is held back or finds its work done.

    TensorFlow may use XLA, JAX more than three quarters of the GPU's memory, and torch has compiled nothing before.
    """
    given = {"TF_DETERMINISTIC_OPS": "0", "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    given["TF_CPP_MIN_LOG_LEVEL"] = "3"  # the log is for what went wrong
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # its older name; JAX takes one of the two
        given["XLA_CLIENT_MEM_FRACTION"] = "0.92"
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return given | os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _read_answer(folder: Path, code: int) -> Answer:
    """The answer of a process that has ended, and the end of its log: why it failed, or what a compiler gave up on."""
    path, log = folder / "answer.json", _log_end(folder)
    if path.exists():
        found: Answer = json.loads(path.read_text()) | {"log": log}
        return found | ({"error": reason(found["error"])} if "error" in found else {})
    last = log.rpartition("\n")[2]
    why = f"ended by signal {-code}" if code < 0 else f"ended with code {code}: {last}"
    return {"error": "out of memory" if reason(log) == "out of memory" else why, "log": log}


def _log_end(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-2000:].strip()


def reason(error: str) -> str:
    """An error in a line; every backend has its own type for memory that ran out, and JAX only a word in its text."""
    if any(word in error.lower() for word in MEMORY_WORDS):
        return "out of memory"
    line = " ".join(error.split())
    return line if len(line) <= 300 else f"{line[:150]} … {line[-150:]}"  # TensorFlow says what is wrong at the end


def requests(base: Request, options: argparse.Namespace, backend: str) -> list[Request]:
    """The cases, in the order of the batches asked for."""
    compiled = {"yes": (True,), "no": (False,), "both": (False, True)}[options.compiled]
    if backend == "jax":
        compiled = (True,)  # without, it would run one operation after another, which nobody does
    cases = product(options.batch, options.task, options.precision, compiled)
    return [replace(base, batch=b, task=t, precision=p, compiled=c) for b, t, p, c in cases]


def skipped(request: Request, done: Sequence[Answer], late: bool) -> str | None:
    """Why a case need not be tried, if so."""
    if late:
        return "not run: --minutes were over"
    alike = [one for one in done if all(one[k] == getattr(request, k) for k in ("task", "precision", "compiled"))]
    full = [one["batch"] for one in alike if one["error"] == "out of memory" and one["batch"] <= request.batch]
    return f"not run: out of memory with a batch of {min(full)}" if full else None


def case_figures(request: Request, found: Answer, peaks: Peaks | None) -> Answer:
    """A case for the JSON: what was asked, what was measured, what follows from it."""
    case = {key: getattr(request, key) for key in ("task", "batch", "precision", "compiled")}
    case |= {"error": None} | found
    if case["error"]:
        return case
    seconds = case["seconds_per_step"]
    tflops = case["flops_per_frame"] * request.batch / seconds / 1e12
    rate = case["bytes_per_step"] / seconds / 1e9
    best = peaks.tflops(request.precision) if peaks else None
    return case | {
        "frames_per_second": request.batch / seconds,
        "tflops": tflops,
        "share_of_peak": tflops / best if best else None,
        "gigabytes_per_second": rate,
        "share_of_bandwidth": rate / peaks.bandwidth if peaks and peaks.bandwidth else None,
    }


def fastest(cases: Sequence[Answer], task: str) -> Answer | None:
    """The case of that task with the most frames a second."""
    done = [case for case in cases if case["task"] == task and not case["error"]]
    return max(done, key=lambda case: case["frames_per_second"], default=None)


def feeding(children: Children, base: Request, cases: Sequence[Answer]) -> Answer:
    """The generator alone, and training from it beside the fastest training of frames that are on the GPU already."""
    best = fastest(cases, "train")
    like = {key: best[key] for key in ("batch", "precision")} if best else {"batch": 4}
    found = children.ask(replace(base, task="feed", **like)) | {"trained": best and best["frames_per_second"]} | like
    fitted = children.ask(replace(base, task="fit", **like)) if best else {"error": "no training to compare with"}
    return found | {"fitted": fitted.get("frames_per_second"), "fit_error": fitted.get("error")}


def scanning(children: Children, base: Request, cases: Sequence[Answer]) -> Answer:
    """Predict from a scene to a mask, beside the fastest prediction of frames that are on the GPU already."""
    best = fastest(cases, "predict")
    batch = best["batch"] if best else 4
    found = children.ask(replace(base, task="scan", batch=batch))
    return found | {"batch": batch, "predicted": best and best["frames_per_second"]}


def driver() -> str | None:
    """The NVIDIA driver's version, as nvidia-smi says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[0] if lines else None


def run(options: argparse.Namespace, console: Console) -> Answer:
    """Measure it all; the JSON is written anew after each case, so that a run cut short keeps what it has."""
    base = Request(
        "facts", str(options.settings.resolve()), options.size, options.bands, options.layout, options.rounds,
        options.seconds, plain=options.plain, frames=str(options.frames.resolve()) if options.frames else None,
        scene=str(options.scene.resolve()) if options.scene else None,
    )  # fmt: skip
    with contextlib.closing(Children(options.timeout)) as children:
        return _measured(children, base, options, console)


def _measured(children: Children, base: Request, options: argparse.Namespace, console: Console) -> Answer:
    started = time.monotonic()
    report = heading(children, base, options)
    peaks = Peaks(**report["peaks"]) if report["peaks"] else None
    for request in requests(base, options, report["backend"]):
        late = options.minutes is not None and time.monotonic() - started > 60 * options.minutes
        why = skipped(request, report["cases"], late)
        found = {"error": why} if why else children.ask(request)
        report["cases"].append(case_figures(request, found, peaks))
        console.print(f"{request.name()}: {_outcome(report['cases'][-1])}", highlight=False)
        write(report, options.json)
    if options.frames:
        report["feeding"] = feeding(children, base, report["cases"])
        write(report, options.json)
    if options.scene:
        report["scanning"] = scanning(children, base, report["cases"])
        write(report, options.json)
    return report


def heading(children: Children, base: Request, options: argparse.Namespace) -> Answer:
    """The report before its first case.

    Raises:
        SystemExit: Keras, its backend or the network do not start.
    """
    found = children.ask(base)
    found.pop("log", None)
    if "error" in found:
        sys.exit(f"bench/gpu.py: {found['error']}")
    peaks, source = chosen_peaks(found["device"], options.peak_tflops, options.bandwidth)
    return {
        "benchmark": "gpu", "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **found, "driver": driver(), "peaks": asdict(peaks) if peaks else None, "peaks_source": source,
        "size": base.size, "bands": base.bands, "layout": base.layout, "plain": base.plain, "rounds": base.rounds,
        "cases": [], "feeding": None, "scanning": None,
    }  # fmt: skip


def write(report: Answer, path: Path | None) -> None:
    """Write the JSON, whole or not at all."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(report, indent=1) + "\n")
    part.replace(path)


def _outcome(case: Answer) -> str:
    return case["error"] or f"{case['frames_per_second']:.2f} frames/s"


def table(report: Answer) -> Table:
    """The cases, for people."""
    title = f"{report['device']}, {report['backend']}, {report['size']} x {report['size']} x {report['bands']}, "
    shown = Table(title=title + report["layout"] + (", Keras' own layers" if report["plain"] else ""))
    for name in ("task", "precision", "compiled"):
        shown.add_column(name)
    columns = ("batch", "frames/s", "ms a step", "TFLOP/s", "of peak", "GB/s", "of peak", "GiB", "compile s", "copy ms")
    for name in columns:
        shown.add_column(name, justify="right")
    shown.add_column("error")
    for case in report["cases"]:
        shown.add_row(case["task"], case["precision"], "yes" if case["compiled"] else "no", *_cells(case))
    return shown


def _cells(case: Answer) -> list[str]:
    """The numbers of a row, after its name."""
    if case["error"]:
        return [str(case["batch"]), *[""] * 9, case["error"][:60]]
    memory, copied = case["peak_memory_bytes"], case["copy_in_seconds"] + (case["copy_out_seconds"] or 0.0)
    return [
        str(case["batch"]), f"{case['frames_per_second']:.2f}", f"{1000 * case['seconds_per_step']:.1f}",
        f"{case['tflops']:.2f}", _percent(case["share_of_peak"]), f"{case['gigabytes_per_second']:.1f}",
        _percent(case["share_of_bandwidth"]), "" if memory is None else f"{memory / 2**30:.2f}",
        f"{case['compile_seconds']:.1f}", f"{1000 * copied:.1f}", "",
    ]  # fmt: skip


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def feeding_line(found: Answer) -> str:
    """The generator beside the network, in a sentence."""
    if found.get("error"):
        return f"feeding: {found['error']}"
    line = f"feeding: the generator alone {found['frames_per_second']:.1f} frames/s of {found['bands']} bands"
    if found["fit_error"]:
        return f"{line}; training from it: {found['fit_error']}"
    share = found["fitted"] / found["trained"]
    like = f"batches of {found['batch']}, {found['precision']}"
    return f"{line}; training from it {found['fitted']:.1f}, {share:.0%} of training alone ({like})"


def scanning_line(found: Answer) -> str:
    """The stage beside the network, in a sentence."""
    if found.get("error"):
        return f"scanning: {found['error']}"
    line = f"scanning: predict {found['windows_per_second']:.1f} windows/s of {found['bands']} bands"
    alone = f"the network alone {found['predicted']:.1f}, " if found["predicted"] else ""
    return f"{line}; {alone}without one {found['stage_alone']:.1f} (batches of {found['batch']})"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; what is not given is that of a full run, or of a quick one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    left = dict(default=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="two small cases, on a CPU too")
    parser.add_argument("--task", nargs="+", choices=tuple(PASSES), **left)
    parser.add_argument("--batch", nargs="+", type=int, help="4 8 16 32 64; the order is kept", **left)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, **left)
    parser.add_argument("--compiled", choices=("yes", "no", "both"), **left)
    parser.add_argument("--layout", choices=("channels_last", "channels_first"), default="channels_last")
    parser.add_argument("--settings", type=Path, default=ROOT / "settings.json")
    parser.add_argument("--size", type=int, help="rows and columns: 640", **left)
    parser.add_argument("--bands", type=int, default=8)
    parser.add_argument("--rounds", type=int, help="5, of which the median counts", **left)
    parser.add_argument("--seconds", type=float, help="about how long a round lasts: 1", **left)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for a case")
    parser.add_argument("--minutes", type=float, help="start no case after so many; those left are listed")
    parser.add_argument("--frames", type=Path, help="time the generator, too: holds train_frames and train_masks")
    parser.add_argument("--scene", type=Path, help="time predict, too, on this raster")
    parser.add_argument("--plain", action="store_true", help="Keras' own layers, to compare with")
    parser.add_argument("--peak-tflops", type=float, help="of the GPU, for every precision asked for")
    parser.add_argument("--bandwidth", type=float, help="of the GPU's memory, GB/s")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    return argparse.Namespace(**((QUICK if options.quick else FULL) | vars(options)))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where no case could be measured."""
    options = parse(argv)
    if options.child:
        answer(options.child)
        return 0
    console = Console(width=None if sys.stdout.isatty() else 150)
    report = run(options, console)
    console.print(table(report))
    if report["feeding"]:
        console.print(feeding_line(report["feeding"]), highlight=False)
    if report["scanning"]:
        console.print(scanning_line(report["scanning"]), highlight=False)
    return 0 if any(not case["error"] for case in report["cases"]) else 1


if __name__ == "__main__":
    sys.exit(main())
