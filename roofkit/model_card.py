"""What is said of a model beside it: MODEL.stac.json, a STAC item for programs, and MODEL.md, a model card for people.

The item follows STAC 1.1 and its machine-learning-model extension (MLM); the card the headings of Mitchell et al. 2019
(arXiv:1810.03993). Both say what the training stage knows, and where it knows nothing, that it does not.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from roofkit import scores
from roofkit.artifacts import Outputs, committed, fingerprint, write_json
from roofkit.blocks import outline, time_of
from roofkit.cli import Run
from roofkit.pairs import Pair
from roofkit.raster import grid_of, open_raster
from roofkit.settings import EvaluateArgs

if TYPE_CHECKING:
    import pystac

FORMAT = "card 1"  # of what is written: other numbers are not kept
NUMBER_BYTES = 4  # of a weight
SHOWN = {"iou": "IoU", "f1": "F1", "precision": "precision", "recall": "recall"}
KINDS = {".h5": "application/x-hdf5", ".keras": "application/zip", ".skops": "application/zip"}
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Array:
    """What goes into a model, or comes out: the length (-1: any) and name of each axis, and the dtype."""

    shape: Sequence[int]
    axes: Sequence[str]
    dtype: Literal["float32", "uint8", "uint16", "int16"] = "float32"


@dataclass(frozen=True)
class Scored:
    """Scores on the validation frames, by the names of `SHOWN`, each with its interval, and the calibration error."""

    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    confidence: float
    calibration_error: float


@dataclass(frozen=True)
class About:
    """What a training stage knows of a model.

    Args:
        architecture: In a word or two.
        framework: The library that it was made with, and its package.
        parameters: Numbers that were learnt.
        bands: Names of the bands that it takes.
        taken, given: What goes in, and what comes out. MLM calls the axis of named bands `bands`.
        preparation: What happens to pixels before and inside, in a sentence.
        threshold: From this probability on a pixel is roof.
        frames: Training and validation frames.
        scored: How it did on the latter.
        settings: Blocks of settings that decided it.
        artifact: How the file was written, as MLM names it.
        use: How to use it, as Markdown.
        started_from: The weights that training started from; None: it started from nothing.
    """

    architecture: str
    framework: tuple[str, str]
    parameters: int
    bands: Sequence[str]
    taken: Array
    given: Array
    preparation: str
    threshold: float
    frames: tuple[Sequence[Pair], Sequence[Pair]]
    scored: Scored
    settings: Mapping[str, Mapping[str, Any]]
    artifact: str
    use: str
    started_from: str | None = None


def frame_scores(pixels: NDArray[Any], ece: float, settings: EvaluateArgs) -> Scored:
    """Scores from the counts (frames, 4) of `roofkit.scores.pixel_counts`, with bootstrap intervals over frames."""
    values = {name: float(value) for name, value in scores.pixel_scores(pixels.sum(axis=0)).items()}
    found = scores.intervals(
        {"pixels": pixels}, draws=settings.bootstrap, confidence=settings.confidence, seed=settings.seed
    )
    return Scored(values, found, settings.confidence, ece)


def item_path(model: Path) -> Path:
    """Where the STAC item of a model lies."""
    return model.with_suffix(".stac.json")


def card_path(model: Path) -> Path:
    """Where the model card lies."""
    return model.with_suffix(".md")


def card_keys(model: Path, key: str, run: Run) -> dict[str, str]:
    """The names of item and card of a model that was made from `key`, and what they are made from."""
    own = fingerprint(FORMAT, key, run.settings.evaluate_args)
    return {item_path(model).name: own, card_path(model).name: own}


def write_cards(
    model: Path, describe: Callable[[], About], run: Run, outputs: Outputs, keys: Mapping[str, str]
) -> None:
    """Write item and card of a model.

    Args:
        model: Its file, which is there.
        describe: What is known of it; only asked where there is something to write.
        run: The project.
        outputs: Where they are recorded.
        keys: From `card_keys`, those that are to be written.
    """
    if not keys:
        return
    about, item, card = describe(), item_path(model), card_path(model)
    if item.name in keys:
        write_json(item, stac_item(model, about).to_dict(include_self_link=False))
    if card.name in keys:
        with committed(card) as part:
            part.write_text(card_text(model, about, run), encoding="utf-8")
    for name, key in keys.items():
        outputs.record(name, key)


def stac_item(model: Path, about: About) -> "pystac.Item":
    """The STAC item of a model, with the MLM extension; its place and time are those of the training frames."""
    import pystac
    from pystac.extensions import mlm
    from pystac.extensions.classification import Classification, ItemClassificationExtension
    from pystac.extensions.raster import DataType

    bounds = bounds_of(about.frames[0])
    geometry = None
    if bounds:
        west, south, east, north = bounds
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
    newest = max(time_of(pair.frame) for pair in about.frames[0])  # not now: the same frames make the same item
    properties = {
        "title": f"Metal roofs: {about.architecture}", "description": about.preparation,
        "bands": [{"name": name} for name in about.bands],
    }  # fmt: skip
    item = pystac.Item(model.stem, geometry, list(bounds) if bounds else None, newest, properties)
    task = mlm.TaskType.SEMANTIC_SEGMENTATION
    taken, given = about.taken, about.given
    classes = [
        Classification.create(value=0, name="background", description="no metal roof"),
        Classification.create(value=1, name="metal_roof", description="metal roof"),
    ]
    mlm.MLMExtension.ext(item, add_if_missing=True).apply(
        name=f"metal-roofs-{about.architecture.replace(' ', '-')}", architecture=about.architecture, tasks=[task],
        input=[
            mlm.ModelInput.create(
                name="imagery", bands=list(about.bands), description=about.preparation,
                input=mlm.InputStructure.create(list(taken.shape), list(taken.axes), DataType(taken.dtype)),
            )
        ],
        output=[
            mlm.ModelOutput.create(
                name="roof probability", tasks=[task], classes=classes,
                description=f"Probability of metal roof, 0 to 1; roof from {about.threshold:.6g} on.",
                result=mlm.ResultStructure.create(list(given.shape), list(given.axes), DataType(given.dtype)),
            )
        ],
        framework=about.framework[0], framework_version=installed(about.framework[1]),
        memory_size=NUMBER_BYTES * about.parameters, total_parameters=about.parameters,
        pretrained=bool(about.started_from), pretrained_source=about.started_from,
        accelerator_constrained=False, accelerator_summary="None is needed.",
        hyperparameters=mlm.Hyperparameters.create(**hyperparameters(about)),
    )  # fmt: skip
    asset = pystac.Asset(model.name, "The model", media_type=KINDS[model.suffix], roles=["mlm:model", "data"])
    asset.extra_fields["bands"] = properties["bands"]  # STAC has them in an item only where they are in an asset, too
    item.add_asset("model", asset)
    mlm.AssetGeneralMLMExtension.ext(asset).apply(artifact_type=about.artifact)
    card = pystac.Asset(card_path(model).name, "Model card", media_type="text/markdown", roles=["metadata"])
    item.add_asset("card", card)
    ItemClassificationExtension.add_to(item)
    return item


def hyperparameters(about: About) -> dict[str, Any]:
    """The settings as one level of names, and the threshold."""
    named = {f"{block}.{key}": value for block, values in about.settings.items() for key, value in values.items()}
    return {**named, "threshold": about.threshold}


def installed(package: str) -> str:
    """The version of a package."""
    return version(package)


def bounds_of(pairs: Sequence[Pair]) -> tuple[float, float, float, float] | None:
    """West, south, east, north of all frames that have a place on Earth; None where none has."""
    corners = []
    for pair in pairs:
        with open_raster(pair.frame) as src:
            corners += outline(grid_of(src)) or []
    if not corners:
        return None
    lon, lat = zip(*corners)
    return min(lon), min(lat), max(lon), max(lat)


def card_text(model: Path, about: About, run: Run) -> str:
    """The model card, as Markdown."""
    train, val = about.frames
    bounds = bounds_of(train)
    where = "They have no place on Earth." if bounds is None else (
        "They lie between {:.5f}, {:.5f} and {:.5f}, {:.5f} (longitude, latitude).".format(*bounds)
    )  # fmt: skip
    split = "not known: the frames came as they are" if not run.paths.split.is_file() else (
        f"`split_args.by` {run.settings.split_args.by}, so that no pixel is on both sides"
    )  # fmt: skip
    rows = "\n".join(_score_row(name, about.scored) for name in SHOWN)
    blocks = "\n".join(f"- `{block}`: `{json.dumps(dict(values))}`" for block, values in about.settings.items())
    return f"""# {model.name}

Finds metal roofs in imagery, pixel by pixel: {about.architecture}, {about.parameters:,} learnt numbers, made with
{about.framework[0]} {installed(about.framework[1])}.

## Data

- {len(train)} training frames and {len(val)} validation frames, of the bands {", ".join(about.bands) or "(no names)"}.
  {where}
- Split: {split}.
- Training started from {about.started_from or "nothing"}.
- Licences of imagery and labels are not recorded with the frames; who passes the model on has to look them up where
  the data came from.

## Scores

On the {len(val)} validation frames, of the class metal roof, from the probability {about.threshold:.4g} on:

| score | value | interval ({about.scored.confidence:.0%}) |
|---|---|---|
{rows}
| calibration error | {about.scored.calibration_error:.3f} | |

Intervals are of draws of validation frames, with replacement. Epoch, threshold and calibration were chosen on the same
frames, so that scores elsewhere are lower. The evaluate stage scores masks of these frames at their full size, also by
roof: see `{run.paths.metrics.name}`.

## Limits

- It knows the place, season, sensor and ground resolution of its training frames. Elsewhere, test it first: frames that
  adjoin resemble each other, so that these scores say little about other places.
- It was trained on what the labels call a metal roof; what these miss or confuse, it does too.
- A probability is about a pixel, not about a building, and no basis for decisions about single buildings or people.

## Use

{about.preparation}

{about.use.strip()}

## Made from

{blocks}
"""


def _score_row(name: str, scored: Scored) -> str:
    interval = scored.intervals.get(name)
    shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "none: too few frames"
    return f"| {SHOWN[name]} | {scored.values[name]:.3f} | {shown} |"
