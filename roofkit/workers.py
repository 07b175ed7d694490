"""Run one function over many items on all cores, in order, and end cleanly however the run ends: processes, threads."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextvars import copy_context
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from roofkit.errors import OutputError
from roofkit.heeded import are_heeded, heed
from roofkit.stopping import deferring

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # tasks waiting per worker: enough to keep it busy, few enough to keep memory flat
_END = object()
_made: dict[object, object] = {}
_making = threading.Lock()


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def once(key: object, make: Callable[[], Result]) -> Result:
    """What `make` makes, made once in this process for each key: a model, say, that many tasks use."""
    with _making:
        if key not in _made:
            _made[key] = make()
        return _made[key]  # type: ignore[return-value]


def map_items(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    pool: ProcessPoolExecutor | None = None,
) -> Iterator[Result]:
    """`work(item)` for each item, in the order of `items`; the first error stops the rest.

    Args:
        work: A function at the top of a module, so that worker processes find it.
        items: What to work on; each must survive pickling when there are several workers.
        workers: Processes; None: one for each core. With 1, or one item, everything runs in this process.
        scheduler: The address of a Dask scheduler, whose workers do it instead.
        pool: Processes that are there already, of `started`.

    Wrap the call in `contextlib.closing`: an error in the loop over the results then first ends the workers.

    Raises:
        OutputError: A worker process was killed (out of memory, most often).
        ClusterError: The cluster does not answer, or cannot do this work.
    """
    if scheduler and items:
        from roofkit.cluster import map_on_cluster

        yield from map_on_cluster(work, items, scheduler)
        return
    count = min(workers or cores(), len(items))
    with contextlib.nullcontext(pool) if pool else started(count) as running:
        if running:
            yield from _in_order(running, work, items, count * AHEAD)
        else:
            yield from map(work, items)


@contextlib.contextmanager
def started(count: int) -> Iterator[ProcessPoolExecutor | None]:
    """Worker processes that several calls of `map_items` share; None where one process is enough.

    Raises:
        OutputError: A worker process was killed (out of memory, most often).
    """
    if count <= 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(are_heeded(),))
    try:
        yield pool
    except BrokenProcessPool:
        _stop(pool)
        raise OutputError(
            "workers", "a worker process was killed", "enough memory for all", "Run again with fewer --workers."
        ) from None
    except BaseException:
        _stop(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def map_threads(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None
) -> Generator[Result, None, None]:
    """`work(item)` for each item, in their order, for work that lets go of the interpreter's lock.

    Items are taken by the calling thread, a few ahead, so that they may come from an open file.
    """
    count = workers or cores()
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(copy_context().run, work, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextlib.contextmanager
def ahead(items: Iterable[Item], count: int = 2) -> Iterator[Iterator[Item]]:
    """The same items, made in a thread of their own from now on, `count` of them before they are asked for.

    A generator is closed at the end, when the thread has ended.
    """
    source = iter(items)
    with contextlib.ExitStack() as stack:
        if isinstance(source, Generator):
            stack.enter_context(contextlib.closing(source))
        thread = stack.enter_context(ThreadPoolExecutor(1))
        take: Callable[[], Future[Any]] = partial(thread.submit, copy_context().run, partial(next, source, _END))
        coming = deque(take() for _ in range(max(count, 1)))
        try:
            yield _taken(coming, take)
        finally:
            for future in coming:
                future.cancel()


def _taken(coming: deque[Future[Any]], take: Callable[[], Future[Any]]) -> Iterator[Any]:
    while (item := coming.popleft().result()) is not _END:
        coming.append(take())
        yield item


def _in_order(
    pool: ProcessPoolExecutor, work: Callable[[Item], Result], items: Sequence[Item], ahead: int
) -> Iterator[Result]:
    rest = iter(items)
    waiting: list[Future[Result]] = [_submit(pool, work, item) for item in islice(rest, ahead)]
    while waiting:
        result = _result(pool, waiting.pop(0))
        waiting.extend(_submit(pool, work, item) for item in islice(rest, 1))
        yield result


def _result(pool: ProcessPoolExecutor, future: Future[Result]) -> Result:
    """Wait for a task; the pool itself waits for ever when a worker is killed while it hands over a result."""
    while not wait([future], timeout=1).done:
        if any(process.exitcode is not None for process in list((pool._processes or {}).values())):
            raise BrokenProcessPool
    return future.result()


def _submit(pool: ProcessPoolExecutor, work: Callable[[Item], Result], item: Item) -> Future[Result]:
    """Hand out a task. A worker that this starts inherits a blocked Ctrl-C, and is told all that it needs to start."""
    with deferring():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return pool.submit(work, item)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End workers at once: what they were writing has not got its final name."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    if pool._result_queue:  # so that the pool finds the end of a result that was handed over only in part
        pool._result_queue._writer.close()  # type: ignore[attr-defined]


def _start_worker(sidecars: bool) -> None:
    """Leave Ctrl-C to the main process, and end when the main process does, even by kill -9."""
    heed(sidecars)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
