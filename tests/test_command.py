"""The command `roof-classify`: the scripts under one name, in a checkout and from a wheel."""

import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from roofkit.command import OWN, STAGES, main, script_of
from roofkit.root import ROOT
from run.local import NAMES

START = "import sys; from roofkit.command import main; sys.exit(main())"
FOLDERS = ("pixelwise", "roofkit", "sources", "unet", "webpage")


def start(*words, where=ROOT, cwd, **options):
    """Run the command as its installed script does, with the program of that folder."""
    line = [sys.executable, "-c", START, *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(where)}
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel's content, as pip would put it."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("site")
    for name in (*FOLDERS, *STAGES, "run"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "settings.json", "settings.dev.json"):
        shutil.copy(ROOT / name, tree)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out)
    return out


def test_every_stage_is_listed_with_a_line(capsys):
    assert (*NAMES, "doctor") == STAGES
    assert main([]) == 0
    out = capsys.readouterr().out
    rows = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  "))
    assert set(rows) == {"run", *STAGES, *OWN}
    assert rows["chip"] == "Cut scenes into chips"
    assert all(rows.values())
    assert main(["-h"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(("wrong", "right"), [("chop", "chip"), ("trian", "train"), ("evalute", "evaluate")])
def test_an_unknown_stage_names_the_nearest(wrong, right, capsys):
    assert main([wrong]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: roof-classify: unknown stage '{wrong}'; expected one of run, download, ")
    assert f"Did you mean {right}?" in err
    assert (out, err.count("\n")) == ("", 1)


def test_version_and_settings(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "roof-classify 0.1.0\n"
    for options, name in ([], "settings.json"), (["--dev"], "settings.dev.json"):
        assert main(["settings", *options]) == 0
        assert capsys.readouterr().out == (ROOT / name).read_text()


def test_a_stage_is_its_script(make_raster, tmp_path):
    """The same files, exit statuses and messages."""
    path = make_raster(np.arange(3 * 40 * 50, dtype=np.uint16).reshape(3, 40, 50), "a.tif")
    done = start("chip", path, "one", "--size", 32, "--workers", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    script = [sys.executable, str(script_of("chip"))]
    subprocess.run(
        [*script, str(path), "two", "--size", "32", "--workers", "1"], cwd=tmp_path, check=True, capture_output=True
    )
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert len(files_of(tmp_path / "one")) == 5

    for words, status in (["none.tif"], 1), (["--wrong"], 2):
        own = start("chip", *words, cwd=tmp_path)
        other = subprocess.run([*script, *words], cwd=tmp_path, capture_output=True, text=True)
        assert own.returncode == other.returncode == status
        assert own.stderr.splitlines()[-1].removeprefix("roof-classify chip") == other.stderr.splitlines()[
            -1
        ].removeprefix("chip.py")


def test_usage_names_the_command(tmp_path):
    done = start("chip", "-h", cwd=tmp_path)
    assert done.stdout.startswith("usage: roof-classify chip [-h]")
    assert "Cut scenes into chips" in done.stdout


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("kind", ["script", "command"])
def test_a_signal_during_the_imports_ends_without_a_word(kind, number, status, tmp_path):
    (tmp_path / "numpy.py").write_text("import time; print('importing', flush=True); time.sleep(60)")
    line = [str(script_of("chip"))] if kind == "script" else ["-c", START, "chip"]
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, *line], cwd=tmp_path, env=env, **pipes) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        assert process.wait(20) == status
        assert process.stderr.read() == ""


def test_the_wheel_holds_the_program_and_nothing_else(installed):
    found = {path.name for path in installed.iterdir() if path.suffix not in (".whl", ".dist-info")}
    assert found == set(FOLDERS)
    stages = installed / "roofkit/stages"
    scripts = {path.relative_to(stages).as_posix() for path in stages.rglob("*") if path.is_file()}
    assert scripts == {"settings.json", "settings.dev.json", "run/local.py", *(f"{name}/{name}.py" for name in STAGES)}
    for name in FOLDERS:
        own = {p.relative_to(ROOT) for p in (ROOT / name).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
        assert own == {
            p.relative_to(installed)
            for p in (installed / name).rglob("*")
            if p.is_file() and not {"stages", "__pycache__"} & set(p.parts)
        }
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    assert "roof-classify = roofkit.command:main" in entry.read_text()


def test_an_installed_command_works_where_the_user_is(installed, make_raster, tmp_path):
    make_raster(np.arange(3 * 40 * 50, dtype=np.uint8).reshape(3, 40, 50), "data/scenes/a.tif")
    (tmp_path / "settings.json").write_text('{"chip_args": {"size": 32}}')
    done = start("chip", where=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own = files_of(tmp_path / "data/chips")
    assert len([name for name in own if name.endswith(".tif")]) == 4  # of 32, as its own settings say

    (tmp_path / "settings.json").unlink()
    done = start("run", "--prod", "--chip", "--quiet", where=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(installed / "roofkit/stages/chip/chip.py") in done.stdout
    assert [path.name for path in (tmp_path / "data/chips").glob("*.tif")] == ["a_r0_c0.tif"]  # as shipped: 640
    assert (tmp_path / "results/run.json").is_file()
    assert not (installed / "roofkit/stages/data").exists()


def test_a_checkout_works_in_its_own_folder(tmp_path):
    done = start("run", "--prod", "--chip", "--dry-run", cwd=tmp_path)
    assert f"--settings {ROOT / 'settings.json'}" in done.stdout


TRY = """source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _shtab_roof_classify; echo "${{COMPREPLY[@]}}"
"""


def test_completion_of_stages_options_choices_and_files(tmp_path):
    script = tmp_path / "roof-classify.bash"
    done = start("completion", "bash", cwd=tmp_path)
    script.write_text(done.stdout)
    (tmp_path / "model_7.h5").touch()
    for words, expected in {
        "roof-classify ch": "chip",
        "roof-classify split --by ''": "block random scene",
        "roof-classify train --ep": "--epochs",
        "roof-classify predict mod": "model_7.h5",
        "roof-classify run --from fl": "flatten",
    }.items():
        text = TRY.format(script=script, words=words)
        shown = subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True)
        assert shown.stdout.strip() == expected, (words, shown.stderr)
    assert start("completion", "zsh", cwd=tmp_path).stdout.startswith("#compdef roof-classify")
    assert start("completion", "cmd.exe", cwd=tmp_path).returncode == 2


def test_what_pip_is_to_install_leaves_out_what_only_developers_need():
    """setup.sh names them: those of the dev extra that no other extra has, but for what builds the wheel."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        name: {re.match(r"[\w-]+", line)[0] for line in lines}
        for name, lines in project["optional-dependencies"].items()
    }
    developers = extras.pop("dev") - set().union(*extras.values()) - {"setuptools"}

    def names(*words: str) -> set[str]:
        done = subprocess.run(
            ["bash", ROOT / "setup.sh", "--requirements", *words], capture_output=True, text=True, check=True
        )
        return set(re.findall(r"^([\w.-]+)==", done.stdout, flags=re.MULTILINE))

    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE))
    nvidia = {name for name in locked if name.startswith("nvidia-")}
    assert nvidia
    assert locked - names("gpu") == developers | {"tensorflow-cpu"}
    assert locked - names("cpu") == developers | {"tensorflow"} | nvidia
    assert locked - names("plain") == developers | {"tensorflow-cpu"} | nvidia
    assert names() in (names("cpu"), names("gpu"), names("plain"))


def test_the_image_is_given_all_that_the_wheel_is_made_of():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    given = {line[1:] for line in lines if line.startswith("!")}
    assert given >= {*FOLDERS, *STAGES, "run", "pyproject.toml", "README.md", "settings.json", "settings.dev.json"}
    assert given >= {"setup.sh", "requirements.lock"}
    assert all((ROOT / name).exists() for name in given)
    assert "*" in lines
