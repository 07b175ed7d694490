"""How accurate the map is, beside keras-unet and pixel classifiers: the same frames, minutes of training, score.

python bench/accuracy.py OUT --banepa FOLDER [--seeds 0 1 2] [--minutes 15]
python bench/accuracy.py OUT --sample [--minutes 5]
FOLDER holds scenes/*.tif and labels/*. Chips, masks and the split (by blocks of ground) are made once by this project's
own stages; every training then sees the same frames. keras-unet is trained as its own examples do: satellite_unet,
pixels / 255 (beyond uint8 by the highest value), its get_augmented, Adam, binary cross-entropy, the epoch of lowest
validation loss. Those examples look at its masks at a threshold of 0.5 (iou_thresholded): that IoU stands under
"at 0.5"; the other scores are at the threshold that is best on the validation frames, as this project's are. Forest and
regression train on the same frames, in as long as they need. Finished runs are kept in OUT and not repeated.
Needs keras-unet 0.1.2 (pip install --no-deps keras-unet) for its part of the table.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
OURS, PEER = "roof-classify", "keras-unet"
STAGES = {OURS: ("train", "results_4.h5"), "forest": ("forest", "forest.skops")}
STAGES["regression"] = ("regression", "regression.skops")
WIDTH = 110  # columns of the table where there is no terminal
SCORES = ("iou", "at 0.5", "f1", "precision", "recall", "pr_auc", "ece")


def stage(name: str, *options: str) -> None:
    """Run one stage of the pipeline; its summary is not shown."""
    subprocess.run([sys.executable, str(ROOT / name / f"{name}.py"), *options, "--quiet"], check=True)


class Case:
    """Imagery that is cut and split once, and what was measured on it."""

    def __init__(self, name: str, out: Path, settings: Path, source: Path | None, minutes: float) -> None:
        self.name, self.folder, self.minutes, self.source = name, out / name, minutes, source
        self.values: dict[str, Any] = json.loads(settings.read_text())
        self.found = self.folder / "runs.json"
        self.runs: dict[str, dict[str, float]] = json.loads(self.found.read_text()) if self.found.exists() else {}

    def options(self, seed: int = 0, results: str = "results") -> list[str]:
        """The common options of every stage, with a settings file for that seed and the minutes."""
        seeded = {f"{name}_args": {"seed": seed} for name in ("pixel", "forest", "regression")}
        seeded["training_args"] = {"seed": seed, "minutes": self.minutes}
        blocks = {name: self.values.get(name, {}) | values for name, values in seeded.items()}
        path = self.folder / f"settings_{seed}.json"
        path.write_text(json.dumps(self.values | blocks))
        return ["--settings", str(path), "--data", str(self.folder / "data"), "--results", str(self.folder / results)]

    def prepare(self) -> None:
        """Make frames and masks, unless they are there."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        for name in ("scenes", "labels"):
            if self.source:
                shutil.copytree(self.source / name, data / name, dirs_exist_ok=True)
        for name in ("chip", "mask", "split") if self.source else ("download", "chip", "mask", "split"):
            stage(name, *self.options())

    def measure(self, method: str, seed: int) -> None:
        """Train and score once, unless that was done before."""
        key = f"{method} {seed}"
        if key not in self.runs:
            self.runs[key] = self.peer(seed) if method == PEER else self.ours(method, seed)
            self.found.write_text(json.dumps(self.runs, indent=1))

    def ours(self, method: str, seed: int) -> dict[str, float]:
        """Train, predict and evaluate with this project's stages."""
        script, model = STAGES[method]
        options, results = self.options(seed, f"{script}_{seed}"), self.folder / f"{script}_{seed}"
        started = time.monotonic()
        stage(script, str(results / model), *options)
        minutes = (time.monotonic() - started) / 60
        folders = [results / "predictions", results / "probabilities"]
        frames, masks = self.folder / "data/val_frames", self.folder / "data/val_masks"
        stage(
            "predict", str(results / model), str(frames), str(folders[0]), "--probabilities", str(folders[1]), *options
        )
        stage("evaluate", *options)
        found = json.loads((results / "metrics.json").read_text())
        found["at 0.5"] = iou_at_half(folders[1], masks)
        return {"minutes": minutes, **{name: found[name] for name in SCORES}}

    def peer(self, seed: int) -> dict[str, float]:
        """Train and score keras-unet in a process of its own."""
        options = self.options(seed)
        line = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--peer", str(seed), *options]
        line += ["--minutes", str(self.minutes), str(self.folder)]
        answer = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
        return dict(json.loads(answer.splitlines()[-1]))


def train_peer(options: argparse.Namespace) -> dict[str, float]:
    """keras-unet's satellite_unet, trained as its examples do until the time is over; its scores."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    from keras_unet.metrics import iou, iou_thresholded
    from keras_unet.models import satellite_unet
    from keras_unet.utils import get_augmented

    from roofkit.pairs import find_pairs
    from roofkit.settings import load_settings
    from unet.frames import read_sample, resize_frame

    keras.utils.set_random_seed(options.peer)
    data = load_settings(options.settings).load_dataset_args
    folder = options.data
    pairs = {kind: find_pairs(folder / f"{kind}_frames", folder / f"{kind}_masks") for kind in ("train", "val")}
    samples = {k: [read_sample(p, data.target_size, data.channels) for p in v] for k, v in pairs.items()}
    highest = max(255.0, max(float(sample.image.max()) for sample in samples["train"]))
    x, y = (
        {k: np.stack([pick(s) for s in v]).astype(np.float32) for k, v in samples.items()}
        for pick in (lambda s: s.image / np.float32(highest), lambda s: s.roof[..., None])
    )
    changes = dict(
        rotation_range=15.0, width_shift_range=0.05, height_shift_range=0.05, shear_range=50, zoom_range=0.2,
        horizontal_flip=True, vertical_flip=True, fill_mode="constant",
    )  # fmt: skip
    flow = get_augmented(x["train"], y["train"], batch_size=2, seed=options.peer, data_gen_args=changes)
    model = satellite_unet((*data.target_size, data.channels))
    model.compile(keras.optimizers.Adam(), "binary_crossentropy", metrics=[iou, iou_thresholded])
    started = time.monotonic()
    best: tuple[float, Any] = (np.inf, model.get_weights())
    while (spent := time.monotonic() - started) < options.minutes * 60:
        left = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: _stop_after(model, started, options.minutes)
        )
        model.fit(_endless(flow), steps_per_epoch=50, verbose=0, callbacks=[left])
        loss = model.evaluate(x["val"], y["val"], batch_size=2, verbose=0)[0]
        print(f"keras-unet: {spent:.0f} s, validation loss {loss:.4f}", file=sys.stderr, flush=True)
        if loss < best[0]:
            best = (loss, model.get_weights())
    minutes = (time.monotonic() - started) / 60
    model.set_weights(best[1])
    found = model.predict(x["val"], batch_size=2, verbose=0)[..., 0]
    truth = [read_sample(p, _size(p), data.channels) for p in pairs["val"]]
    probabilities = [resize_frame(p[None], t.roof.shape)[0].clip(0, 1) for p, t in zip(found, truth)]
    return {"minutes": minutes, **score(probabilities, truth)}


def _stop_after(model: Any, started: float, minutes: float) -> None:
    model.stop_training = time.monotonic() - started > minutes * 60


def _endless(flow: Any) -> Iterator[Any]:
    yield from flow


def _size(pair: Any) -> tuple[int, int]:
    import rasterio

    with rasterio.open(pair.frame) as src:
        return src.shape


def iou_at_half(probabilities: Path, masks: Path) -> float:
    """IoU over all frames at a threshold of 0.5."""
    from roofkit import scores
    from roofkit.pairs import pair_rasters, read_mask
    from roofkit.raster import open_raster, raster_files, read_pixels

    counts = np.zeros(4, np.int64)
    for one, other in pair_rasters(raster_files(probabilities), raster_files(masks)):
        with open_raster(one) as found, open_raster(other) as src:
            (probability,), valid = read_pixels(found)
            roof, labelled = read_mask(src)
        counts += scores.pixel_counts(probability >= 0.5, roof, valid & labelled)
    return float(scores.pixel_scores(counts)["iou"])


def score(probabilities: list[Any], truth: list[Any]) -> dict[str, float]:
    """The scores over all frames at the threshold of best IoU, and IoU at 0.5."""
    from roofkit import scores

    half = sum(scores.pixel_counts(p >= 0.5, t.roof, t.valid) for p, t in zip(probabilities, truth))
    histogram = sum(scores.frame_counts(p, t.roof, t.valid) for p, t in zip(probabilities, truth))
    threshold = scores.best_iou(histogram)[0]
    counts = sum(scores.pixel_counts(p >= threshold, t.roof, t.valid) for p, t in zip(probabilities, truth))
    values = {**scores.pixel_scores(counts), **scores.probability_scores(histogram)}
    values["at 0.5"] = scores.pixel_scores(half)["iou"]
    return {name: float(values[name]) for name in SCORES}


def show(cases: list[Case]) -> None:
    """One table, and what is between the two networks."""
    table = Table("imagery", "seed", "method", "minutes", *SCORES, title="accuracy on validation frames")
    for case in cases:
        for key, run in sorted(case.runs.items(), key=lambda item: (item[0].split()[1], item[0])):
            method, seed = key.split()
            table.add_row(case.name, seed, method, f"{run['minutes']:.1f}", *(f"{run[n]:.3f}" for n in SCORES))
    console = Console()
    Console(width=max(console.width, WIDTH)).print(table)
    for case in cases:
        seeds = {key.split()[1] for key in case.runs}
        both = sorted(s for s in seeds if f"{OURS} {s}" in case.runs and f"{PEER} {s}" in case.runs)
        for name, theirs in (("", "iou"), (" as its examples have it, at 0.5,", "at 0.5")):
            gaps = [case.runs[f"{OURS} {s}"]["iou"] - case.runs[f"{PEER} {s}"][theirs] for s in both]
            if gaps:
                print(f"{case.name}: IoU above keras-unet's{name} by {', '.join(f'{gap:.3f}' for gap in gaps)}")


def main() -> None:
    """Measure what is asked for and not measured yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--banepa", type=Path, metavar="FOLDER")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--only", choices=[*STAGES, PEER], help="one of them")
    for name in ("settings", "data", "results"):
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer is not None:
        print(json.dumps(train_peer(options)))
        return
    cases = []
    if options.banepa:
        settings = ROOT / "bench/banepa.json"
        cases.append(Case("banepa", options.out, settings, options.banepa, options.minutes))
    if options.sample:
        cases.append(Case("sample", options.out, ROOT / "settings.dev.json", None, options.minutes))
    for case in cases:
        case.prepare()
        for seed in options.seeds:
            for method in [options.only] if options.only else [OURS, PEER, *list(STAGES)[1:]]:
                case.measure(method, seed)
    show(cases)


if __name__ == "__main__":
    main()
