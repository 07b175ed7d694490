"""The options that all scripts share. Nothing large is imported here, so that `-h` answers at once.

A script makes its parser of `stage_parser` and its own options, and answers with it before it imports the rest.
"""

import argparse
import os
import re
import signal
from pathlib import Path

from roofkit.root import default_settings
from roofkit.shards import shard_of

SCHEDULER = re.compile(r"(tcp|tls|ucx|ws|wss)://(\[[0-9a-fA-F:.]+\]|[^\s/:]+):\d{1,5}")
program: str | None = None  # what usage lines call the script; None: its file's name


def stage_parser(doc: str | None, *, cluster: bool = False) -> argparse.ArgumentParser:
    """A parser with the script's docstring as help and the options that all scripts have.

    Args:
        doc: The script's docstring.
        cluster: The stage's tasks may run on a cluster, or in shards, and its rasters may be addresses.
    """
    parser = argparse.ArgumentParser(program, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.register("type", Path, path_of)
    common = parser.add_argument_group("options of every script")
    common.add_argument(
        "--settings", type=Path, default=default_settings(), metavar="FILE", help="default: settings.json"
    )
    common.add_argument("--data", type=Path, metavar="DIR", help="the data folder, instead of the one in settings")
    common.add_argument(
        "--results", type=Path, metavar="DIR", help="the results folder, instead of the one in settings"
    )
    redone = common.add_mutually_exclusive_group()
    redone.add_argument("--overwrite", action="store_true", help="redo what is finished")
    redone.add_argument("--keep-edits", action="store_true", help="keep outputs that you changed by hand")
    common.add_argument("--workers", type=positive, metavar="N", help="processes on this machine (default: all cores)")
    if cluster:
        common.add_argument(
            "--scheduler", type=scheduler, metavar="tcp://HOST:PORT", help="run on that Dask cluster instead"
        )
        common.add_argument(
            "--shard", type=shard_of, metavar="I/N", help="do the I-th of N shares; then run once without it"
        )
        common.add_argument(
            "--allow-addresses", action="store_true", help="rasters may be https://, s3:// or gs:// addresses"
        )
    common.add_argument(
        "--dry-run", action="store_true", help="say what would be made, kept or done again, and write nothing"
    )
    common.add_argument("--json", action="store_true", help="end stdout with the report as one line of JSON")
    told = common.add_mutually_exclusive_group()
    told.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    told.add_argument(
        "-v", "--verbose", action="store_true", help="each file made or kept, when, with which versions; all warnings"
    )
    return parser


def path_of(text: str) -> Path:
    """An argparse type: a path. An empty one would be the folder that the user is in."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path; a variable may not be set")
    return Path(text)


def scheduler(text: str) -> str:
    """An argparse type: the address of a Dask scheduler."""
    if not SCHEDULER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address like tcp://10.0.0.5:8786")
    return text


def positive(text: str) -> int:
    """An argparse type: a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def number(text: str) -> float:
    """An argparse type: a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a known word") from None


def answer(parser: argparse.ArgumentParser) -> None:
    """Answer `-h` and wrong usage; then a signal ends the script without a word until its work has begun.

    A script calls this before it imports what takes a while.
    """
    parser.parse_args()
    for kind in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(kind) != signal.SIG_IGN:
            signal.signal(kind, lambda received, _: os._exit(128 + received))
