"""A full disk: one line and exit 1, and nothing wrong or partial at a final path; once there is room, the same bytes.

The ordinary run limits the size of a file (RLIMIT_FSIZE), which needs no rights and meets every write by any library in
that process. The full sweep also writes to file systems in memory of 23 sizes, where they can be mounted.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults.project import CASES, HEAVY, Done, Project, contents, leftovers, random_of, todays, wrong

SIZES = 23
PAGE = 4096


def check(project: Project, name: str, done: Done, where: str) -> bool:
    """Check what a run on a full disk left; whether it failed."""
    kept, _ = project.undisturbed(name)
    new, found = contents(kept), contents(project.out)
    assert wrong(found, new, {}) == [], where
    if done.status == 0:
        assert found == new, where
        return False
    assert done.status == 1, (where, done.said)
    lines = [line for line in done.said.splitlines() if not line.startswith(("warning: ", "note: "))]
    assert lines[-1].startswith("error: "), (where, done.said)
    assert "Traceback" not in done.said, (where, done.said)
    assert sum(line.startswith("error: ") for line in lines) == 1, (where, done.said)
    return True


def mend(project: Project, name: str) -> None:
    """Run again with room."""
    again = project.run(name, clear=False)
    assert again.status == 0, again.said
    assert contents(project.out) == contents(project.undisturbed(name)[0])
    assert leftovers(project.out) == []


def limits(project: Project, name: str) -> list[int]:
    """File sizes from a few bytes to more than the largest file that a case writes."""
    largest = max(path.stat().st_size for path in project.undisturbed(name)[0].rglob("*") if path.is_file())
    return np.unique(np.geomspace(8, 1.2 * largest, SIZES).astype(int)).tolist()


@pytest.mark.parametrize("name", todays(sorted(set(CASES) - set(HEAVY)), 3))
def test_a_file_that_cannot_grow(undisturbed, name):
    limit = int(random_of(name).choice(limits(undisturbed, name)[:-2]))
    done = undisturbed.run(name, limit=limit)
    assert check(undisturbed, name, done, f"{limit} bytes")
    mend(undisturbed, name)


@pytest.mark.faults
@pytest.mark.parametrize("name", CASES)
def test_files_that_cannot_grow(undisturbed, name):
    failed = 0
    for limit in limits(undisturbed, name):
        failed += check(undisturbed, name, undisturbed.run(name, limit=limit), f"{limit} bytes")
        mend(undisturbed, name)
    print(f"{name}: {failed} of {SIZES} file sizes were too small, 0 false successes")
    assert failed > SIZES // 2


class Disk:
    """A file system in memory at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, size: int) -> bool:
        """Have one of that size; whether that is allowed here."""
        self.unmount()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return not self._call("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.folder))

    def grow(self, size: int) -> None:
        """Give it room."""
        assert not self._call("mount", "-o", f"remount,size={size}", str(self.folder))

    def unmount(self) -> None:
        """Have none."""
        while self.folder.is_mount():
            assert not self._call("umount", str(self.folder))

    def _call(self, *line: str) -> int:
        return subprocess.run(line, capture_output=True).returncode


@pytest.fixture
def disk(undisturbed: Project) -> Iterator[Disk]:
    found = Disk(undisturbed.out)
    if not shutil.which("mount") or not found.mount(PAGE):
        pytest.skip("no file system can be mounted here (only root may); the limit on file sizes was tested")
    yield found
    found.unmount()


@pytest.mark.faults
@pytest.mark.parametrize("name", CASES)
def test_full_disks(undisturbed, disk, name):
    disk.unmount()
    kept, _ = undisturbed.undisturbed(name)
    pages = sum(-(-path.stat().st_size // PAGE) for path in kept.rglob("*") if path.is_file())
    failed = 0
    for size in np.linspace(1, 1.5 * pages + 8, SIZES).astype(int).tolist():
        assert disk.mount(size * PAGE)
        done = undisturbed.run(name, clear=False)
        failed += check(undisturbed, name, done, f"{size} pages")
        disk.grow(16 * pages * PAGE + 2**24)
        mend(undisturbed, name)
    print(f"{name}: {failed} of {SIZES} disks were too small, 0 false successes")
    assert failed > SIZES // 3
