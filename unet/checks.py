"""Checks before training: what the generator yields, whether masks lie on the roofs of their frames, and the plan."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from roofkit.alignment import Fit, Scene, Shift
from roofkit.checks import ground_width, listed, spread
from roofkit.findings import Finding, Status, failures, found, passed, skipped
from roofkit.mask_checks import MaskFacts
from roofkit.pairs import Pair
from roofkit.raster import Valid
from roofkit.settings import ModelArgs, TrainingArgs
from unet.datagen import Batch, RoofFrames
from unet.frames import FrameStatistics, Sample
from unet.network import Preparation
from unet.probe import Floats

SPREAD = (0.05, 20.0)  # what the standard deviation of a network's input should lie in
RARE = 0.05  # share of roofs below which plain cross-entropy learns slowly
LAG = 0.2  # share of a batch statistic's first value that may be left at the end


def check_batch(kind: str, batch: Batch, disk: Sequence[MaskFacts] | None = None) -> Iterator[Finding]:
    """Whether the generator yields float32 images without gaps, and masks of exactly 0 and 1, as many as on disk."""
    images, masks, _ = batch
    check, where = f"generator: {kind}", "load_dataset_args"
    values = np.unique(masks)
    share, shape = float(masks[..., -1].mean()), " x ".join(map(str, images.shape))
    measured = f"images {shape} {images.dtype}, masks of {listed([f'{v:.4g}' for v in values])}, {share:.2%} roof"
    stored = float(np.mean([fact.roof for fact in disk])) if disk else share
    if not np.isfinite(images).all() or images.dtype != np.float32:
        yield found(check, "unreadable", measured, where=where, expected="finite numbers, float32")
    elif not set(values.tolist()) <= {0.0, 1.0}:
        yield found(check, "masks_scaled", measured, where=where, expected="masks of 0 and 1")
    elif share < stored / 2:
        yield found(check, "masks_scaled", measured, where=where, expected=f"{stored:.2%} roof, as on disk")
    else:
        yield passed(check, measured)


def check_inputs(kind: str, inputs: Floats, valid: Valid, *, where: str | Path) -> Finding:
    """Whether each band of a network's input varies as much as a network expects.

    Args:
        kind: Which frames.
        inputs: (frames, rows, cols, bands), after preparation.
        valid: (frames, rows, cols).
        where: The frames or the model.
    """
    check = f"network input: {kind}"
    values = inputs[valid]
    if not len(values):
        return skipped(check, "no valid pixel")
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    measured = f"bands with mean {_range(mean)}, deviation {_range(deviation)}"
    low, high = deviation < SPREAD[0], deviation > SPREAD[1]
    if not (low | high).any():
        return passed(check, measured)
    flat = low.mean() > 0.5  # large values slow learning down, tiny ones hide the image
    expected = f"a deviation of {SPREAD[0]:g} to {SPREAD[1]:g}"
    return found(check, "images_scaled", measured, where=where, expected=expected, status="fail" if flat else "warn")


def _range(values: Floats) -> str:
    return f"{values.min():.3g} to {values.max():.3g}"


def check_frames(kind: str, samples: Sequence[Sample], preparation: Preparation, where: Path) -> Finding:
    """The same for frames as they will be prepared: every fourth pixel, of all, since some may be black."""
    images, valid = (np.concatenate([getattr(s, name)[::4, ::4] for s in samples]) for name in ("image", "valid"))
    scaled = (images * (preparation.rescale or 1.0) - np.asarray(preparation.mean)) / np.asarray(preparation.std)
    return check_inputs(kind, scaled, valid, where=where)


def check_alignment(kind: str, samples: Sequence[Sample], pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Whether masks lie on the roofs of their own frames, from image edges and roof outlines.

    Args:
        kind: Which frames.
        samples: Frames and masks, all of one size.
        pairs: Their files, in the same order.
    """
    chosen = [i for i, sample in enumerate(samples) if (sample.roof & sample.valid).any()]
    if len(chosen) < 4:
        yield skipped(f"alignment: {kind}", f"{len(chosen)} frames with roofs; it takes 4")
        return
    some = [samples[i] for i in chosen]
    scene = Scene([s.image for s in some], [s.roof for s in some], [s.valid for s in some])
    shift = scene.shift()
    yield _shift_finding(kind, shift, pairs[chosen[0]], some[0].roof.shape)
    yield _fit_finding(kind, scene.fit(shift if shift.sure else None), [pairs[i] for i in chosen])


def _shift_finding(kind: str, shift: Shift, pair: Pair, size: tuple[int, ...]) -> Finding:
    check, length = f"shift: {kind}", np.hypot(shift.rows, shift.cols)
    if not shift.sure or length < 2:
        return passed(check, f"outlines lie on image edges as they are by {shift.unmoved:.1f} deviations of chance")
    width = ground_width(pair.frame)
    ground = f" ({length * width / size[1]:.1f} m)" if width else ""
    measured = (
        f"masks lie {_way(shift)} from their roofs: {length:.0f} pixels of a frame of {size[0]} x {size[1]}{ground}"
    )
    status: Status = "fail" if shift.iou < 0.5 and length >= 3 else "warn"
    expected = f"less than that; a perfect network would reach IoU {shift.iou:.2f}"
    if shift.iou > 0.7:
        return passed(check, f"{measured}; a perfect network would reach IoU {shift.iou:.2f}")
    return found(check, "labels_shifted", measured, where=pair.mask.parent, expected=expected, status=status)


def _way(shift: Shift) -> str:
    rows = f"{abs(shift.rows)} rows {'down' if shift.rows > 0 else 'up'}" if shift.rows else ""
    cols = f"{abs(shift.cols)} columns {'right' if shift.cols > 0 else 'left'}" if shift.cols else ""
    return " and ".join(filter(None, (rows, cols)))


def _fit_finding(kind: str, fit: Fit, pairs: Sequence[Pair]) -> Finding:
    check, number, folder = f"pairs: {kind}", len(fit.elsewhere), pairs[0].mask.parent
    told = fit.own + number
    if number >= 3 and number >= told / 5:
        examples = [f"{pairs[mask].mask.name} fits {pairs[frame].frame.name}" for mask, frame in fit.elsewhere[:3]]
        measured = f"{number} of {told} masks that can be told apart fit another frame ({listed(examples)})"
        return found(check, "wrong_pairs", measured, where=folder, expected="each to fit its own")
    measured = f"{len(pairs)} masks fit their own frames by {fit.score:.1f} deviations better than in any order"
    if fit.score < 2 and len(pairs) >= 8:
        fix = "Look at a few masks over their frames; doctor_args.sample above the number of frames finds the partners."
        return found(check, "wrong_pairs", measured, where=folder, expected="2 or more", status="warn", fix=fix)
    return passed(check, measured)


def quick_checks(
    train: RoofFrames,
    val: RoofFrames,
    *,
    statistics: FrameStatistics,
    training: TrainingArgs,
    model: ModelArgs,
    sample: int,
) -> list[Finding]:
    """What can be known before training, in a second or two: warnings.

    Args:
        train: Training frames.
        val: Validation frames.
        statistics: Of the training frames.
        training: Epochs and loss.
        model: Its batch normalisation.
        sample: Frames that are looked at, at most.

    Raises:
        RoofError: A child of it, where every mask would be blank.
    """
    preparation = frame_preparation(statistics, train.settings.rescale)
    findings: list[Finding] = []
    for kind, frames in (("training", train), ("validation", val)):
        numbers = spread(range(len(frames.pairs)), max(1, sample // 2))
        samples = [frames.sample(number) for number in numbers]
        findings += check_batch(kind, frames.batch(0))
        findings.append(check_frames(kind, samples, preparation, frames.pairs[0].frame.parent))
        findings += check_alignment(kind, samples, [frames.pairs[number] for number in numbers])
    findings += check_plan(statistics, len(train) * training.epochs, training, model, train.settings.roof_balance)
    for failure in failures(findings):
        raise failure.error()
    return [finding for finding in findings if finding.status == "warn"]


def check_plan(
    statistics: FrameStatistics, steps: int, training: TrainingArgs, model: ModelArgs, balance: float
) -> Iterator[Finding]:
    """Whether loss and epochs suit the share of roofs, and batch normalisation has time to learn its statistics.

    Args:
        statistics: Of the training frames.
        steps: Of the whole training.
        training: The loss.
        model: Its batch normalisation.
        balance: `load_dataset_args.roof_balance`.
    """
    share = statistics.roof_pixels / max(statistics.valid_pixels, 1)
    left = model.bachnorm_momentum**steps if model.normalization == "batch" else 0.0
    measured = f"{share:.2%} roof, loss {training.loss}, {steps:,} steps"
    rare = share < RARE and training.loss == "bce" and not balance
    if rare:
        expected = f"a loss that sees rare roofs, below {RARE:.0%}"
        yield found("plan", "imbalance", measured, where="training_args.loss", expected=expected, status="warn")
    if left > LAG:
        measured = f"{model.bachnorm_momentum:g}: after {steps:,} steps {left:.0%} of the first statistics are left"
        where = "model_args.bachnorm_momentum"
        yield found("plan", "batch_statistics", measured, where=where, expected=f"at most {LAG:.0%}", status="warn")
    if not rare and left <= LAG:
        yield passed("plan", measured)


def frame_preparation(statistics: FrameStatistics, rescale: float | None) -> Preparation:
    """The preparation that a training on such frames puts into its model."""
    factor = rescale or 1.0
    mean, deviation = (np.asarray(values) * factor for values in (statistics.mean, statistics.deviation))
    return Preparation(rescale, mean.tolist(), np.where(deviation, np.abs(deviation), 1.0).tolist())
