"""Processes of this machine, as /proc tells of them."""

import time
from collections.abc import Callable
from pathlib import Path


def alive(group: int) -> list[int]:
    """The processes of a group that still run, zombies apart (a container may have nobody to collect them)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a function says yes; an error where it has not within some seconds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
