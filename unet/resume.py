"""The state of a training that was stopped, in a file, so that it goes on as if it had not been."""

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from roofkit.artifacts import committed
from roofkit.cli import say
from roofkit.errors import BadInputError, SettingsError

Row = dict[str, float]


class Resume:
    """The state after the last finished epoch, in a file beside the model: weights, optimizer, history."""

    def __init__(self, model_path: Path, made_from: Mapping[str, Any]) -> None:
        self.path = model_path.with_suffix(".resume.npz")
        self.made_from = json.loads(json.dumps(made_from))

    def save(self, arrays: Sequence[Any], rows: Sequence[Row], epochs: int) -> None:
        """Write the state, whole or not at all: arrays, the history, and how many epochs were planned."""
        named: dict[str, Any] = {f"{i:05d}": array for i, array in enumerate(arrays)}
        note = json.dumps({"made_from": self.made_from, "rows": list(rows), "epochs": epochs})
        buffer = io.BytesIO()
        np.savez(buffer, note=np.array(note), **named)
        with committed(self.path) as part:
            part.write_bytes(buffer.getvalue())

    def load(self, restore: Callable[[list[Any]], None]) -> tuple[list[Row], int | None]:
        """Hand the arrays to `restore`; the history so far and the epochs planned, none where there is no state.

        Raises:
            SettingsError: Settings or frames are not those of the state.
            BadInputError: The file is broken, or of another network.
        """
        if not self.path.is_file():
            say(f"{self.path.name}: no stopped training to continue; starting with the first epoch")
            return [], None
        note, arrays = self._read()
        self._check_same(note["made_from"])
        try:
            restore(arrays)
        except ValueError as error:
            raise self._bad(str(error)) from None
        return list(note["rows"]), int(note["epochs"])

    def remove(self) -> None:
        """Forget the state."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, Any], list[Any]]:
        try:
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                note = json.loads(str(file["note"]))
                return note, [file[name] for name in sorted(set(file.files) - {"note"})]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._bad(f"not readable ({error})") from None

    def _bad(self, found: str) -> BadInputError:
        return BadInputError(
            self.path, found, "the state of a stopped training", "Remove it, or train without --resume."
        )

    def _check_same(self, before: Mapping[str, Any]) -> None:
        for key in sorted({*before, *self.made_from}):
            if before.get(key) != self.made_from.get(key):
                found = f"{_short(self.made_from.get(key))}, and {_short(before.get(key))} when training was stopped"
                advice = "Change it back, or train without --resume."
                raise SettingsError(key, found, "the same for --resume", advice)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "…"
