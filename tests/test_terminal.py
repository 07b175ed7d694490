"""What a terminal sees: bars with a rate, colours only there and never with NO_COLOR, every detail with --verbose."""

import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from roofkit.cli import _rate

ROOT = Path(__file__).resolve().parent.parent
STYLES = re.compile(r"\x1b\[[0-9;]*m")  # colours, bold and italic: not what moves the cursor
SLOW = """
import argparse, sys, time
from dataclasses import dataclass
from roofkit.cli import console, progress, run_stage, say
from roofkit.options import stage_parser
@dataclass
class Report:
    wrote: str
def demo(options, run):
    say("warning: a warning")
    for _ in progress(range(8), 8, "demo", quiet=run.quiet):
        time.sleep(0.05)
    return Report("out")
sys.exit(run_stage(stage_parser("A demonstration."), sys.argv[1:], demo))
"""


def on_terminal(line, **environment) -> str:
    """What a command writes to a terminal that is its stdout and stderr."""
    main, other = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    env |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(main, 65536)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            seen.append(data)

    reader = threading.Thread(target=read)
    with subprocess.Popen(line, stdin=other, stdout=other, stderr=other, env=env, cwd=ROOT) as process:
        os.close(other)
        reader.start()
        process.wait(60)
    reader.join(10)
    os.close(main)
    return b"".join(seen).decode()


def demo(*options: str) -> list[str]:
    return [sys.executable, "-c", SLOW, *options]


def test_a_bar_with_count_rate_and_time_left_in_colour():
    seen = on_terminal(demo())
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert re.search(r"demo .* [1-7]/8 \d[\d.]*/s \d:\d\d:\d\d", text)
    assert "demo: done in" in text
    assert "\x1b[33mwarning:\x1b[0m a warning" in seen
    assert STYLES.search(seen)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(environment):
    seen = on_terminal(demo(), **environment)
    assert "warning: a warning" in seen
    assert "demo: done in" in seen
    assert not STYLES.search(seen)


def test_an_error_is_red_on_a_terminal_alone():
    line = [sys.executable, str(ROOT / "chip/chip.py"), "nothing.tif"]
    assert on_terminal(line).startswith("\x1b[1;31merror:\x1b[0m nothing.tif: no such file")
    assert on_terminal(line, NO_COLOR="1").startswith("error: nothing.tif: no such file")


def test_a_pipe_gets_neither_bar_nor_colour():
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    done = subprocess.run(demo(), capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.stderr == "warning: a warning\n"
    assert "\x1b" not in done.stdout


def test_quiet_says_only_the_warning():
    assert on_terminal(demo("--quiet"), NO_COLOR="1").splitlines() == ["warning: a warning"]


@pytest.mark.parametrize(("speed", "text"), [(None, ""), (0.0, ""), (12.345, "12.3/s"), (1.0, "1/s"), (0.05, "3/min")])
def test_rate(speed, text):
    assert _rate(speed) == text


def test_verbose_names_versions_folders_and_each_file_made_kept_and_removed(make_raster, tmp_path):
    make_raster(np.ones((3, 32, 48), np.uint8), "data/scenes/a.tif")
    script = [sys.executable, str(ROOT / "chip/chip.py"), "--data", str(tmp_path / "data"), "--workers", "1", "-v"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def lines(*options: str) -> list[str]:
        done = subprocess.run([*script, *options], capture_output=True, text=True, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()

    first = lines("--size", "32")
    assert all(re.match(r"\d+\.\d\d s ", line) for line in first)
    assert re.search(r"roof-classify \S+, numpy \S+, rasterio \S+, GDAL \S+, Python 3\.", first[0])
    assert f"data {tmp_path / 'data'}" in first[1]
    chips = tmp_path / "data/chips"
    assert [line.split(" s ")[1] for line in first[2:]] == [f"made {chips}/a_r0_c{n}.tif" for n in (0, 32)]
    assert [line.split(" s ")[1] for line in lines("--size", "32")[2:]] == [
        f"kept {chips}/a_r0_c{n}.tif" for n in (0, 32)
    ]
    assert f"removed {chips}/a_r0_c32.tif" in " ".join(lines("--size", "64"))


def test_quiet_and_verbose_exclude_each_other():
    done = subprocess.run(demo("-v", "--quiet"), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "not allowed with argument" in done.stderr
