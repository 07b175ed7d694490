"""Training killed at random batches and resumed: the weights are those of one that nothing stopped, bit by bit."""

import json

import numpy as np
import pytest
from faults.project import CASES, Project, contents, model_content, random_of

MEASURED = 6  # batches that are timed before the first epoch
BATCHES = MEASURED + 9


def resumed(project: Project, batches: list[int]) -> int:
    """Kill a training after each of these batches in turn, and let it end; how often it was killed."""
    kept, _ = project.undisturbed("train")
    project.clear()
    argv, killed = CASES["train"].argv(project.ref, project.out), 0
    model, state = project.out / "results_4.h5", project.out / "results_4.resume.npz"
    for batch in [*batches, None]:
        done = project.server(True).run("train", [*argv, *(["--resume"] if state.exists() else [])], batch=batch)
        assert done.status == (-9 if done.status else 0), done.said
        killed += done.status == -9
        if state.exists():
            best_and_last_are_there(model, state)
        if done.status == 0:
            break
    assert contents(project.out) == contents(kept)
    assert not state.exists()
    return killed


def best_and_last_are_there(model, state) -> None:
    """Check that both load, and that the model is the best epoch that the state knows, or a later one."""
    weights, facts = model_content(model)
    assert weights
    with np.load(state) as found:
        rows = json.loads(str(found["note"]))["rows"]
        assert all(np.isfinite(found[name]).all() for name in set(found.files) - {"note"})
    assert json.loads(facts)["val_iou"] >= max(row["val_iou"] for row in rows)


@pytest.mark.faults
def test_a_training_killed_at_10_batches_goes_on_bit_by_bit(undisturbed):
    rng, killed = random_of("10 batches"), 0
    while killed < 10:
        killed += resumed(undisturbed, rng.integers(1, BATCHES + 1, 2).tolist())
    print(f"killed at {killed} batches, resumed: weights and history bit-equal, best and last always there")
