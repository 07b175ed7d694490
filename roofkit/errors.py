"""Errors raised on purpose: one line that names the file, what was found, what was expected, what to do."""

import re
from pathlib import Path

COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # as Keras writes them into its errors


class RoofError(Exception):
    """The root of all named problems; `str()` of it is the line that the user reads.

    Args:
        where: The file, folder or setting that the problem is in.
        found: What is there.
        expected: What should be there.
        advice: What to do about it, as a sentence.
    """

    def __init__(self, where: str | Path, found: str, expected: str, advice: str) -> None:
        self.where = str(where)
        text = f"{where}: {found}; expected {expected}. {advice}"
        super().__init__(" ".join(text.split()))

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process boundary with the finished line (the constructor takes four parts)."""
        return _rebuild, (type(self), self.where, str(self))


def _rebuild(cls: type[RoofError], where: str, line: str) -> RoofError:
    error = cls.__new__(cls)
    error.where = where
    error.args = (line,)
    return error


class MissingInputError(RoofError, FileNotFoundError):
    """A file or folder that a stage reads is not there, or holds nothing."""


class BadInputError(RoofError, ValueError):
    """A file is there, but is not what it should be."""


class MismatchError(RoofError, ValueError):
    """Two inputs do not fit each other."""


class SettingsError(RoofError, ValueError):
    """A setting or option is unknown, of the wrong type, or contradicts another."""


class OutputError(RoofError, OSError):
    """An output could not be written, or is not this program's to write over."""


class LockedError(RoofError, OSError):
    """Another run is working on the same output."""


class ClusterError(RoofError, OSError):
    """A cluster does not answer, or cannot do the work."""


def reason(error: BaseException | str, most: int = 200) -> str:
    """What a library said was wrong, in one line of at most so many letters."""
    return " ".join(COLOURS.sub("", str(error)).split())[:most]


def named_reason(error: BaseException) -> str:
    """The same after the error's kind."""
    return f"{type(error).__name__}: {reason(error)}"
