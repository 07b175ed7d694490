"""The command line that all scripts share."""

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from roofkit.addresses import path_or_address
from roofkit.cli import checked, progress, run_stage, say
from roofkit.errors import BadInputError
from roofkit.options import positive, stage_parser
from roofkit.stopping import Terminated, deferring, raise_if_stopped, stopping

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = (
    sorted(
        script
        for folder in ROOT.iterdir()
        if (script := folder / f"{folder.name}.py").is_file() and folder.name[0] != "."
    )
    + [ROOT / "run/local.py"] * (ROOT / "run/local.py").is_file()
)


@dataclass(frozen=True)
class DemoReport:
    wrote: str = "out"
    share: float = 0.25
    names: tuple[str, ...] = ("a", "b")
    nothing: None = None


def demo(options, run):
    return DemoReport()


def start(*argv, work=demo):
    return run_stage(stage_parser("A demonstration.\n\nReads nothing."), argv, work)


def test_json_is_the_last_line(capsys):
    assert start("--json") == 0
    out = capsys.readouterr().out
    assert "demo" in out.splitlines()[0]
    line = json.loads(out.splitlines()[-1])
    assert {key: line[key] for key in ("stage", "wrote", "share", "names", "nothing")} == {
        "stage": "demo", "wrote": "out", "share": 0.25, "names": ["a", "b"], "nothing": None,
    }  # fmt: skip
    assert line["seconds"] >= 0


def test_quiet_says_nothing(capsys):
    assert start("--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert start("--quiet", "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_summary_names_every_part_of_the_report(capsys):
    assert start() == 0
    out = capsys.readouterr().out
    for part in ("demo: done in", "wrote", "share", "0.25", "names"):
        assert part in out


@pytest.mark.parametrize("argv", [["--unknown"], ["extra"], ["--workers", "0"], ["--workers", "many"]])
def test_wrong_usage(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        start(*argv)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_positive():
    assert positive("3") == 3
    with pytest.raises(argparse.ArgumentTypeError, match="0 is not 1 or more"):
        positive("0")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (
            BadInputError("a.tif", "junk\nand more", "pixels", "Replace it."),
            1,
            "a.tif: junk and more; expected pixels.",
        ),
        (PermissionError(13, "Permission denied", "b.tif"), 1, "b.tif: Permission denied; expected"),
        (OSError("strange"), 1, "strange"),
        (MemoryError("Unable to allocate 4.00 TiB"), 1, "not enough memory (Unable to allocate 4.00 TiB); expected"),
        (
            ModuleNotFoundError("No module", name="tensorflow"),
            1,
            "tensorflow: not installed; expected what fail needs.",
        ),
        (KeyboardInterrupt(), 130, ""),
        (Terminated(), 143, ""),
    ],
)
def test_exit_status(error, status, line, capsys):
    def fail(options, run):
        raise error

    assert start(work=fail) == status
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == (status == 1)
    assert err.startswith("error: ") == (status == 1)


def test_a_mistake_in_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        start(work=lambda options, run: 1 / 0)


def test_sigterm_is_an_exception_only_while_a_stage_works():
    before = signal.getsignal(signal.SIGTERM)

    def ask(options, run):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    assert start(work=ask) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_bad_settings_fail_before_the_work(tmp_path, capsys):
    (tmp_path / "s.json").write_text('{"chip_arg": {}}')
    assert start("--settings", str(tmp_path / "s.json")) == 1
    assert "unknown block 'chip_arg'" in capsys.readouterr().err
    assert start("--settings", str(tmp_path / "none.json")) == 1
    assert "no such file" in capsys.readouterr().err


def test_the_run_that_options_describe(tmp_path):
    seen = []

    def look(options, run):
        seen.append(run)
        return DemoReport()

    (tmp_path / "s.json").write_text("{}")
    argv = ["--settings", tmp_path / "s.json", "--data", tmp_path / "d", "--overwrite", "--workers", "3", "--quiet"]
    assert start(*map(str, argv), work=look) == 0
    (run,) = seen
    assert (run.overwrite, run.workers, run.quiet) == (True, 3, True)
    assert (run.paths.data, run.paths.results) == (tmp_path / "d", tmp_path / "results")
    block = run.block("chip_args", {"size": [64, 32], "overlap": None})
    assert (block.size, block.overlap, block.pad) == ((64, 32), 0, "white")
    with pytest.raises(ValueError, match=r"--overlap: chip_args.overlap is 640; expected less than chip_args.size"):
        run.block("chip_args", {"overlap": 640})
    with pytest.raises(ValueError, match=r"--min-valid: chip_args.min_valid is 2; expected"):
        run.block("chip_args", {"min_valid": 2})


def test_progress_and_say_stay_off_stdout(capsys):
    assert list(progress(iter([1, 2]), 2, "demo")) == [1, 2]
    say("a line")
    assert capsys.readouterr() == ("", "a line\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_help_is_quick_and_imports_nothing_large(script, tmp_path):
    """From another working directory, too."""
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '-h']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print('HEAVY', *{'numpy', 'rasterio', 'pydantic', 'rich', 'keras', 'shapely', 'pandas'} & set(sys.modules))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, script], capture_output=True, text=True, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "--settings" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY"
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # the clock would count other work
    assert seconds < 0.5


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_swallowed_signal_is_raised_again(number, status):
    def work(options):
        with contextlib.suppress(BaseException):
            signal.raise_signal(number)
        raise_if_stopped()
        return 0

    assert checked(work, argparse.Namespace(), "x") == status
    assert checked(lambda options: raise_if_stopped() or 0, argparse.Namespace(), "x") == 0


def test_handlers_are_put_back():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    checked(lambda options: 0, argparse.Namespace(), "x")
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


STUCK = """
import argparse, hashlib, sys
from roofkit import cli
def work(options):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # one call of minutes, in which Python hears of no signal
    return 0
sys.exit(cli.checked(work, argparse.Namespace(), "x", patience=0.5))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_library_that_does_not_return_cannot_hold_up_the_end(number, status):
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, cwd=ROOT)
    with process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        try:
            assert process.wait(5) == status
        finally:
            process.kill()


def test_the_second_signal_does_not_disturb_the_tidying_up(capfd):
    tidied = []

    def work(options):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            tidied.append(True)
        return 0

    assert checked(work, argparse.Namespace(), "x") == 143
    assert tidied
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_waits_for_what_must_not_be_cut_short(number, kind):
    done = []

    def work() -> None:
        with stopping():
            with deferring():
                with deferring():
                    signal.raise_signal(number)
                done.append("begun")
            done.append("never")

    with pytest.raises(kind):
        work()
    assert done == ["begun"]
    with deferring():  # of another signal, later
        pass


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_what_a_library_makes_of_a_signal_is_still_that_signal(number, kind):
    def library():
        try:
            signal.raise_signal(number)
        except BaseException:
            raise SystemError("bad argument to internal function") from None

    with pytest.raises(kind), stopping():
        library()
    with pytest.raises(SystemError), stopping():
        raise SystemError  # without a signal


def test_other_threads_defer_nothing():
    entered, left = threading.Event(), threading.Event()

    def work() -> None:
        with deferring():
            entered.set()
            left.wait(30)

    def interrupt() -> None:
        entered.wait(30)
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            left.set()

    with stopping(), ThreadPoolExecutor(1) as pool:
        pool.submit(work)
        with pytest.raises(KeyboardInterrupt):
            interrupt()


@pytest.mark.parametrize("status", [130, 143])
def test_after_a_signal_the_process_ends_at_once_and_what_it_said_is_out(status):
    code = (
        "import atexit; from roofkit.cli import leave; atexit.register(print, 'cleaned up'); "
        f"print('said', end=''); leave({status})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, "said", "")


@pytest.mark.parametrize("status", [0, 1, 2])
def test_else_it_ends_as_usual_and_signals_come_too_late(status):
    code = (
        "import atexit, signal; from roofkit.cli import leave; atexit.register(print, 'cleaned up'); "
        f"[atexit.register(signal.raise_signal, n) for n in (signal.SIGINT, signal.SIGTERM)]; leave({status})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, "cleaned up\n")


@pytest.mark.parametrize("line", [["", "there"], ["here", ""], ["here", "there", "--data", ""]])
def test_an_empty_path_is_not_the_folder_that_you_are_in(line, capsys):
    parser = stage_parser("")
    parser.add_argument("src", type=path_or_address)
    parser.add_argument("dst", type=Path)
    assert parser.parse_args(["here", "there"]).dst == Path("there")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(line)
    assert ended.value.code == 2
    assert "an empty path; a variable may not be set" in capsys.readouterr().err
