"""Run the pipeline on this machine: the stages in the order of their graph, each as its own script.

python run/local.py                                 all stages on the embedded sample (settings.dev.json)
python run/local.py --prod --chip --mask --train    these stages, as settings.json says
A stage whose inputs do not exist pulls in the stage that makes them, and says so. The first failure stops the run.
What each stage took, when it last had work to do, is kept in results/run.json.
"""

import argparse
import sys
from dataclasses import dataclass

from roofkit.options import answer, stage_parser
from roofkit.root import ROOT, default_settings


@dataclass(frozen=True)
class Stage:
    """A stage of the graph: what it reads and writes, as names of `Paths`."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


FRAMES = ("train_frames", "train_masks", "val_frames", "val_masks")
STAGES = (
    Stage("download", (), ("scenes", "labels")),
    Stage("chip", ("scenes",), ("chips",)),
    Stage("mosaic", ("chips",), ("mosaic",)),
    Stage("mask", ("chips", "labels"), ("masks",)),
    Stage("split", ("chips", "masks"), FRAMES),
    Stage("flatten", ("chips",), ("pixels",)),
    Stage("summarize", ("chips",), ("histograms",)),
    Stage("forest", FRAMES, ("forest",)),
    Stage("regression", FRAMES, ("regression",)),
    Stage("train", FRAMES, ("checkpoint",)),
    Stage("predict", ("checkpoint",), ("predictions", "map")),
    Stage("evaluate", ("predictions", "val_masks"), ("metrics",)),
    Stage("report", (), ("report",)),  # of whatever there is
)
NAMES = tuple(stage.name for stage in STAGES)
ON_CLUSTERS = ("chip", "mask", "flatten", "predict")


def parser() -> argparse.ArgumentParser:
    """The command line: one flag for each stage, and the options of every script."""
    made = stage_parser(__doc__)
    made.set_defaults(settings=None)
    made.add_argument("--prod", action="store_true", help="read settings.json, not settings.dev.json")
    for stage in STAGES:
        made.add_argument(f"--{stage.name}", action="store_true", help=f"run {stage.name}/{stage.name}.py")
    made.add_argument(
        "--scheduler", metavar="tcp://HOST:PORT", help=f"run {', '.join(ON_CLUSTERS)} on that Dask cluster"
    )
    made.add_argument("--from", dest="from_stage", choices=NAMES, metavar="STAGE", help="leave out what comes before")
    made.add_argument("--until", dest="until_stage", choices=NAMES, metavar="STAGE", help="leave out what comes after")
    return made


if __name__ == "__main__":
    answer(parser())

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from roofkit.artifacts import read_runs, write_json
from roofkit.cli import DONE, checked, console, leave, say, start_run
from roofkit.errors import MissingInputError, SettingsError
from roofkit.paths import Paths, find_labels, holds_files

STAGE_ENDS = 4.0  # seconds that a stage has to end in after a signal; it takes 3 at most
PATIENCE = 4.5
MAKER = {name: stage for stage in STAGES for name in stage.writes}


@dataclass(frozen=True)
class Done:
    """A stage that ran: what it wrote, how long it took, and the most memory one of its processes held.

    `kept` means that all was finished before.
    """

    stage: str
    wrote: str
    seconds: float
    peak_mb: float
    kept: bool = False


def exists(name: str, paths: Paths) -> bool:
    """Whether something that stages read is there: a file, or a folder that is not empty."""
    path: Path = getattr(paths, name)
    if name == "labels":
        with contextlib.suppress(MissingInputError):
            return find_labels(path).exists()
        return False
    return path.is_file() or holds_files(path)


def complete(wanted: set[str], paths: Paths) -> dict[str, str]:
    """The stages to run in the graph's order, with the reason of each that was not asked for ("" for the others)."""
    reasons = dict.fromkeys(wanted, "")
    for stage in reversed(STAGES):
        if stage.name not in reasons:
            continue
        for name in stage.reads:
            maker = MAKER[name].name
            if maker not in reasons and not exists(name, paths):
                reasons[maker] = f"{stage.name} needs {getattr(paths, name)}, which does not exist"
    return {name: reasons[name] for name in NAMES if name in reasons}


def chosen(options: argparse.Namespace, paths: Paths) -> set[str]:
    """The stages that the flags ask for; without any, all that this data folder can use."""
    asked = {name for name in NAMES if getattr(options, name)}
    if not asked:
        asked = set(NAMES)
        if all(exists(name, paths) for name in FRAMES) and not exists("scenes", paths):
            say(f"{paths.data} holds frames and masks but no scenes: they are used as they are.")
            asked = {"forest", "regression", "train", "predict", "evaluate", "report"}
    first = NAMES.index(options.from_stage) if options.from_stage else 0
    last = NAMES.index(options.until_stage) if options.until_stage else len(NAMES)
    found = {name for name in asked if first <= NAMES.index(name) <= last}
    if not found:
        line = " ".join(f"--{key} {value}" for key in ("from", "until") if (value := getattr(options, f"{key}_stage")))
        raise SettingsError(line, "no stage that was asked for", f"some of {', '.join(NAMES)}", "Correct the options.")
    return found


def command(stage: str, options: argparse.Namespace) -> list[str]:
    """The command line of a stage, with the options that all stages take."""
    line = [sys.executable, str(ROOT / stage / f"{stage}.py"), "--settings", str(options.settings)]
    for name in ("data", "results", "workers"):
        value = getattr(options, name)
        line += [f"--{name}", str(value)] if value is not None else []
    if options.scheduler and stage in ON_CLUSTERS:
        line += ["--scheduler", options.scheduler]
    line += [
        f"--{name}"
        for name in ("overwrite", "keep-edits", "quiet", "verbose")
        if getattr(options, name.replace("-", "_"))
    ]
    return [*line, "--json"]


def run_command(stage: str, line: list[str], quiet: bool) -> tuple[int, Done]:
    """Run one stage and pass on what it prints; its exit status and what it did."""
    started = time.monotonic()
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            report = _pass_on(process, quiet)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            _end(process)
    seconds = time.monotonic() - started
    scale = 1024 if sys.platform != "darwin" else 1024**2  # Linux counts kilobytes, macOS bytes
    return process.returncode, Done(
        stage, _wrote(report), round(seconds, 1), round(usage.ru_maxrss / scale), is_kept(report)
    )


def _pass_on(process: "subprocess.Popen[str]", quiet: bool) -> dict[str, Any]:
    """Print the stage's lines as they come; the report on its last line is kept instead."""
    report: dict[str, Any] = {}
    for line in process.stdout or ():
        if line.startswith('{"stage"'):
            report = json.loads(line)
        elif not quiet:
            print(line, end="", flush=True)
    return report


def _end(process: "subprocess.Popen[str]") -> None:
    """Stop a stage that still runs, and wait for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=STAGE_ENDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wrote(report: dict[str, Any]) -> str:
    wrote = report.get("wrote", "")
    return "\n".join(wrote) if isinstance(wrote, list) else str(wrote)


def is_kept(report: dict[str, Any]) -> bool:
    """Whether a stage made nothing, as its report says."""
    made = [value for name, value in report.items() if name == "made" or name.endswith("_made")]
    return report.get("kept") is True or (bool(made) and not any(made))


def remember(done: Done, path: Path) -> None:
    """Note seconds and memory of a stage in the JSON file of the runs; of one that kept all, what its work once took.

    Raises:
        BadInputError: The file is something else.
    """
    known = read_runs(path)
    if not (done.kept and done.stage in known):
        known[done.stage] = {"seconds": done.seconds, "peak_mb": done.peak_mb}
        write_json(path, {name: known[name] for name in NAMES if name in known})


def run_stages(names: Sequence[str], options: argparse.Namespace, runs: Path) -> tuple[int, list[Done]]:
    """Run stages one after another until one fails; the exit status and what was done.

    Args:
        names: The stages.
        options: Of the command line.
        runs: The file that remembers what each took.
    """
    done: list[Done] = []
    for name in names:
        line = command(name, options)
        print(f"$ {' '.join(line)}", flush=True)
        if options.dry_run:
            continue
        status, result = run_command(name, line, options.quiet)
        if status != DONE:
            say(f"{name} failed: the run ends here.")
            return (128 - status if status < 0 else status), done
        done.append(result)
        remember(result, runs)
    return DONE, done


def show(done: list[Done]) -> None:
    """Print the table of what was done."""
    from rich.table import Table

    table = Table("stage", "wrote", "seconds", "peak MB")
    for row in done:
        table.add_row(row.stage, row.wrote, f"{row.seconds:.1f}", f"{row.peak_mb:.0f}")
    console().print(table)


def local(options: argparse.Namespace) -> int:
    """Run what the options ask for; the exit status."""
    options.settings = options.settings or default_settings("settings.json" if options.prod else "settings.dev.json")
    paths = start_run(options).paths
    plan = complete(chosen(options, paths), paths)
    for name, reason in plan.items():
        if reason:
            say(f"{name} is pulled in: {reason}.")
    status, done = run_stages(list(plan), options, paths.run)
    if done and not options.quiet:
        show(done)
    if options.json:
        print(json.dumps({"stage": "local", "stages": [asdict(row) for row in done]}), flush=True)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the pipeline from the command line; its exit status."""
    return checked(local, parser().parse_args(argv), "run/local.py", patience=PATIENCE)


if __name__ == "__main__":
    leave(main())
