"""Completion of the command for a shell, written by shtab from the parsers of all scripts: text that starts nothing."""

import argparse
import runpy
from collections.abc import Sequence
from pathlib import Path

import shtab

from roofkit import command
from roofkit.addresses import path_or_address

SHELLS = ("bash", "zsh", "tcsh")


def print_completion(argv: Sequence[str]) -> int:
    """Print the script for the shell that the arguments name; the exit status."""
    parser = argparse.ArgumentParser(f"{command.NAME} completion", description="Print completion for a shell.")
    parser.add_argument("shell", choices=SHELLS)
    print(shtab.complete(whole_parser(), shell=parser.parse_args(argv).shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """The command's parser, with those of all scripts in it."""
    whole = argparse.ArgumentParser(command.NAME)
    whole.add_argument("--version", action="store_true", help="print the version")
    stages = whole.add_subparsers()
    for name in ("run", *command.STAGES):
        own = runpy.run_path(str(command.script_of(name)), run_name=name)["parser"]()
        for action in own._actions:
            if action.type in (Path, path_or_address):
                action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE
        stages.add_parser(name, parents=[own], add_help=False, help=command.summary_of(name))
    stages.add_parser("settings", help=command.OWN["settings"]).add_argument("--dev", action="store_true")
    stages.add_parser("completion", help=command.OWN["completion"]).add_argument("shell", choices=SHELLS)
    return whole
