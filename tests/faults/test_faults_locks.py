"""Two runs on one output: one wins, the other says who holds it, since when, and ends with 1."""

import re
import time

import pytest
from faults.project import CASES, Server, contents, leftovers, random_of

LINE = re.compile(
    r"error: \S+: locked by process (\d+) on \S+ since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d; expected no other run"
)


@pytest.fixture
def second(undisturbed):
    found = Server(undisturbed.folder / "second")
    yield found
    found.close()


def collide(project, second, name, rng):
    """Start two runs a moment apart, of which the first to lock waits before its first file is in place."""
    kept, _ = project.undisturbed(name)
    project.clear()
    servers = [project.server(False), second]
    rng.shuffle(servers)
    argv, pids = CASES[name].argv(project.ref, project.out), []
    for server in servers:
        pids.append(server.start(CASES[name].stage, argv, pause=1.5))
        time.sleep(rng.uniform(0, 0.3))
    done = [server.wait() for server in servers]
    assert sorted(run.status for run in done) == [0, 1], [run.said for run in done]
    winner = pids[[run.status for run in done].index(0)]
    said = next(run.said for run in done if run.status)
    assert LINE.match(said), said
    assert int(LINE.match(said)[1]) == winner
    assert contents(project.out) == contents(kept)
    assert leftovers(project.out) == []


def test_one_of_two_runs_wins(undisturbed, second):
    collide(undisturbed, second, "chip", random_of("locks"))


@pytest.mark.faults
def test_one_of_two_runs_wins_20_times(undisturbed, second):
    rng = random_of("many locks")
    names = ("chip", "mosaic", "mask", "split", "flatten csv", "flatten parquet", "summarize", "predict blocks")
    for number in range(20):
        collide(undisturbed, second, names[number % len(names)], rng)
    print("20 of 20: one wins, the other names it")
