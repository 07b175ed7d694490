"""bench/gpu.py: what a case costs, by hand; which GPU can do what; one quick run."""

import io
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from unet.backend import start_keras

keras = start_keras()
import tensorflow
from keras import layers

from bench import gpu
from roofkit.settings import ModelArgs, OutputArgs
from unet.network import Preparation, build_unet

ROOT = Path(__file__).resolve().parent.parent
BASE = gpu.Request("facts", str(ROOT / "settings.json"), 32, 8, "channels_last", 2, 0.0)
SMALL = {"num_layers": 1, "filters": 4, "upconv_filters": 6}
CASE = {"task": "train", "batch": 8, "precision": "float32", "compiled": False}

# ---------------------------------------------------------------------------------------------------- what a case costs


def little_network():
    """8 x 8 x 2, convolved to 4 channels, normalised, halved, and brought back by a transposed convolution."""
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", data_format="channels_last")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.MaxPooling2D(2, data_format="channels_last")(x)
    x = layers.Conv2DTranspose(3, 2, strides=2, data_format="channels_last")(x)
    return keras.Model(inputs, layers.Conv2D(1, 1, data_format="channels_last", dtype="float32")(x))


def test_operations_by_hand():
    convolution = 2 * 9 * 2 * 4 * 64
    transposed = 2 * 4 * 4 * 3 * 16  # each of 16 pixels is spread over 2 x 2
    assert gpu.network_flops(little_network()) == convolution + transposed + 2 * 3 * 64


def test_operations_of_strides_groups_dense_and_depthwise_layers():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(6, 3, strides=2, groups=2, padding="same", data_format="channels_last")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", data_format="channels_last")(x)
    outputs = layers.Dense(5)(layers.Flatten()(x))
    by_hand = 2 * 9 * 2 * 6 * 16 + 2 * 9 * 12 * 16 + 2 * 192 * 5
    assert gpu.network_flops(keras.Model(inputs, outputs)) == by_hand


def test_operations_of_a_network_within_a_network():
    inner = little_network()
    inputs = keras.Input((8, 8, 2))
    assert gpu.network_flops(keras.Model(inputs, inner(inputs))) == gpu.network_flops(inner)


def test_an_unknown_layer_with_weights_is_an_error():
    inputs = keras.Input((8, 8, 2))
    outputs = layers.SeparableConv2D(4, 3, data_format="channels_last", name="apart")(inputs)
    with pytest.raises(TypeError, match="apart: a SeparableConv2D"):
        gpu.network_flops(keras.Model(inputs, outputs))


def test_bytes_by_hand():
    batch = 2
    pairs = ((128, 256), (256, 256), (256, 64), (64, 192), (192, 64))  # numbers in and out of each layer, for one frame
    weights = (2 * 4 * 9 + 4, 16, 0, 4 * 3 * 4 + 3, 3 + 1)
    forward = sum(batch * (inputs + outputs) for inputs, outputs in pairs) + sum(weights)
    assert gpu.network_bytes(little_network(), batch, training=False) == 4 * forward
    again = sum(batch * inputs for (inputs, _), own in zip(pairs, weights) if own)
    backward = sum(batch * (inputs + outputs) for inputs, outputs in pairs) + again + 2 * sum(weights)
    trained = sum(weights) - 8  # without the running mean and variance
    assert gpu.network_bytes(little_network(), batch, training=True) == 4 * (forward + backward) + 28 * trained


def test_half_precision_moves_half_the_bytes_but_in_the_last_layer():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = gpu.network_bytes(little_network(), 1, training=False)
    finally:
        keras.config.set_dtype_policy(before)
    last = 4 * (192 + 64 + 4)
    assert half == (gpu.network_bytes(little_network(), 1, training=False) - last) // 2 + last


def test_channels_first_is_the_same_network():
    args = ModelArgs(**SMALL, input_shape=(32, 32, 3))
    network = build_unet(args, OutputArgs(), preparation=Preparation(None, [100.0, 120.0, 140.0], [10.0, 20.0, 40.0]))
    turned = gpu.channels_first(network)
    assert turned.input_shape == (None, 3, 32, 32)
    assert turned.output_shape == network.output_shape
    assert gpu.network_flops(turned) == gpu.network_flops(network)
    assert {layer.data_format for layer in turned.layers if hasattr(layer, "data_format")} == {"channels_first"}
    turned.set_weights(network.get_weights())
    image = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
    try:
        found = keras.ops.convert_to_numpy(turned(np.moveaxis(image, -1, 1)))
    except tensorflow.errors.UnimplementedError:
        pytest.skip("TensorFlow has no convolution with channels first for this processor")
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(network(image)), atol=1e-5)


# ----------------------------------------------------------------------------------------------------- what GPUs can do


@pytest.mark.parametrize(
    ("device", "bandwidth", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", 3350, 989.5),
        ("NVIDIA H100 PCIe", 2000, 756.5),
        ("NVIDIA H200", 4800, 989.5),
        ("NVIDIA A100-SXM4-40GB", 1555, 312),
        ("NVIDIA A100-SXM4-80GB", 2039, 312),
        ("NVIDIA A100 80GB PCIe", 1935, 312),
        ("NVIDIA L4", 300, 121),
        ("Tesla T4", 320, None),
    ],
)
def test_peaks_by_name(device, bandwidth, bf16):
    peaks = gpu.peaks_of(device)
    assert (peaks.bandwidth, peaks.tflops("mixed_bfloat16")) == (bandwidth, bf16)


@pytest.mark.parametrize("device", ["CPU", "NVIDIA L40S", "NVIDIA GH200 480GB", "NVIDIA H100 80GB HBM3 MIG 3g.40gb"])
def test_no_peaks_of_other_devices(device):
    assert gpu.chosen_peaks(device, None, None) == (None, None)


def test_float32_is_compared_with_tf32_where_there_is_any():
    assert gpu.peaks_of("NVIDIA A100-SXM4-40GB").tflops("float32") == 156
    assert gpu.peaks_of("Tesla T4").tflops("float32") == 8.1


def test_options_go_before_the_data_sheet():
    peaks, source = gpu.chosen_peaks("NVIDIA L4", 100.0, None)
    assert (peaks.tflops("mixed_float16"), peaks.bandwidth) == (100.0, 300)
    assert source.startswith("options")
    peaks, source = gpu.chosen_peaks("another", None, 50.0)
    assert (peaks.tflops("float32"), peaks.bandwidth, source) == (None, 50.0, "options")


# --------------------------------------------------------------------------------------------------- what becomes of it


def test_figures_by_hand():
    found = {"seconds_per_step": 0.5, "flops_per_frame": 10**12, "bytes_per_step": 10**11}
    case = gpu.case_figures(gpu.replace(BASE, task="train", batch=4), found, gpu.Peaks(40, None, None, None, 800))
    assert (case["frames_per_second"], case["tflops"], case["share_of_peak"]) == (8.0, 8.0, 0.2)
    assert (case["gigabytes_per_second"], case["share_of_bandwidth"]) == (200.0, 0.25)
    assert gpu.case_figures(BASE, {"error": "out of memory"}, None)["error"] == "out of memory"


@pytest.mark.parametrize(
    "error",
    [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.",
        "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.",
        "ResourceExhaustedError: Graph execution error: OOM when allocating tensor",
        "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_each_backend_says_in_its_own_way_that_memory_ran_out(error):
    assert gpu.reason(error) == "out of memory"


def test_other_errors_stay_in_one_line():
    assert gpu.reason("ValueError: a\n  b") == "ValueError: a b"
    assert gpu.reason(f"GraphError: {'x' * 400} only NHWC").endswith("x only NHWC")


def test_a_larger_batch_is_not_tried_where_a_smaller_one_was_too_large():
    done = [CASE | {"error": "out of memory"}]
    larger = gpu.replace(BASE, **CASE | {"batch": 16})
    assert gpu.skipped(larger, done, late=False) == "not run: out of memory with a batch of 8"
    assert gpu.skipped(gpu.replace(larger, batch=4), done, late=False) is None
    assert gpu.skipped(gpu.replace(larger, precision="mixed_float16"), done, late=False) is None
    assert gpu.skipped(larger, [], late=True) == "not run: --minutes were over"


def test_jax_is_always_compiled():
    options = Namespace(batch=[4], task=["train"], precision=["float32"], compiled="both")
    assert [case.compiled for case in gpu.requests(BASE, options, "torch")] == [False, True]
    assert [case.compiled for case in gpu.requests(BASE, options, "jax")] == [True]


class Asked:
    """Stands for the processes: notes what they are asked."""

    def __init__(self, **rates):
        self.rates, self.requests = rates, []

    def ask(self, request):
        self.requests.append(request)
        return {"frames_per_second": self.rates[request.task], "bands": 8}


def test_training_from_the_generator_is_compared_with_the_fastest_training_alone():
    cases = [CASE | {"error": None, "frames_per_second": rate, "batch": int(rate)} for rate in (20.0, 60.0)]
    cases += [CASE | {"error": "out of memory"}, CASE | {"task": "predict", "error": None, "frames_per_second": 99.0}]
    asked = Asked(feed=30.0, fit=15.0)
    found = gpu.feeding(asked, BASE, cases)
    assert [(request.task, request.batch) for request in asked.requests] == [("feed", 60), ("fit", 60)]
    assert (found["frames_per_second"], found["fitted"], found["trained"]) == (30.0, 15.0, 60.0)
    line = "the generator alone 30.0 frames/s of 8 bands; training from it 15.0, 25% of training alone"
    assert line in gpu.feeding_line(found)


def test_the_generator_is_timed_where_nothing_could_be_trained():
    line = gpu.feeding_line(gpu.feeding(Asked(feed=30.0), BASE, []))
    assert line.endswith("30.0 frames/s of 8 bands; training from it: no training to compare with")


def test_predict_is_compared_with_the_fastest_prediction_alone():
    cases = [CASE | {"task": "predict", "error": None, "frames_per_second": r, "batch": int(r)} for r in (20.0, 60.0)]
    cases += [CASE | {"error": None, "frames_per_second": 99.0}]
    answers = {"windows_per_second": 30.0, "stage_alone": 80.0, "bands": 4}
    asked = []
    children = Namespace(ask=lambda request: asked.append((request.task, request.batch)) or answers)
    line = "scanning: predict 30.0 windows/s of 4 bands; {}without one 80.0 (batches of {})"
    assert gpu.scanning_line(gpu.scanning(children, BASE, cases)) == line.format("the network alone 60.0, ", 60)
    assert gpu.scanning_line(gpu.scanning(children, BASE, [])) == line.format("", 4)
    assert asked == [("scan", 60), ("scan", 4)]
    assert gpu.scanning_line({"error": "ended by signal 9"}) == "scanning: ended by signal 9"


@pytest.mark.slow
def test_predict_is_timed_on_a_scene(make_raster, tmp_path):
    path = make_raster(np.random.default_rng(0).integers(1, 255, (4, 100, 70), np.uint8))
    (tmp_path / "settings.json").write_text(json.dumps({"model_args": SMALL}))
    found = gpu.scan(gpu.replace(BASE, settings=str(tmp_path / "settings.json"), scene=str(path), batch=4))
    assert (found["windows"], found["bands"]) == (4 * 3, 4)
    assert found["stage_alone"] > found["windows_per_second"] > 0


@pytest.mark.parametrize("task", ["train", "predict"])
def test_plain_layers_are_those_of_keras(tmp_path, task):
    (tmp_path / "settings.json").write_text(json.dumps({"model_args": SMALL}))
    found = []
    for plain in (True, False):
        request = gpu.replace(BASE, settings=str(tmp_path / "settings.json"), task=task, batch=2, plain=plain)
        network = gpu.build(request)
        _, model = gpu._step(network, gpu.host_batch(network, 2), request)
        found.append({type(layer).__module__.split(".")[0] for layer in model.layers})
    ours = {"unet"} if keras.backend.backend() != "jax" or task == "train" else set()
    assert found == [{"keras"}, {"keras"} | ours]


def test_the_clock_counts_no_step_that_warms_up():
    steps, waits = [], []
    first, rounds = gpu.timed(lambda: steps.append(1), lambda: waits.append(len(steps)), 3, 0.0)
    assert waits == [1, 1 + gpu.WARM, 2 + gpu.WARM, 3 + gpu.WARM, 4 + gpu.WARM, 5 + gpu.WARM]
    assert len(rounds) == 3
    assert first >= 0


# ------------------------------------------------------------------------------------------------------------ processes


def test_a_crash_is_one_case_lost(tmp_path):
    (tmp_path / "log").write_text("a line\nlast words\n")
    assert gpu._read_answer(tmp_path, -11) == {"error": "ended by signal 11", "log": "a line\nlast words"}
    assert gpu._read_answer(tmp_path, 3)["error"] == "ended with code 3: last words"
    (tmp_path / "log").write_text("RESOURCE_EXHAUSTED: Out of memory\nAborted\n")
    assert gpu._read_answer(tmp_path, -6)["error"] == "out of memory"


def test_a_child_leaves_its_error_as_its_answer(tmp_path, monkeypatch):
    asked = gpu.asdict(gpu.replace(BASE, settings=str(tmp_path / "none.json")))
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asked) + "\n"))
    gpu.answer(tmp_path)
    assert json.loads((tmp_path / "answer.json").read_text())["error"].startswith("MissingInputError: ")


def test_a_process_finds_the_project_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert gpu._environment(tmp_path)["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "elsewhere"]
    monkeypatch.delenv("PYTHONPATH")
    assert gpu._environment(tmp_path)["PYTHONPATH"] == str(ROOT)


def test_a_process_that_takes_too_long_is_ended():
    assert gpu.Child().ask(BASE, 0.01) == {"error": "no answer within 0.01 s", "log": ""}


@pytest.mark.slow
def test_the_generator_is_timed_with_the_frames_bands(make_raster, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(5):
        make_raster(rng.integers(1, 255, (4, 40, 40), np.uint8), f"train_frames/{number}.tif")
        make_raster(rng.integers(0, 2, (40, 40), np.uint8) * 255, f"train_masks/{number}.tif")
    monkeypatch.setattr(gpu, "FITTED", 7)
    (tmp_path / "settings.json").write_text(json.dumps({"model_args": SMALL}))
    request = gpu.replace(BASE, settings=str(tmp_path / "settings.json"), frames=str(tmp_path), batch=4)
    found = gpu.feed(request)
    assert (found["frames"], found["bands"], found["batch"]) == (5, 4, 4)
    assert found["frames_per_second"] == pytest.approx(5 / found["seconds"])
    fitted = gpu.fit(request)
    assert fitted["frames_per_second"] == pytest.approx(8 / fitted["seconds"])


@pytest.mark.slow
def test_quick_run(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"model_args": SMALL}))
    command = [sys.executable, ROOT / "bench/gpu.py", "--quick", "--settings", tmp_path / "settings.json"]
    command += ["--bandwidth", "100", "--json", tmp_path / "out/gpu.json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"KERAS_BACKEND": "tensorflow"})
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out/gpu.json").read_text())
    assert (report["backend"], report["size"], report["bands"]) == ("tensorflow", 32, 8)
    assert report["versions"]["keras"] == keras.__version__
    assert [case["task"] for case in report["cases"]] == ["train", "predict"]
    for case in report["cases"]:
        assert case["error"] is None
        assert case["frames_per_second"] == pytest.approx(2 / case["seconds_per_step"])
        assert case["flops_per_frame"] == report["flops_per_frame"] * gpu.PASSES[case["task"]]
        assert (case["share_of_peak"], case["share_of_bandwidth"] > 0) == (None, True)
    assert "frames/s" in done.stdout


def test_what_does_not_start_ends_it_before_the_first_case():
    children = Namespace(ask=lambda request: {"error": "SettingsError: input_shape"})
    with pytest.raises(SystemExit, match="SettingsError: input_shape"):
        gpu.heading(children, BASE, Namespace())
