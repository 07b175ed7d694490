"""Which precision trains fastest on this processor or GPU: seconds a step for each, taken in turn.

python bench/precision.py [--settings bench/banepa.json] [--rounds 5]
The network, window and batch are those of the settings; pixels are random. `auto` is what training would choose.
"""

import argparse
import contextlib
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from roofkit.settings import Settings, load_settings
from unet.backend import best_precision, start_keras
from unet.plan import TrainSettings

ROOT = Path(__file__).resolve().parent.parent


def network(settings: Settings, precision: str) -> Any:
    """The network as training compiles it."""
    start_keras().utils.set_random_seed(0)
    from unet.learner import Learner
    from unet.network import Preparation

    training = settings.training_args.model_copy(update={"precision": precision})
    blocks = TrainSettings(settings.load_dataset_args, settings.model_args, settings.output_args, training)
    bands = settings.load_dataset_args.channels
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
    settings = load_settings(options.settings)
    image, mask, weights = batch(settings)
    networks = {name: network(settings, name) for name in ("float32", "mixed_bfloat16")}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for round_ in range(options.rounds + 1):
        for name, model in networks.items():
            started = time.perf_counter()
            model.train_on_batch(image, mask, sample_weight=weights)
            if round_:  # the first one compiles
                seconds[name].append(time.perf_counter() - started)
    table = Table("precision", "s a step (median)", "least", "most", title=f"auto: {best_precision()}")
    for name, taken in seconds.items():
        table.add_row(name, *(f"{value:.3f}" for value in (median(taken), min(taken), max(taken))))
    Console().print(table)


if __name__ == "__main__":
    main()
