"""Artifacts: whole or absent, kept while unchanged, never written over what is not ours."""

import contextlib
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from roofkit import artifacts
from roofkit.artifacts import PART, Outputs, committed, fingerprint, streamed, write_json
from roofkit.errors import BadInputError, LockedError, OutputError
from roofkit.ledger import digest, input_digests, read_ledger
from roofkit.settings import ChipArgs, FlattenArgs
from roofkit.shards import Shard

ROOT = Path(__file__).resolve().parent.parent


def make(folder, keys, text="made", whole=(), **options):
    """A stage in small: write each file of the plan; the names written."""
    with Outputs(folder, "demo", **options) as outputs:
        todo = outputs.plan(keys)
        for name in todo:
            with committed(folder / name) as part:
                part.write_text(text)
            outputs.record(name, keys[name], size=len(text))
        outputs.finish(*whole)
    return todo


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def parts(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(PART)]


@contextlib.contextmanager
def child(code, *args):
    """A Python child that has printed `ready`."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# Hashes


def test_digest_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(tmp_path / "a") == known
    assert input_digests([tmp_path / "a", tmp_path / "a"]) == [known, known]


def test_fingerprint_tells_values_and_order_apart():
    assert fingerprint("a", ChipArgs()) == fingerprint("a", ChipArgs())
    assert fingerprint("a", ChipArgs()) != fingerprint("a", ChipArgs(overlap=1))
    assert fingerprint("a", "b") != fingerprint("b", "a")
    assert fingerprint(FlattenArgs(sample=1)) != fingerprint(FlattenArgs())


# One file


def test_committed_makes_folders_and_leaves_nothing_beside(tmp_path):
    with committed(tmp_path / "a/b/out.txt") as part:
        part.write_text("new")
        assert not (tmp_path / "a/b/out.txt").exists()
    assert os.listdir(tmp_path / "a/b") == ["out.txt"]
    write_json(tmp_path / "v.json", {"é": 1})
    assert json.loads((tmp_path / "v.json").read_text()) == {"é": 1}


def test_an_error_leaves_the_old_file(tmp_path):
    (tmp_path / "out").write_text("old")

    def fail():
        with committed(tmp_path / "out") as part:
            part.write_text("half")
            part.with_name(part.name + "-journal").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_text() == "old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_disk_errors_have_a_name(tmp_path, number):
    line = r"out: not written \(.*\); expected a writable folder with space left"
    with pytest.raises(OutputError, match=line), committed(tmp_path / "out"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(FileNotFoundError), committed(tmp_path / "out"):
        raise FileNotFoundError(errno.ENOENT, "an input", "scene.tif")


def test_kill_9_in_the_middle_leaves_the_old_file_and_the_next_run_cleans_up(tmp_path):
    (tmp_path / "out").write_text("old")
    code = """
import sys, time, pathlib
from roofkit.artifacts import committed
with committed(pathlib.Path(sys.argv[1])) as part:
    part.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""
    with child(code, tmp_path / "out") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "out").read_text() == "old"
    assert parts(tmp_path) == [PART + "out"]
    with committed(tmp_path / "out") as part:
        assert not part.exists()
        part.write_text("new")
    assert os.listdir(tmp_path) == ["out"]


# A folder of them


def test_finished_is_kept_and_a_changed_key_is_redone(tmp_path):
    assert make(tmp_path, {"a": "1", "b": "1"}) == ["a", "b"]
    assert make(tmp_path, {"a": "1", "b": "1"}) == []
    assert make(tmp_path, {"a": "1", "b": "2"}) == ["b"]
    assert make(tmp_path, {"a": "1", "b": "2"}, overwrite=True) == ["a", "b"]
    (tmp_path / "a").unlink()
    assert make(tmp_path, {"a": "1", "b": "2"}) == ["a"]


def test_what_is_no_longer_planned_goes_and_nothing_else_does(tmp_path):
    make(tmp_path, {"a": "1", "b": "1"})
    (tmp_path / "mine").touch()
    make(tmp_path, {"a": "1"})
    assert visible(tmp_path) == ["a", "mine"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda folder: None, {"count": 2}),
        (lambda folder: (folder / "a").unlink(), None),
        (lambda folder: (folder / "b").write_text("other"), None),
        (lambda folder: make(folder, {"a": "1", "b": "2"}), None),  # which noted nothing of all
        (lambda folder: make(folder, {"a": "1", "b": "2"}, shard=Shard(1, 2)), None),  # to be taken over first
    ],
)
def test_what_all_were_made_from_is_known_while_they_are_as_they_were(tmp_path, change, found):
    make(tmp_path, {"a": "1", "b": "2"}, whole=("key", {"count": 2}))
    change(tmp_path)
    with Outputs(tmp_path, "demo", overwrite=True) as outputs:
        assert not outputs.may_be_whole
    with Outputs(tmp_path, "demo") as outputs:
        assert outputs.whole("another") is None
        assert outputs.whole("key") == found


def test_nothing_is_known_of_all_once_work_has_begun(tmp_path):
    make(tmp_path, {"a": "1"}, whole=("key", {}))
    with Outputs(tmp_path, "demo") as outputs:
        assert outputs.may_be_whole
        outputs.plan({"a": "2"})
        assert not outputs.may_be_whole
    with Outputs(tmp_path, "demo") as outputs:
        assert outputs.whole("key") is None


def test_a_ledger_is_written_only_where_it_changes(tmp_path):
    make(tmp_path, {"a": "1"}, whole=("key", {}))
    before = (tmp_path / ".demo.ledger.jsonl").stat()
    with Outputs(tmp_path, "demo") as outputs:
        outputs.finish("key", outputs.whole("key"))
    make(tmp_path / "b", {"a": "1"})
    one = (tmp_path / "b/.demo.ledger.jsonl").stat()
    assert make(tmp_path / "b", {"a": "1"}) == []
    assert (tmp_path / ".demo.ledger.jsonl").stat().st_ino == before.st_ino
    assert (tmp_path / "b/.demo.ledger.jsonl").stat().st_ino == one.st_ino


def test_facts_come_back_and_left_out_ones_go(tmp_path):
    make(tmp_path, {"a": "1"}, "four")
    with Outputs(tmp_path, "demo") as outputs:
        outputs.plan({"a": "1"})
        assert outputs.has("a")
        assert outputs.facts("a")["size"] == 4
        outputs.leave_out("a")
        outputs.finish()
        assert not outputs.has("a")
    assert visible(tmp_path) == []


def test_a_changed_output_is_not_written_over(tmp_path):
    make(tmp_path, {"a": "1"})
    (tmp_path / "a").write_text("edited")
    with pytest.raises(OutputError, match=r"a: changed since this stage wrote it; expected .*--overwrite"):
        make(tmp_path, {"a": "1"})
    assert (tmp_path / "a").read_text() == "edited"
    assert make(tmp_path, {"a": "1"}, overwrite=True) == ["a"]


def test_a_flipped_bit_is_found(tmp_path):
    make(tmp_path, {"a": "1"}, "A")
    (tmp_path / "a").write_text("@")
    with pytest.raises(OutputError, match="changed since"):
        make(tmp_path, {"a": "1"})


def test_a_foreign_file_is_not_written_over(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OutputError, match=r"a: a file that this stage did not write; expected no file there"):
        make(tmp_path, {"a": "1", "b": "1"})
    assert visible(tmp_path) == ["a"]
    assert make(tmp_path, {"a": "1"}, overwrite=True) == ["a"]


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/inside"):
        with pytest.raises(OutputError, match="expected a folder to write to"):
            make(folder, {"a": "1"})


def test_two_files_of_one_folder_have_ledgers_of_their_own(tmp_path):
    for name in ("a.csv", "b.csv"):
        with Outputs(tmp_path, "flatten", name=name) as outputs:
            outputs.plan({name: "1"})
            (tmp_path / name).touch()
            outputs.record(name, "1")
            outputs.finish()
    assert visible(tmp_path) == ["a.csv", "b.csv"]


def test_a_torn_last_line_of_the_ledger_costs_one_artifact(tmp_path):
    make(tmp_path, {"a": "1", "b": "1"})
    ledger = tmp_path / ".demo.ledger.jsonl"
    lines = ledger.read_text().splitlines()
    ledger.write_text("\n".join(['{"planned": ["b"]}', lines[0], "null", "7", lines[1][:30]]))
    assert make(tmp_path, {"a": "1", "b": "1"}) == ["b"]
    assert make(tmp_path, {"a": "1", "b": "1"}) == []


def test_a_ledger_cannot_reach_outside_its_folder(tmp_path):
    (tmp_path / "keep").touch()
    (tmp_path / "out").mkdir()
    entries = [
        {"planned": ["../keep", str(tmp_path / "keep"), 7]},
        {"name": "../keep", "key": "1", "sha256": digest(tmp_path / "keep")},
        {"name": str(tmp_path / "keep"), "key": "1", "sha256": ""},
    ]
    (tmp_path / "out/.demo.ledger.jsonl").write_text("\n".join(map(json.dumps, entries)))
    make(tmp_path / "out", {"a": "1"})
    assert (tmp_path / "keep").exists()


STAGE = """
import sys, time, pathlib
from roofkit.artifacts import Outputs, committed
folder = pathlib.Path(sys.argv[1])
with Outputs(folder, "demo") as outputs:
    outputs.plan({"a": "1", "b": "1", "c": "1"})
    for name in "ab":
        with committed(folder / name) as part:
            part.write_text("made")
        if name == "a":
            outputs.record("a", "1")
    with committed(folder / "c") as part:
        part.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
"""


def killed(folder):
    """A stage that is killed when `a` is finished, `b` in place but not recorded, `c` half-written."""
    with child(STAGE, folder) as process:
        process.kill()
        process.wait()
    assert visible(folder) == ["a", "b"]


def test_kill_9_then_the_same_again(tmp_path):
    killed(tmp_path)
    assert make(tmp_path, {"a": "1", "b": "1", "c": "1"}) == ["b", "c"]
    assert visible(tmp_path) == ["a", "b", "c"]
    assert not parts(tmp_path)


def test_kill_9_then_other_settings_leave_no_orphan(tmp_path):
    killed(tmp_path)
    make(tmp_path, {"z": "2"})
    assert visible(tmp_path) == ["z"]
    assert not parts(tmp_path)


# Locks


def test_the_second_run_is_told_who_holds_the_folder(tmp_path):
    with Outputs(tmp_path, "demo"):
        with pytest.raises(LockedError, match=rf"locked by process {os.getpid()} on .*; expected no other run"):
            Outputs(tmp_path, "demo").__enter__()
        with Outputs(tmp_path, "other"):
            pass
    with Outputs(tmp_path, "demo"):
        pass
    assert not list(tmp_path.glob("*.lock"))


def test_kill_9_frees_the_lock(tmp_path):
    with child(STAGE, tmp_path) as process:
        with pytest.raises(LockedError, match=f"locked by process {process.pid} on"):
            make(tmp_path, {"a": "1"})
        process.kill()
        process.wait()
    assert make(tmp_path, {"a": "1"}) == []
    assert not list(tmp_path.glob(".*.lock"))


# Signals, and errors between processes


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_real_stage_cleanly(make_raster, tmp_path, number, status):
    rng = np.random.default_rng(0)
    src = make_raster(rng.integers(0, 9, (4, 6000, 1000)).astype("uint8"))
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "flatten/flatten.py", src, out / "pixels.csv", "--workers", "2"]
    (tmp_path / "settings.json").write_text("{}")
    process = subprocess.Popen([*command, "--settings", tmp_path / "settings.json"], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while not any(path.stat().st_size > 0 for path in out.glob(".part-*pixels.csv")):  # not that of its ledger
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(5) == status
        assert b"Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert visible(out) == []
    assert not parts(out)
    assert not list(out.glob(".*.lock"))


@pytest.mark.parametrize("kind", [BadInputError, OutputError, LockedError])
def test_errors_cross_a_process_boundary(kind):
    error = pickle.loads(pickle.dumps(kind(Path("a.tif"), "junk", "pixels", "Replace it.")))
    assert (type(error), str(error), error.where) == (kind, "a.tif: junk; expected pixels. Replace it.", "a.tif")


# Streams


@pytest.mark.parametrize("beside", [1, 4, 2**20])
def test_a_stream_is_hashed_and_sent_to_the_disk_while_it_is_written(tmp_path, monkeypatch, beside):
    sent = []
    monkeypatch.setattr(artifacts, "HASHED_BESIDE", beside)
    monkeypatch.setattr(artifacts, "SENT_AT_ONCE", 4)
    monkeypatch.setattr(os, "fsync", lambda descriptor: sent.append(descriptor))
    with streamed(tmp_path / "a.csv") as stream:
        assert [stream.write(part) for part in (b"abc", b"defg", b"h")] == [3, 4, 1]
        assert stream.tell() == 8
        assert not (tmp_path / "a.csv").exists()
    assert (tmp_path / "a.csv").read_bytes() == b"abcdefgh"
    assert stream.sha256 == digest(tmp_path / "a.csv")
    assert len(sent) >= 3  # of the stream, the finished file and its folder


@pytest.mark.parametrize("parts", [[b"abcd"], [b"abcd", b"efgh"]])
def test_a_disk_that_fails_while_a_stream_is_sent_is_named(tmp_path, monkeypatch, parts):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(artifacts, "SENT_AT_ONCE", 4)
    monkeypatch.setattr(os, "fsync", fail)

    def write():
        with streamed(tmp_path / "a.csv") as stream:
            for part in parts:
                stream.write(part)

    with pytest.raises(OutputError, match=r"a\.csv: not written \(Input/output error\)"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_hash_that_is_known_is_not_worked_out_again(tmp_path, monkeypatch):
    with Outputs(tmp_path, "demo") as outputs:
        outputs.plan({"a.csv": "key"})
        with streamed(tmp_path / "a.csv") as stream:
            stream.write(b"abc")
        monkeypatch.setattr(artifacts, "digest", None)
        outputs.record("a.csv", "key", sha256=stream.sha256, rows=1)
        monkeypatch.undo()
        assert outputs.facts("a.csv")["rows"] == 1
        assert outputs.is_finished("a.csv", "key")
        outputs.finish()


def test_what_another_input_gave_stays_and_so_does_what_is_unfinished_of_it(tmp_path, capsys):
    def run(keys, *, only="", ends=True):
        with Outputs(tmp_path, "chip", replaces=(lambda name: name[0] == only) if only else None) as outputs:
            for name in outputs.plan(keys):
                if not ends:
                    return
                (tmp_path / name).write_text(name)
                outputs.record(name, keys[name])
            outputs.finish()

    run({"a1": "k", "a2": "k"}, only="a")
    run({"b1": "k", "b2": "k"}, only="b", ends=False)  # killed
    run({"a1": "k"}, only="a")
    assert "removed 1 file that an earlier run made and this one does not (a2)" in capsys.readouterr().err
    found = read_ledger(tmp_path / ".chip.ledger.jsonl")
    assert (set(found.records), found.missing) == ({"a1"}, {"b1", "b2"})
    run({"b1": "k", "b2": "k"}, only="b")
    found = read_ledger(tmp_path / ".chip.ledger.jsonl")
    assert (set(found.records), found.missing) == ({"a1", "b1", "b2"}, set())
    assert capsys.readouterr().err == ""
    run({"c1": "k"})
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["c1"]
    assert "removed 3 files that an earlier run made and this one does not (a1, …)" in capsys.readouterr().err
