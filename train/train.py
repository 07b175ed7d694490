"""Train the network on frames and masks, and keep its best epoch.

Reads  data/train_frames, data/train_masks, data/val_frames, data/val_masks
Writes MODEL (.h5 or .keras; default: results/results_4.h5) and results/history.csv, one line for each epoch
       results/logs for TensorBoard, when training_args.tensorboard is true
       beside the model MODEL.md, a model card, and MODEL.stac.json, a STAC item with the machine-learning extension
       with --export onnx|savedmodel  MODEL.onnx, or the folder MODEL.savedmodel (docs/outputs.md)
The model holds the scaling of pixels as its first layers, and the threshold and temperature that were best on the
validation frames. Before it starts, train checks the data as doctor does, measures a few steps and says how long it
will take; after the first epoch it checks the network, and stops where no further epoch could help.
--resume continues a training that was stopped; without it, training starts over. What is missing beside a finished
model is made without training.
"""

import argparse
import sys
from pathlib import Path

from roofkit.options import answer, positive, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__)
    made.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="the .h5 or .keras file to write")
    made.add_argument("--resume", action="store_true", help="continue a training that was stopped")
    made.add_argument(
        "--export", action="append", default=[], choices=("onnx", "savedmodel"), help="write the network so, too"
    )
    made.add_argument("--epochs", type=positive, metavar="N", help="at most so many epochs")
    return made


if __name__ == "__main__":
    answer(parser())

import collections
import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from roofkit.artifacts import Outputs, committed, fingerprint
from roofkit.cli import Run, leave, run_stage, say
from roofkit.errors import BadInputError, MismatchError, MissingInputError, OutputError, SettingsError
from roofkit.ledger import input_digest
from roofkit.memory import reuse_memory
from roofkit.model_card import About, card_keys, write_cards
from roofkit.pairs import check_pairs, named_pairs
from roofkit.raster import band_names, closed_digest, open_raster
from roofkit.settings import LoadDatasetArgs, TrainingArgs
from unet.backend import start_keras
from unet.plan import TrainSettings, duration, epochs_that_fit
from unet.resume import Resume
from unet.weights import adapt

HISTORY = (
    "epoch", "loss", "iou", "f1", "val_loss", "val_iou", "val_f1", "val_ece", "threshold", "temperature",
    "learning_rate", "seconds",
)  # fmt: skip
Row = dict[str, float]
BLANK = 0.01  # a validation IoU below this is no map
DAY = 86400.0  # seconds; a training that is longer than that gets advice


@dataclass(frozen=True)
class TrainReport:
    """What train did."""

    wrote: str
    epochs: int
    best_epoch: int
    val_iou: float
    val_f1: float
    val_ece: float
    threshold: float
    train_frames: int
    val_frames: int
    parameters: int
    seconds_per_epoch: float
    kept: bool
    exports: list[str] = field(default_factory=list)


def made_from(settings: TrainSettings) -> dict[str, Any]:
    """What a resumed training must share with the one that was stopped: all but how long it takes and what it shows."""
    free = {"verbose", "results_folder", "early_stopping", "tensorboard", "doctor"}
    if settings.training.schedule != "cosine" or settings.training.minutes:
        free.add("epochs")
    blocks = {
        "load_dataset_args": settings.data.model_dump(mode="json"),
        "model_args": settings.model.model_dump(mode="json"),
        "output_args": settings.output.model_dump(mode="json"),
        "training_args": settings.training.model_dump(mode="json", exclude=free),
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


def replanned(rows: Sequence[Row], settings: TrainingArgs, planned: int) -> int:
    """Epochs to plan for after these: with a time limit, as many as fit at the pace of the last three."""
    if settings.minutes is None or not rows:
        return planned
    pace = sum(row["seconds"] for row in rows[-3:]) / len(rows[-3:])
    left = settings.minutes * 60 - sum(row["seconds"] for row in rows)
    return max(len(rows), min(settings.epochs, len(rows) + int(left / max(pace, 1e-9))))


def is_over(rows: Sequence[Row], settings: TrainingArgs, epochs: int) -> bool:
    """Whether training ends here: `epochs` done, or patience at its end."""
    if not rows:
        return False
    stale = settings.early_stopping is not None and waited(rows) >= settings.early_stopping
    return stale or rows[-1]["epoch"] >= epochs


def forecast(epoch_seconds: float, epochs: int, data: LoadDatasetArgs) -> str:
    """What the user reads before the first epoch: how long it takes, and how to make days shorter."""
    total = epoch_seconds * epochs
    line = f"about {duration(epoch_seconds)} an epoch on this machine, {duration(total)} for {epochs} epochs"
    if total < DAY:
        return line
    half = [side // 2 // 32 * 32 or side for side in data.crop_size or data.target_size]
    return (
        f"{line}. Shorter: load_dataset_args.crop_size {half} (a quarter of the time), fewer model_args.filters "
        "(half of them: a third), or training_args.minutes, which plans as many epochs as fit."
    )


def history_text(rows: Sequence[Row]) -> str:
    """The history as CSV."""
    lines = [",".join(HISTORY)]
    for row in rows:
        lines.append(",".join(f"{int(row[k])}" if k == "epoch" else f"{row[k]:.6g}" for k in HISTORY))
    return "\n".join(lines) + "\n"


def progress_line(rows: Sequence[Row], epochs: int) -> str:
    """What the user reads after an epoch."""
    row = rows[-1]
    left = duration((epochs - row["epoch"]) * sum(r["seconds"] for r in rows) / len(rows))
    return (
        f"epoch {int(row['epoch'])}/{epochs}: loss {row['loss']:.4f}, IoU {row['iou']:.3f}, F1 {row['f1']:.3f}; "
        f"validation loss {row['val_loss']:.4f}, IoU {row['val_iou']:.3f} at {row['threshold']:.2f}; "
        f"{row['seconds']:.1f} s, at most {left} left"
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


def num_devices() -> int:
    """GPUs that share the work; without any, logical processors, of which there is one unless somebody made more."""
    keras = start_keras()
    if keras.backend.backend() == "jax":
        return len(keras.distribution.list_devices())
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return len(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))
    return 1


def spread(batch_size: int) -> contextlib.AbstractContextManager[Any]:
    """A context in which a network is made so that each batch is shared out over all GPUs of this machine.

    By `tf.distribute` or `keras.distribution`, as the backend has it; it does nothing where there is one device.

    Raises:
        SettingsError: The batch cannot be shared out evenly.
    """
    count = num_devices()
    if count < 2:
        return contextlib.nullcontext()
    if batch_size % count:
        expected = f"a multiple of {count}, the number of GPUs"
        raise SettingsError("load_dataset_args.batch_size", str(batch_size), expected, "Change it.")
    say(f"each batch is shared out over {count} devices")
    keras = start_keras()
    if keras.backend.backend() == "jax":
        keras.distribution.set_distribution(keras.distribution.DataParallel())  # for all that follows
        return contextlib.nullcontext()
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices]).scope()  # type: ignore[no-any-return]


class Training:
    """One training run: the data, and the networks that learn from it."""

    def __init__(self, settings: TrainSettings, run: Run) -> None:
        self.settings, self.paths, self.quiet = settings, run.paths, run.quiet
        self.sample, self.evaluation = run.settings.doctor_args.sample, run.settings.evaluate_args
        paths = run.paths
        self.train_pairs = named_pairs(paths.train_frames, paths.train_masks, settings.extension)
        self.val_pairs = named_pairs(paths.val_frames, paths.val_masks, settings.extension)

    def made_from(self) -> dict[str, Any]:
        """Settings and hashes that decide the result."""
        pairs = [
            [kind, pair.frame.name, closed_digest(pair.frame), pair.mask.name, input_digest(pair.mask)]
            for kind, pairs in (("train", self.train_pairs), ("val", self.val_pairs))
            for pair in pairs
        ]
        return {**made_from(self.settings), "frames and masks": fingerprint(pairs)}

    def prepare(self, start: "Start | None") -> None:
        """Read the frames and build the networks.

        Raises:
            BadInputError: There is nothing to learn from, or a file is broken.
            SettingsError: Settings do not fit the frames, or each other.
            MismatchError: The weights to start from are of another network.
        """
        reuse_memory()
        start_keras().utils.set_random_seed(self.settings.training.seed)
        from unet.learner import Learner

        self._load()
        if self.settings.training.doctor:
            self._check_data()
        preparation = self._preparation()
        self.learner = Learner(self.settings, preparation, spread(self.settings.data.batch_size))
        self._start(start)

    def _load(self) -> None:
        from unet.datagen import Augmentation, KerasFrames, RoofFrames

        frames = RoofFrames if self.settings.data.custom else KerasFrames
        training, data, classes = self.settings.training, self.settings.data, self.settings.model.num_classes
        options = {"num_classes": classes, "devices": num_devices()}
        self.train = frames(self.train_pairs, data, seed=training.seed, steps=training.steps_per_epoch, **options)
        self.val = frames(self.val_pairs, data, steps=training.validation_steps, **options)
        self.statistics = self.train.measure()
        check_statistics(self.statistics, self.paths.train_frames, self.paths.train_masks)
        check_statistics(self.val.measure(), self.paths.val_frames, self.paths.val_masks)
        self.train.augmentation = Augmentation(data, self.statistics)

    def _check_data(self) -> None:
        """Warn of what doctor finds in a second or two.

        Raises:
            RoofError: Every mask would be blank.
        """
        from unet.checks import quick_checks

        warnings = quick_checks(
            self.train, self.val, statistics=self.statistics, training=self.settings.training,
            model=self.settings.model, sample=self.sample,
        )  # fmt: skip
        for finding in warnings:
            say(f"warning: {finding.line()}")

    def check_network(self, steps_left: int) -> None:
        """Warn of what doctor finds in a network after its first epoch.

        Raises:
            RoofError: No further epoch can mend it.
        """
        from unet.model_checks import model_checks

        momentum = self.settings.model.bachnorm_momentum
        findings = model_checks(self.learner.network, self.train.batch(0), momentum=momentum, steps_left=steps_left)
        for finding in findings:
            if finding.status == "fail":
                raise finding.error()
            say(f"warning: {finding.line()}")

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

    def _start(self, start: "Start | None") -> None:
        """Set the first weights: those of a trained model, or fresh ones with a last bias that suits the roofs."""
        weights = self.learner.network.get_weights()
        shapes = [array.shape for array in weights]
        if start:
            try:
                weights = adapt(start.weights, shapes, start.band_names, self.band_names)
            except ValueError:
                found = f"{len(start.weights)} arrays of weights, {sum(map(np.size, start.weights)):,} numbers"
                expected = f"{len(shapes)} arrays, {self.learner.network.count_params():,} numbers, of the same shapes"
                advice = "Make model_args those of that model, or set training_args.pretrained: false."
                raise MismatchError(self.paths.checkpoint, found, expected, advice) from None
        else:
            share = self.statistics.roof_pixels / self.statistics.valid_pixels
            bias = base_rate_bias(share, self.settings.model.num_classes, self.settings.output.activation)
            weights[-1] = np.array(bias, np.float32)
        self.learner.start_from(weights)

    def plan(self) -> int:
        """Measure a few steps, say how long training takes, and return how many epochs to plan for."""
        settings = self.settings.training
        step, check = self.learner.measure(self.train, self.val)
        seconds = step * len(self.train) + check * len(self.val)
        epochs = epochs_that_fit(settings.minutes, seconds, settings.epochs)
        if settings.verbose and not self.quiet:
            say(forecast(seconds, epochs, self.settings.data))
        return epochs

    def run_epoch(self, epoch: int, epochs: int) -> Row:
        """Learn from the training frames once, then measure on the validation frames.

        Raises:
            RoofError: A frame could not be read, or the loss is no longer a number.
        """
        started = time.monotonic()
        live = self.settings.training.verbose == 1 and not self.quiet and sys.stderr.isatty()
        logs = self.learner.learn(self.train, epoch, epochs=epochs, live=live)
        if not math.isfinite(logs["loss"]):
            rate = f"{self.settings.training.learning_rate:g}, and the loss of epoch {epoch} is {logs['loss']}"
            raise SettingsError("training_args.learning_rate", rate, "a rate at which it stays a number", "Lower it.")
        values = {**logs, **self.learner.validate(self.val), "epoch": epoch, "learning_rate": self.learner.base_rate}
        values["seconds"] = time.monotonic() - started
        return {key: float(values[key]) for key in HISTORY}

    def save(self, path: Path, row: Row) -> None:
        """Save the network as it is, in float32, with what prediction needs to know."""
        facts = {
            "threshold": row["threshold"],
            "temperature": row["temperature"],
            "frame_size": _common_size([pair.frame for pair in self.train_pairs]),
            "band_names": self.band_names,
            "data_format": self.settings.data.data_format,
            "num_classes": self.settings.model.num_classes,
            "val_iou": row["val_iou"],
        }
        self.learner.save(path, facts)

    def about(self, path: Path, rows: Sequence[Row]) -> About:
        """What there is to say of the finished model."""
        from unet.describe import describe

        frames = self.train_pairs, self.val_pairs
        return describe(path, self.settings, frames, self.evaluation, calibration_error=best_row(rows)["val_ece"])


@dataclass(frozen=True)
class Start:
    """A trained model to start from."""

    weights: list[Any]
    band_names: tuple[str, ...]


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
    with Outputs(model_path.parent, "train", name=name, overwrite=run.overwrite, keep_edits=run.keep_edits) as outputs:
        training = Training(settings, run)
        start, start_key = _pretrained(settings.training, run.paths.checkpoint, outputs)
        decisive = {**training.made_from(), "the model to start from": start_key}
        ending = [settings.training.epochs, settings.training.early_stopping]
        key = fingerprint("train", decisive, ending)
        _check_history(run.paths.history, run.overwrite)
        if not outputs.is_finished(name, key):
            check_pairs([*training.train_pairs, *training.val_pairs])  # before `plan`, where a dry run ends
        cards = card_keys(model_path, key, run)
        todo = outputs.plan({name: key, **cards})
        missing = {card: own for card, own in cards.items() if card in todo}
        if name not in todo:
            rows, counts = outputs.facts(name)["rows"], outputs.facts(name)["counts"]
            say(f"{model_path}: kept, finished with these frames and settings")
            _write_history(run.paths.history, rows)
            write_cards(model_path, lambda: training.about(model_path, rows), run, outputs, missing)
            outputs.finish()
            return _report(model_path, rows, counts, kept=True)
        training.prepare(start)
        counts = {
            "train_frames": len(training.train_pairs),
            "val_frames": len(training.val_pairs),
            "parameters": int(training.learner.network.count_params()),
        }

        def save(rows: Sequence[Row]) -> None:
            """Save the best epoch so far, and note what was saved: it can be used, and started from, if this stops."""
            training.save(model_path, rows[-1])
            so_far = fingerprint("train, not finished", key)
            outputs.record(name, so_far, rows=list(rows), counts=counts, start=start_key)

        rows = _learn(training, model_path, Resume(model_path, decisive), save, resume=resume)
        outputs.record(name, key, rows=rows, counts=counts, start=start_key)
        write_cards(model_path, lambda: training.about(model_path, rows), run, outputs, missing)
        outputs.finish()
    _warn_if_blank(rows)
    return _report(model_path, rows, counts, kept=False)


def _pretrained(settings: TrainingArgs, checkpoint: Path, outputs: Outputs) -> tuple[Start | None, str | None]:
    """The model to start from, and a hash of their file; none unless `training_args.pretrained`."""
    if not settings.pretrained:
        return None, None
    from unet.model_file import load_model

    sha = input_digest(checkpoint) if checkpoint.is_file() else ""
    loaded = load_model(checkpoint)
    start = Start(loaded.model.get_weights(), loaded.band_names)
    if outputs.folder == checkpoint.parent and outputs.has(checkpoint.name):
        facts = outputs.facts(checkpoint.name)
        if facts["sha256"] == sha and facts.get("start"):  # what an earlier run made of that start is not a new start
            return start, facts["start"]
    return start, sha


def _learn(
    training: Training, model_path: Path, state: Resume, save: Callable[[Sequence[Row]], None], *, resume: bool
) -> list[Row]:
    """Epoch after epoch until it is over; the history. `save` is called after each that is the best so far."""
    settings, learner = training.settings.training, training.learner
    epochs = training.plan()
    rows: list[Row] = []
    if resume:
        rows, planned = state.load(learner.restore)
        epochs = replanned(rows, settings, planned or epochs)
    if rows and not model_path.is_file():
        advice = "Put it back, or train without --resume."
        raise MissingInputError(model_path, "no such file", "the best epoch of the stopped training", advice)
    if not resume and state.path.exists():
        say(f"{state.path.name}: left by a stopped training; starting over (--resume continues it)")
        state.remove()
    logs = _start_logs(training.paths.logs, fresh=not rows) if settings.tensorboard else None
    while not is_over(rows, settings, epochs):
        if rows and settings.schedule == "plateau":
            learner.base_rate = next_learning_rate(rows, settings.reduce_on_plateau)
        rows.append(training.run_epoch(len(rows) + 1, epochs))
        if len(rows) == 1 and settings.doctor:
            training.check_network(steps_left=len(training.train) * (epochs - 1))
        if best_row(rows) is rows[-1]:
            save(rows)
        _write_history(training.paths.history, rows)
        state.save(learner.state(), rows, epochs)
        if logs:
            _log(logs, rows[-1])
        if settings.verbose and not training.quiet:
            say(progress_line(rows, epochs))
        epochs = replanned(rows, settings, epochs)
    state.remove()
    return rows


def _start_logs(folder: Path, *, fresh: bool) -> Any:
    """A writer of TensorBoard's files; those of an earlier training go when this one starts anew.

    Raises:
        SettingsError: The backend is not TensorFlow, whose writer it is.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise SettingsError(
            "training_args.tensorboard", "true without TensorFlow", "TensorFlow, or false", "Read history.csv instead."
        ) from None
    for path in folder.glob("events.out.tfevents.*") if fresh else ():
        path.unlink()
    return tf.summary.create_file_writer(str(folder))


def _log(writer: Any, row: Row) -> None:
    """Write an epoch's values as TensorBoard's scalars (by the format itself: its package need not be there)."""
    import tensorflow as tf

    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin)
    with writer.as_default():
        for name in HISTORY[1:]:
            tf.summary.write(name, tf.constant(row[name]), step=int(row["epoch"]), metadata=metadata)
    writer.flush()


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
        val_f1=best["val_f1"], val_ece=best["val_ece"], threshold=best["threshold"], **counts,
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
    exports = list(dict.fromkeys(options.export))
    if exports:
        from unet.export import check_exports

        check_exports(exports)
    report = train_network(model_path, settings=settings, run=run, resume=options.resume)
    from unet.export import export_model

    return replace(report, exports=export_model(model_path, exports, run))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, train)


if __name__ == "__main__":
    leave(main())
