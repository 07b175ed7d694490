"""kill -9 at random points of every stage: nothing wrong or partial at a final path, and the next run mends it all."""

import numpy as np
import pytest
from faults.project import CASES, HEAVY, Project, contents, ledgers, leftovers, random_of, todays, wrong

POINTS = 50


def trial(project: Project, name: str, rng: np.random.Generator, number: int) -> bool:
    """Kill a stage at a random point and run it again; whether it was killed before its end.

    Every other time an older, finished result is in place. Half of the points are random times, half file events:
    stages of a tenth of a second are between two files most of the time.
    """
    kept, done = project.undisturbed(name)
    new, old = contents(kept), {}
    project.clear(name if number % 2 else None)
    if number % 2:
        old = contents(project.out)
    faults = (
        {"kill_after": float(rng.uniform(0, 1.1 * done.seconds))}
        if number // 2 % 2
        else {"event": int(rng.integers(1, done.events + 1))}
    )
    killed = project.run(name, clear=False, **faults)
    assert killed.status in (0, -9), killed.said
    assert wrong(contents(project.out), new, old) == [], faults
    again = project.run(name, clear=False)
    assert again.status == 0, (faults, again.said)
    assert contents(project.out) == new, faults
    assert leftovers(project.out) == [], faults
    if CASES[name].stage != "train":  # whose ledger holds the seconds of epochs
        assert ledgers(project.out) == ledgers(kept), faults
    return killed.status == -9


@pytest.mark.parametrize("name", [*todays(sorted(set(CASES) - set(HEAVY)), 7), *todays(HEAVY, 1)])
def test_killed_at_a_random_point(undisturbed, name):
    rng = random_of(name)
    trial(undisturbed, name, rng, int(rng.choice([0, 2] if name in HEAVY else [0, 1, 2, 3])))


@pytest.mark.faults
@pytest.mark.parametrize("name", CASES)
def test_killed_at_many_points(undisturbed, name):
    rng = random_of(name)
    killed = sum(trial(undisturbed, name, rng, number) for number in range(POINTS))
    print(f"{name}: killed at {killed} of {POINTS} points, 0 wrong, 0 left over")
    assert killed > POINTS // 2
