"""Show a project on one page: the map, the scores at every threshold, the frames, the training, the data, the checks.

Reads  data/     scenes, masks, split.csv, frames and masks of the validation set, histograms/summary.json
       results/  predictions, probabilities, map, map_probabilities, history.csv, metrics.json, run.json, the models
       Whatever of these is missing, the page says so in its place; with none of them there is no page.
Writes DST.html  (default: results/report.html)

The page is one file that asks nothing of any other host. Its maps have layers (imagery, labels, split, probability,
mask, errors) on linked pan and zoom. Its threshold changes mask, errors and scores; scores are counted on every valid
pixel of the validation frames, as evaluate counts them. Pictures are averages where imagery is large: report_args says
how large they may be. With predict_args.scene_probabilities the whole map follows the threshold.
"""

import argparse
from pathlib import Path

from roofkit.options import answer, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__)
    made.add_argument("dst", nargs="?", type=Path, metavar="DST.html", help="where the page goes")
    return made


if __name__ == "__main__":
    answer(parser())

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roofkit.artifacts import Outputs, committed, fingerprint, read_runs
from roofkit.cli import Run, leave, run_stage, say
from roofkit.errors import MissingInputError, OutputError, RoofError
from roofkit.ledger import input_digests
from roofkit.paths import Paths, find_labels, holds_files
from roofkit.raster import DRIVERS, open_raster
from roofkit.sidecars import has_files_beside

SUFFIX = ".html"
EVIDENCE = ("scenes", "val_frames", "predictions", "history", "metrics", "histograms")
FOLDERS = (
    "scenes", "masks", "train_frames", "train_masks", "val_frames", "val_masks", "predictions", "probabilities", "map",
    "map_probabilities", "forest_predictions", "forest_probabilities", "regression_predictions",
    "regression_probabilities",
)  # fmt: skip
FILES = ("split", "history", "metrics", "checkpoint", "forest", "regression", "footprints")
SECTIONS = (
    ("map", "Map"), ("frames", "Frames"), ("models", "Scores"), ("training", "Training"), ("data", "Data"),
    ("checks", "Checks"), ("origin", "How this was made"),
)  # fmt: skip
TABLED = (
    "scenes", "labels", "split", "train_frames", "train_masks", "val_frames", "val_masks", "checkpoint", "forest",
    "regression", "history", "predictions", "probabilities", "map", "map_probabilities", "footprints", "metrics",
)  # fmt: skip


@dataclass(frozen=True)
class ReportReport:
    """What report did; `notes` say what is missing on the page."""

    wrote: str
    megabytes: float
    places: int
    frames: int
    warnings: int
    notes: list[str]
    kept: bool


def found_files(paths: Paths) -> dict[str, list[Path]]:
    """The files that the page is made from, by what they are."""
    found: dict[str, list[Path]] = {name: visible_files(getattr(paths, name)) for name in FOLDERS}
    summary = paths.histograms / "summary.json"
    for name, path in {**{name: getattr(paths, name) for name in FILES}, "summary": summary}.items():
        found[name] = [path] if path.is_file() else []
    try:
        labels = find_labels(paths.labels)
        found["labels"] = visible_files(labels) if labels.is_dir() else [labels]
    except MissingInputError:
        found["labels"] = []
    return found


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder and of the folders in it, hidden ones apart, sorted."""
    inside = [*folder.glob("[!.]*"), *folder.glob("[!.]*/[!.]*")] if folder.is_dir() else []
    return sorted(path for path in inside if path.is_file())


def key_of(files: Mapping[str, Sequence[Path]], runs: Mapping[str, Any], run: Run) -> str:
    """What the page depends on."""
    from webpage.facts import versions

    hashes = {name: [(path.name, bytes_of(path)) for path in held] for name, held in files.items()}
    return fingerprint("report", run.settings, hashes, runs, versions())


def bytes_of(path: Path) -> str:
    """A hash of a file and, of a raster, of the files beside it that count.

    Raises:
        BadInputError: A stage made it, and it is not as that stage wrote it.
    """
    return fingerprint(*input_digests([path, *files_beside(path)]))


def files_beside(path: Path) -> Sequence[Path]:
    """The files that say of a raster what it does not say itself; none of what is no raster."""
    if path.suffix.lower().lstrip(".") not in DRIVERS or not has_files_beside(path):
        return ()
    try:
        with open_raster(path) as src:
            beside: Sequence[Path] = src.beside
            return beside
    except RoofError:
        return ()  # its section will say what is wrong


def write_page(dst: Path, run: Run) -> ReportReport:
    """Write the page.

    Raises:
        MissingInputError: There is nothing to show.
        BadInputError: What another stage made is not as it wrote it.
        OutputError: It cannot be written there.
    """
    paths = run.paths
    if not any(holds_files(path) or path.is_file() for path in (getattr(paths, name) for name in EVIDENCE)):
        advice = "Run python run/local.py first."
        raise MissingInputError(paths.data, "nothing to show", "imagery, frames, masks or scores", advice)
    files = found_files(paths)
    try:
        runs = {name: row for name, row in read_runs(paths.run).items() if name != "report"}
    except RoofError as error:
        say(f"note: {error}")
        runs = {}
    key = key_of(files, runs, run)
    with Outputs(dst.parent, "report", name=dst.name, overwrite=run.overwrite, keep_edits=run.keep_edits) as outputs:
        todo = outputs.plan({dst.name: key})
        if todo:
            page, facts = made_page(run, files, runs)
            with committed(dst) as part:
                part.write_text(page, encoding="utf-8")
            outputs.record(dst.name, key, **facts)
        outputs.finish()
        facts = outputs.facts(dst.name)
        kept = {name: facts[name] for name in ("places", "frames", "warnings", "notes")}
        size = round(dst.stat().st_size / 1e6, 2)
        return ReportReport(wrote=str(dst), megabytes=size, **kept, kept=not todo)


def made_page(
    run: Run, files: Mapping[str, Sequence[Path]], runs: Mapping[str, Mapping[str, float]]
) -> tuple[str, dict[str, Any]]:
    """The page, and what the stage reports of it."""
    from webpage.contents import contents
    from webpage.page import render

    tabled = {name: files[name] for name in TABLED if files[name]}
    context, data = contents(run, tabled, runs)
    page = render({**context, "sections": SECTIONS}, data)
    facts = {
        "places": len(data["places"]),
        "frames": context["frames"].get("count", 0),
        "warnings": len(context["checks"]["rows"]),
        "notes": [note for name in context["noted"] for note in context[name]["notes"]],
    }
    return page, facts


def report(options: argparse.Namespace, run: Run) -> ReportReport:
    """The stage, with what the command line says."""
    dst = options.dst.absolute() if options.dst else run.paths.report
    if dst.suffix.lower() != SUFFIX:
        raise OutputError(dst, f"a {dst.suffix or 'nameless'} file", SUFFIX, "Rename the page.")
    return write_page(dst, run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, report)


if __name__ == "__main__":
    leave(main())
