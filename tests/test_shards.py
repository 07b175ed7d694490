"""shards: a stage in shares gives what it gives in one run; shares work side by side, a whole run alone."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from chip.chip import main as chip
from flatten.flatten import main as flatten
from roofkit.artifacts import Outputs
from roofkit.errors import LockedError
from roofkit.shards import Shard, shard_of, share_of

UTM = "EPSG:32644"


@pytest.mark.parametrize(
    ("text", "index", "count"), [("0/3", 0, 3), ("1/3", 1, 3), ("3/3", 0, 3), ("1/1", 0, 1), ("0/1", 0, 1)]
)
def test_shares_count_from_0_or_from_1(text, index, count):
    assert shard_of(text) == Shard(index, count)


@pytest.mark.parametrize("text", ["4/3", "1", "a/b", "1/0", "-1/3", "1/3/5"])
def test_what_is_no_share(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not I/N with I from 0 to N"):
        shard_of(text)


def test_shares_hold_every_item_once():
    items = list(range(7))
    assert [Shard(i, 3).share(items) for i in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [Shard(i, 3).part(items) for i in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]
    assert share_of(items, None) == items
    assert [Shard(i, 3).part([1]) for i in range(3)] == [[], [], [1]]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def scenes(tmp_path: Path, make_raster) -> Path:
    rng = np.random.default_rng(0)
    for number in range(2):
        pixels = rng.integers(0, 200, (2, 50 + number, 40)).astype("uint16")
        pixels[:, :9] = 0
        make_raster(pixels, f"scenes/s{number}.tif", nodata=0, transform=Affine(2, 0, 3e5 + 500 * number, 0, -2, 3e6))
    return tmp_path / "scenes"


def last_report(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_chips_in_shares(scenes, tmp_path, capsys):
    line = [str(scenes), "--size", "16", "--min-valid", "0.1", "--quiet", "--json"]
    assert chip([*line, "--workers", "1"][:1] + [str(tmp_path / "whole"), *line[1:]]) == 0
    whole = last_report(capsys)
    made = 0
    for i in (2, 1, 3):
        assert chip([line[0], str(tmp_path / "shares"), *line[1:], "--shard", f"{i}/3"]) == 0
        made += last_report(capsys)["chips_made"]
    assert made == whole["chips_made"] > 10
    assert chip([line[0], str(tmp_path / "shares"), *line[1:]]) == 0
    report = last_report(capsys)
    assert (report["chips_made"], report["chips_kept"], report["left_out"]) == (0, made, whole["left_out"])
    assert files(tmp_path / "shares") == files(tmp_path / "whole")


def test_a_share_without_work_ends_well(scenes, tmp_path, capsys):
    assert chip([str(scenes), str(tmp_path / "out"), "--size", "64", "--quiet", "--json", "--shard", "5/9"]) == 0
    assert last_report(capsys)["chips_made"] == 0


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("options", [[], ["--sample", "300"]])
def test_a_table_in_shares(scenes, tmp_path, capsys, monkeypatch, suffix, options):
    monkeypatch.setattr("flatten.flatten.READ_PIXELS", 400)
    monkeypatch.setattr("flatten.flatten.TABLE_ROWS", 150)
    options = [*options, "--quiet", "--json"]
    (tmp_path / "shares").mkdir()
    assert flatten([str(scenes), str(tmp_path / "whole" / f"p{suffix}"), *options]) == 0
    whole = last_report(capsys)
    line = [str(scenes), str(tmp_path / "shares" / f"p{suffix}"), *options]
    rows = 0
    for i in (1, 0, 3, 2):
        assert flatten([*line, "--shard", f"{i}/4"]) == 0
        report = last_report(capsys)
        rows += report["rows"]
        assert report["wrote"].endswith(f"p{suffix}.{i}of4")
    assert rows == whole["rows"]
    assert flatten([*line, "--shard", "2/4"]) == 0
    assert last_report(capsys)["kept"]
    assert flatten(line) == 0
    report = last_report(capsys)
    assert {**report, "wrote": "", "seconds": 0} == {**whole, "wrote": "", "seconds": 0}
    assert files(tmp_path / "shares") == files(tmp_path / "whole")
    assert flatten([*line, "--shard", "2/4"]) == 0  # the table is finished: a share has nothing to do
    assert files(tmp_path / "shares") == files(tmp_path / "whole")


def test_shares_of_a_table_that_are_missing_are_named(scenes, tmp_path, capsys):
    line = [str(scenes), str(tmp_path / "p.csv"), "--quiet"]
    for i in (0, 2):
        assert flatten([*line, "--shard", f"{i}/4"]) == 0
    assert flatten(line) == 1
    found = capsys.readouterr().err
    assert "p.csv: 2 of 4 shards are finished; expected all 4. Run --shard 1/4, or --overwrite to do all here." in found
    assert flatten([*line, "--overwrite"]) == 0
    assert sorted(p.name for p in tmp_path.glob("p.csv*")) == ["p.csv"]


def test_shares_work_side_by_side_and_a_whole_run_alone(tmp_path):
    with Outputs(tmp_path, "chip", shard=Shard(0, 2)), Outputs(tmp_path, "chip", shard=Shard(1, 2)):
        with pytest.raises(LockedError, match="locked by process"), Outputs(tmp_path, "chip"):
            pass
        with pytest.raises(LockedError, match="locked by process"), Outputs(tmp_path, "chip", shard=Shard(1, 2)):
            pass
    with Outputs(tmp_path, "chip"), pytest.raises(LockedError), Outputs(tmp_path, "chip", shard=Shard(0, 2)):
        pass
    assert not list(tmp_path.glob("*.lock"))


def test_a_share_leaves_what_is_not_its_own(tmp_path):
    with Outputs(tmp_path, "chip") as outputs:
        outputs.plan({"old": "1"})
        (tmp_path / "old").write_text("old")
        outputs.record("old", "1")
        outputs.finish()
    with Outputs(tmp_path, "chip", shard=Shard(0, 2)) as outputs:
        outputs.plan({"new": "1"})
        (tmp_path / "new").write_text("new")
        outputs.record("new", "1")
        outputs.finish()
    assert (tmp_path / "old").exists()
    with Outputs(tmp_path, "chip") as outputs:
        assert outputs.names() == ["new", "old"]
        assert outputs.plan({"new": "1"}) == []
        outputs.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".chip.ledger.jsonl", "new"]
