"""What every script's run shares: the project, the report, the exit status.

A script makes its parser with `roofkit.options.stage_parser`, adds its own options, and hands both to `run_stage`.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from roofkit.addresses import check_addresses
from roofkit.errors import RoofError
from roofkit.fence import enclose
from roofkit.heeded import heed
from roofkit.paths import Paths, project_paths
from roofkit.rehearsal import Plan, rehearsal
from roofkit.root import base_of
from roofkit.settings import Block, Settings, check_settings, load_settings
from roofkit.shards import Shard
from roofkit.stopping import INTERRUPTED, KINDS, PATIENCE, TERMINATED, Terminated, stopping

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")
AnyBlock = TypeVar("AnyBlock", bound=Block)
DONE, FAILED, WRONG_USAGE = 0, 1, 2
COLUMNS = ("make", "redo", "keep", "remove")  # of the table of a dry run: fields of Plan
COLOURS = {"error": "1;31", "warning": "33"}  # ANSI
_verbose_since = 0.0  # on the clock of `time.monotonic`; 0: not verbose


@dataclass(frozen=True)
class Run:
    """How this run behaves, and the project that it works on."""

    settings: Settings
    paths: Paths
    settings_path: Path
    overwrite: bool
    workers: int | None
    quiet: bool
    scheduler: str | None = None
    shard: Shard | None = None
    keep_edits: bool = False
    dry_run: bool = False

    def block(self, name: str, options: dict[str, Any]) -> Any:
        """A settings block in which options that were given on the command line replace the file's values.

        Raises:
            SettingsError: A value is wrong, or contradicts another.
        """
        given = {key: value for key, value in options.items() if value is not None}
        values = self.settings.model_dump(mode="json")
        values[name] |= given
        where = Path(" ".join(f"--{key.replace('_', '-')}" for key in given)) if given else self.settings_path
        return getattr(check_settings(values, where), name)


def run_stage(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, work: Callable[[argparse.Namespace, Run], Any]
) -> int:
    """Parse, work, report; the exit status. Named problems become one line on stderr.

    Args:
        parser: From `stage_parser`.
        argv: Arguments; None: those of the process.
        work: Named as the stage; takes the options and the run, returns the stage's report (a dataclass).
    """
    options = parser.parse_args(argv)

    def stage(options: argparse.Namespace) -> int:
        started, name = time.monotonic(), work.__name__
        run = start_run(options)
        if run.dry_run:
            report = None
            with rehearsal() as plans:
                report = work(options, run)
            _show_plans(plans, report, options, name, time.monotonic() - started)
        else:
            _show(work(options, run), options, name, time.monotonic() - started)
        return DONE

    return checked(stage, options, work.__name__)


def checked(
    work: Callable[[argparse.Namespace], int], options: argparse.Namespace, name: str, *, patience: float = PATIENCE
) -> int:
    """The exit status of `work`; named problems become one line on stderr, signals their exit status within seconds."""
    try:
        with stopping(patience):
            return work(options)
    except RoofError as error:
        return _fail(str(error))
    except OSError as error:
        where, what = error.filename or name, error.strerror or error
        return _fail(f"{where}: {what}; expected a file or folder to work with. Check it, then run again.")
    except MemoryError as error:
        what = f"not enough memory ({error or 'out of memory'})"
        return _fail(f"{name}: {what}; expected a smaller task. Lower sizes in the settings, or use --workers 1.")
    except ModuleNotFoundError as error:
        advice = 'Run ./setup.sh, or python -m pip install "roof-classify[cpu]" (or gpu; openvino, cluster, s3).'
        return _fail(f"{error.name}: not installed; expected what {name} needs. {advice}")
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED


def leave(status: int) -> NoReturn:
    """End this process with that status; after a signal at once: the clean-up of large libraries takes seconds.

    A signal during that clean-up changes nothing any more: the work is done, and the status tells of it.
    """
    if status in (INTERRUPTED, TERMINATED):
        with contextlib.suppress(OSError):  # who read them is gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    for number in KINDS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)


def start_run(options: argparse.Namespace) -> Run:
    """The run that the common options describe."""
    check_addresses(options)
    settings = load_settings(options.settings)
    heed(settings.raster_args.sidecars)
    paths = project_paths(settings, base_of(options.settings), options.data, options.results)
    enclose(paths.data, paths.results)
    where: dict[str, Any] = {name: getattr(options, name, None) for name in ("scheduler", "shard")}
    if where["scheduler"]:  # whose workers run in folders of their own
        vars(options).update({k: value.absolute() for k, value in vars(options).items() if isinstance(value, Path)})
    how = (options.overwrite, options.workers, options.quiet)
    if options.verbose:
        _tell_all(options.settings, paths)
    return Run(settings, paths, options.settings, *how, **where, keep_edits=options.keep_edits, dry_run=options.dry_run)


def _fail(line: str) -> int:
    print(_marked(f"error: {_shown(line)}"), file=sys.stderr)
    return FAILED


def _show(report: Any, options: argparse.Namespace, stage: str, seconds: float) -> None:
    values = dataclasses.asdict(report)
    if not options.quiet:
        _summary(stage, values, seconds)
    if options.json:
        line = {"stage": stage, "seconds": round(seconds, 3), **values}
        print(json.dumps(line, default=str, allow_nan=False), flush=True)


def _show_plans(plans: Sequence[Plan], report: Any, options: argparse.Namespace, stage: str, seconds: float) -> None:
    """Show what a dry run found: how many files of each folder, with -v their names."""
    if not options.quiet:
        from rich.table import Table

        table = Table("where", *COLUMNS, title=f"{stage}: dry run, nothing is written", title_justify="left")
        for plan in plans:
            names = {column: getattr(plan, column) for column in COLUMNS}
            files = [str(plan.folder / name) for listed in names.values() for name in listed]
            table.add_row(files[0] if len(files) == 1 else str(plan.folder), *(f"{len(n):,}" for n in names.values()))
            for column, listed in names.items():
                for name in listed:
                    detail(f"{column} {plan.folder / name}")
        console().print(table)
        if getattr(report, "dry_run", False):
            _summary(stage, dataclasses.asdict(report), seconds)
    if options.json:
        values = dataclasses.asdict(report) if report else {}
        line = {"stage": stage, "seconds": round(seconds, 3), **values, "dry_run": True}
        print(json.dumps({**line, "planned": [vars(plan) for plan in plans]}, default=str), flush=True)


def _summary(stage: str, values: dict[str, Any], seconds: float) -> None:
    from rich.table import Table

    table = Table(title=f"{stage}: done in {seconds:.1f} s", title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name.replace("_", " "), _readable(value))
    console().print(table)


def console(*, stderr: bool = False) -> "Console":
    """Where tables and bars go: styled on a terminal, unless the environment has NO_COLOR."""
    from rich.console import Console

    return Console(stderr=stderr, color_system=None if os.environ.get("NO_COLOR") else "auto")


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return "\n".join(map(str, value[:8])) + (f"\n… {len(value) - 8} more" if len(value) > 8 else "") or "-"
    if isinstance(value, dict):
        lines = (f"{key} {', '.join(_readable(item).splitlines())}" for key, item in value.items())
        return "\n".join(lines) or "-"
    return "-" if value is None else str(value)


def say(line: str) -> None:
    """One line to the user, on stderr so that it never mixes with a report."""
    print(_marked(_shown(line)), file=sys.stderr, flush=True)


def detail(line: str) -> None:
    """A line for who asked for all of them (`--verbose`), with the seconds since the start."""
    if is_verbose():
        say(f"{time.monotonic() - _verbose_since:8.2f} s  {line}")


def is_verbose() -> bool:
    """Whether the user asked for every line."""
    return _verbose_since > 0


def _tell_all(settings: Path, paths: Paths) -> None:
    """From now on say every detail, beginning with what this is, and show the warnings of libraries."""
    global _verbose_since
    import logging
    import platform
    from importlib.metadata import version

    import rasterio

    _verbose_since = time.monotonic()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(levelname)s: %(message)s")
    libraries = [f"{name} {version(name)}" for name in ("roof-classify", "numpy", "rasterio")]
    python, gdal = platform.python_version(), rasterio.__gdal_version__
    detail(", ".join([*libraries, f"GDAL {gdal}", f"Python {python}"]))
    detail(f"settings {settings}, data {paths.data}, results {paths.results}")


def _shown(line: str) -> str:
    """One line that a terminal shows as it is: names and texts of files may hold signs that command it."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(line.split()))


def _marked(line: str) -> str:
    """The line with its first word in colour where it is a warning or an error, and stderr a terminal that can."""
    kind, colon, rest = line.partition(":")
    if kind not in COLOURS or not sys.stderr.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return line
    return f"\x1b[{COLOURS[kind]}m{kind}{colon}\x1b[0m{rest}"


def progress(items: Iterable[Item], total: int, label: str, *, quiet: bool = False) -> Iterator[Item]:
    """The items, with a bar on stderr when that is a terminal: how many, how many a second, the time left."""
    if quiet or not sys.stderr.isatty():
        yield from items
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, TimeRemainingColumn(), console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, rate="")
        for item in items:
            yield item
            bar.advance(task)
            bar.update(task, rate=_rate(bar.tasks[task].speed))


def _rate(speed: float | None) -> str:
    """Items a second, or a minute where they are slow."""
    if not speed:
        return ""
    return f"{speed:.3g}/s" if speed >= 1 else f"{60 * speed:.2g}/min"
