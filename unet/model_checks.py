"""Checks of a network: whether it can learn, predicts as it was trained, and comes back from a file as it was."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from roofkit.findings import Finding, Status, found, passed, skipped
from roofkit.settings import DoctorArgs
from unet.checks import RARE, check_inputs
from unet.datagen import Batch
from unet.frames import Image, Sample, targets
from unet.learner import Learner
from unet.model_file import LoadedModel, load_model, save_model
from unet.network import Preparation
from unet.plan import TrainSettings
from unet.probe import Probe, Windows, best_threshold, cut_windows, iou_at, window_side

FEW = 4  # windows for what is slow
EVERY = 10  # steps between two looks at whether a network has learnt by heart
LEARNT = 0.2  # share of the way from calling everything a roof to a perfect IoU
FAR = 3.0  # times that stored and measured variance may differ
HOPELESS = 100.0  # the same, where the epochs that are left cannot mend it
FAINT = 20.0  # times that probabilities may be below the share of roof; masks of 1/255 make it 255
TINY = 1e-12  # keeps a division by 0 away
ALIKE = 1e-5  # difference of two probabilities that is only rounding
AS_IS = "the file's own values"
PREPARATIONS: Mapping[str, Callable[[Image], Any]] = {
    AS_IS: lambda images: images,
    "values / 255": lambda images: images / 255,
    "values / 65535": lambda images: images / 65535,
    "values / 65535 / 255": lambda images: images / 65535 / 255,
    "values * 255": lambda images: images * 255,
    "each band standardised": lambda images: (images - images.mean((0, 1, 2))) / (images.std((0, 1, 2)) + TINY),
    "each band stretched to 0..1": lambda images: (images - images.min((0, 1, 2))) / (np.ptp(images, (0, 1, 2)) + TINY),
}


# -------------------------------------------------------------------------------------------------------- can it learn


def check_overfit(
    settings: TrainSettings, preparation: Preparation, samples: Sequence[Sample], doctor: DoctorArgs
) -> tuple[Finding, Any]:
    """Whether the network that settings describe learns windows of four frames by heart, and the network.

    Args:
        settings: Of the training.
        preparation: As the training would have it.
        samples: Frames, some with roofs.
        doctor: Steps, and the IoU to reach.
    """
    import keras

    keras.utils.set_random_seed(settings.training.seed)
    windows = cut_windows(samples, FEW)
    learner = Learner(_for_windows(settings), preparation, contextlib.nullcontext())
    step, iou = _learn(learner.network, windows, doctor)
    learner.shipped.set_weights(learner.network.get_weights())
    rows, cols = windows.roof.shape[1:]
    measured = f"IoU {iou:.2f} after {step} steps on {len(windows.roof)} windows of {rows} x {cols} pixels"
    if iou >= doctor.overfit_iou:
        return passed("overfit", measured), learner.shipped
    cause = "cannot_learn"
    if _constant_share(Probe(learner.shipped, settings.data.data_format), windows.images) == 1.0:
        cause = "dead_units"
    expected = f"{doctor.overfit_iou:g} (doctor_args.overfit_iou)"
    return found("overfit", cause, measured, where="model_args", expected=expected), learner.shipped


def _for_windows(settings: TrainSettings) -> TrainSettings:
    """The same network for windows instead of frames."""
    size = tuple(window_side(side) for side in settings.data.target_size)
    bands = settings.data.channels
    shape = (*size, bands) if settings.data.data_format == "channels_last" else (bands, *size)
    data = settings.data.model_copy(update={"target_size": size, "crop_size": None})
    model = settings.model.model_copy(update={"input_shape": shape})
    return TrainSettings(data, model, settings.output, settings.training, settings.extension)


def _learn(network: Any, windows: Windows, doctor: DoctorArgs) -> tuple[int, float]:
    """Train on the windows until the IoU is reached; the steps it took, and the IoU with their own statistics."""
    masks = targets(windows.roof, network.output_shape[-1])
    weights = windows.valid.astype(np.float32)
    iou = 0.0
    for step in range(1, doctor.overfit_steps + 1):
        network.train_on_batch(windows.images, masks, sample_weight=weights)
        if step % EVERY == 0 or step == doctor.overfit_steps:
            roof = np.asarray(network(windows.images, training=True), np.float32)[..., -1]
            iou = iou_at(roof[windows.valid], windows.truth, 0.5)
            if iou >= doctor.overfit_iou:
                return step, iou
    return doctor.overfit_steps, iou


def _constant_share(probe: Probe, images: Image) -> float:
    """Share of channels before the last layer that have one value at every pixel."""
    features = probe.features(images)
    flat = features.reshape(-1, features.shape[-1])
    return float((np.ptp(flat, axis=0) == 0).mean())


def check_dead(probe: Probe, windows: Windows) -> Finding:
    """Whether what the last layer gets still depends on the image."""
    share = _constant_share(probe, windows.images)
    measured = f"{share:.0%} of the channels before the last layer have one value everywhere"
    if share < 0.5:
        return passed("dead units", measured)
    status: Status = "fail" if share == 1.0 else "warn"
    return found("dead units", "dead_units", measured, where="the model", expected="less than half", status=status)


# ----------------------------------------------------------------------------------------- does it predict as it learnt


@dataclass(frozen=True)
class Trial:
    """How a network does on windows that were prepared in one way.

    Args:
        name: The preparation.
        best: IoU at the best threshold, as it predicts.
        used: IoU at its own threshold, as it predicts.
        skill: The same, 0 when everything is called a roof, 1 at best.
        trained: IoU at 0.5 with the windows' own batch statistics, as in training.
        ratio: How many times stored and measured variance differ, the median over channels of the worst layer.
        mean: Probability, as it predicts.
    """

    name: str
    best: float
    used: float
    skill: float
    trained: float
    ratio: float
    mean: float

    @property
    def differs(self) -> bool:
        """Whether it finds roofs with batch statistics, and loses them with the stored ones."""
        return self.trained >= 0.3 and self.used < self.trained / 2


def try_out(probe: Probe, windows: Windows, threshold: float = 0.5, name: str = AS_IS) -> Trial:
    """A network's answers on windows that are prepared in that way."""
    images = PREPARATIONS[name](windows.images)
    stored, own = (probe.answer(images, training=training)[windows.valid] for training in (False, True))
    best, used = best_threshold(stored, windows.truth)[1], iou_at(stored, windows.truth, threshold)
    apart = [float(np.median(np.maximum(s / m, m / s))) for s, m in probe.variances(images)]
    skill, trained = _skill(used, windows.base), iou_at(own, windows.truth, 0.5)
    return Trial(name, best, used, skill, trained, max(apart, default=1.0), float(stored.mean()))


def _skill(iou: float, base: float) -> float:
    return (iou - base) / max(1.0 - base, 1e-6)


def expected_preparation(trials: Sequence[Trial]) -> Trial:
    """The first trial, unless another one is so much better that the model must have been trained that way."""
    first, *others = trials
    best = max(others, key=lambda trial: trial.skill, default=first)
    right = best.skill >= max(0.3, 2 * first.skill) and best.ratio < FAR and not best.differs
    return best if right else first


def check_preparation(trials: Sequence[Trial], where: Path) -> Finding:
    """Whether a model wants pixels as the files hold them, which is what it gets in prediction."""
    best = expected_preparation(trials)
    measured = "IoU at the best threshold: " + ", ".join(f"{trial.best:.2f} on {trial.name}" for trial in trials)
    if best is trials[0]:
        return passed("preparation", measured)
    expected = f"a model for {AS_IS}; this one was trained on {best.name}"
    return found("preparation", "preparation_differs", measured, where=where, expected=expected)


def check_modes(trial: Trial, has_norms: bool, where: str | Path) -> Finding:
    """Whether a network answers alike in training and in prediction."""
    if not has_norms:
        return skipped("modes", "no batch normalisation")
    measured = (
        f"IoU {trial.trained:.2f} with the frames' own statistics, {trial.used:.2f} with the stored ones; "
        f"variances {trial.ratio:.3g} times apart"
    )
    if not trial.differs or (trial.best >= trial.trained / 2 and trial.ratio < FAR):
        return passed("modes", measured)
    return found("modes", "batch_statistics", measured, where=where, expected="the same IoU in both")


def check_threshold(answer: Any, windows: Windows, threshold: float, roof_share: float, where: Path) -> Finding:
    """Whether the threshold suits a model's probabilities, and there is anything to find in them.

    Args:
        answer: Probabilities of the windows.
        windows: The windows.
        threshold: What prediction would use.
        roof_share: Share of roof over whole frames.
        where: The model.
    """
    probability = answer[windows.valid]
    best, best_iou = best_threshold(probability, windows.truth)
    used, half = (iou_at(probability, windows.truth, at) for at in (threshold, 0.5))
    marked = float((probability >= threshold).mean())
    measured = (
        f"IoU {used:.2f} at {threshold:.3g}, {half:.2f} at 0.5, {best_iou:.2f} at the best, {best:.3g}; highest "
        f"probability {probability.max():.3g}; {marked:.1%} found, {windows.base:.1%} roof"
    )
    useful, rare = _skill(best_iou, windows.base) >= LEARNT, roof_share < RARE
    if useful and used >= best_iou / 2:
        return passed("threshold", measured)
    status: Status = "fail" if useful or used < 0.01 or marked > 0.99 else "warn"
    cause = "threshold" if useful else "unlearnt"
    if rare and (marked == 0 or not useful):
        cause = "imbalance"
    expected = f"a threshold near {best:.3g}" if useful else "probabilities that tell roofs"
    return found("threshold", cause, measured, where=where, expected=expected, status=status)


# ------------------------------------------------------------------------------------------------------------ in a file


def check_saved(model: Any, facts: Mapping[str, Any], windows: Windows, data_format: str) -> Finding:
    """Whether a model answers alike after it was saved and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.h5"
        save_model(model, path, facts)
        loaded = load_model(path)
    before, after = (Probe(one, data_format).answer(windows.images) for one in (model, loaded.model))
    apart = float(np.abs(before - after).max())
    measured = f"answers differ by at most {apart:.1g} after saving and loading"
    if apart <= ALIKE:
        return passed("save and load", measured)
    return found("save and load", "not_saved", measured, where="the model", expected=f"at most {ALIKE:g}")


def facts_of(loaded: LoadedModel) -> dict[str, Any]:
    """What is saved with a model."""
    names = ("threshold", "frame_size", "band_names", "data_format", "num_classes")
    return {name: getattr(loaded, name) for name in names}


# ------------------------------------------------------------------------------------------------------------- a model


def examine_model(loaded: LoadedModel, samples: Sequence[Sample], path: Path) -> tuple[list[Finding], float]:
    """All that can be said about a model on frames whose roofs are known, and its IoU there; 0 where that is not known.

    Args:
        loaded: The model.
        samples: Frames at the size that it takes.
        path: Its file.
    """
    try:
        probe = Probe(loaded.model, loaded.data_format)
    except (ValueError, TypeError):  # Keras has both for a layer whose weights hang on the size
        return [skipped("model", "it takes frames of one size only")], 0.0
    few, many = cut_windows(samples, FEW), cut_windows(samples, len(samples))
    if not few.truth.any():
        return [skipped("model", "no roofs in the frames")], 0.0
    trials = [try_out(probe, few, loaded.threshold)]
    if not probe.prepares or trials[0].skill < LEARNT:
        trials += [try_out(probe, few, loaded.threshold, name) for name in PREPARATIONS if name != AS_IS]
    best = expected_preparation(trials)
    findings = [
        _inputs(probe, few, trials[0].skill, path),
        check_preparation(trials, path),
        check_dead(probe, few),
        check_modes(best, bool(probe.norms), path),
    ]
    iou = 0.0
    if {finding.check for finding in findings if finding.status == "fail"} <= {"preparation"}:
        answer = probe.answer(PREPARATIONS[best.name](many.images))
        share = float(np.mean([sample.roof.mean() for sample in samples]))
        finding = check_threshold(answer, many, loaded.threshold, share, path)
        if finding.cause_id == "unlearnt":
            findings[0] = _blamed(findings[0])
            faint = _faint(trials, share) if probe.norms else None
            finding = finding if faint is None else check_faint(faint, share, path)
        findings.append(finding)
        iou = iou_at(answer[many.valid], many.truth, loaded.threshold)
    else:
        findings.append(skipped("threshold", "what it rests on has failed"))
    return [*findings, check_saved(loaded.model, facts_of(loaded), few, loaded.data_format)], iou


def _blamed(inputs: Finding) -> Finding:
    """The finding on a network's inputs, when the network has learnt nothing: what was only odd is why."""
    return replace(inputs, status="fail") if inputs.status == "warn" else inputs


def _faint(trials: Sequence[Trial], share: float) -> Trial | None:
    """The first trial that suits the stored statistics, if its probabilities are far below the share of roof."""
    fitting = next((trial for trial in trials if trial.ratio < FAR), None)
    return fitting if fitting and fitting.mean < share / FAINT else None


def check_faint(trial: Trial, share: float, where: Path) -> Finding:
    """The finding on a model that gives next to no probability to anything: what it was taught was next to 0."""
    measured = f"mean probability {trial.mean:.2g} on {trial.name}, {share:.1%} roof; so its masks were near 0"
    return found("threshold", "masks_scaled", measured, where=where, expected="a mean near the share of roof")


def _inputs(probe: Probe, windows: Windows, skill: float, path: Path) -> Finding:
    finding = check_inputs("model", probe.inputs(windows.images), windows.valid, where=path)
    useful = finding.status == "fail" and skill >= LEARNT  # unusual, but it works
    return replace(finding, status="warn") if useful else finding


# -------------------------------------------------------------------------------------------------- after some training


def model_checks(network: Any, batch: Batch, *, momentum: float, steps_left: int) -> list[Finding]:
    """What is wrong with a network after its first epoch; a failure is one that no further epoch can mend.

    Args:
        network: (frames, rows, cols, bands) to (frames, rows, cols, classes); it stays as it is.
        batch: Training frames, masks and weights.
        momentum: Of its batch normalisation.
        steps_left: Training steps until the end.
    """
    images, masks, weights = batch
    samples = [Sample(*parts) for parts in zip(images, masks[..., -1] > 0.5, weights > 0)]
    if not all(np.isfinite(array).all() for array in network.get_weights()):
        return [found("weights", "cannot_learn", "not finite", where="the network", expected="numbers")]
    windows, probe = cut_windows(samples, FEW), Probe(network)
    if not windows.truth.any():
        return []
    inputs = check_inputs("training", probe.inputs(images), weights > 0, where="the network")
    findings = [
        replace(inputs, status="warn") if inputs.status == "fail" else inputs,  # slow, but no reason to stop
        check_dead(probe, windows),
        _late_statistics(probe, windows, momentum**steps_left),
    ]
    return [finding for finding in findings if finding.status in ("warn", "fail")]


def _late_statistics(probe: Probe, windows: Windows, left: float) -> Finding:
    """Whether stored variances will still be far from those of the frames when that share of them is left."""
    trial = try_out(probe, windows)
    late = [(left * s + (1 - left) * m) / m for s, m in probe.variances(windows.images)]
    ratio = max((float(np.median(np.maximum(r, 1 / r))) for r in late), default=1.0)
    measured = (
        f"IoU {trial.trained:.2f} in training, {trial.used:.2f} in prediction; at the end {ratio:.3g} times apart"
    )
    if not (trial.differs and ratio > HOPELESS):
        return passed("modes", measured)
    where = "model_args.bachnorm_momentum"
    return found("modes", "batch_statistics", measured, where=where, expected=f"variances within {HOPELESS:g} times")
