"""workers: order, errors, killed processes, and named problems that cross a process boundary whole."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path

import pytest
from processes import alive, wait_until

from roofkit.errors import BadInputError, LockedError, MissingInputError, OutputError, RoofError
from roofkit.workers import ahead, cores, map_items, started


def slow_square(number: int) -> int:
    time.sleep(0.05 if number == 0 else 0)  # the first is the last to end
    return number * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise BadInputError("three.tif", "a three", "another number", "Leave it out.")
    return number


def die_at_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def process_number(number: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers):
    assert list(map_items(slow_square, range(30), workers=workers)) == [n * n for n in range(30)]


def test_one_worker_or_one_item_runs_here():
    assert set(map_items(process_number, range(3), workers=1)) == {os.getpid()}
    assert list(map_items(process_number, [0], workers=8)) == [os.getpid()]
    assert os.getpid() not in set(map_items(process_number, range(4), workers=2))


def test_nothing_to_do():
    assert list(map_items(slow_square, [], workers=2)) == []
    assert cores() >= 1


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_ends_the_run_after_the_results_before_it(workers):
    seen = []
    with pytest.raises(BadInputError, match=r"^three.tif: a three; expected another number. Leave it out.$") as caught:
        seen.extend(map_items(fail_at_three, range(6), workers=workers))
    assert caught.value.where == "three.tif"


def test_a_killed_worker_is_a_named_problem():
    message = "workers: a worker process was killed; expected enough memory for all. Run again with fewer --workers."
    with pytest.raises(OutputError, match=f"^{message}$"):
        list(map_items(die_at_two, range(6), workers=2))


@pytest.mark.parametrize("kind", [RoofError, BadInputError, MissingInputError, OutputError, LockedError])
def test_a_pickled_error_keeps_its_line(kind):
    error = kind(Path("a b.tif"), "found\nthis", "that", "Do so.")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.where) == (kind, "a b.tif: found this; expected that. Do so.", "a b.tif")


def test_workers_that_several_calls_share():
    with started(2) as pool:
        first, second = (set(map_items(process_number, range(8), pool=pool)) for _ in range(2))
    assert os.getpid() not in first | second
    assert len(first | second) <= 2
    with started(1) as pool:
        assert pool is None


def test_a_killed_worker_of_several_calls_is_a_named_problem():
    with pytest.raises(OutputError, match="a worker process was killed"), started(2) as pool:
        list(map_items(die_at_two, range(6), pool=pool))


def test_items_are_made_ahead_in_their_order():
    made, go_on = [], threading.Event()

    def items():
        for number in range(4):
            made.append(number)
            if number == 1:
                go_on.set()
            yield number

    with ahead(items(), 2) as coming:
        assert go_on.wait(10)
        assert made[:2] == [0, 1]  # nobody has asked yet
        assert list(coming) == [0, 1, 2, 3]


@pytest.mark.parametrize("most", [0, 1, 3])
def test_an_error_of_what_is_made_ahead_comes_when_it_is_asked_for(most):
    with ahead(map(fail_at_three, range(6)), most) as coming:
        assert [next(coming) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(BadInputError, match=r"three\.tif"):
            next(coming)


def test_what_is_made_ahead_ends_with_its_use():
    made = []
    with ahead((made.append(number) or number for number in count()), 2) as coming:
        assert next(coming) == 0
    assert len(made) <= 4


def test_a_generator_that_is_made_ahead_is_closed():
    closed = []

    def items():
        try:
            yield from count()
        finally:
            closed.append(threading.current_thread())

    with ahead(items()) as coming:
        assert next(coming) == 0
        assert closed == []
    assert closed == [threading.current_thread()]


SCRIPT = """
import signal, sys, time
from roofkit.workers import map_items
def wait(number):
    open(f"{sys.argv[1]}/{number}", "w").close()
    time.sleep(60)
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    list(map_items(wait, range(4), workers=2))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_main_process(tmp_path, number):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "started").mkdir()
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "started")]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list((tmp_path / "started").iterdir())) == 2)
    os.kill(process.pid, number)
    assert process.wait(timeout=5) == -number
    wait_until(lambda: not alive(process.pid))
