"""A stage's tasks on a Dask cluster: the same function, items and results as on this machine.

Every worker needs this project installed, and sees the data and results folders under the same names. A task may run
twice, or at the same time on two workers, where one is lost: each run writes beside the final path under a name of its
own, and gives the same bytes. It takes its final name only while a sign of the run is in the folder, so that neither a
worker with a folder of its own nor a late task of a run that has ended goes unnoticed.
"""

import logging
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from roofkit.artifacts import attempt, check_signs, show_run, signs
from roofkit.errors import ClusterError, OutputError, RoofError
from roofkit.heeded import are_heeded, heed
from roofkit.workers import AHEAD

Item = TypeVar("Item")
Result = TypeVar("Result")

TIMEOUT = 30  # seconds for a scheduler to answer, and for its first worker to come
LATE = 5  # seconds after which a new file is there for every machine that shares a folder
LOGGERS = ("distributed", "distributed.client", "distributed.core", "distributed.comm", "tornado.application")


def map_on_cluster(work: Callable[[Item], Result], items: Sequence[Item], scheduler: str) -> Iterator[Result]:
    """`work(item)` for each item, in their order, on the workers of the Dask scheduler at that address.

    Raises:
        ClusterError: Dask is not installed, nobody answers, workers lack this project, or a task killed its workers.
    """
    shown = show_run(uuid.uuid4().hex[:12])
    with _client(scheduler) as client:
        ahead = AHEAD * sum(_check_workers(client, scheduler, shown).values())
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(client.submit(_attempted, work, item, are_heeded(), shown, pure=False))
                if len(waiting) >= ahead:
                    yield _result(waiting.popleft(), scheduler)
            while waiting:
                yield _result(waiting.popleft(), scheduler)
        finally:
            client.cancel(list(waiting), force=True)


def _attempted(work: Callable[[Item], Result], item: Item, sidecars: bool, shown: tuple[Path, ...]) -> Result:
    """Run a task so that what it writes has a name of its own until it is whole, and the run is not over."""
    heed(sidecars)
    token, until = attempt.set(uuid.uuid4().hex[:12]), signs.set(shown)
    try:
        _look(shown)
        return work(item)
    except RoofError as error:
        error.__cause__ = error.__context__ = None  # GDAL's errors do not survive the way back, and this one with them
        raise
    finally:
        attempt.reset(token)
        signs.reset(until)


def _look(shown: tuple[Path, ...]) -> str:
    """This version of the project, where a worker sees the signs of a run.

    Raises:
        ClusterError: It does not.
    """
    last = time.monotonic() + LATE
    while True:
        try:
            check_signs(shown)
            return version("roof-classify")
        except OutputError as error:
            if time.monotonic() > last:
                found = f"a worker on {socket.gethostname()} that does not see it as it is here"
                advice = "Mount it there under this name, or stop that worker."
                raise ClusterError(error.where, found, "a folder that all workers share", advice) from None
            time.sleep(0.2)


def _client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        advice = "Install the extra: .venv/bin/python -m pip install distributed."
        raise ClusterError("--scheduler", "Dask is not installed", "the package distributed", advice) from None
    for name in LOGGERS:  # what they say in a traceback is said in a line
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        return Client(scheduler, timeout=TIMEOUT, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        found = f"no Dask scheduler answers ({type(error).__name__}: {error})"
        raise ClusterError(scheduler, found, "a running scheduler", "Start one: dask scheduler.") from None


def _check_workers(client: Any, scheduler: str, shown: tuple[Path, ...]) -> dict[str, int]:
    """The threads of each worker, all of which have this version of the project and see the signs of this run."""
    try:
        client.wait_for_workers(1, timeout=TIMEOUT)
    except TimeoutError:
        advice = f"Start some: dask worker {scheduler}."
        raise ClusterError(scheduler, "a scheduler without workers", "at least one worker", advice) from None
    own = version("roof-classify")
    try:
        versions = client.run(_look, shown)
    except ClusterError:
        raise
    except Exception as error:  # whatever a worker without this module raises
        found = f"workers that cannot import this project ({type(error).__name__}: {error})"
        raise ClusterError(scheduler, found, "it installed on each", "Run ./setup.sh there.") from None
    for worker, found in versions.items():
        if found != own:
            raise ClusterError(worker, f"version {found} of this project", f"{own}, as here", "Run ./setup.sh there.")
    threads: dict[str, int] = client.nthreads()
    return threads


def _result(future: Any, scheduler: str) -> Any:
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        found = f"a task that ended {error.allowed_failures + 1} workers (out of memory, most often)"
        advice = "Give workers more memory, or fewer threads each."
        raise ClusterError(scheduler, found, "tasks that workers survive", advice) from None
    except (CommClosedError, CancelledError) as error:
        found, advice = f"it went away ({type(error).__name__})", "Start it and its workers, then run again."
        raise ClusterError(scheduler, found, "a scheduler that stays until the end", advice) from None
