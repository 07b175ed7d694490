"""Flipped bits: every one in an artifact is found before a stage uses it, and none in a ledger is believed."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from faults.project import CASES, Project, random_of, todays

from roofkit.artifacts import Outputs
from roofkit.errors import BadInputError, OutputError
from roofkit.ledger import input_digest, read_ledger

FLIPS, SHORT = 500, 25
KINDS = {  # an artifact of each type: the case that makes it, its name
    "tif": ("chip", "chips/synthetic_town_0_0_r0_c0.tif"),
    "csv": ("flatten csv", "pixels.csv"),
    "parquet": ("flatten parquet", "pixels.parquet"),
    "png": ("summarize", "histograms/all_bands.png"),
    "json": ("summarize", "histograms/summary.json"),
    "gpkg": ("predict", "roofs.gpkg"),
    "geojson": ("predict blocks", "roofs.geojson"),
    "vrt": ("predict blocks", "map/town.vrt"),
    "h5": ("train", "results_4.h5"),
    "skops": ("forest", "forest.skops"),
}
READERS = {  # a stage, and a file that it reads: {ref} is the undisturbed project
    "chip of scenes": ("chip", "data/scenes", "{src} {out}/x"),
    "mosaic of chips": ("mosaic", "data/chips", "{src} {out}/x.tif"),
    "mask of chips": ("mask", "data/chips", "{src} {ref}/data/labels {out}/x"),
    "mask of labels": ("mask", "data/labels", "{ref}/data/chips {src} {out}/x"),
    "split of chips": ("split", "data/chips", "{src} {ref}/data/masks {out}/x"),
    "split of masks": ("split", "data/masks", "{ref}/data/chips {src} {out}/x"),
    "flatten of chips": ("flatten", "data/chips", "{src} {out}/x.csv"),
    "summarize of chips": ("summarize", "data/chips", "{src} {out}/x"),
    "forest of frames": ("forest", "data/train_frames", "{out}/x.skops --data {src}/.."),
    "regression of masks": ("regression", "data/val_masks", "{out}/x.skops --data {src}/.."),
    "train of frames": ("train", "data/val_frames", "{out}/x.h5 --data {src}/.. --results {out}"),
    "train of masks": ("train", "data/train_masks", "{out}/x.h5 --data {src}/.. --results {out}"),
    "predict of models": ("predict", "results/forest.skops", "{src} {ref}/data/scenes {out}/x"),
    "predict of scenes": ("predict", "data/scenes", "{ref}/results/forest.skops {src} {out}/x"),
    "evaluate of predictions": ("evaluate", "results/predictions", "{src} {ref}/data/val_masks {out}/x.json"),
    "evaluate of masks": ("evaluate", "data/val_masks", "{ref}/results/predictions {src} {out}/x.json"),
}


def flip(path: Path, rng: np.random.Generator) -> None:
    """Flip one bit of a file."""
    found = bytearray(path.read_bytes())
    found[int(rng.integers(len(found)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(found)


def flipped(project: Project, kind: str, folder: Path, flips: int) -> None:
    """Flip bits of an artifact, one at a time, and have it looked at as the stages that read it do."""
    name, artifact = KINDS[kind]
    copy, rng = folder / "copy", random_of(kind)
    shutil.copytree(project.undisturbed(name)[0], copy)
    path = copy / artifact
    whole = path.read_bytes()
    assert input_digest(path)
    for _ in range(flips):
        flip(path, rng)
        with pytest.raises(
            BadInputError, match=f"{path.name}: changed since {CASES[name].stage} wrote it; .*--keep-edits"
        ):
            input_digest(path)
        path.write_bytes(whole)
    assert input_digest(path)


@pytest.mark.parametrize("kind", ["tif", *todays(["csv", "parquet", "png", "json"], 2)])
def test_a_flipped_bit_is_found(undisturbed, kind, tmp_path):
    flipped(undisturbed, kind, tmp_path, SHORT)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_500_flipped_bits_are_found(undisturbed, kind, tmp_path):
    flipped(undisturbed, kind, tmp_path, FLIPS)
    print(f"{kind}: {FLIPS} of {FLIPS} flips found")


def read_flipped(project: Project, reader: str, folder: Path, rng: np.random.Generator, capsys) -> None:
    """Flip a bit of one of the files that a stage reads; it says which, and writes nothing."""
    stage, source, arguments = READERS[reader]
    project.make({"predict": "forest", "evaluate": "predict"}.get(stage, "split"))
    shutil.rmtree(folder / "ref", ignore_errors=True)
    shutil.copytree(project.ref, folder / "ref")
    src, out = folder / "ref" / source, folder / "out"
    files = [src] if src.is_file() else sorted(p for p in src.iterdir() if p.name[0] != "." and p.suffix != ".qml")[:2]
    path = files[int(rng.integers(len(files)))]
    flip(path, rng)
    words = arguments.format(src=src, ref=project.ref, out=out).split()
    capsys.readouterr()
    status = importlib.import_module(f"{stage}.{stage}").main(
        [*words, "--settings", str(project.ref / "settings.json"), "--quiet", "--workers", "1"]
    )
    said = capsys.readouterr().err
    assert status == 1, said
    assert path.name in said, said
    assert not [p for p in out.rglob("*") if p.is_file() and p.name[0] != "."]


@pytest.mark.parametrize("reader", todays([name for name in READERS if not name.startswith(("evaluate", "train"))], 5))
def test_a_stage_does_not_read_a_flipped_file(undisturbed, reader, tmp_path, capsys):
    read_flipped(undisturbed, reader, tmp_path, random_of(reader), capsys)


@pytest.mark.faults
@pytest.mark.parametrize("reader", READERS)
def test_a_stage_does_not_read_50_flipped_files(undisturbed, reader, tmp_path, capsys):
    rng = random_of(reader)
    for _ in range(50):
        read_flipped(undisturbed, reader, tmp_path, rng, capsys)


def test_a_flipped_ledger_is_not_believed(tmp_path):
    with Outputs(tmp_path, "demo") as outputs:
        outputs.plan({"a": "1", "b": "2"})
        for name in "ab":
            (tmp_path / name).write_text(name)
            outputs.record(name, "1", share=0.25, counts={"x": 7})
        outputs.finish()
    ledger, rng = tmp_path / ".demo.ledger.jsonl", random_of("ledger")
    whole, known = ledger.read_bytes(), read_ledger(ledger).records
    assert len(known) == 2
    for _ in range(FLIPS):
        flip(ledger, rng)
        for name, record in read_ledger(ledger).records.items():
            assert {key: record[key] for key in known[name]} == known[name]
        ledger.write_bytes(whole)


def test_what_a_stage_wrote_is_looked_at_before_it_is_kept(undisturbed, tmp_path):
    name, artifact = KINDS["json"]
    copy = tmp_path / "copy"
    shutil.copytree(undisturbed.undisturbed(name)[0], copy)
    flip(copy / artifact, random_of("kept"))
    keys = {n: r["key"] for n, r in read_ledger(copy / "histograms/.summarize.ledger.jsonl").records.items()}
    with Outputs(copy / "histograms", "summarize") as outputs, pytest.raises(OutputError, match="changed since"):
        outputs.plan(keys)
