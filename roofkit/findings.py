"""What a check found, and the causes of blank masks: for each one sentence, what to do, and the error it stops with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roofkit.errors import BadInputError, MismatchError, OutputError, RoofError, SettingsError

Status = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Cause:
    """Why masks would be blank: a sentence, what to do about it, and the error when it stops a run."""

    sentence: str
    fix: str
    error: type[RoofError]


CAUSES = {
    "environment": Cause(
        "The environment cannot do the work.", "Remove .venv and run ./setup.sh again.", BadInputError
    ),
    "unreadable": Cause("A file cannot be read.", "Replace or remove it.", BadInputError),
    "bands": Cause(
        "Frames have other bands than the settings say.",
        "Set load_dataset_args.channels, and the bands of model_args.input_shape, to what the frames have.",
        SettingsError,
    ),
    "nothing_valid": Cause(
        "Much of the imagery was never measured.", "Check the nodata value, or make the chips again.", BadInputError
    ),
    "flat_band": Cause(
        "A band that is the same everywhere tells the network nothing.",
        "Leave the band out, or download it again.",
        BadInputError,
    ),
    "axes_scrambled": Cause(
        "Bands, rows and columns were mixed up when these files were written.",
        "Write them again as (bands, rows, cols), with rasterio.",
        BadInputError,
    ),
    "labels_miss_imagery": Cause(
        "The roofs are not where the imagery is, so masks hold none.",
        "Run mask/mask.py --overwrite: it names the CRS that would fit.",
        MismatchError,
    ),
    "other_labels": Cause(
        "Masks were drawn from other labels, or with other mask_args.",
        "Run mask/mask.py and split/split.py with --overwrite.",
        MismatchError,
    ),
    "labels_shifted": Cause(
        "The labels lie beside the roofs that they outline.",
        "Move the polygons by that much, or georeference the imagery anew; then run mask and split with --overwrite.",
        MismatchError,
    ),
    "wrong_pairs": Cause(
        "Masks do not belong to the frames of the same name.",
        "Make them again with mask/mask.py and split/split.py --overwrite, which pair by name.",
        MismatchError,
    ),
    "masks_scaled": Cause(
        "Masks were scaled, so that a roof is hardly more than 0 where the network must learn 1.",
        "Make masks of 0 and 255 with mask/mask.py --overwrite, and scale them nowhere else.",
        BadInputError,
    ),
    "images_scaled": Cause(
        "Pixels were scaled twice, or otherwise not as the network expects.",
        "Keep the file's own values in frames; let train/train.py put the scaling into the model.",
        SettingsError,
    ),
    "imbalance": Cause(
        "Roofs are rare, and the network has not yet learnt more than that.",
        "Set training_args.loss: bce_dice, load_dataset_args.roof_balance: 0.5, and more training_args.epochs.",
        SettingsError,
    ),
    "cannot_learn": Cause(
        "The network does not learn even a few frames by heart.",
        "Lower training_args.learning_rate, or use the model_args of settings.json.",
        SettingsError,
    ),
    "unlearnt": Cause(
        "The model has not learnt to tell roofs from the rest.",
        "Train longer, or on more frames; see whether checks above say why.",
        BadInputError,
    ),
    "dead_units": Cause(
        "The last layers give the same value at every pixel, and a ReLU that is always 0 learns no more.",
        "Train again with another training_args.seed, a lower learning_rate or more model_args.filters.",
        SettingsError,
    ),
    "batch_statistics": Cause(
        "Batch normalisation predicts with stored statistics that are far from those of the frames.",
        "Lower model_args.bachnorm_momentum (0.9 or less), train longer, or set model_args.normalization: group.",
        SettingsError,
    ),
    "preparation_differs": Cause(
        "Pixels reach the model prepared otherwise than in its training.",
        "Put that scaling into the model as its first layer (keras.layers.Rescaling), or train with train/train.py.",
        MismatchError,
    ),
    "threshold": Cause(
        "The model finds roofs, but its probabilities stay on one side of the threshold.",
        "Predict with predict_args.threshold at the best one, or train with train/train.py, which stores it.",
        SettingsError,
    ),
    "not_saved": Cause("The model in the file is not the one that was saved.", "Save it again.", OutputError),
    "written_wrong": Cause(
        "Masks were written wrong: what looks black may hold roofs.",
        "Write 0 and 255 as uint8, in one band on the frame's grid, as predict/predict.py does.",
        BadInputError,
    ),
    "blank": Cause(
        "Masks are blank where there are roofs.", "Run doctor/doctor.py MODEL MASKS to see why.", BadInputError
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    status: Status
    measured: str
    where: str = ""
    expected: str = ""
    cause_id: str | None = None
    cause: str = ""
    fix: str = ""

    def line(self) -> str:
        """The finding in one line: where, what was found, what was expected, why, and what to do."""
        found = f"{self.measured}; expected {self.expected}" if self.expected else self.measured
        where = f"{self.where}: " if self.where else ""
        return " ".join(f"{where}{found.rstrip('.')}. {self.cause} {self.fix}".split())

    def error(self) -> RoofError:
        """The same as the error that stops a run."""
        kind = CAUSES[self.cause_id].error if self.cause_id else BadInputError
        return kind(self.where, self.measured, self.expected, f"{self.cause} {self.fix}")


def passed(check: str, measured: str) -> Finding:
    """All is well."""
    return Finding(check, "pass", measured)


def skipped(check: str, why: str) -> Finding:
    """Not checked, and why."""
    return Finding(check, "skip", why)


def found(
    check: str,
    cause_id: str,
    measured: str,
    *,
    where: str | Path,
    expected: str,
    status: Status = "fail",
    fix: str = "",
) -> Finding:
    """A cause of blank masks; `fix` instead of the usual one."""
    cause = CAUSES[cause_id]
    return Finding(check, status, measured, str(where), expected, cause_id, cause.sentence, fix or cause.fix)


def from_error(check: str, error: RoofError, cause_id: str | None) -> Finding:
    """A named problem that kept a check from its work; its line says what to do."""
    return Finding(check, "fail", str(error).removeprefix(f"{error.where}: "), error.where, cause_id=cause_id)


def failures(findings: list[Finding]) -> list[Finding]:
    """Those that failed."""
    return [finding for finding in findings if finding.status == "fail"]
