"""Tiles on their way: fetched by several threads, kept on the disk until their scene is whole, halved where too large.

A tile that was fetched survives a kill: it is a file of its own, complete or absent, under a hash of its request. Which
tiles a run fetches again does not change the scene: it is put together from the same tiles in the same order.
"""

import queue
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from rasterio.windows import Window

from roofkit.artifacts import committed
from roofkit.errors import BadInputError, reason
from roofkit.raster import BLOCK, Pixels, Valid
from roofkit.stopping import raise_if_stopped
from roofkit.web import StoppedError
from sources.scenes import Scene, Source, TooLargeError

SMALLEST = 16  # rows and columns below which a tile is not halved any more
POLL = 0.1  # seconds after which an idle thread looks whether it is to end
PATIENCE = 2.0  # seconds that threads get to end once one of them failed


class TileStore:
    """The tiles of one scene on the disk.

    Args:
        folder: Where; made when the first tile is kept.
        scene: Whose tiles.
    """

    def __init__(self, folder: Path, scene: Scene) -> None:
        self.folder, self.scene = folder, scene

    def path(self, window: Window) -> Path:
        """The file of a tile."""
        return self.folder / f"{window.row_off}_{window.col_off}_{window.height}_{window.width}.npz"

    def has(self, window: Window) -> bool:
        """Whether it is there, whole or in parts."""
        if self.path(window).exists():
            return True
        return self.is_halved(window) and all(self.has(part) for part in halves(window))

    def is_halved(self, window: Window) -> bool:
        """Whether it was too large, and is fetched in parts."""
        return self._mark(window).exists()

    def halve(self, window: Window) -> None:
        """Note that it is too large."""
        with committed(self._mark(window)) as part:
            part.touch()

    def _mark(self, window: Window) -> Path:
        return self.path(window).with_suffix(".halved")

    def keep(self, window: Window, pixels: Pixels, valid: Valid) -> None:
        """Write a tile, complete or not at all."""
        with committed(self.path(window)) as part, part.open("wb") as file:
            np.savez(file, pixels=pixels, valid=np.packbits(valid))

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """A tile, put together from its parts where it was halved.

        Raises:
            BadInputError: Its file was damaged.
        """
        if not self.path(window).exists():
            return self._joined(window)
        shape = int(window.height), int(window.width)
        try:
            with np.load(self.path(window), allow_pickle=False) as file:  # a ZIP: checksums are compared
                pixels, bits = file["pixels"], file["valid"]
            valid = np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).astype(bool)
            pixels = pixels.reshape(len(self.scene.bands), *shape)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            self.path(window).unlink()
            found = f"a damaged tile ({reason(error)})"
            raise BadInputError(self.path(window), found, "the tile as fetched", "Run again: it is removed.") from None
        return pixels, valid

    def _joined(self, window: Window) -> tuple[Pixels, Valid]:
        first, second = halves(window)
        axis = 1 if first.col_off == second.col_off else 2
        parts = [self.read(first), self.read(second)]
        pixels = np.concatenate([part[0] for part in parts], axis=axis)
        return pixels, np.concatenate([part[1] for part in parts], axis=axis - 1)

    def clear(self) -> None:
        """Remove them all."""
        shutil.rmtree(self.folder, ignore_errors=True)


Job: TypeAlias = tuple[TileStore, Window]  # a tile to be fetched


def halves(window: Window) -> list[Window]:
    """The two halves of a window across its longer side, the first of whole blocks where it can; none if tiny."""
    rows, cols = int(window.height), int(window.width)
    if max(rows, cols) <= SMALLEST:
        return []
    first = _half(max(rows, cols))
    if rows >= cols:
        upper = Window(window.col_off, window.row_off, cols, first)
        return [upper, Window(window.col_off, window.row_off + first, cols, rows - first)]
    left = Window(window.col_off, window.row_off, first, rows)
    return [left, Window(window.col_off + first, window.row_off, cols - first, rows)]


def _half(side: int) -> int:
    return side // 2 if side <= BLOCK else -(-side // 2 // BLOCK) * BLOCK or BLOCK


def checked_tile(scene: Scene, window: Window, pixels: Pixels, valid: Valid) -> tuple[Pixels, Valid]:
    """A tile as the scene wants it: 0 (nodata, where the scene has one) where it is invalid.

    Raises:
        BadInputError: It has another shape or dtype than the scene.
    """
    shape = (len(scene.bands), int(window.height), int(window.width))
    if pixels.shape != shape or pixels.dtype != scene.dtype or valid.shape != shape[1:]:
        found = f"a tile of {pixels.dtype} {list(pixels.shape)}"
        raise BadInputError(scene.name, found, f"{scene.dtype} {list(shape)}", "The service answers in another form.")
    if pixels.dtype.kind == "f":
        valid = valid & np.isfinite(pixels).all(axis=0)
    return np.where(valid, pixels, pixels.dtype.type(scene.nodata or 0)), valid


def fetched(source: Source, scene: Scene, window: Window) -> tuple[Pixels, Valid]:
    """A tile as the source gives it; an invalid one, without a request, where it lies outside the area."""
    if source.wants(scene, window):
        return source.fetch(scene, window)
    shape = int(window.height), int(window.width)
    return np.zeros((len(scene.bands), *shape), scene.dtype), np.zeros(shape, bool)


def fetch_tiles(
    source: Source, stores: Sequence[TileStore], *, parallel: int, done: Callable[[Scene, Window], None]
) -> None:
    """Fetch all tiles that are not kept yet, at most `parallel` at once; what is kept survives any error.

    The first goes alone: what is wrong for good then ends with one request.

    Args:
        source: Where from.
        stores: Of the scenes.
        parallel: Requests at once.
        done: Is told of each tile, or part of one, that is there.

    Raises:
        RoofError: A tile cannot be had.
    """

    def obtain(job: Job) -> list[Job]:
        """Keep a tile; where it is too large, its halves, which are to be obtained instead."""
        store, window = job
        if store.has(window):
            return []
        try:
            if store.is_halved(window):
                raise TooLargeError
            pixels, valid = checked_tile(store.scene, window, *fetched(source, store.scene, window))
            if not source.web.stopped.is_set():
                store.keep(window, pixels, valid)
            return []
        except TooLargeError as error:
            return [(store, part) for part in _halved(store, window, source, error)]

    todo: list[Job] = []
    for store in stores:
        for window in store.scene.tiles():
            if store.has(window):
                done(store.scene, window)
            else:
                todo.append((store, window))
    if not todo:
        return
    parts = obtain(todo[0])
    if not parts:
        done(todo[0][0].scene, todo[0][1])
    _in_threads(obtain, [*parts, *todo[1:]], parallel, source.web.stopped, lambda job: done(job[0].scene, job[1]))


def _halved(store: TileStore, window: Window, source: Source, error: Exception) -> list[Window]:
    """The halves of a tile that is too large.

    Raises:
        BadInputError: It is small already.
    """
    parts = halves(window)
    if not parts:
        found = f"{source.name} refuses even {SMALLEST} pixels ({error})"
        raise BadInputError(store.scene.name, found, "an answer at some size", "Ask for less: fewer bands or days.")
    store.halve(window)
    return parts


def _in_threads(
    work: Callable[[Job], list[Job]],
    items: Sequence[Job],
    count: int,
    stopped: threading.Event,
    done: Callable[[Job], None],
) -> None:
    """`work(item)` for each item and for what it returns, in threads; the first error ends them all.

    The threads do not outlive this process: a pool's would be waited for at exit, and one that hangs with them.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    results: queue.SimpleQueue[tuple[Job, list[Job]] | BaseException] = queue.SimpleQueue()

    def run() -> None:
        while not stopped.is_set():
            try:
                item = waiting.get(timeout=POLL)
                results.put((item, work(item)))
            except queue.Empty:
                continue
            except BaseException as error:
                results.put(error)
                return

    for item in items:
        waiting.put(item)
    threads = [threading.Thread(target=run, daemon=True) for _ in range(count if items else 0)]
    left = len(items)
    try:
        for thread in threads:
            thread.start()
        while left:
            item, more = _next(results)
            left += len(more) - 1
            for part in more:
                waiting.put(part)
            if not more:
                done(item)
    finally:
        stopped.set()
        ending = time.monotonic() + PATIENCE
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(ending - time.monotonic(), 0.0))
    stopped.clear()


def _next(
    results: "queue.SimpleQueue[tuple[Job, list[Job]] | BaseException]",
) -> tuple[Job, list[Job]]:
    """The next result; errors are raised, and signals heeded while waiting."""
    while True:
        raise_if_stopped()
        try:
            result = results.get(timeout=0.5)
        except queue.Empty:
            continue
        if isinstance(result, StoppedError):
            continue
        if isinstance(result, BaseException):
            raise result
        return result
