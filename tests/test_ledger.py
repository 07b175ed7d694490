"""Ledgers and inputs: what changed since its stage wrote it is found, named, and kept where somebody says so."""

import json
from pathlib import Path

import pytest

from roofkit.artifacts import Outputs, committed
from roofkit.errors import BadInputError, OutputError
from roofkit.ledger import check_input, digest, input_digest, input_digests, input_fact, line_of, read_ledger
from roofkit.shards import shard_of


def make(folder: Path, keys: dict[str, str], *, stop_after: int | None = None, text: str = "made", **options):
    """A stage in small; with `stop_after` it ends after so many files, as a killed one does."""
    with Outputs(folder, "mask", **options) as outputs:
        todo = outputs.plan(keys)
        for name in todo[:stop_after]:
            with committed(folder / name) as part:
                part.write_text(text)
            outputs.record(name, keys[name], size=4)
        if stop_after is None:
            outputs.finish()
    return todo


KEYS = {"a.tif": "1", "b.tif": "1"}

# ------------------------------------------------------------------------------------------------------------- ledgers


def test_a_line_comes_back_and_a_damaged_one_does_not(tmp_path):
    entry = {"name": "a", "key": "1", "sha256": "0", "facts": {"é": [0.1, None]}}
    path = tmp_path / ".x.ledger.jsonl"
    path.write_text(line_of({"planned": ["a", "b"]}) + line_of(entry))
    found = read_ledger(path)
    assert found.records == {"a": entry}
    assert (found.planned, found.missing) == ({"a", "b"}, {"b"})
    path.write_text(line_of(entry).replace("0.1", "0.2"))
    assert read_ledger(path).records == {}


def test_lines_of_earlier_versions_have_no_checksum(tmp_path):
    (tmp_path / ".x.ledger.jsonl").write_text(json.dumps({"name": "a", "key": "1", "sha256": "0"}) + "\n")
    assert set(read_ledger(tmp_path / ".x.ledger.jsonl").records) == {"a"}


def test_what_an_earlier_run_finished_is_still_missing_from_this_one(tmp_path):
    make(tmp_path, KEYS)
    make(tmp_path, {"a.tif": "2", "b.tif": "2"}, stop_after=1)
    found = read_ledger(tmp_path / ".mask.ledger.jsonl")
    assert (set(found.records), found.missing) == ({"a.tif", "b.tif"}, {"b.tif"})


# -------------------------------------------------------------------------------------------------------------- inputs


def test_an_input_is_hashed_and_a_changed_one_is_named(tmp_path):
    make(tmp_path, KEYS)
    assert input_digests([tmp_path / name for name in KEYS]) == [digest(tmp_path / "a.tif")] * 2
    (tmp_path / "a.tif").write_text("madf")
    line = (
        r"a.tif: changed since mask wrote it; expected the file as it was written. If you edited it on purpose, run "
        r"mask/mask.py --keep-edits; if not, remove it and run mask/mask.py.$"
    )
    with pytest.raises(BadInputError, match=line):
        input_digest(tmp_path / "a.tif")
    with pytest.raises(BadInputError, match="changed since mask wrote it"):
        check_input(tmp_path)
    assert input_digest(tmp_path / "b.tif")


def test_an_output_can_be_used_before_what_lies_beside_it_is_there(tmp_path):
    make(tmp_path, KEYS, stop_after=1, name="a.tif")
    assert input_digest(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_text("made")
    with pytest.raises(BadInputError, match=r"mask was stopped before it was finished \(1 file to go\)"):
        input_digest(tmp_path / "b.tif")
    (tmp_path / "a.tif").write_text("torn")
    with pytest.raises(BadInputError, match="changed since mask wrote it"):
        input_digest(tmp_path / "a.tif")


def test_one_of_many_cannot(tmp_path):
    make(tmp_path, KEYS, stop_after=1, shard=shard_of("1/2"))
    with pytest.raises(BadInputError, match=r"mask was stopped before it was finished \(1 file to go\)"):
        input_digest(tmp_path / "a.tif")


def test_a_fact_counts_while_the_file_is_as_it_was_written(tmp_path):
    make(tmp_path, KEYS)
    path = tmp_path / "a.tif"
    assert (input_fact(path, "size"), input_fact(path, "colour")) == (4, None)
    path.write_text("mine")
    with pytest.raises(BadInputError, match="changed since mask wrote it"):
        input_fact(path, "size")
    assert input_fact(path, "colour") is None
    make(tmp_path, KEYS, keep_edits=True)
    assert input_fact(path, "size") is None  # it is no longer about this file
    assert input_fact(tmp_path / "absent.tif", "size") is None


def test_files_of_nobody_are_taken_as_they_are(tmp_path):
    make(tmp_path, KEYS)
    (tmp_path / "mine.tif").write_text("mine")
    assert input_digest(tmp_path / "mine.tif") == digest(tmp_path / "mine.tif")
    check_input(tmp_path / "absent.tif")


def test_a_ledger_in_a_folder_above_counts_too(tmp_path, monkeypatch):
    (tmp_path / "frames").mkdir()
    make(tmp_path, {"frames/a.tif": "1"})
    (tmp_path / "frames/a.tif").write_text("other")
    monkeypatch.chdir(tmp_path / "frames")
    with pytest.raises(BadInputError, match="changed since mask"):
        input_digest(Path("a.tif"))


def test_half_of_what_a_stage_makes_is_not_taken_for_all(tmp_path):
    make(tmp_path, {**KEYS, "c.tif": "1"}, stop_after=1)
    line = (
        rf"^{tmp_path}: mask was stopped before it was finished \(2 files to go\); expected all that it makes. Run mask"
    )
    with pytest.raises(BadInputError, match=line):
        input_digest(tmp_path / "a.tif")
    (tmp_path / "mine.tif").touch()
    assert input_digest(tmp_path / "mine.tif")
    make(tmp_path, {**KEYS, "c.tif": "1"})
    assert input_digest(tmp_path / "a.tif")


def test_a_file_in_place_but_not_noted_is_not_taken(tmp_path):
    with Outputs(tmp_path, "mask") as outputs:
        outputs.plan({"a.tif": "1"})
        (tmp_path / "a.tif").write_text("made")
    with pytest.raises(BadInputError, match=r"stopped before it was finished \(1 file to go\)"):
        input_digest(tmp_path / "a.tif")


def test_one_file_of_an_earlier_run_can_be_used_while_it_is_not_made_anew(tmp_path):
    make(tmp_path, {"a.tif": "1"})
    make(tmp_path, {"a.tif": "2"}, stop_after=0)
    assert input_digest(tmp_path / "a.tif")


# --------------------------------------------------------------------------------------------------------------- edits


def edited(folder: Path) -> None:
    make(folder, KEYS)
    (folder / "a.tif").write_text("by hand")


def test_edits_are_refused_and_kept_where_somebody_says_so(tmp_path, capsys):
    edited(tmp_path)
    with pytest.raises(OutputError, match=r"changed since this stage wrote it; .* Run with --keep-edits to keep"):
        make(tmp_path, KEYS)
    assert make(tmp_path, KEYS, keep_edits=True) == []
    assert "edited by hand, and kept: a.tif" in capsys.readouterr().err
    assert input_digest(tmp_path / "a.tif")
    assert make(tmp_path, KEYS) == []
    assert (tmp_path / "a.tif").read_text() == "by hand"


def test_an_edit_is_not_written_over_when_its_inputs_change(tmp_path):
    edited(tmp_path)
    make(tmp_path, KEYS, keep_edits=True)
    with pytest.raises(OutputError, match=r"a.tif: changed since this stage wrote it"):
        make(tmp_path, {"a.tif": "2", "b.tif": "2"})
    assert make(tmp_path, {"a.tif": "2", "b.tif": "2"}, keep_edits=True) == ["b.tif"]
    assert (tmp_path / "a.tif").read_text() == "by hand"
    assert make(tmp_path, {"a.tif": "2", "b.tif": "2"}, overwrite=True) == ["a.tif", "b.tif"]
    assert (tmp_path / "a.tif").read_text() == "made"


def test_an_edit_is_not_removed_when_it_is_not_made_any_more(tmp_path):
    edited(tmp_path)
    with pytest.raises(OutputError, match=r"a.tif: changed since"):
        make(tmp_path, {"b.tif": "1"})
    make(tmp_path, {"b.tif": "1"}, keep_edits=True)
    assert (tmp_path / "a.tif").read_text() == "by hand"


def test_an_edit_is_not_made_anew_with_others(tmp_path):
    edited(tmp_path)
    with Outputs(tmp_path, "mask", keep_edits=True) as outputs:
        outputs.plan(KEYS)
        outputs.protect("b.tif")
        with pytest.raises(OutputError, match=r"a.tif: edited by hand, and made anew with others"):
            outputs.protect("a.tif")
