"""The network while it learns: its optimizer, its schedule, the average of its weights, and what of it is saved."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from roofkit.stopping import raise_if_stopped
from unet.backend import best_precision
from unet.datagen import RoofFrames
from unet.forms import fast
from unet.losses import RoofLoss
from unet.metrics import RoofF1, RoofIoU, ThresholdCounts, cooler
from unet.model_file import save_model
from unet.network import Preparation, build_unet
from unet.plan import TrainSettings, duration, rate_factor
from unet.weights import WeightAverage, Weights, cooled

PROBE = 3  # steps that are timed, after one that compiles and one that is the start of an epoch
AVERAGED = 4  # steps between two looks at the weights for their average
Logs = Mapping[str, float]


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Layers made inside compute with that precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class Learner:
    """Three networks with the same weights: one learns, one is validated (with the average of weights), one is saved.

    Args:
        settings: The blocks that decide the result.
        preparation: How pixels are scaled.
        scope: A context in which the network that learns is made; of `tf.distribute`, to use several GPUs.
    """

    def __init__(
        self, settings: TrainSettings, preparation: Preparation, scope: contextlib.AbstractContextManager[Any]
    ) -> None:
        self.settings = settings
        self.average = WeightAverage(settings.training.ema)
        self.base_rate = settings.training.learning_rate
        options: dict[str, Any] = {"output_args": settings.output, "preparation": preparation}
        chosen = settings.training.precision
        self.precision = best_precision() if chosen == "auto" else chosen
        with precision("float32"):
            self.shipped = build_unet(settings.model, data_format=settings.data.data_format, **options)
        with precision(self.precision):
            self.judge = fast(build_unet(settings.frame_model, **options), learning=False)
            with scope:
                self.network = fast(build_unet(settings.crop_model, **options), learning=True)
                self._compile()
        self.counts = ThresholdCounts()
        self.judge.compile(loss=self._loss(), weighted_metrics=[self.counts], jit_compile=_jit())

    def _compile(self) -> None:
        training = self.settings.training
        optimizer = keras.optimizers.AdamW(
            training.learning_rate, weight_decay=training.weight_decay, global_clipnorm=training.clip_norm
        )
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self.network.compile(
            optimizer=optimizer, loss=self._loss(), weighted_metrics=[RoofIoU(), RoofF1()], jit_compile=_jit()
        )
        self.network.optimizer.build(self.network.trainable_variables)

    def _loss(self) -> RoofLoss:
        training = self.settings.training
        return RoofLoss(
            training.loss,
            label_smoothing=training.label_smoothing,
            focal_gamma=training.focal_gamma,
            tversky_alpha=training.tversky_alpha,
        )

    @property
    def weights(self) -> Weights:
        """What is validated and saved: the average, where there is one."""
        return self.average.weights or self.network.get_weights()

    def learn(self, frames: RoofFrames, epoch: int, *, epochs: int, live: bool) -> Logs:
        """Learn from the frames for one epoch (from 1) of `epochs`; loss, iou and f1 of it.

        Raises:
            RoofError: A frame could not be read.
        """
        frames.epoch = epoch - 1
        watch = _Watch(self, epoch, epochs, len(frames), live=live)
        with contextlib.redirect_stdout(sys.stderr):
            logs = _unhidden(frames, lambda: self.network.fit(frames, verbose=0, shuffle=False, callbacks=[watch]))
        return {key: float(values[-1]) for key, values in logs.history.items()}

    def validate(self, frames: RoofFrames) -> dict[str, float]:
        """val_loss, val_iou, val_f1, val_ece, threshold and temperature on the frames.

        IoU and F1 are at the threshold where IoU is highest; that threshold, and the calibration error (ECE), are of
        probabilities after the temperature, as the saved model gives them.

        Raises:
            RoofError: A frame could not be read.
        """
        self.judge.set_weights(self.weights)
        watch = [keras.callbacks.LambdaCallback(on_test_batch_end=lambda batch, logs: raise_if_stopped())]
        logs = _unhidden(frames, lambda: self.judge.evaluate(frames, verbose=0, return_dict=True, callbacks=watch))
        threshold, iou, f1 = self.counts.best()
        temperature = self.counts.temperature()
        return {
            "val_loss": float(logs["loss"]),
            "val_iou": iou,
            "val_f1": f1,
            "val_ece": self.counts.calibration_error(temperature),
            "threshold": cooler(threshold, temperature),
            "temperature": temperature,
        }

    def save(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Save the network as it was validated, in float32 and calibrated by the `temperature` of `facts`."""
        self.shipped.set_weights(cooled(self.weights, facts["temperature"]))
        save_model(self.shipped, path, facts)

    def start_from(self, weights: Weights) -> None:
        """Set the weights of the network that learns."""
        self.network.set_weights(weights)

    def state(self) -> Weights:
        """All that a resumed training needs: weights, random states, optimizer, average."""
        arrays = [np.array(variable.numpy()) for variable in self._variables()]
        return [*arrays, np.array(self.average.steps), *map(np.array, self.average.weights)]

    def restore(self, arrays: Weights) -> None:
        """Go back to a `state`.

        Raises:
            ValueError: It is of another network.
        """
        variables = self._variables()
        own, rest = arrays[: len(variables)], arrays[len(variables) :]
        if [tuple(v.shape) for v in variables] != [a.shape for a in own] or not rest:
            raise ValueError("the state of another network")
        for variable, array in zip(variables, own):
            variable.assign(array)
        self.average = WeightAverage(self.settings.training.ema, int(rest[0]), [np.array(a) for a in rest[1:]])

    def _variables(self) -> list[Any]:
        return [*self.network.variables, *self.network.optimizer.variables]

    def measure(self, train: RoofFrames, val: RoofFrames) -> tuple[float, float]:
        """Seconds of a training step and of a validation step on this machine; nothing is learnt from it."""
        before, training = self.state(), train.steps
        train.steps = 1
        self.learn(train, 1, epochs=1, live=False)  # compiles
        start = self._timed(lambda: self.learn(train, 1, epochs=1, live=False))
        train.steps = 1 + PROBE
        many = self._timed(lambda: self.learn(train, 1, epochs=1, live=False))
        step = max((many - start) / PROBE, many / train.steps / 4)  # an epoch has a start that few steps make much of
        train.steps, all_steps = training, val.steps
        val.steps = 1
        self.validate(val)
        check = self._timed(lambda: self.validate(val))
        val.steps = all_steps
        self.restore(before)
        return step, check

    def _timed(self, work: Any) -> float:
        started = time.monotonic()
        work()
        return time.monotonic() - started


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the learning rate before each step; after it, averages weights, shows a live line, and heeds signals."""

    def __init__(self, learner: Learner, epoch: int, epochs: int, steps: int, *, live: bool) -> None:
        super().__init__()
        self.learner, self.live = learner, live
        self.epoch, self.epochs, self.steps = epoch, epochs, steps
        self.started = time.monotonic()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._sync()
        factor = rate_factor(
            (self.epoch - 1) * self.steps + batch, self.epochs * self.steps, self.learner.settings.training
        )
        self.learner.network.optimizer.learning_rate = self.learner.base_rate * factor

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        raise_if_stopped()
        rest = (batch + 1) % AVERAGED
        if self.learner.average.decay and (rest == 0 or batch + 1 == self.steps):
            self._sync()
            self.learner.average.add(self.learner.network.get_weights(), rest or AVERAGED)
        if self.live:
            self._show(batch + 1, logs or {})

    def _sync(self) -> None:
        """Have the network's variables hold what they are: between steps, the JAX backend keeps them elsewhere."""
        if keras.backend.backend() == "jax":
            self.learner.network.jax_state_sync()

    def on_train_end(self, logs: Any = None) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")

    def _show(self, done: int, logs: Logs) -> None:
        all_done = (self.epoch - 1) * self.steps + done
        left = (time.monotonic() - self.started) / done * (self.epochs * self.steps - all_done)
        values = ", ".join(f"{name} {logs.get(key, math.nan):.3f}" for key, name in _SHOWN)
        line = f"epoch {self.epoch}/{self.epochs}, step {done}/{self.steps}: {values}; {duration(left)} left"
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()


_SHOWN = (("loss", "loss"), ("iou", "IoU"), ("f1", "F1"))


def _unhidden(frames: RoofFrames, work: Any) -> Any:
    """What `work` returns; where the frames raised an error, that error instead of the one Keras makes of it."""
    try:
        return work()
    except BaseException as error:
        frames.on_epoch_end()  # Keras tells them only where all is well
        if frames.error is None or not isinstance(error, Exception):
            raise
        raise frames.error from None


def _jit() -> bool:
    """Compiling by XLA is the only way of the JAX backend, and slower than TensorFlow's own on a CPU."""
    return bool(keras.backend.backend() == "jax")
