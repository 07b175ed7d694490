"""What every script's run shares: the project, the report, the exit status.

A script makes its parser with `roofkit.options.stage_parser`, adds its own options, and hands both to `run_stage`.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from roofkit.addresses import check_addresses
from roofkit.errors import RoofError
from roofkit.fence import enclose
from roofkit.heeded import heed
from roofkit.paths import Paths, project_paths
from roofkit.root import base_of
from roofkit.settings import Block, Settings, check_settings, load_settings
from roofkit.shards import Shard
from roofkit.stopping import INTERRUPTED, PATIENCE, TERMINATED, Terminated, stopping

Item = TypeVar("Item")
AnyBlock = TypeVar("AnyBlock", bound=Block)
DONE, FAILED, WRONG_USAGE = 0, 1, 2


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
        started = time.monotonic()
        report = work(options, start_run(options))
        _show(report, options, work.__name__, time.monotonic() - started)
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
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED


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
    return Run(settings, paths, options.settings, *how, **where, keep_edits=options.keep_edits)


def _fail(line: str) -> int:
    print(f"error: {_shown(line)}", file=sys.stderr)
    return FAILED


def _show(report: Any, options: argparse.Namespace, stage: str, seconds: float) -> None:
    values = dataclasses.asdict(report)
    if not options.quiet:
        _summary(stage, values, seconds)
    if options.json:
        line = {"stage": stage, "seconds": round(seconds, 3), **values}
        print(json.dumps(line, default=str, allow_nan=False), flush=True)


def _summary(stage: str, values: dict[str, Any], seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{stage}: done in {seconds:.1f} s", title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name.replace("_", " "), _readable(value))
    Console().print(table)


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
    print(_shown(line), file=sys.stderr, flush=True)


def _shown(line: str) -> str:
    """One line that a terminal shows as it is: names and texts of files may hold signs that command it."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(line.split()))


def progress(items: Iterable[Item], total: int, label: str, *, quiet: bool = False) -> Iterator[Item]:
    """The items, with a bar on stderr when that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(items, total=total, description=label)
