"""run/local.py: the stage graph, the commands, failures, the table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roofkit.artifacts import read_runs
from roofkit.errors import BadInputError
from roofkit.paths import project_paths
from roofkit.root import ROOT
from roofkit.settings import Settings
from run.local import (
    NAMES,
    STAGES,
    Done,
    chosen,
    command,
    complete,
    exists,
    is_kept,
    main,
    parser,
    remember,
    run_command,
    run_stages,
)

LINE = ["--prod", "--chip", "--mask", "--mosaic", "--flatten", "--summarize", "--train", "--predict"]


@pytest.fixture
def paths(tmp_path):
    return project_paths(Settings(), tmp_path)


def fill(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "a.tif").touch()


def options(*arguments: str, tmp_path: Path):
    made = parser().parse_args([*arguments, "--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")])
    made.settings = ROOT / "settings.json"
    return made


def test_every_stage_has_its_script_and_what_it_reads_has_a_maker():
    makers = {name for stage in STAGES for name in stage.writes}
    for stage in STAGES:
        assert (ROOT / stage.name / f"{stage.name}.py").is_file()
        assert set(stage.reads) <= makers


def test_the_order_is_that_of_the_graph(paths):
    assert list(complete(set(NAMES), paths)) == list(NAMES)


def test_a_missing_input_pulls_in_its_maker(paths):
    fill(paths.scenes, paths.labels.parent)
    (paths.labels.parent / "a.tif").rename(paths.labels)
    plan = complete({"chip", "mask", "train"}, paths)
    assert list(plan) == ["chip", "mask", "split", "train"]
    assert plan["split"] == f"train needs {paths.train_frames}, which does not exist"
    assert plan["chip"] == ""


def test_what_is_there_pulls_in_nothing(paths):
    fill(paths.train_frames, paths.train_masks, paths.val_frames, paths.val_masks)
    assert list(complete({"train"}, paths)) == ["train"]


def test_an_empty_folder_counts_as_missing(paths):
    fill(paths.scenes)
    paths.chips.mkdir()
    (paths.chips / ".chip.ledger.jsonl").touch()
    assert not exists("chips", paths)
    assert list(complete({"mosaic"}, paths)) == ["chip", "mosaic"]


def test_labels_of_another_name_are_found(paths):
    paths.labels.parent.mkdir(parents=True)
    (paths.labels.parent / "houses.geojson").touch()
    assert exists("labels", paths)


def test_flags_in_any_order_and_from_until(paths, tmp_path):
    made = options("--predict", "--chip", "--train", "--from", "train", tmp_path=tmp_path)
    assert chosen(made, paths) == {"train", "predict"}
    assert chosen(options("--until", "mosaic", tmp_path=tmp_path), paths) == {"download", "chip", "mosaic"}


def test_somebody_elses_frames_train_as_they_are(paths, tmp_path, capsys):
    fill(paths.train_frames, paths.train_masks, paths.val_frames, paths.val_masks)
    stages = {"forest", "regression", "train", "predict", "evaluate", "report"}
    assert chosen(options(tmp_path=tmp_path), paths) == stages
    assert "used as they are" in capsys.readouterr().err


def test_the_command_passes_the_common_options_on(tmp_path):
    made = options("--overwrite", "--workers", "3", tmp_path=tmp_path)
    line = command("chip", made)
    assert line[:2] == [sys.executable, str(ROOT / "chip" / "chip.py")]
    assert line[line.index("--workers") + 1] == "3"
    assert line[-2:] == ["--overwrite", "--json"]
    assert line[line.index("--data") + 1] == str(tmp_path / "data")


def test_dry_run_prints_the_commands_and_writes_nothing(tmp_path, capsys):
    (tmp_path / "data" / "scenes").mkdir(parents=True)
    (tmp_path / "data" / "labels").mkdir(parents=True)
    for name in ("scenes/a.tif", "labels/roofs.gpkg"):
        (tmp_path / "data" / name).touch()
    line = [*LINE, "--dry-run", "--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    assert main(line) == 0
    out, err = capsys.readouterr()
    stages = [Path(row.split()[2]).stem for row in out.splitlines()]
    assert stages == ["chip", "mosaic", "mask", "split", "flatten", "summarize", "train", "predict"]
    assert "split is pulled in: train needs" in err
    assert not (tmp_path / "results").exists()


def test_prod_and_dev_read_their_own_settings(tmp_path, capsys):
    main(["--dry-run", "--download", "--data", str(tmp_path)])
    main(["--prod", "--dry-run", "--download", "--data", str(tmp_path)])
    first, second = capsys.readouterr().out.splitlines()
    assert "settings.dev.json" in first
    assert "settings.json" in second


def test_a_run_ends_with_the_table_and_json(make_raster, tmp_path, capfd):
    import numpy as np

    make_raster(np.ones((3, 40, 40), np.uint8), "data/scenes/a.tif")
    status = main(["--prod", "--chip", "--json", "--data", str(tmp_path / "data"), "--results", str(tmp_path / "r")])
    out = capfd.readouterr().out
    assert status == 0
    done = json.loads(out.splitlines()[-1])["stages"]
    assert [row["stage"] for row in done] == ["chip"]
    assert done[0]["wrote"].endswith("chips")
    assert done[0]["peak_mb"] > 10
    assert "peak MB" in out
    assert (tmp_path / "data" / "chips" / "a_r0_c0.tif").is_file()
    took = json.loads((tmp_path / "r" / "run.json").read_text())
    assert took == {"chip": {"seconds": done[0]["seconds"], "peak_mb": done[0]["peak_mb"]}}


def test_the_first_failure_stops_the_run_with_its_status(tmp_path, capfd):
    (tmp_path / "data" / "scenes").mkdir(parents=True)
    (tmp_path / "data" / "scenes" / "junk.tif").write_text("no raster")
    made = ["--prod", "--chip", "--mosaic", "--data", str(tmp_path / "data"), "--results", str(tmp_path / "r")]
    assert main(made) == 1
    out, err = capfd.readouterr()
    assert "error: " in err
    assert "junk.tif" in err
    assert "chip failed: the run ends here." in err
    assert "mosaic.py" not in out


def test_a_killed_stage_fails_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr("run.local.run_command", lambda *_: (-9, Done("chip", "", 0.0, 0.0)))
    status, done = run_stages(["chip", "mosaic"], options(tmp_path=tmp_path), tmp_path / "run.json")
    assert (status, done) == (137, [])


def test_run_command_reports_what_the_stage_says():
    code = 'print(\'hello\'); print(\'{"stage": "x", "wrote": ["a", "b"]}\')'
    status, done = run_command("x", [sys.executable, "-c", code], quiet=True)
    assert (status, done.wrote) == (0, "a\nb")


@pytest.mark.parametrize(
    ("report", "kept"),
    [
        ({"kept": True}, True),
        ({"kept": False}, False),
        ({"chips_made": 0, "chips_kept": 4}, True),
        ({"made": 1, "kept": 3}, False),
        ({"made": 0, "kept": 1}, True),
        ({}, False),
    ],
)
def test_a_stage_that_made_nothing_kept_all(report, kept):
    assert is_kept(report) == kept


def test_what_a_stage_took_is_remembered_until_it_works_again(tmp_path):
    path = tmp_path / "results" / "run.json"
    for done in (
        Done("train", "", 75.0, 900),
        Done("chip", "", 0.5, 80, kept=True),
        Done("train", "", 1.5, 300, kept=True),
        Done("chip", "", 2.5, 90),
    ):
        remember(done, path)
    assert list(read_runs(path).items()) == [
        ("chip", {"seconds": 2.5, "peak_mb": 90.0}),
        ("train", {"seconds": 75.0, "peak_mb": 900.0}),
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"chip": 3}', '{"chip": {"seconds": "soon", "peak_mb": 1}}', "{"])
def test_a_file_of_runs_that_is_something_else(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=r"run\.json: something else; expected seconds and peak_mb of each stage"):
        read_runs(path)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_the_run_and_its_stage(number, expected, tmp_path):
    script = "import sys; from run import local; local.command = lambda s, o: [sys.executable, '-c', 'import time; "
    script += "print(1, flush=True); time.sleep(60)']; sys.exit(local.main(['--chip', '--data', sys.argv[1]]))"
    line = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while process.stdout.readline().strip() != "1":
        assert process.poll() is None
    started = time.monotonic()
    os.kill(process.pid, number)
    process.stdout.read()  # ends when the stage, which holds the pipe's other end, has ended
    assert process.wait(10) == expected
    assert time.monotonic() - started < 5
    process.stdout.close()


def test_an_unknown_stage_flag_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--chop"])
    assert stop.value.code == 2
