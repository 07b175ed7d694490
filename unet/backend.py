"""Keras, started without the log lines of the library under it."""

import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from roofkit.cli import is_verbose


def start_keras() -> ModuleType:
    """Keras, imported and with its backend ready; quick when it is already.

    Operations are deterministic (the same training gives the same weights), unless the environment says otherwise.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if is_verbose() else "3")
        os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
        with contextlib.suppress(ImportError):  # first: or its GDAL would find TensorFlow's SQLite, which has no index
            importlib.import_module("roofkit.ogr")
        with contextlib.nullcontext() if is_verbose() else _silent_stderr():
            import keras

            keras.ops.ones(1)
    import keras

    return keras  # type: ignore[no-any-return]


def best_precision() -> str:
    """The Keras dtype policy that trains fastest on this machine without loss of accuracy.

    NVIDIA GPUs: mixed_bfloat16 from compute capability 8 (A100, RTX 30), mixed_float16 with loss scaling from 7 (V100,
    T4), else float32, as on other GPUs. Processors: mixed_bfloat16 with AMX, or with AVX512-BF16 of AMD; else
    float32. Intel's AVX512-BF16 multiplies no faster than its float32 (bench/precision.py), and elsewhere bfloat16 is
    emulated.
    """
    if gpu_count():
        capability = gpu_capability() or 0.0  # not NVIDIA's, or nvidia-smi is missing
        return "mixed_bfloat16" if capability >= 8.0 else "mixed_float16" if capability >= 7.0 else "float32"
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return "float32"  # no Linux
    fast = "amx_bf16" in words or {"AuthenticAMD", "avx512_bf16"} <= words
    return "mixed_bfloat16" if fast else "float32"


def gpu_count() -> int:
    """GPUs that Keras computes on here, with the backend that it has."""
    keras = start_keras()
    if keras.backend.backend() == "torch":  # knows no keras.distribution; Keras uses one
        return int(str(keras.ops.ones(1).device).startswith("cuda"))
    return sum(device.startswith("gpu") for device in keras.distribution.list_devices())


def gpu_capability() -> float | None:
    """The lowest compute capability of this machine's NVIDIA GPUs, as nvidia-smi says; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return min((float(line) for line in answer.split()), default=None)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hold back what is written to stderr, by C++ code too; show it after all when the block fails."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(before, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)
