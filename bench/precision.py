"""Which precision trains fastest on this processor or GPU, and what our layers gain over Keras' own: in turn.

python bench/precision.py [--settings bench/banepa.json] [--rounds 5]
The network, window and batch are those of the settings; pixels are random. `auto` is what training would choose.
"As Keras has it" is the same network without the layers of unet/forms.py. A processor with AMX can be made one without
AMX or bfloat16: ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16, AVX512_CORE or AVX2.
"""

import argparse
import contextlib
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

from roofkit.memory import reuse_memory
from roofkit.settings import Settings, load_settings
from unet.backend import best_precision, start_keras
from unet.plan import TrainSettings

ROOT = Path(__file__).resolve().parent.parent


def network(settings: Settings, precision: str, *, plain: bool) -> Any:
    """The network as training compiles it; plain: with Keras' own layers."""
    start_keras().utils.set_random_seed(0)
    from unet.learner import Learner
    from unet.network import Preparation

    training = settings.training_args.model_copy(update={"precision": precision})
    blocks = TrainSettings(settings.load_dataset_args, settings.model_args, settings.output_args, training)
    bands = settings.load_dataset_args.channels
    keep = patch("unet.learner.fast", lambda network, learning: network) if plain else contextlib.nullcontext()
    with keep:
        return Learner(blocks, Preparation(None, [128.0] * bands, [64.0] * bands), contextlib.nullcontext()).network


def batch(settings: Settings) -> tuple[Any, Any, Any]:
    """A batch as the generator makes it."""
    data = settings.load_dataset_args
    rng, shape = np.random.default_rng(0), (data.batch_size, *(data.crop_size or data.target_size))
    image = rng.uniform(0, 255, (*shape, data.channels)).astype(np.float32)
    return image, (rng.random((*shape, 1)) < 0.2).astype(np.float32), np.ones(shape, np.float32)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path, default=ROOT / "bench/banepa.json")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    reuse_memory()
    settings = load_settings(options.settings)
    image, mask, weights = batch(settings)
    sides = [(precision, plain) for precision in ("float32", "mixed_bfloat16") for plain in (False, True)]
    networks = {side: network(settings, side[0], plain=side[1]) for side in sides}
    seconds: dict[tuple[str, bool], list[float]] = {side: [] for side in sides}
    for round_ in range(options.rounds + 1):
        for side, model in networks.items():
            started = time.perf_counter()
            model.train_on_batch(image, mask, sample_weight=weights)
            if round_:  # the first one compiles
                seconds[side].append(time.perf_counter() - started)
    title = f"seconds a step, medians (least to most); auto: {best_precision()}"
    table = Table("precision", "ours", "as Keras has it", "times as fast (median of rounds)", title=title)
    for precision in ("float32", "mixed_bfloat16"):
        ours, plain = seconds[precision, False], seconds[precision, True]
        gain = median(b / a for a, b in zip(ours, plain))
        table.add_row(
            precision, *(f"{median(v):.3f} ({min(v):.3f} to {max(v):.3f})" for v in (ours, plain)), f"{gain:.2f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
