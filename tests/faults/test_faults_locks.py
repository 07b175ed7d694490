"""Two runs on one output: one wins, the other says who holds it, since when, and ends with 1."""

import re
import select
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
    """Start two runs a moment apart; who locks first waits until the other has ended."""
    kept, _ = project.undisturbed(name)
    project.clear()
    servers, gate = [project.server(False), second], project.folder / "gate"
    gate.unlink(missing_ok=True)
    rng.shuffle(servers)
    argv, pids = CASES[name].argv(project.ref, project.out), {}
    for server in servers:
        pids[server] = server.start(CASES[name].stage, argv, gate=str(gate))
        time.sleep(rng.uniform(0, 0.3))
    ended, _, _ = select.select([server.process.stdout for server in servers], [], [], 120)
    (loser,) = (server for server in servers if server.process.stdout in ended)
    lost = loser.wait()
    gate.touch()
    (winner,) = (server for server in servers if server is not loser)
    won = winner.wait()
    assert (lost.status, won.status) == (1, 0), (lost.said, won.said)
    assert LINE.match(lost.said), lost.said
    assert int(LINE.match(lost.said)[1]) == pids[winner]
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
