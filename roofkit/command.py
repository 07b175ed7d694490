"""The command `roof-classify STAGE …`: each script under one name, with the options and the behaviour that it has.

Only the stage that was asked for is imported.
"""

import difflib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from roofkit import options
from roofkit.root import ROOT

NAME = "roof-classify"
STAGES = (
    "download", "chip", "mosaic", "mask", "split", "flatten", "summarize",
    "forest", "regression", "train", "predict", "evaluate", "report", "doctor",
)  # fmt: skip
OWN = {
    "completion": "Print the completion of this command for a shell: bash, zsh or tcsh",
    "settings": "Print the settings that come with the program; --dev: those of the sample",
}


def script_of(name: str) -> Path:
    """The script of a stage, or the one that runs them all."""
    return ROOT / ("run/local.py" if name == "run" else f"{name}/{name}.py")


def summary_of(name: str) -> str:
    """The first sentence of a script's docstring, which is its first line."""
    with script_of(name).open(encoding="utf-8") as file:
        return file.readline().strip().strip('"').partition(":")[0].rstrip(".")


def usage() -> str:
    """What the command can do."""
    lines = {"run": summary_of("run")} | {name: summary_of(name) for name in STAGES} | OWN
    rows = "\n".join(f"  {name:<11} {text}" for name, text in lines.items())
    return f"usage: {NAME} STAGE [OPTIONS]\n\n{rows}\n\n{NAME} STAGE -h says what a stage reads, writes and takes.\n"


def refuse(name: str) -> int:
    """Say that there is no such stage, and which may be meant; the exit status of wrong usage."""
    known = ["run", *STAGES, *OWN]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    advice = f"Did you mean {near[0]}? {NAME} -h lists them." if near else f"{NAME} -h lists them."
    print(f"error: {NAME}: unknown stage {name!r}; expected one of {', '.join(known)}. {advice}", file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return or exit with the status that the script would have."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["-h"]
    if name in ("-h", "--help"):
        print(usage(), end="")
    elif name == "--version":
        from importlib.metadata import version

        print(NAME, version(NAME))
    elif name == "settings":
        print((ROOT / ("settings.dev.json" if rest == ["--dev"] else "settings.json")).read_text("utf-8"), end="")
    elif name == "completion":
        from roofkit.completion import print_completion

        return print_completion(rest)
    elif name == "run" or name in STAGES:
        options.program = f"{NAME} {name}"
        sys.argv = [str(script_of(name)), *rest]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        return refuse(name)
    return 0
