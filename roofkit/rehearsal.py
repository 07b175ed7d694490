"""--dry-run: a stage runs up to where it knows what it would write, says so, and writes nothing.

It is the same code that decides: `roofkit.artifacts.Outputs.plan` notes here what is to be made, and ends the stage.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_plans: "list[Plan] | None" = None


class Rehearsed(BaseException):
    """A dry run has come to where work would begin."""


@dataclass(frozen=True)
class Plan:
    """What a run would do in a folder: names of files, relative to it."""

    folder: Path
    make: tuple[str, ...] = ()
    redo: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


@contextlib.contextmanager
def rehearsal() -> Iterator[list[Plan]]:
    """Inside, nothing is written; the plans that were made, in the end. The block ends where work would begin."""
    global _plans
    plans: list[Plan] = []
    _plans = plans
    try:
        with contextlib.suppress(Rehearsed):
            yield plans
    finally:
        _plans = None


def is_rehearsal() -> bool:
    """Whether this is a dry run."""
    return _plans is not None


def note(plan: Plan) -> None:
    """Note a plan, in a dry run."""
    if _plans is not None:
        _plans.append(plan)


def forbid(path: Path) -> None:
    """Raise where a dry run would write, which is a mistake in the program."""
    if is_rehearsal():
        raise RuntimeError(f"{path} would be written in a dry run")
