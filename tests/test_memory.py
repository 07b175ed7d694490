"""roofkit.memory: free memory of the machine and of the control groups around this process."""

import pytest

from roofkit import memory

MIB = 2**20


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes what a system says of itself: the machine, the process's groups, and a group's files."""
    for name in ("MACHINE", "MEMBERSHIP", "GROUPS"):
        monkeypatch.setattr(memory, name, tmp_path / name)
    (tmp_path / "MACHINE").write_text(f"MemTotal: {9000 * 1024} kB\nMemAvailable:  {1000 * 1024} kB\n")

    class System:
        def member(self, *lines):
            (tmp_path / "MEMBERSHIP").write_text("\n".join(lines) + "\n")

        def group(self, path, **files):
            folder = tmp_path / "GROUPS" / path
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / f"memory.{name}").write_text(f"{text}\n")

    return System()


def test_what_the_machine_has_available(system):
    assert memory.free_memory() == 1000 * MIB


def test_version_2_counts_what_the_group_caches_as_free(system):
    system.member("0::/job")
    system.group("job", max=500 * MIB, current=300 * MIB, stat=f"anon 7\ninactive_file {100 * MIB}")
    assert memory.free_memory() == 300 * MIB
    system.group("job", max="max")
    assert memory.free_memory() == 1000 * MIB


def test_a_group_around_it_limits_too(system):
    system.member("0::/slice/job")
    system.group("slice/job", max="max", current=0, stat="inactive_file 0")
    system.group("slice", max=500 * MIB, current=450 * MIB, stat="inactive_file 0")
    assert memory.free_memory() == 50 * MIB


def test_version_1(system):
    system.member("9:name=systemd:/", "4:memory:/job", "3:cpuset:/")
    usage = dict(usage_in_bytes=80 * MIB, stat=f"inactive_file 5\ntotal_inactive_file {10 * MIB}")
    system.group("memory/job", limit_in_bytes=2**63 - 4096, **usage)
    assert memory.free_memory() == 1000 * MIB
    system.group("memory", limit_in_bytes=100 * MIB, **usage)
    assert memory.free_memory() == 30 * MIB


def test_a_group_beyond_its_limit_has_nothing_free(system):
    system.member("0::/")
    system.group("", max=MIB, current=3 * MIB, stat="inactive_file 0")
    assert memory.free_memory() == 0


def test_systems_that_say_less(system, tmp_path, monkeypatch):
    (tmp_path / "MACHINE").unlink()
    assert memory.free_memory() > 2**26  # half of this machine's
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.free_memory() == memory.UNKNOWN
