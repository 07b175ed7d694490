"""The fence around a project's data and results folders: what leads out of them is neither written nor removed.

A folder that comes from somebody else may hold links. Names in settings are checked where they are read
(`roofkit.paths`); here are the places that only come up later: a folder below, a lock, a name in a ledger.
"""

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import TextIO

from roofkit.errors import OutputError

_roots: tuple[Path, ...] = ()


def enclose(*roots: Path) -> None:
    """The folders of this process's project, absolute and without links."""
    global _roots
    _roots = roots


def check_place(path: Path) -> None:
    """Raise OutputError where a path inside the project's folders leads out of them by a link on its way."""
    for root in _roots:
        if path.is_relative_to(root) and not path.parent.resolve().is_relative_to(root):
            _refuse(path, root)


def check_names(folder: Path, names: Iterable[str]) -> None:
    """Raise OutputError where the name of an artifact leads out of its folder, by a link, say."""
    is_inside = inside(folder)
    for name in names:
        if not is_inside(name):
            _refuse(folder / name, folder)


def _refuse(path: Path, root: Path) -> None:
    found = f"a link that leads to {path.parent.resolve()}"
    raise OutputError(path, found, f"a place inside {root}", "Remove the link, or name that folder itself.")


def inside(folder: Path) -> Callable[[object], bool]:
    """Says of a name, which somebody may have made up, whether it is one of a file below a folder."""

    @functools.cache
    def leads_inside(place: PurePath) -> bool:
        return (folder / place).resolve().is_relative_to(folder.resolve())

    def is_inside(name: object) -> bool:
        if not isinstance(name, str) or "\0" in name or PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            return False
        return leads_inside(PurePath(name).parent)

    return is_inside


def open_plain(path: Path) -> TextIO:
    """Open a file to read and append, made where it is absent.

    Raises:
        OutputError: It is a link: what is written would go elsewhere.
    """
    if path.is_symlink():
        raise OutputError(path, "a link", "a file of this program", "Remove it.")
    return open(path, "a+", encoding="utf-8", opener=_without_following)


def _without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
