"""Training and prediction of the fixed network beside Keras used plainly, on this machine's processor.

python bench/networks.py OUT [--only train predict iou] [--rounds 5] [--side 256] [--json FILE]

train    frames a second of this project's train (frames from files, its own precision) and of keras-unet's
         satellite_unet with `fit` in float32 (arrays in memory): same shapes, same batch, in turn, each in a process
         of its own, since train changes how its process gets memory
predict  pixels a second of this project's predict (from a GeoTIFF, windows side by side) and of `model.predict` in
         float32 on the same windows in memory; and how far the probabilities differ
iou      IoU after the same epochs with float32 and with the precision that `auto` chooses, seeds 0, 1, 2: no loss
Frames are those of the embedded sample, made once in OUT. Needs keras-unet 0.1.2 (pip install --no-deps keras-unet).
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window
from rich.console import Console
from rich.table import Table

from roofkit.memory import reuse_memory
from roofkit.pairs import find_pairs
from roofkit.raster import Grid, open_raster, read_pixels, write_raster
from roofkit.settings import Settings, load_settings
from unet.backend import best_precision, start_keras
from unet.plan import TrainSettings
from unet.predictor import NetworkPredictor

ROOT = Path(__file__).resolve().parent.parent
BATCH, STEPS, EPOCHS = 4, 4, 12
Seconds = dict[str, list[float]]


def prepare(out: Path, side: int) -> Path:
    """Frames and masks of the sample, `side` pixels wide, and settings with the fixed network; the settings file."""
    values = json.loads((ROOT / "settings.dev.json").read_text())
    fixed = json.loads((ROOT / "settings.json").read_text())
    bands = values["load_dataset_args"]["channels"]
    values["model_args"] = fixed["model_args"] | {"input_shape": [side, side, bands]}
    values["load_dataset_args"] |= {"target_size": [side, side], "crop_size": None, "batch_size": BATCH}
    values["chip_args"] |= {"size": [side, side]}
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"settings_{side}.json"
    path.write_text(json.dumps(values))
    for stage in ("download", "chip", "mask", "split"):
        line = [sys.executable, str(ROOT / stage / f"{stage}.py"), "--settings", str(path)]
        subprocess.run([*line, "--data", str(out / f"data_{side}"), "--quiet"], check=True)
    return path


def learner_of(settings: Settings, frames: Any) -> Any:
    """What train trains."""
    from unet.learner import Learner
    from unet.network import Preparation

    found = frames.measure()
    blocks = TrainSettings(
        settings.load_dataset_args, settings.model_args, settings.output_args, settings.training_args
    )
    return Learner(blocks, Preparation(None, found.mean, found.deviation), contextlib.nullcontext())


def in_turn(sides: dict[str, Callable[[], object]], rounds: int) -> Seconds:
    """Seconds of each side in each round, after one that does not count."""
    seconds: Seconds = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, work in sides.items():
            started = time.perf_counter()
            work()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def compare_training(path: Path, data: Path, rounds: int) -> dict[str, Any]:
    """Frames a second of both."""
    with contextlib.ExitStack() as stack:
        ours, peer = (stack.enter_context(served(make, path, data)) for make in (our_training, plain_training))
        assert ours.about["weights"] == peer.about["weights"]
        sides: dict[str, Callable[[], object]] = {"ours": ours, "keras-unet": peer}
        rates = {k: [BATCH * STEPS / s for s in values] for k, values in in_turn(sides, rounds).items()}
    what = f"train: frames of {ours.about['shape']} a second, {ours.about['precision']}"
    return {"what": what, "asked": 2.3, **pack(rates)}


def frames_of(settings: Settings, data: Path, steps: int = STEPS) -> Any:
    """The generator of the training frames, with augmentation."""
    from unet.datagen import Augmentation, RoofFrames

    pairs = find_pairs(data / "train_frames", data / "train_masks")
    frames = RoofFrames(pairs, settings.load_dataset_args, seed=0, steps=steps)
    frames.augmentation = Augmentation(settings.load_dataset_args, frames.measure())
    return frames


def our_training(settings: Settings, data: Path) -> tuple[Callable[[], object], dict[str, Any]]:
    """An epoch as train has it, and what it trains."""
    reuse_memory()
    start_keras()
    frames = frames_of(settings, data)
    learner = learner_of(settings, frames)
    about = {"weights": learner.network.count_params(), "precision": learner.precision}
    about["shape"] = settings.model_args.input_shape
    return lambda: learner.learn(frames, 2, epochs=99, live=False), about


def plain_training(settings: Settings, data: Path) -> tuple[Callable[[], object], dict[str, Any]]:
    """An epoch as keras-unet's users have it, and what it trains."""
    os.environ["TF_DETERMINISTIC_OPS"] = "0"  # start_keras would set it, and fit would then need a seed
    start_keras()
    from keras_unet.models import satellite_unet

    frames = frames_of(settings, data)
    plain = satellite_unet(settings.model_args.input_shape)
    plain.compile(optimizer="adam", loss="binary_crossentropy")
    images, masks, _ = (np.concatenate(arrays) for arrays in zip(*(frames.batch(i) for i in range(STEPS))))
    fit = partial(plain.fit, images / 255, masks, batch_size=BATCH, epochs=1, verbose=0)
    return fit, {"weights": plain.count_params()}


class Served:
    """Work in a process of its own; calling it does it once."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.about = connection.recv()

    def __call__(self) -> None:
        """Have it done."""
        self.connection.send(True)
        self.connection.recv()


@contextlib.contextmanager
def served(make: Callable[..., Any], path: Path, data: Path) -> Iterator[Served]:
    """What `make` makes of the settings in `path` and the frames in `data`, in a process of its own."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, path, data), daemon=True)
    process.start()
    there.close()  # so that its end is noticed
    try:
        yield Served(here)
    finally:
        process.kill()


def _serve(connection: Connection, make: Callable[..., Any], path: Path, data: Path) -> None:
    work, about = make(load_settings(path), data)
    connection.send(about)
    while connection.recv():
        work()
        connection.send(True)


def pack(rates: Seconds) -> dict[str, Any]:
    """Both sides' rates and their ratios, round by round."""
    (ours, peer) = rates.values()
    return {"rates": rates, "ratios": [a / b for a, b in zip(ours, peer)]}


def compare_prediction(settings: Settings, data: Path, out: Path, rounds: int) -> dict[str, Any]:
    """Pixels a second of both, and the mean and largest difference of probabilities."""
    start_keras()
    model, scene = out / f"model_{settings.model_args.input_shape[0]}.h5", out / "scene.tif"
    if not model.exists():
        _save_trained(settings, data, model)
    windows = _scene_of(sorted((data / "val_frames").glob("*.tif")), scene)
    predictor = NetworkPredictor(model, settings.predict_args.model_copy(update={"overlap": 0.0, "flips": False}))
    plain, found = predictor.loaded.model, {}

    def ours() -> None:
        with open_raster(scene) as src:
            region = Window(0, 0, src.width, src.height)
            found["ours"] = np.concatenate([strip for _, strip, _ in predictor.scan(src, region)])

    def peer() -> None:
        found["peer"] = plain.predict(windows, batch_size=settings.predict_args.batch_size, verbose=0)

    seconds = in_turn({"ours": ours, "model.predict": peer}, rounds)
    rates = {name: [windows[..., 0].size / s / 1e6 for s in values] for name, values in seconds.items()}
    apart = np.abs(found["ours"] - np.concatenate(found["peer"][..., 0]))
    differ = f"probabilities differ by {apart.mean():.5f} (mean), {apart.max():.3f} (most)"
    what = f"predict: megapixels a second, {predictor.inference.runtime}; {differ}"
    return {"what": what, "asked": 3.5, "difference": float(apart.mean()), **pack(rates)}


def _save_trained(settings: Settings, data: Path, path: Path) -> None:
    """Train the fixed network for a few epochs, so that its probabilities are those of roofs."""
    from unet.model_file import save_model

    frames = frames_of(settings, data, 8)
    learner = learner_of(settings, frames)
    for epoch in range(1, 4):
        learner.learn(frames, epoch, epochs=3, live=True)
    learner.shipped.set_weights(learner.weights)
    size = list(settings.load_dataset_args.target_size)
    facts = {"threshold": 0.5, "frame_size": size, "data_format": "channels_last", "band_names": []}
    save_model(learner.shipped, path, facts)


def _scene_of(frames: list[Path], scene: Path) -> Any:
    """A scene of one frame above another; the same pixels as windows (frames, rows, cols, bands) float32."""
    pixels = []
    for path in frames[:24]:
        with open_raster(path) as src:
            found, valid = read_pixels(src)
        if valid.all():
            pixels.append(found)
    joined = np.concatenate(pixels, axis=1)
    grid = Grid(CRS.from_epsg(32644), Affine(0.5, 0, 6e5, 0, -0.5, 3e6), *joined.shape[1:])
    write_raster(scene, joined, None, grid)
    return np.stack([np.moveaxis(one, 0, -1) for one in pixels]).astype(np.float32)


def compare_iou(path: Path, data: Path, out: Path) -> list[dict[str, Any]]:
    """IoU of both precisions after the same epochs, for three seeds."""
    rows = []
    for seed in (0, 1, 2):
        found = {}
        for precision in ("float32", best_precision()):
            values = json.loads((ROOT / "settings.dev.json").read_text())
            values["training_args"] |= {"precision": precision, "seed": seed, "epochs": EPOCHS, "minutes": None}
            own = out / f"iou_{precision}_{seed}.json"
            own.write_text(json.dumps(values))
            line = [sys.executable, str(ROOT / "train/train.py"), str(out / f"iou_{precision}_{seed}.h5")]
            options = ["--settings", str(own), "--data", str(data), "--results", str(out / f"r_{precision}_{seed}")]
            done = subprocess.run([*line, *options, "--quiet", "--json"], check=True, stdout=subprocess.PIPE, text=True)
            found[precision] = json.loads(done.stdout.splitlines()[-1])["val_iou"]
        rows.append({"seed": seed, **found})
    return rows


def spread(values: list[float]) -> str:
    """The median, and the least and most."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=("train", "predict", "iou"), default=("train", "predict"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=256, help="pixels a side of a frame")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    path = prepare(options.out.resolve(), options.side)
    data, settings, found = options.out.resolve() / f"data_{options.side}", load_settings(path), []
    if "train" in options.only:
        found.append(compare_training(path, data, options.rounds))
    if "predict" in options.only:
        found.append(compare_prediction(settings, data, options.out.resolve(), options.rounds))
    table = Table("what", "ours", "peer", "times as fast", "asked", title="medians (least to most)")
    for one in found:
        held = "" if median(one["ratios"]) >= one["asked"] else ": not held"
        table.add_row(one["what"], *map(spread, one["rates"].values()), spread(one["ratios"]), f"{one['asked']}{held}")
    if found:
        Console(width=140).print(table)
    if "iou" in options.only:
        rows = compare_iou(path, data, options.out.resolve())
        print(json.dumps(rows, indent=1))
        found += rows
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
