"""SIGTERM and Ctrl-C, as scripts get them: exit 143 and 130 within 5 s, old or no results, no process left behind.

And a worker process that is killed: one line, exit 1, nothing left.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.project import CASES, ROOT, Project, contents, environment, leftovers, random_of, wrong
from processes import alive, wait_until

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
WITHIN = 5.0
MANY = 20
POOLS = {"chip": 2, "evaluate": 2}  # what works in processes of its own when it is asked to


def start(project: Project, name: str) -> "subprocess.Popen[bytes]":
    """Start a stage's script in a group of its own."""
    case = CASES[name]
    argv = case.argv(project.ref, project.out)
    argv += ["--workers", str(POOLS[name])] if name in POOLS else []
    line = [sys.executable, str(ROOT / case.stage / f"{case.stage}.py"), *argv]
    return subprocess.Popen(line, stderr=subprocess.PIPE, env=environment(), start_new_session=True)


def wait_for(holds: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Wait until a function says yes, or the process has ended."""
    while not holds() and process.poll() is None:
        time.sleep(0.005)


def locked(folder: Path) -> bool:
    """Whether a stage is at work in a folder, or below it."""
    return any(folder.rglob("*.lock"))


def run_whole(project: Project, name: str) -> None:
    """Run a script to its end."""
    with start(project, name) as process:
        said = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 0, said


@cache
def whole(project: Project, name: str) -> dict[str, Any]:
    """What a script makes that nothing disturbs; the forked runs of other tests compute Keras' steps one by one,
    which rounds otherwise.
    """
    project.undisturbed(name)  # which makes what the script reads
    project.clear()
    run_whole(project, name)
    return contents(project.out)


def interrupt(project: Project, name: str, number: signal.Signals, rng: np.random.Generator) -> float:
    """Send a signal to a stage at a random moment of its work; seconds until it and all its children had ended."""
    _, done = project.undisturbed(name)
    made = whole(project, name)
    project.clear()
    with start(project, name) as process:
        try:
            wait_for(lambda: locked(project.out), process)
            time.sleep(rng.uniform(0, done.seconds))
            process.send_signal(number)
            started = time.monotonic()
            status = process.wait(60)
            wait_until(lambda: not alive(process.pid))
            seconds = time.monotonic() - started
            said = process.stderr.read().decode() if process.stderr else ""
        finally:
            process.kill()
    assert status in (0, STATUS[number]), said
    assert "Traceback" not in said
    assert wrong(contents(project.out), made, {}) == []
    run_whole(project, name)
    assert contents(project.out) == made
    assert leftovers(project.out) == []
    return seconds


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_a_script_and_its_workers(undisturbed, number):
    assert interrupt(undisturbed, "chip", number, random_of(f"chip {number}")) < WITHIN


@pytest.mark.faults
@pytest.mark.parametrize("number", STATUS)
def test_many_signals(undisturbed, number):
    rng, slowest = random_of(f"many {number}"), 0.0
    names = ["chip", "train", "evaluate", "predict", "flatten csv", "forest", "train", "summarize", "mask", "split"]
    for i in range(MANY):
        slowest = max(slowest, interrupt(undisturbed, names[i % len(names)], number, rng))
    print(f"{number.name}: {MANY} runs ended within {slowest:.1f} s")
    assert slowest < WITHIN


def test_a_killed_worker_is_one_line_and_leaves_nothing(undisturbed):
    kept, _ = undisturbed.undisturbed("chip")
    undisturbed.clear()
    with start(undisturbed, "chip") as process:
        try:
            wait_for(lambda: workers(process.pid), process)
            os.kill(workers(process.pid)[0], signal.SIGKILL)
            said = process.stderr.read().decode() if process.stderr else ""
            assert process.wait(60) == 1
        finally:
            process.kill()
    expected = "error: workers: a worker process was killed; expected enough memory for all."
    assert said.startswith(expected)
    assert said.count("\n") == 1
    wait_until(lambda: not alive(process.pid))
    assert wrong(contents(undisturbed.out), contents(kept), {}) == []
    assert leftovers(undisturbed.out) == []
    assert undisturbed.run("chip", clear=False).status == 0
    assert contents(undisturbed.out) == contents(kept)


def workers(group: int) -> list[int]:
    """The worker processes in a group: those that multiprocessing started by itself."""
    return [pid for pid in alive(group) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
