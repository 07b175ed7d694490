"""Say why roof masks are blank, or would be: in the data, in the network that settings describe, in a model, in files.

Reads  MODEL     .h5 or .keras, of this program or another (default: results/results_4.h5, where it exists)
       MASKS...  masks that a prediction wrote, or folders of them (default: results/predictions and results/map)
       data/     scenes, labels, chips, frames and masks, as far as they exist
With MASKS alone, only those are looked at. Nothing is written. Each check says what it measured; where it fails, the
cause and what to do. Exit status 1 when one fails.
"""

import argparse
from pathlib import Path

from roofkit.options import answer, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__)
    made.add_argument("given", nargs="*", type=Path, metavar="MODEL MASKS", help="a model; masks, or folders of them")
    return made


if __name__ == "__main__":
    answer(parser())

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from roofkit.cli import DONE, FAILED, Run, checked, console, leave, say, start_run
from roofkit.errors import MissingInputError, RoofError, SettingsError
from roofkit.findings import Finding, failures, found, from_error, passed, skipped
from roofkit.paths import find_labels, holds_files

if TYPE_CHECKING:
    from roofkit.pairs import Pair
    from unet.datagen import RoofFrames
    from unet.frames import Sample

MODELS = (".h5", ".keras")


@dataclass(frozen=True)
class DoctorReport:
    """What doctor found."""

    findings: list[Finding]
    failed: int
    warned: int


class Patient:
    """The project, the model and the masks that are looked at; each is read once."""

    def __init__(self, options: argparse.Namespace, run: Run) -> None:
        self.run, self.paths, self.settings = run, run.paths, run.settings
        for path in options.given:
            if path.suffix == ".skops":
                advice = "Predict with it, and name the folder of its masks."
                raise SettingsError(path, "a pixel classifier", f"a network ({', '.join(MODELS)}), or masks", advice)
        models = [path for path in options.given if path.suffix in MODELS]
        if len(models) > 1:
            raise SettingsError(models[1], "a second model", "one", "Name one model, and masks.")
        self.model_given = bool(models)
        self.model_path = models[0] if models else self.paths.checkpoint
        self.masks = [path for path in options.given if path.suffix not in MODELS]
        self.masks_only = bool(self.masks) and not models
        self.sample = self.settings.doctor_args.sample
        self.extension = self.settings.extension_args.extension
        self.readable = self.sound = True
        self.model_iou = 0.0

    @cached_property
    def folders(self) -> "dict[str, tuple[Path, Path]]":
        """Folders of frames and of masks, by what they are for; chips where nothing was split yet."""
        paths = self.paths
        kinds = {
            "training": (paths.train_frames, paths.train_masks),
            "validation": (paths.val_frames, paths.val_masks),
        }
        held = {kind: pair for kind, pair in kinds.items() if all(map(holds_files, pair))}
        return held or ({"chips": (paths.chips, paths.masks)} if holds_files(paths.masks) else {})

    @cached_property
    def pairs(self) -> "dict[str, list[Pair]]":
        """The frames and masks of each folder."""
        from roofkit.pairs import find_pairs

        return {kind: find_pairs(*two, self.extension) for kind, two in self.folders.items()}

    @cached_property
    def frames(self) -> "dict[str, RoofFrames]":
        """Some of them, read at the network's size."""
        from roofkit.checks import spread
        from unet.datagen import RoofFrames

        data, classes = self.settings.load_dataset_args, self.settings.model_args.num_classes
        chosen = {kind: spread(pairs, self.sample) for kind, pairs in self.pairs.items()}
        return {kind: RoofFrames(pairs, data, num_classes=classes) for kind, pairs in chosen.items()}


# --------------------------------------------------------------------------------------------------------------- checks


def environment(patient: Patient) -> Iterator[Finding]:
    """The machine, the packages, and a raster there and back."""
    from roofkit.checks import check_environment
    from unet.backend import gpu_count

    try:
        gpus = gpu_count()
    except ImportError as error:
        yield found("environment", "environment", str(error), where=".venv", expected="Keras")
    else:
        yield from check_environment(patient.paths.results, gpus)


def rasters(patient: Patient) -> Iterator[Finding]:
    """Scenes and frames: bands, numbers, validity."""
    from roofkit.checks import check_rasters, raster_facts, spread
    from roofkit.raster import raster_files

    folders = {"scenes": patient.paths.scenes} | {kind: two[0] for kind, two in patient.folders.items()}
    for kind, folder in folders.items():
        if not holds_files(folder):
            yield skipped(f"rasters: {kind}", f"no {folder}")
            continue
        files = raster_files(folder, "tif" if kind == "scenes" else patient.extension)
        facts = [raster_facts(path) for path in spread(files, patient.sample)]
        yield from check_rasters(kind, facts, patient.settings.load_dataset_args.channels)


def names(patient: Patient) -> Iterator[Finding]:
    """Frames and masks by name, and their grids."""
    for kind, pairs in patient.pairs.items():
        yield passed(f"names: {kind}", f"{len(pairs)} frames and masks pair by name, on equal grids")


def masks(patient: Patient) -> Iterator[Finding]:
    """Masks to train on, as they lie on disk."""
    from roofkit.mask_checks import check_training_masks, mask_facts

    for kind, frames in patient.frames.items():
        yield from check_training_masks(kind, [mask_facts(pair.mask) for pair in frames.pairs])


def labels(patient: Patient) -> Iterator[Finding]:
    """Polygons: on the imagery, and in the masks."""
    from roofkit.checks import check_labels
    from roofkit.labels import read_labels
    from roofkit.raster import raster_files

    try:
        path = find_labels(patient.paths.labels)
    except MissingInputError as error:
        yield skipped("labels", f"no labels in {error.where}")
        return
    chosen = patient.settings.mask_args
    roofs = read_labels(path, where=chosen.where, ignore=chosen.ignore, layer=chosen.layer)
    files = [frame for two in patient.folders.values() for frame in raster_files(two[0], patient.extension)]
    if not files and holds_files(patient.paths.scenes):
        files = raster_files(patient.paths.scenes)
    drawn = [pair.mask for frames in patient.frames.values() for pair in frames.pairs] if patient.readable else []
    if files:
        yield from check_labels(roofs, files, {mask.stem: mask for mask in drawn})
    else:
        yield skipped("labels", "no imagery")


def pairs(patient: Patient) -> Iterator[Finding]:
    """Frames and masks: which belong together, and whether they lie on each other."""
    from unet.checks import check_alignment

    for kind, frames in patient.frames.items():
        yield from check_alignment(kind, all_samples(frames), frames.pairs)


def all_samples(frames: "RoofFrames") -> "list[Sample]":
    """Frames and masks, read."""
    return [frames.sample(number) for number in range(len(frames.pairs))]


def generator(patient: Patient) -> Iterator[Finding]:
    """What the data generator yields, and what the first layer makes of it."""
    from roofkit.mask_checks import mask_facts
    from unet.checks import check_batch, check_frames, frame_preparation
    from unet.datagen import KerasFrames

    data = patient.settings.load_dataset_args
    preparation = frame_preparation(next(iter(patient.frames.values())).measure(), data.rescale)
    for kind, frames in patient.frames.items():
        source = frames if data.custom else KerasFrames(frames.pairs, data, num_classes=frames.num_classes)
        batch = source.batch(0)
        yield from check_batch(kind, batch, [mask_facts(pair.mask) for pair in source.pairs[: len(batch[0])]])
        yield check_frames(kind, all_samples(frames), preparation, patient.folders[kind][0])


def network(patient: Patient) -> Iterator[Finding]:
    """The network of the settings: its plan, whether it learns a few frames by heart, and comes back from a file."""
    from unet.checks import check_plan, frame_preparation
    from unet.model_checks import FEW, check_overfit, check_saved
    from unet.plan import TrainSettings
    from unet.probe import cut_windows

    blocks, (kind, frames) = patient.settings, next(iter(patient.frames.items()))
    data, model, training = blocks.load_dataset_args, blocks.model_args, blocks.training_args
    statistics, samples = frames.measure(), all_samples(frames)
    steps = training.epochs * (training.steps_per_epoch or -(-len(patient.pairs[kind]) // data.batch_size))
    yield from check_plan(statistics, steps, training, model, data.roof_balance)
    settings = TrainSettings(data, model, blocks.output_args, training)
    preparation = frame_preparation(statistics, data.rescale)
    finding, trained = check_overfit(settings, preparation, samples, blocks.doctor_args)
    yield finding
    facts = {"threshold": 0.5, "frame_size": data.target_size, "band_names": [], "data_format": data.data_format}
    yield check_saved(trained, facts, cut_windows(samples, FEW), data.data_format)


def model(patient: Patient) -> Iterator[Finding]:
    """The model: how it wants pixels, whether it predicts as it was trained, its threshold."""
    from unet.datagen import RoofFrames
    from unet.model_checks import examine_model
    from unet.model_file import load_model

    if not (patient.model_given or patient.model_path.is_file()):
        yield skipped("model", f"no {patient.model_path}")
        return
    loaded, frames = load_model(patient.model_path), list(patient.frames.values())[-1]
    if loaded.channels != frames.settings.channels:
        measured, expected = f"{loaded.channels} bands", f"{frames.settings.channels}, as frames have"
        yield found("model", "bands", measured, where=patient.model_path, expected=expected)
        return
    size = tuple(side or own for side, own in zip(loaded.input_size, frames.settings.target_size))
    seen = RoofFrames(frames.pairs, frames.settings.model_copy(update={"target_size": size}))
    findings, patient.model_iou = examine_model(loaded, all_samples(seen), patient.model_path)
    yield from findings


def written(patient: Patient) -> Iterator[Finding]:
    """Masks that a prediction wrote."""
    from roofkit.checks import spread
    from roofkit.mask_checks import check_score, check_written_masks, mask_facts, masks_by_name
    from roofkit.pairs import mask_files

    sources = patient.masks or [path for path in (patient.paths.predictions, patient.paths.map) if holds_files(path)]
    if not sources:
        yield skipped("masks written", f"nothing predicted in {patient.paths.results}")
    truth = masks_by_name(patient.paths.val_masks) if patient.readable else {}
    for source in sources:
        files = spread(mask_files(source), patient.sample)
        findings = list(check_written_masks([mask_facts(path) for path in files], truth))
        yield from findings
        if not failures(findings):
            yield from check_score(files, truth, patient.model_iou)


@dataclass(frozen=True)
class Check:
    """A check, and what it rests on.

    Args:
        run: It.
        needs: readable: frames and masks that can be read; sound: in which nothing is wrong; "": neither.
        spoils: Where it fails, frames and masks are not readable.
        cause_id: What a named problem in it points to.
    """

    run: Callable[[Patient], Iterator[Finding]]
    needs: str = ""
    spoils: bool = False
    cause_id: str | None = None


CHECKS = (
    Check(environment),
    Check(rasters, spoils=True),
    Check(names, needs="readable", spoils=True, cause_id="wrong_pairs"),
    Check(masks, needs="readable", spoils=True),
    Check(labels),
    Check(pairs, needs="readable"),
    Check(generator, needs="readable"),
    Check(network, needs="sound"),
    Check(model, needs="sound"),
    Check(written),
)


def examine(patient: Patient) -> Iterator[Finding]:
    """All findings, one after the other; a check whose data has already failed is skipped."""
    for check in CHECKS:
        if patient.masks_only and check.run not in (environment, written):
            continue
        for finding in _findings(check, patient):
            if finding.status == "fail":
                patient.sound = False
                patient.readable &= not check.spoils
            yield finding
        if check.run is environment and not patient.sound:
            return


def _findings(check: Check, patient: Patient) -> Iterator[Finding]:
    name = check.run.__name__
    if check.needs and not patient.folders:
        yield skipped(name, f"no frames and masks in {patient.paths.data}")
    elif (check.needs and not patient.readable) or (check.needs == "sound" and not patient.sound):
        yield skipped(name, "what it rests on has failed above")
    else:
        try:
            yield from check.run(patient)
        except RoofError as error:
            yield from_error(name, error, check.cause_id)


# --------------------------------------------------------------------------------------------------------------- output


def show(finding: Finding) -> None:
    """Print a finding: what was measured; where it is not well, what was expected, why, and what to do."""
    from rich.text import Text

    colour = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}[finding.status]
    line = Text.assemble((f"{finding.status:<5}", colour), (f"{finding.check}: ", "bold"), finding.measured)
    if finding.expected:
        line.append(f"; expected {finding.expected}")
    for words in (finding.where, f"{finding.cause} {finding.fix}".strip()):
        if words:
            line.append(f"\n     {words}")
    console().print(line, soft_wrap=True)


def doctor(options: argparse.Namespace) -> int:
    """The stage; its exit status."""
    started = time.monotonic()
    run = start_run(options)
    patient = Patient(options, run)
    findings = []
    for finding in examine(patient):
        findings.append(finding)
        if not run.quiet:
            show(finding)
    failed = failures(findings)
    if not failed and all(finding.status == "skip" for finding in findings if finding.check != "environment"):
        advice = "Name a model or masks, or another folder with --data."
        raise MissingInputError(run.paths.data, "no imagery, frames or masks", "something to look at", advice)
    if options.json:
        report = DoctorReport(findings, len(failed), sum(finding.status == "warn" for finding in findings))
        line = {"stage": "doctor", "seconds": round(time.monotonic() - started, 3), **dataclasses.asdict(report)}
        print(json.dumps(line, allow_nan=False), flush=True)
    if failed:
        say(f"error: {failed[0].line()}")
    return FAILED if failed else DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return checked(doctor, parser().parse_args(argv), "doctor")


if __name__ == "__main__":
    leave(main())
