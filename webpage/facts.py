"""What stands in the tables of the page: read from the files of a project, checked, as plain values."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import shapely

from roofkit.artifacts import fingerprint
from roofkit.errors import BadInputError, MissingInputError
from roofkit.ledger import digest
from roofkit.pairs import CHIP_NAME
from roofkit.settings import Settings
from webpage.places import Place

PACKAGES = (
    "roof-classify", "numpy", "rasterio", "shapely", "pyproj", "keras", "tensorflow", "tensorflow-cpu", "scikit-learn",
    "numba", "openvino", "bokeh",
)  # fmt: skip
SCORES = ("iou", "f1", "precision", "recall", "boundary_iou", "pr_auc", "ece")
CURVES = ("epoch", "loss", "val_loss", "iou", "val_iou")
SPLIT = ("frame", "split", "chip", "scene", "row", "col")
SIDES = {"train": "training", "val": "validation", "left out": "left out"}
Row = dict[str, float]


def read_json(path: Path, expected: str, advice: str) -> dict[str, Any]:
    """What a JSON file holds: an object.

    Raises:
        MissingInputError: There is no such file.
        BadInputError: It holds something else.
    """
    if not path.is_file():
        raise MissingInputError(path, "no such file", expected, advice)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadInputError(path, "not readable", expected, advice)
    return found


def read_table(path: Path, columns: Sequence[str], expected: str, advice: str) -> list[dict[str, str]]:
    """The rows of a CSV file that has at least these columns.

    Raises:
        MissingInputError: There is no such file.
        BadInputError: It is no such table, or has no rows.
    """
    if not path.is_file():
        raise MissingInputError(path, "no such file", expected, advice)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if not rows or not all(set(columns) <= set(row) and None not in row.values() for row in rows):
        raise BadInputError(path, "not readable", f"{expected}: {', '.join(columns)}", advice)
    return rows


def read_history(path: Path) -> list[Row]:
    """The epochs of a training.

    Raises:
        MissingInputError, BadInputError: There is no history, or it is something else.
    """
    advice = "Run python train/train.py."
    rows = read_table(path, CURVES, "a row for each epoch", advice)
    try:
        return [{name: float(row[name]) for name in CURVES} for row in rows]
    except ValueError:
        raise BadInputError(path, "values that are no numbers", "a row for each epoch", advice) from None


def best_epoch(rows: Sequence[Row]) -> Row:
    """The epoch that was kept: of highest validation IoU; among equals, of lowest validation loss."""
    return max(rows, key=lambda row: (row["val_iou"], -row["val_loss"], -row["epoch"]))


def score_rows(metrics: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """A row for each model: its name, and value and interval of each score.

    Raises:
        BadInputError: It is not what evaluate writes.
    """
    try:
        return [
            {
                "model": name,
                **{score: _pair(values[score], values["intervals"][score]) for score in SCORES},
                "building_f1": _pair(values["buildings"]["f1"], values["intervals"]["buildings"]["f1"]),
            }
            for name, values in metrics["models"].items()
        ]
    except (KeyError, TypeError, AttributeError, ValueError):
        advice = "Run python evaluate/evaluate.py --overwrite."
        raise BadInputError(path, "not what evaluate writes", "scores with intervals", advice) from None


def _pair(value: Any, interval: Any) -> tuple[float | None, tuple[float, float] | None]:
    """A score and its interval, either of which may be None."""
    if interval is not None:
        low, high = interval
        interval = float(low), float(high)
    return None if value is None else float(value), interval


def band_rows(summary: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Name, numbers and histogram of each band.

    Raises:
        BadInputError: It is not what summarize writes.
    """
    try:
        found = [_band(band) for band in summary["bands"]]
    except (KeyError, TypeError, ValueError):
        found = []
    if not found or not all(band["shares"] and band["to"] > band["from"] for band in found):
        advice = "Run python summarize/summarize.py --overwrite."
        raise BadInputError(path, "no histograms", "what summarize writes", advice)
    return found


def _band(band: Mapping[str, Any]) -> dict[str, Any]:
    bars = band["histogram"]
    return {
        "name": str(band["name"]),
        **{end: float(bars[end]) for end in ("from", "to")},
        "shares": [float(share) for share in bars["shares"]],
        **{name: float(band[name]) for name in ("min", "max", "mean", "std", "saturated_share")},
    }


# -------------------------------------------------------------------------------------------------------------- split


def read_split(path: Path) -> list[dict[str, str]]:
    """The rows of split.csv.

    Raises:
        MissingInputError, BadInputError: There is none, or it is something else.
    """
    advice = "Run python split/split.py."
    rows = read_table(path, SPLIT, "a row for each chip", advice)
    if not all(row["row"].isdecimal() and row["col"].isdecimal() and row["split"] in SIDES for row in rows):
        raise BadInputError(path, "places that are no numbers, or an unknown side", "a row for each chip", advice)
    return rows


def split_lines(rows: Iterable[Mapping[str, str]], place: Place, size: tuple[int, int]) -> dict[str, list[Any]]:
    """Outlines of the chips of each side on a place, as lists of [row, col] in pixels.

    Args:
        rows: Of split.csv.
        place: Where.
        size: Rows and columns of a chip.
    """
    boxes: dict[str, list[Any]] = {}
    for row in rows:
        if row["scene"] in place.offsets:
            down, across = place.offsets[row["scene"]]
            top, left = down + int(row["row"]), across + int(row["col"])
            bottom, right = min(top + size[0], place.height), min(left + size[1], place.width)
            boxes.setdefault(SIDES[row["split"]], []).append(shapely.box(left, top, right, bottom))
    return {side: _rings(shapely.union_all(held)) for side, held in sorted(boxes.items())}


def _rings(ground: Any) -> list[list[list[float]]]:
    """The outer and inner rings of polygons, as [row, col]."""
    polygons = [part for part in shapely.get_parts(ground) if part.geom_type == "Polygon"]
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.interiors)]
    return [[[y, x] for x, y in shapely.simplify(ring, 0).coords] for ring in rings]


def split_summary(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """For each side how many chips there are, and the mean share of roof, where it is known."""
    found = []
    for side, words in SIDES.items():
        held = [row for row in rows if row["split"] == side]
        try:
            shares = [(float(row["roof_fraction"]), float(row["valid_fraction"])) for row in held]
        except (KeyError, ValueError):
            shares = []
        weight = sum(valid for _, valid in shares)
        roof = sum(roof * valid for roof, valid in shares) / weight if weight else None
        if held:
            found.append({"side": words, "chips": len(held), "roof": roof})
    return found


def chip_scene(stem: str) -> str | None:
    """The scene of a chip; None where its name does not say."""
    name = CHIP_NAME.fullmatch(stem)
    return name["scene"] if name else None


# ------------------------------------------------------------------------------------------------- where it comes from


def versions() -> list[tuple[str, str]]:
    """The packages that decide results, as far as they are installed."""
    found = [("Python", python_version())]
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def seeds(settings: Settings) -> list[tuple[str, int]]:
    """Every seed in the settings."""
    return [
        (f"{block}.seed", values["seed"])
        for block, values in settings.model_dump(mode="json").items()
        if "seed" in values
    ]


def hash_row(name: str, paths: Sequence[Path]) -> dict[str, Any]:
    """Number, bytes and SHA-256 of files: of the file itself, or of the list of their names and hashes."""
    hashes = [(path.name, digest(path)) for path in paths]
    whole = hashes[0][1] if len(hashes) == 1 else fingerprint(hashes)
    size = sum(path.stat().st_size for path in paths)
    return {"name": name, "files": len(paths), "bytes": size, "sha256": whole}
