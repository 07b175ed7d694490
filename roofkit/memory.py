"""How much memory this process may still take, and what becomes of what it gives back."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

MALLOC = {-4: 0, -1: -1, -8: 1}  # M_MMAP_MAX none, M_TRIM_THRESHOLD never, M_ARENA_MAX one for all threads
UNKNOWN = 8 * 2**30  # bytes, where the system does not say
MACHINE = Path("/proc/meminfo")
MEMBERSHIP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
KINDS = (  # files of a control group, version 2 and 1: its limit, what it uses, and which of that is cache of files
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory() -> int:
    """Bytes that are free on this machine, and in every control group (container, job) that this process is in."""
    return min([_on_machine(), *(_in_group(folder) for folder in _groups())])


def _on_machine() -> int:
    """Bytes that are available; half of all where only that is known."""
    try:
        if MACHINE.exists():
            values = dict(line.split(":", 1) for line in MACHINE.read_text().splitlines())
            return int(values["MemAvailable"].split()[0]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, KeyError, ValueError, OSError):
        return UNKNOWN


def _groups() -> Iterator[Path]:
    """Folders of the control groups that may limit this process: its own and those around it."""
    lines = MEMBERSHIP.read_text().splitlines() if MEMBERSHIP.exists() else []
    for controllers, path in (line.split(":", 2)[1:] for line in lines):
        if controllers in ("", "memory"):
            root = GROUPS / controllers
            own = root / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))


def _in_group(folder: Path) -> int:
    """Bytes that a control group may still take: what it caches of files makes room when it must."""
    for limit, used, cached in KINDS:
        try:
            allowed = int((folder / limit).read_text())  # or "max"
            found = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return max(0, allowed - int((folder / used).read_text()) + int(found[cached]))
        except (OSError, KeyError, ValueError):
            continue
    return 2**63 - 1


def reuse_memory() -> None:
    """Have this process keep what its arrays and tensors free, for the next ones; call it before they are made.

    By default the C library of Linux (glibc) gets memory for each large array from the kernel, which has to clear it,
    and gives it back. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, value in MALLOC.items():
            mallopt(option, value)
