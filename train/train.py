"""Train the network on frames and masks, and keep its best epoch.

Reads  data/train_frames, data/train_masks, data/val_frames, data/val_masks
Writes MODEL (.h5 or .keras; default: results/results_4.h5) and results/history.csv, one line for each epoch
The model holds the scaling of pixels as its first layers, and the threshold that was best on the validation frames.
--resume continues a training that was stopped; without it, training starts over.
"""

import argparse
import collections
import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roofkit.artifacts import Outputs, committed, digest, fingerprint
from roofkit.cli import Run, positive, raise_if_stopped, run_stage, say, stage_parser
from roofkit.errors import BadInputError, MismatchError, MissingInputError, OutputError, SettingsError
from roofkit.paths import Paths
from roofkit.raster import band_names, open_raster, raster_digest
from roofkit.settings import LoadDatasetArgs, ModelArgs, OutputArgs, TrainingArgs
from unet.backend import best_precision, start_keras
from unet.resume import Resume

HISTORY = (
    "epoch", "loss", "iou", "f1", "val_loss", "val_iou", "val_f1", "threshold", "learning_rate", "seconds",
)  # fmt: skip
Row = dict[str, float]
BLANK = 0.01  # a validation IoU below this is no map


@dataclass(frozen=True)
class TrainReport:
    """What train did."""

    wrote: str
    epochs: int
    best_epoch: int
    val_iou: float
    val_f1: float
    threshold: float
    train_frames: int
    val_frames: int
    parameters: int
    seconds_per_epoch: float
    kept: bool


@dataclass(frozen=True)
class TrainSettings:
    """The blocks that decide the result."""

    data: LoadDatasetArgs
    model: ModelArgs
    output: OutputArgs
    training: TrainingArgs
    extension: str = "tif"

    def made_from(self) -> dict[str, Any]:
        """What a resumed training must share with the one that was stopped: all but how long it takes."""
        free = {"epochs", "verbose", "results_folder", "early_stopping"}
        blocks = {
            "load_dataset_args": self.data.model_dump(mode="json"),
            "model_args": self.model.model_dump(mode="json"),
            "output_args": self.output.model_dump(mode="json"),
            "training_args": self.training.model_dump(mode="json", exclude=free),
        }
        return {f"{block}.{key}": value for block, values in blocks.items() for key, value in values.items()}


def base_rate_bias(share: float, num_classes: int, activation: str) -> list[float]:
    """Biases of the last layer with which an untrained network answers `share` everywhere (Lin et al. 2017, RetinaNet).

    Rare roofs then need no epochs of learning that most pixels are background.
    """
    share = min(max(share, 1e-3), 1.0 - 1e-3)
    logit = math.log(share / (1.0 - share))
    if num_classes == 1:
        return [logit]
    return [-logit, logit] if activation == "sigmoid" else [0.0, logit]


def best_row(rows: Sequence[Row]) -> Row:
    """The epoch of highest validation IoU; among equals, the one of lowest validation loss, then the first."""
    return max(rows, key=lambda row: (row["val_iou"], -row["val_loss"], -row["epoch"]))


def waited(rows: Sequence[Row]) -> int:
    """Epochs since the best one."""
    return int(rows[-1]["epoch"] - best_row(rows)["epoch"])


def next_learning_rate(rows: Sequence[Row], patience: int | None) -> float:
    """The learning rate for the epoch after these: half, after `patience` epochs without a better one."""
    rate = rows[-1]["learning_rate"]
    same = [row for row in rows if row["learning_rate"] == rate]
    stale = min(waited(rows), len(same))
    return rate / 2 if patience and stale >= patience else rate


def is_over(rows: Sequence[Row], settings: TrainingArgs) -> bool:
    """Whether training ends here."""
    if not rows:
        return False
    stale = settings.early_stopping is not None and waited(rows) >= settings.early_stopping
    return stale or rows[-1]["epoch"] >= settings.epochs


def history_text(rows: Sequence[Row]) -> str:
    """The history as CSV."""
    lines = [",".join(HISTORY)]
    for row in rows:
        lines.append(",".join(f"{int(row[k])}" if k == "epoch" else f"{row[k]:.6g}" for k in HISTORY))
    return "\n".join(lines) + "\n"


def progress_line(rows: Sequence[Row], epochs: int) -> str:
    """What the user reads after an epoch."""
    row = rows[-1]
    left = (epochs - row["epoch"]) * sum(r["seconds"] for r in rows) / len(rows)
    return (
        f"epoch {int(row['epoch'])}/{epochs}: loss {row['loss']:.4f}, IoU {row['iou']:.3f}, F1 {row['f1']:.3f}; "
        f"validation loss {row['val_loss']:.4f}, IoU {row['val_iou']:.3f} at {row['threshold']:.2f}; "
        f"{row['seconds']:.1f} s, at most {left:.0f} s left"
    )


def positive_deviations(deviation: Sequence[float], names: Sequence[str]) -> list[float]:
    """Deviations to divide by: 1 for a band that is the same everywhere, and a line about it."""
    for name, value in zip(names, deviation):
        if not value > 0.0:
            say(f"warning: {name} has one value in all training frames; it tells the network nothing")
    return [value if value > 0.0 else 1.0 for value in deviation]


def check_statistics(statistics: Any, frames: Path, masks: Path) -> None:
    """Raise where there is nothing to learn from.

    Raises:
        BadInputError: No valid pixel in frames and masks, or no roof.
    """
    if not statistics.valid_pixels:
        raise BadInputError(frames, "no valid pixel in any frame", "some", "Check the nodata value, or chip again.")
    if not statistics.roof_pixels:
        advice = "Check that the polygons cover these frames (mask stage), or split with another seed."
        raise BadInputError(masks, "no roof pixel in any mask", "some roofs", advice)


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Layers made inside compute with that precision."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class Training:
    """One training run: the data, the network that learns and the one that is saved."""

    def __init__(self, settings: TrainSettings, paths: Paths, *, quiet: bool) -> None:
        from unet.frames import find_pairs

        self.settings, self.paths, self.quiet = settings, paths, quiet
        self.train_pairs = find_pairs(paths.train_frames, paths.train_masks, settings.extension)
        self.val_pairs = find_pairs(paths.val_frames, paths.val_masks, settings.extension)

    def made_from(self) -> dict[str, Any]:
        """Settings and hashes that decide the result."""
        pairs = [
            [kind, pair.frame.name, raster_digest(pair.frame), pair.mask.name, digest(pair.mask)]
            for kind, pairs in (("train", self.train_pairs), ("val", self.val_pairs))
            for pair in pairs
        ]
        return {**self.settings.made_from(), "frames and masks": fingerprint(pairs)}

    def prepare(self, start_weights: list[Any] | None) -> None:
        """Read the frames and build both networks.

        Raises:
            BadInputError: There is nothing to learn from, or a file is broken.
            SettingsError: Settings do not fit the frames, or each other.
            MismatchError: The weights to start from are of another network.
        """
        start_keras().utils.set_random_seed(self.settings.training.seed)
        self._load()
        model, output = self.settings.model, self.settings.output
        preparation = self._preparation()
        from unet.network import build_unet

        with precision("float32"):
            self.shipped = build_unet(model, output, self.settings.data.data_format, preparation)
        chosen = self.settings.training.precision
        with precision(best_precision() if chosen == "auto" else chosen):
            self.network = build_unet(_channels_last(model, self.settings.data), output, preparation=preparation)
            self._compile()
        self._start(start_weights)

    def _load(self) -> None:
        from unet.datagen import Augmentation, KerasFrames, RoofFrames

        frames = RoofFrames if self.settings.data.custom else KerasFrames
        training, data, classes = self.settings.training, self.settings.data, self.settings.model.num_classes
        self.train = frames(
            self.train_pairs, data, num_classes=classes, seed=training.seed, steps=training.steps_per_epoch
        )
        self.val = frames(self.val_pairs, data, num_classes=classes, steps=training.validation_steps)
        self.statistics = self.train.measure()
        check_statistics(self.statistics, self.paths.train_frames, self.paths.train_masks)
        check_statistics(self.val.measure(), self.paths.val_frames, self.paths.val_masks)
        self.train.augmentation = Augmentation(data, self.statistics)

    def _preparation(self) -> Any:
        from unet.network import Preparation

        with open_raster(self.train_pairs[0].frame) as src:
            self.band_names = band_names(src)
        factor = self.settings.data.rescale or 1.0
        deviation = positive_deviations(self.statistics.deviation, self.band_names)
        return Preparation(
            self.settings.data.rescale,
            [value * factor for value in self.statistics.mean],
            [value * abs(factor) for value in deviation],
        )

    def _compile(self) -> None:
        import keras

        from unet.losses import RoofLoss
        from unet.metrics import RoofF1, RoofIoU, ThresholdCounts

        self.counts = ThresholdCounts()
        self.network.compile(
            optimizer=keras.optimizers.Adam(self.settings.training.learning_rate),
            loss=RoofLoss(self.settings.training.loss),
            weighted_metrics=[RoofIoU(), RoofF1(), self.counts],
            jit_compile=keras.backend.backend() == "jax",
        )

    def _start(self, weights: list[Any] | None) -> None:
        """Set the first weights: those of a trained model, or fresh ones with a last bias that suits the roofs."""
        if weights is None:
            weights = self.network.get_weights()
            share = self.statistics.roof_pixels / self.statistics.valid_pixels
            bias = base_rate_bias(share, self.settings.model.num_classes, self.settings.output.activation)
            weights[-1] = np.array(bias, np.float32)
        shapes = [array.shape for array in self.network.get_weights()]
        if [array.shape for array in weights] != shapes:
            found = f"{len(weights)} arrays of weights, {sum(map(np.size, weights)):,} numbers"
            expected = f"{len(shapes)} arrays, {self.network.count_params():,} numbers, of the same shapes"
            advice = "Make model_args those of that model, or set training_args.pretrained: false."
            raise MismatchError(self.paths.checkpoint, found, expected, advice)
        self.network.set_weights(weights)

    def run_epoch(self, epoch: int) -> Row:
        """Learn from the training frames once, then measure on the validation frames.

        Raises:
            RoofError: A frame could not be read, or the loss is no longer a number.
        """
        started = time.monotonic()
        self.train.epoch = epoch - 1
        bar = 1 if self.settings.training.verbose == 1 and not self.quiet and sys.stderr.isatty() else 0
        try:
            with contextlib.redirect_stdout(sys.stderr):
                watch = [_watch_for_signals()]
                logs = self.network.fit(self.train, epochs=1, verbose=bar, shuffle=False, callbacks=watch).history
                val = self.network.evaluate(self.val, verbose=0, return_dict=True, callbacks=watch)
        except Exception:
            error = self.train.error or self.val.error  # Keras hides what the generator raised
            if error is None:
                raise
            raise error from None
        loss = float(logs["loss"][-1])
        if not math.isfinite(loss):
            rate = f"{self.settings.training.learning_rate:g}, and the loss of epoch {epoch} is {loss}"
            raise SettingsError("training_args.learning_rate", rate, "a rate at which it stays a number", "Lower it.")
        threshold, iou, f1 = self.counts.best()
        values = (epoch, loss, logs["iou"][-1], logs["f1"][-1], val["loss"], iou, f1, threshold, self.rate)
        return {key: float(value) for key, value in zip(HISTORY, (*values, time.monotonic() - started))}

    @property
    def rate(self) -> float:
        """The learning rate of the moment."""
        return float(self.network.optimizer.learning_rate.numpy())

    @rate.setter
    def rate(self, value: float) -> None:
        self.network.optimizer.learning_rate = value

    def save(self, path: Path, row: Row) -> None:
        """Save the network as it is, in float32, with what prediction needs to know."""
        from unet.model_file import save_model

        self.shipped.set_weights(self.network.get_weights())
        facts = {
            "threshold": row["threshold"],
            "frame_size": _common_size([pair.frame for pair in self.train_pairs]),
            "band_names": self.band_names,
            "data_format": self.settings.data.data_format,
            "num_classes": self.settings.model.num_classes,
            "val_iou": row["val_iou"],
        }
        save_model(self.shipped, path, facts)


def _watch_for_signals() -> Any:
    """A callback that ends training after the batch in which a signal came."""
    import keras

    def look(batch: int, logs: Any = None) -> None:
        raise_if_stopped()

    return keras.callbacks.LambdaCallback(on_train_batch_end=look, on_test_batch_end=look)


def _channels_last(model: ModelArgs, data: LoadDatasetArgs) -> ModelArgs:
    """The same network for (rows, cols, bands): what learns always has this order, whatever order is saved."""
    return model.model_copy(update={"input_shape": (*data.target_size, data.channels)})


def _common_size(frames: Sequence[Path]) -> tuple[int, int]:
    """Rows and columns of most frames."""
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    for frame in frames:
        with open_raster(frame) as src:
            sizes[(src.height, src.width)] += 1
    return sizes.most_common(1)[0][0]


def train_network(model_path: Path, *, settings: TrainSettings, run: Run, resume: bool = False) -> TrainReport:
    """Train, and keep the best epoch in `model_path`.

    Raises:
        RoofError: A child of it for each named problem with frames, masks, settings or outputs.
    """
    from unet.model_file import check_suffix

    check_suffix(model_path)
    name = model_path.name
    with Outputs(model_path.parent, "train", name=name, overwrite=run.overwrite) as outputs:
        training = Training(settings, run.paths, quiet=run.quiet)
        start, start_key = _pretrained(settings.training, run.paths.checkpoint, outputs)
        made_from = {**training.made_from(), "the model to start from": start_key}
        ending = [settings.training.epochs, settings.training.early_stopping]
        key = fingerprint("train", made_from, ending)
        _check_history(run.paths.history, run.overwrite)
        if not outputs.plan({name: key}):
            rows = outputs.facts(name)["rows"]
            say(f"{model_path}: kept, finished with these frames and settings")
            _write_history(run.paths.history, rows)
            return _report(model_path, rows, outputs.facts(name)["counts"], kept=True)
        training.prepare(start)
        rows = _learn(training, model_path, Resume(model_path, made_from), resume=resume)
        counts = {
            "train_frames": len(training.train_pairs),
            "val_frames": len(training.val_pairs),
            "parameters": int(training.network.count_params()),
        }
        outputs.record(name, key, rows=rows, counts=counts, start=start_key)
        outputs.finish()
    _warn_if_blank(rows)
    return _report(model_path, rows, counts, kept=False)


def _pretrained(settings: TrainingArgs, checkpoint: Path, outputs: Outputs) -> tuple[list[Any] | None, str | None]:
    """The weights to start from, and a hash of their file; none unless `training_args.pretrained`."""
    if not settings.pretrained:
        return None, None
    from unet.model_file import load_model

    weights = load_model(checkpoint).model.get_weights()
    sha = digest(checkpoint)
    if outputs.folder == checkpoint.parent and outputs.has(checkpoint.name):
        facts = outputs.facts(checkpoint.name)
        if facts["sha256"] == sha and facts.get("start"):  # what an earlier run made of that start is not a new start
            return weights, facts["start"]
    return weights, sha


def _learn(training: Training, model_path: Path, state: Resume, *, resume: bool) -> list[Row]:
    """Epoch after epoch until it is over; the history."""
    settings = training.settings.training
    rows: list[Row] = state.load(training.network) if resume else []
    if rows and not model_path.is_file():
        advice = "Put it back, or train without --resume."
        raise MissingInputError(model_path, "no such file", "the best epoch of the stopped training", advice)
    if not resume and state.path.exists():
        say(f"{state.path.name}: left by a stopped training; starting over (--resume continues it)")
        state.remove()
    while not is_over(rows, settings):
        rows.append(training.run_epoch(len(rows) + 1))
        if best_row(rows) is rows[-1]:
            training.save(model_path, rows[-1])
        training.rate = next_learning_rate(rows, settings.reduce_on_plateau)
        _write_history(training.paths.history, rows)
        state.save(training.network, rows)
        if settings.verbose and not training.quiet:
            say(progress_line(rows, settings.epochs))
    state.remove()
    return rows


def _check_history(path: Path, overwrite: bool) -> None:
    """Raise rather than write over a file that is not a history."""
    if path.is_file() and not overwrite:
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.readline().strip() != ",".join(HISTORY):
                raise OutputError(
                    path, "a file that this stage did not write", "a history, or no file", "Move it away."
                )


def _write_history(path: Path, rows: Sequence[Row]) -> None:
    with committed(path) as part:
        part.write_text(history_text(rows), encoding="utf-8")


def _warn_if_blank(rows: Sequence[Row]) -> None:
    best = best_row(rows)
    if best["val_iou"] < BLANK:
        say(
            f"warning: the best validation IoU is {best['val_iou']:.4f}: masks will be blank or meaningless. "
            "Run doctor/doctor.py to see why; check the roofs in the masks, train longer, or use the loss bce_dice."
        )


def _report(path: Path, rows: Sequence[Row], counts: Mapping[str, int], *, kept: bool) -> TrainReport:
    best = best_row(rows)
    return TrainReport(
        wrote=str(path), epochs=len(rows), best_epoch=int(best["epoch"]), val_iou=best["val_iou"],
        val_f1=best["val_f1"], threshold=best["threshold"], **counts,
        seconds_per_epoch=sum(row["seconds"] for row in rows) / len(rows), kept=kept,
    )  # fmt: skip


def train(options: argparse.Namespace, run: Run) -> TrainReport:
    """The stage, with what the command line says."""
    training = run.block("training_args", {"epochs": options.epochs})
    blocks = run.settings
    settings = TrainSettings(
        blocks.load_dataset_args, blocks.model_args, blocks.output_args, training, blocks.extension_args.extension
    )
    model_path = options.model.absolute() if options.model else run.paths.checkpoint
    return train_network(model_path, settings=settings, run=run, resume=options.resume)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    parser = stage_parser(__doc__)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="the .h5 or .keras file to write")
    parser.add_argument("--resume", action="store_true", help="continue a training that was stopped")
    parser.add_argument("--epochs", type=positive, metavar="N", help="at most so many epochs")
    return run_stage(parser, argv, train)


if __name__ == "__main__":
    sys.exit(main())
