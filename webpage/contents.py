"""All that is on the page, gathered: what the template shows and what the script reads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roofkit.cli import Run
from roofkit.errors import MissingInputError, RoofError
from webpage import figures
from webpage.counts import curve, thresholds
from webpage.facts import (
    band_rows,
    hash_row,
    read_history,
    read_json,
    read_split,
    seeds,
    split_summary,
    versions,
)
from webpage.findings import findings
from webpage.page import ramp
from webpage.sections import (
    Maps,
    Section,
    attempt,
    best_threshold,
    changed_settings,
    checks_section,
    curves_section,
    frames_section,
    history_section,
    map_section,
    models_section,
)
from webpage.validation import Validation, count_frames, find_frames

NOTED = ("map", "frames", "models", "curves", "history", "split", "bands", "runs")
STAGES_RUN = "seconds and memory of stages"
FOR_SCRIPT = ("rows", "cols", "factor", "low", "high", "flags")


def contents(
    run: Run, files: Mapping[str, Sequence[Path]], runs: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the template shows, and what the script reads.

    Args:
        run: The project.
        files: What is hashed, by what it is.
        runs: Seconds and peak MB of each stage.
    """
    paths = run.paths
    validation, problem = _validation(run)
    levels = thresholds(validation.own if validation else None)[1]
    metrics_path = paths.metrics
    sections: dict[str, Section] = {
        "map": attempt(lambda: map_section(Maps(run, validation, levels))),
        "frames": attempt(lambda: frames_section(run, _there(validation, problem), levels)),
        "models": attempt(lambda: models_section(_metrics(metrics_path), metrics_path, validation)),
        "curves": attempt(lambda: curves_section(_there(validation, problem))),
        "history": attempt(lambda: history_section(read_history(paths.history))),
        "split": attempt(lambda: {"notes": [], "rows": split_summary(read_split(paths.split))}),
        "bands": attempt(lambda: _bands(paths.histograms / "summary.json")),
        "runs": attempt(lambda: _runs(runs, paths.run)),
        "checks": checks_section(findings(paths, run.settings)),
    }
    data = _script_data(sections, validation)
    context = {
        **sections,
        **_head(run, sections, validation),
        **_slider(data, validation),
        "noted": NOTED,
        "versions": versions(),
        "version": versions()[1][1],
        "seeds": seeds(run.settings),
        "files": [_file_row(hash_row(name.replace("_", " "), held)) for name, held in files.items()],
        "changed": changed_settings(run.settings),
        "settings": json.dumps(run.settings.model_dump(mode="json"), indent=2),
    }
    return _without_folders(context, run), data


# ----------------------------------------------------------------------------------------------- what sections rest on


def _validation(run: Run) -> tuple[Validation | None, RoofError | None]:
    """The validation frames, counted; or why not."""
    paths = run.paths
    try:
        return count_frames(find_frames(paths.predictions, paths.val_masks, paths.probabilities), run), None
    except RoofError as error:
        return None, error


def _there(validation: Validation | None, problem: RoofError | None) -> Validation:
    """The validation frames.

    Raises:
        RoofError: Why there are none.
    """
    if validation is None:
        raise problem or MissingInputError("validation frames", "none", "some", "Run python predict/predict.py.")
    return validation


def _metrics(path: Path) -> dict[str, Any]:
    return read_json(path, "scores", "Run python evaluate/evaluate.py.")


def _bands(path: Path) -> Section:
    summary = read_json(path, "histograms of the bands", "Run python summarize/summarize.py.")
    rows = band_rows(summary, path)
    names = [row["name"] for row in rows]
    keyed = figures.keys(names, figures.band_styles(names))
    return {"notes": [], "rows": rows, "units": str(summary.get("units", "value")), "keyed": keyed}


def _runs(runs: Mapping[str, Mapping[str, float]], path: Path) -> Section:
    """Time and memory as people read them.

    Raises:
        MissingInputError: Nothing was remembered.
    """
    if not runs:
        raise MissingInputError(path, "no such file", "time and memory of each stage", "Run python run/local.py.")
    return {
        "notes": [],
        "rows": [
            {"stage": name, "time": duration(row["seconds"]), "memory": f"{row['peak_mb']:,.0f} MB"}
            for name, row in runs.items()
        ],
    }


# -------------------------------------------------------------------------------------------------- template and script


def _script_data(sections: Mapping[str, Section], validation: Validation | None) -> dict[str, Any]:
    """What the script reads."""
    counts = curve(validation.total) if validation else None
    places = [{**place, "there": None} for place in sections["map"].get("places", [])]
    frames = [{name: frame[name] for name in (*FOR_SCRIPT, "curve")} for frame in sections["frames"].get("shown", [])]
    shown = thresholds(None)[0] if validation is None else validation.shown
    return {
        "thresholds": shown.tolist(),
        "start": validation.start if validation else 0,
        "curve": counts,
        "ramp": ramp(),
        "places": places,
        "frames": frames,
        "plots": _plots(sections),
    }


def _plots(sections: Mapping[str, Section]) -> dict[str, Any]:
    """The Bokeh document of all plots that there is something to draw for."""
    drawn: dict[str, Any] = {}
    if places := sections["map"].get("places"):
        drawn |= figures.maps(*(places[0][side] * places[0]["pixel"][i] for i, side in enumerate(("height", "width"))))
    if sections["curves"].get("precision_recall"):
        drawn["plot-precision-recall"] = figures.precision_recall(sections["curves"]["precision_recall"])
        drawn["plot-calibration"] = figures.calibration(sections["curves"]["calibration"])
    if rows := sections["history"].get("rows"):
        drawn |= {f"plot-{name}": plot for name, plot in figures.history(rows, sections["history"]["best"]).items()}
    if bands := sections["bands"].get("rows"):
        drawn["plot-bands"] = figures.histograms(bands, sections["bands"]["units"])
    return figures.document(drawn) if drawn else {"doc": None, "roots": {}}


def _slider(data: Mapping[str, Any], validation: Validation | None) -> dict[str, Any]:
    """What the template says of thresholds."""
    if not data["curve"] or validation is None:
        return {"curve": False}
    best = best_threshold(data["curve"])
    own = None if validation.own is None else data["start"]
    return {
        "curve": True,
        "thresholds": len(data["thresholds"]),
        "start": data["start"],
        "own": own,
        "own_value": None if validation.own is None else f"{validation.own:.3g}",
        "best": best,
        "best_value": f"{validation.shown[best]:.3g}",
    }


def _head(run: Run, sections: Mapping[str, Section], validation: Validation | None) -> dict[str, Any]:
    """The title, a sentence, and the most telling figures."""
    places = [place["name"] for place in sections["map"].get("places", [])]
    title = (", ".join(places[:2]) + (", …" if len(places) > 2 else "")) or "frames"
    classifier = validation.pixel_model if validation else None
    parts = [f"Model: {classifier}." if classifier else f"Network: {run.settings.model_args.architecture}."]
    if validation:
        pixels = int(validation.total.pixels.sum())
        parts.append(f"Scored on {len(validation.frames)} validation frames, {pixels:,} valid pixels.")
    if validation and validation.own is not None:
        parts.append(f"Masks were made at the threshold {validation.own:.3g}.")
    return {"title": title, "lead": " ".join(parts), "tiles": _tiles(sections["models"])}


def _tiles(models: Section) -> list[dict[str, str]]:
    """The network's most telling scores, with their intervals."""
    if not models.get("rows"):
        return []
    found = dict(zip(models["names"], (cell["pair"] for cell in models["rows"][0]["scores"])))
    names = {"IoU": "IoU of metal roofs", "F1": "F1", "Buildings F1": "F1 of whole roofs", "Calibration error": None}
    return [
        {
            "name": words or name,
            "value": f"{found[name][0]:.3f}",
            "note": "" if not found[name][1] else f"{found[name][1][0]:.3f} to {found[name][1][1]:.3f}",
        }
        for name, words in names.items()
        if found[name][0] is not None
    ]


def _file_row(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "size": size_words(row["bytes"])}


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size_words(count: int) -> str:
    """Bytes as people say them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _without_folders(value: Any, run: Run) -> Any:
    """The same with files named from the data and results folders on: where a machine keeps those is left out."""
    if isinstance(value, str):
        for folder, name in ((run.paths.data, "data"), (run.paths.results, "results")):
            value = value.replace(f"{folder}/", f"{name}/").replace(str(folder), name)
        return value
    if isinstance(value, dict):
        return {name: _without_folders(held, run) for name, held in value.items()}
    return [_without_folders(held, run) for held in value] if isinstance(value, (list, tuple)) else value
