"""The sections of the page: what the template shows, and what its script unpacks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roofkit.cli import Run
from roofkit.errors import MissingInputError, RoofError
from roofkit.findings import Finding
from roofkit.pairs import mask_files
from roofkit.paths import holds_files
from roofkit.raster import open_raster, raster_files
from roofkit.settings import Settings
from webpage.counts import Frame, calibration, curve, precision_recall, ranked, score_of, tally
from webpage.facts import SCORES, Row, best_epoch, read_split, score_rows, split_lines
from webpage.figures import keys
from webpage.layers import (
    KNOWN_LABEL,
    KNOWN_MAP,
    LABEL,
    MAP,
    Canvas,
    Cells,
    Overlay,
    Piece,
    averaged,
    picture,
    read_colours,
    read_share,
    read_values,
)
from webpage.places import Place, places_of, scenes_of, shown_bands
from webpage.validation import NETWORK, Validation

CELLS = 3_000_000  # of all maps together: what keeps the page small
NAMES = ("IoU", "F1", "Precision", "Recall", "Boundary IoU", "PR AUC", "Calibration error", "Buildings F1")
LOWER_IS_BETTER = "ece"
TITLES = {NETWORK: "network (U-Net)", "forest": "random forest", "regression": "logistic regression"}
Section = dict[str, Any]


def attempt(make: Callable[..., Section], *arguments: Any) -> Section:
    """The section, or a note that says what is missing."""
    try:
        return make(*arguments)
    except RoofError as error:
        return {"notes": [str(error)]}


# ---------------------------------------------------------------------------------------------------------------- map


def factor_of(place: Place, side: int, cells: int) -> int:
    """How many pixels a cell has along a side, so that a map stays within so many cells along its side and in all."""
    factor = max(1, -(-max(place.height, place.width) // side))
    while (grid := Cells.over(place.height, place.width, factor)).rows * grid.cols > cells:
        factor += 1
    return factor


def rasters_in(folder: Path) -> list[Path]:
    """The rasters of a folder and, of maps in blocks, of the folders in it."""
    return sorted([*folder.glob("[!.]*.tif"), *folder.glob("[!.]*/[!.]*.tif")]) if folder.is_dir() else []


def frame_pieces(place: Place, validation: Validation | None, rows: Sequence[Mapping[str, str]]) -> list[Piece]:
    """Where on a place the probabilities of validation frames lie, as split.csv says."""
    lies = {row["frame"]: row for row in rows if row["scene"] in place.offsets and row["split"] == "val"}
    found = []
    for frame in validation.frames if validation else ():
        if frame.probability and frame.name in lies:
            row = lies[frame.name]
            down, across = place.offsets[row["scene"]]
            found.append(Piece(frame.probability, down + int(row["row"]), across + int(row["col"])))
    return found


class Maps:
    """What maps are made of: the files of the project, found once."""

    def __init__(self, run: Run, validation: Validation | None, levels: NDArray[np.float32]) -> None:
        paths = run.paths
        self.settings, self.validation, self.levels = run.settings.report_args, validation, levels
        if not holds_files(paths.scenes):
            raise MissingInputError(paths.scenes, "no imagery", "scenes to draw a map of", "Put GeoTIFFs there.")
        self.notes: list[str] = []
        places = places_of(scenes_of(raster_files(paths.scenes)))
        self.places = places[: self.settings.places]
        if len(places) > len(self.places):
            left = len(places) - len(self.places)
            self.notes.append(f"The {len(self.places)} largest areas are shown; {left} are not (report_args.places).")
        self.masks = mask_files(paths.masks) if holds_files(paths.masks) else []
        self.mapped = rasters_in(paths.map)
        self.probabilities = (
            rasters_in(paths.map_probabilities) if run.settings.predict_args.scene_probabilities else []
        )
        try:
            self.split = read_split(paths.split)
        except RoofError as error:
            self.split = []
            self.notes.append(f"Which areas were held out is not shown: {error}")
        if not self.masks:
            self.notes.append(f"No labels: {paths.masks} holds no masks. Run python mask/mask.py.")
        if not self.mapped:
            self.notes.append(f"No map: {paths.map} holds no masks. Run python predict/predict.py.")
        if self.mapped and not self.probabilities:
            where = "only in the validation frames" if validation else "nowhere"
            self.notes.append(
                f"Probabilities are known {where}: elsewhere the map stays at its own threshold. "
                "Set predict_args.scene_probabilities and predict again to have them everywhere."
            )

    def draw(self, place: Place) -> Section:
        """A place, as the script unpacks it."""
        settings = self.settings
        factor = factor_of(place, settings.map_side, CELLS // len(self.places))
        cells = Cells.over(place.height, place.width, factor)
        bands, names = shown_bands(place.scenes[0].path, settings.bands)
        colours = averaged(place.scenes, cells, read_colours(bands), len(bands))
        probable = place.pieces(self.probabilities) or frame_pieces(place, self.validation, self.split)
        overlay = Overlay(
            self.levels,
            label=_canvas(place.pieces(self.masks), cells, read_share),
            mapped=_canvas(place.pieces(self.mapped), cells, read_share),
            probability=_canvas(probable, cells, read_values),
        )
        pixel = place.metres or (1.0, 1.0)
        return {
            **picture(colours, overlay, settings.stretch),
            "name": place.name,
            "height": place.height,
            "width": place.width,
            "pixel": pixel,
            "cell": [side * factor for side in pixel],
            "metres": place.metres is not None,
            "split": self._split(place),
            "words": words_of(place, factor, names, overlay.flags(colours.known)),
            "there": {
                "labels": overlay.label is not None,
                "mask": overlay.mapped is not None or overlay.probability is not None,
                "probability": overlay.probability is not None,
            },
        }

    def _split(self, place: Place) -> dict[str, Any]:
        chips = place.pieces(self.masks)
        if not self.split or not chips:
            return {}
        with open_raster(chips[0].path) as src:
            return split_lines(self.split, place, src.shape)


def _canvas(pieces: Sequence[Piece], cells: Cells, read: Any) -> Canvas | None:
    return averaged(pieces, cells, read) if pieces else None


def words_of(place: Place, factor: int, bands: Sequence[str], flags: NDArray[np.uint8]) -> str:
    """What a map shows, in words."""
    size = f"{place.width:,} × {place.height:,} pixels"
    if place.metres:
        ground = place.height * place.metres[0] * place.width * place.metres[1] / 1e6
        size += f" of {np.mean(place.metres):.3g} m, {ground:.3g} km²"
    scale = "at full resolution" if factor == 1 else f"1 pixel here is the mean of {factor} × {factor}"
    parts = [f"{place.name}: {size}, {scale}; bands shown: {', '.join(bands)}."]
    labelled, roof, mapped = (np.count_nonzero(flags & bit) for bit in (KNOWN_LABEL, LABEL, MAP))
    if labelled:
        parts.append(f"Metal roof is {roof / labelled:.1%} of the labelled area in the labels.")
    if mapped:
        parts.append(f"In the masks that predict wrote it is {mapped / np.count_nonzero(flags & KNOWN_MAP):.1%}.")
    return " ".join(parts)


def map_section(maps: Maps) -> Section:
    """All maps, and their layers."""
    drawn = [maps.draw(place) for place in maps.places]
    there = {name: any(one["there"][name] for one in drawn) for name in drawn[0]["there"]}
    there |= {"errors": there["labels"] and there["mask"], "imagery": True, "split": any(one["split"] for one in drawn)}
    layers = [
        ("imagery", "Imagery", True, 100), ("labels", "Labels", True, 65), ("split", "Split", True, 100),
        ("errors", "Errors", there["errors"], 80), ("mask", "Mask", not there["errors"], 65),
        ("probability", "Probability", False, 75),
    ]  # fmt: skip
    return {
        "notes": maps.notes,
        "places": drawn,
        "words": drawn[0]["words"],
        "layers": [
            {"id": name, "name": words, "shown": shown and there[name], "opacity": opacity, "there": there[name]}
            for name, words, shown, opacity in layers
        ],
    }


# ------------------------------------------------------------------------------------------------------------- frames


def frames_section(run: Run, validation: Validation, levels: NDArray[np.float32]) -> Section:
    """Best, median and worst frame.

    Raises:
        MissingInputError: There are no frames.
    """
    files = {path.stem: path for path in raster_files(run.paths.val_frames, run.settings.extension_args.extension)}
    shown = [
        draw_frame(word, validation.frames[i], files, run.settings, levels)
        for word, i in ranked(validation.frames, validation.pixels)
        if validation.frames[i].name in files
    ]
    notes = [] if shown else ["No validation frame holds a roof, in the labels or in the prediction."]
    return {"notes": notes, "shown": shown, "count": len(validation.frames)}


def draw_frame(
    word: str, frame: Frame, files: Mapping[str, Path], settings: Settings, levels: NDArray[np.float32]
) -> Section:
    """A frame, as the template shows and the script unpacks it."""
    path, shown, counted = files[frame.name], settings.report_args, tally(frame, levels=levels)
    with open_raster(path) as src:
        cells = Cells.over(src.height, src.width, -(-max(src.shape) // shown.frame_side))
    bands, _ = shown_bands(path, shown.bands)
    overlay = Overlay(
        levels,
        label=averaged([Piece(frame.mask)], cells, read_share),
        mapped=averaged([Piece(frame.prediction)], cells, read_share),
        probability=averaged([Piece(frame.probability)], cells, read_values) if frame.probability else None,
    )
    tp, fp, fn, _ = counted.pixels.tolist()
    return {
        **picture(averaged([Piece(path)], cells, read_colours(bands), len(bands)), overlay, shown.stretch),
        "word": word,
        "name": frame.name,
        "curve": curve(counted),
        "iou": f"{score_of(counted.pixels)['iou']:.3f}",
        "words": f"as the masks were written {tp:,} pixels hit, {fn:,} missed, {fp:,} false alarms.",
    }


# ------------------------------------------------------------------------------------------------------------- scores


def titles(validation: Validation | None) -> dict[str, str]:
    """What the page calls each model; a pixel classifier may have predicted where the network does as a rule."""
    own = validation.pixel_model if validation else None
    return TITLES | ({NETWORK: own} if own else {})


def models_section(metrics: Mapping[str, Any], path: Path, validation: Validation | None) -> Section:
    """The table of models.

    Raises:
        BadInputError: The file is not what evaluate writes.
    """
    rows = score_rows(metrics, path)
    keys, named = (*SCORES, "building_f1"), titles(validation)
    best = {key: _best([row[key][0] for row in rows], lowest=key == LOWER_IS_BETTER) for key in keys}
    notes = []
    counted = dict(zip(("tp", "fp", "fn", "tn"), validation.total.pixels.tolist())) if validation else None
    if counted and metrics.get("counts") != counted:
        notes.append(f"{path.name} was made from other masks than lie there now. Run python evaluate/evaluate.py.")
    settings = metrics.get("settings")
    confidence = settings.get("confidence") if isinstance(settings, dict) else None
    return {
        "notes": notes,
        "names": NAMES,
        "confidence": f"{confidence:.0%}" if isinstance(confidence, float) else None,
        "rows": [
            {
                "model": named.get(row["model"], row["model"]),
                "scores": [
                    {"pair": row[key], "best": len(rows) > 1 and row[key][0] is not None and row[key][0] == best[key]}
                    for key in keys
                ],
            }
            for row in rows
        ],
    }


def _best(values: Iterable[float | None], *, lowest: bool) -> float | None:
    known = [value for value in values if value is not None]
    return (min if lowest else max)(known) if known else None


def curves_section(validation: Validation) -> Section:
    """Precision and recall, and calibration, of each model.

    Raises:
        MissingInputError: There are no probabilities.
    """
    models = validation.models
    if not models:
        where = validation.frames[0].prediction.parent
        raise MissingInputError(where, "no probabilities of these frames", "some", "Run python predict/predict.py.")
    names = titles(validation)
    named = {names[name]: counted.histogram for name, counted in models.items()}
    return {
        "notes": [],
        "keyed": keys(list(named)),
        "precision_recall": {name: precision_recall(histogram) for name, histogram in named.items()},
        "calibration": {name: calibration(histogram) for name, histogram in named.items()},
        "table": _threshold_rows(validation) if NETWORK in models else [],
    }


def _threshold_rows(validation: Validation) -> list[dict[str, str]]:
    """The network's scores at a few thresholds."""
    counts = curve(validation.total) or {}
    rows = []
    for at in sorted({*range(24, len(validation.shown), 25), validation.start}):
        tp, fp, fn = (counts[name][at] for name in ("tp", "fp", "fn"))
        found = score_of(np.array([tp, fp, fn, 0]))
        words = {name: "–" if value is None else f"{value:.3f}" for name, value in found.items()}
        rows.append({"threshold": f"{validation.shown[at]:g}", **words})
    return rows


def best_threshold(counts: Mapping[str, list[int]]) -> int:
    """The place of the threshold of highest IoU, in the middle where several have it."""
    tp, fp, fn = (np.array(counts[name], np.float64) for name in ("tp", "fp", "fn"))
    iou = tp / np.maximum(tp + fp + fn, 1)
    equal = np.flatnonzero(iou == iou.max())
    return int(equal[len(equal) // 2])


def history_section(rows: list[Row]) -> Section:
    """The learning curves."""
    best = best_epoch(rows)
    words = (
        f"{len(rows)} epochs; kept was epoch {best['epoch']:.0f} (dotted line) with a validation IoU of "
        f"{best['val_iou']:.3f}. The training IoU is measured on frames that change at random."
    )
    return {"notes": [], "rows": rows, "words": words, "best": best["epoch"], "keyed": keys(["validation", "training"])}


# ------------------------------------------------------------------------------------------------------------- checks


def checks_section(found: Sequence[Finding]) -> Section:
    """What the checks found, with what is not well first."""
    rows = [
        {"status": finding.status, "check": finding.check, "line": finding.line()}
        for status in ("fail", "warn")
        for finding in found
        if finding.status == status
    ]
    passed = [{"check": one.check, "line": one.measured} for one in found if one.status == "pass"]
    state = f"{len(rows)} of {len(rows) + len(passed)} need a look" if rows else "Nothing was found wrong"
    words = f"{state}. These are the quick checks; doctor/doctor.py looks further, at the network and the model."
    return {"rows": rows, "passed": passed, "words": words}


# ----------------------------------------------------------------------------------------------------------- settings


def changed_settings(settings: Settings) -> list[dict[str, str]]:
    """The settings that differ from their defaults."""
    import json

    fresh, given = (one.model_dump(mode="json") for one in (Settings(), settings))
    return [
        {"name": f"{block}.{key}", "value": json.dumps(value), "default": json.dumps(fresh[block][key])}
        for block, values in given.items()
        for key, value in values.items()
        if value != fresh[block][key]
    ]
