"""A stage's tasks on a Dask cluster: the same function, items and results as on this machine.

Every worker needs this project installed, and sees the data and results folders under the same names. A task may run
twice, or at the same time on two workers, where one is lost: each run writes beside the final path under a name of its
own, and gives the same bytes.
"""

import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

from roofkit.artifacts import attempt
from roofkit.errors import ClusterError, RoofError
from roofkit.heeded import are_heeded, heed
from roofkit.workers import AHEAD

Item = TypeVar("Item")
Result = TypeVar("Result")

TIMEOUT = 30  # seconds for a scheduler to answer, and for its first worker to come


def map_on_cluster(work: Callable[[Item], Result], items: Sequence[Item], scheduler: str) -> Iterator[Result]:
    """`work(item)` for each item, in their order, on the workers of the Dask scheduler at that address.

    Raises:
        ClusterError: Dask is not installed, nobody answers, workers lack this project, or a task killed its workers.
    """
    with _client(scheduler) as client:
        ahead = AHEAD * sum(_check_workers(client, scheduler).values())
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(client.submit(_attempted, work, item, are_heeded(), pure=False))
                if len(waiting) >= ahead:
                    yield _result(waiting.popleft(), scheduler)
            while waiting:
                yield _result(waiting.popleft(), scheduler)
        finally:
            client.cancel(list(waiting), force=True)


def _attempted(work: Callable[[Item], Result], item: Item, sidecars: bool) -> Result:
    """Run a task so that what it writes has a name of its own until it is whole."""
    heed(sidecars)
    token = attempt.set(uuid.uuid4().hex[:12])
    try:
        return work(item)
    except RoofError as error:
        error.__cause__ = error.__context__ = None  # GDAL's errors do not survive the way back, and this one with them
        raise
    finally:
        attempt.reset(token)


def _client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        advice = "Install the extra: .venv/bin/python -m pip install distributed."
        raise ClusterError("--scheduler", "Dask is not installed", "the package distributed", advice) from None
    try:
        return Client(scheduler, timeout=TIMEOUT, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        found = f"no Dask scheduler answers ({type(error).__name__}: {error})"
        raise ClusterError(scheduler, found, "a running scheduler", "Start one: dask scheduler.") from None


def _check_workers(client: Any, scheduler: str) -> dict[str, int]:
    """The threads of each worker, all of which have this version of the project."""
    try:
        client.wait_for_workers(1, timeout=TIMEOUT)
    except TimeoutError:
        advice = f"Start some: dask worker {scheduler}."
        raise ClusterError(scheduler, "a scheduler without workers", "at least one worker", advice) from None
    own = version("roof-classify")
    try:
        versions = client.run(_own_version)
    except Exception as error:  # whatever a worker without this module raises
        found = f"workers that cannot import this project ({type(error).__name__}: {error})"
        raise ClusterError(scheduler, found, "it installed on each", "Run ./setup.sh there.") from None
    for worker, found in versions.items():
        if found != own:
            raise ClusterError(worker, f"version {found} of this project", f"{own}, as here", "Run ./setup.sh there.")
    threads: dict[str, int] = client.nthreads()
    return threads


def _own_version() -> str:
    return version("roof-classify")


def _result(future: Any, scheduler: str) -> Any:
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        found = f"a task that ended {error.allowed_failures + 1} workers (out of memory, most often)"
        advice = "Give workers more memory, or fewer threads each."
        raise ClusterError(scheduler, found, "tasks that workers survive", advice) from None
