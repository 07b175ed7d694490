"""The door for settings, and the fence around the project's folders: nothing leads out, by name or by link."""

import json
import os

import numpy as np
import pytest
from attacks import WORD, write_tiff

from roofkit.artifacts import Outputs, committed
from roofkit.errors import OutputError
from roofkit.fence import enclose

UP = "../../outside"


def settings_of(folder):
    """Settings to be refused: their text, with words of the line that says so."""
    secret = str(folder / "outside/secret.txt")
    path_args = [
        {"scenes": UP}, {"chips": "a/../../x"}, {"labels": secret}, {"masks": "/etc"}, {"mosaic": "data/../../m.tif"},
        {"data": "../outside"}, {"split": "../outside/split.csv"}, {"metrics": f"{UP}/m.json"},
        {"map": "nul\0"}, {"footprints": "x" * 300 + ".gpkg"}, {"chips": "red\x1b[31m"}, {"chips": "linked"},
        {"chips": "linked/chips"}, {"train_frames": "../x/t", "train_masks": "../x/m", "val_frames": "../x/v",
                                   "val_masks": "../x/w"},
    ]  # fmt: skip
    other = [
        {"training_args": {"results_folder": "../outside"}},
        {"checkpoint_args": {"checkpoint_path": "../../outside/m.h5"}},
        {"checkpoint_args": {"checkpoint_path": secret}},
        {"model_args": {"architecture": "MobileNetV2", "encoder_weights": secret}},
    ]
    texts = [
        '{"a":' * 50_000 + "1" + "}" * 50_000, '{"path_args": {}, "path_args": {}}',
        '{"training_args": {"seed": ' + "1" * 5000 + "}}",
        '{"chip_args": {"overlap": "' + "x" * 2**20 + '"}}', "[" * 900 + "]" * 900, f"{WORD} is no JSON", "",
    ]  # fmt: skip
    return [*(json.dumps({"path_args": args}) for args in path_args), *map(json.dumps, other), *texts]


def test_settings_that_lead_out_are_refused(tmp_path, secrets, run_cases):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(secrets.folder)
    before = sorted(secrets.folder.iterdir())
    texts = settings_of(tmp_path)
    assert len(texts) >= 20
    cases = []
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.json").write_text(text)
        cases.append(("chip", ["--settings", tmp_path / f"{number}.json"]))
    cases += [("chip", ["--settings", "/dev/zero"]), ("chip", ["--settings", tmp_path])]
    for how in run_cases(cases):
        how.check_refused()
    assert sorted(secrets.folder.iterdir()) == before


def test_settings_name_no_file_outside(tmp_path, secrets, run_cases):
    """A user may, on the command line; a settings file may be somebody else's."""
    (tmp_path / "project").mkdir()
    keys, cases = ("aoi", "labels_file", "address"), []
    for key in keys:
        values = {"source": "cog", "labels": "file", "address": ["here.tif"], "labels_file": "here.gpkg"}
        values[key] = [str(secrets.raster)] if key == "address" else str(secrets.vector)
        settings = tmp_path / f"project/{key}.json"
        settings.write_text(json.dumps({"download_args": values}))
        cases.append(("download", ["--settings", settings]))
    for key, how in zip(keys, run_cases(cases)):
        how.check_refused(f"download_args.{key}")
        assert "it lies elsewhere" in how.err


def test_links_in_the_projects_folders(tmp_path, secrets, run_cases):
    """Planted where a stage puts its lock, its ledger, its output and what is not finished."""
    scene = write_tiff(tmp_path / "scene.tif", np.ones((1, 64, 64), np.uint8))
    target, before = secrets.text, secrets.text.read_bytes()
    names = {
        "lock": ".chip.lock",
        "ledger": ".chip.ledger.jsonl",
        "chip": "scene_r0_c0.tif",
        "part": ".part-scene_r0_c0.tif",
    }
    cases = []
    for case, name in names.items():
        (tmp_path / case).mkdir()
        (tmp_path / case / name).symlink_to(target)
        cases.append(("chip", [scene, tmp_path / case, "--size", 64, "--overwrite"]))
    ended = dict(zip(names, run_cases(cases)))
    ended["lock"].check_refused(".chip.lock: a link")
    assert [how.rc for how in ended.values()] == [1, 0, 0, 0]
    assert target.read_bytes() == before
    for case in ("ledger", "chip", "part"):
        assert not (tmp_path / case / "scene_r0_c0.tif").is_symlink()
        assert WORD not in (tmp_path / case / ".chip.ledger.jsonl").read_text()


@pytest.mark.parametrize("name", ["linked/precious.txt", "../outside/precious.txt", "{outside}/precious.txt"])
@pytest.mark.parametrize("kind", ["planned", "record"])
def test_a_ledger_removes_nothing_outside(tmp_path, secrets, name, kind):
    precious = secrets.folder / "precious.txt"
    precious.write_text("mine")
    (tmp_path / "chips").mkdir()
    (tmp_path / "chips/linked").symlink_to(secrets.folder)
    name = name.format(outside=secrets.folder)
    entry = {"planned": [name, 7, None, ["x"]]} if kind == "planned" else {"name": name, "key": "k", "sha256": "s"}
    lines = [json.dumps(entry), '{"planned": 3}', "1" * 5000, "[" * 9999, "{"]
    (tmp_path / "chips/.chip.ledger.jsonl").write_text("\n".join(lines))
    with Outputs(tmp_path / "chips", "chip") as outputs:
        assert outputs.plan({}) == []
        outputs.finish()
    assert precious.read_text() == "mine"


def test_an_output_below_a_link(tmp_path, secrets):
    (tmp_path / "map").mkdir()
    (tmp_path / "map/scene").symlink_to(secrets.folder)
    with Outputs(tmp_path / "map", "predict") as outputs, pytest.raises(OutputError, match="a link that leads to"):
        outputs.plan({"scene/scene_r0_c0.tif": "key"})


@pytest.fixture
def enclosed(tmp_path):
    enclose((tmp_path / "data").resolve())
    yield tmp_path / "data"
    enclose()


def test_a_hidden_folder_that_is_a_link(enclosed, secrets):
    """Where tiles wait for their scene, or pieces for their polygons."""
    enclosed.mkdir()
    (enclosed / ".download").symlink_to(secrets.folder)
    before = sorted(os.listdir(secrets.folder))
    with pytest.raises(OutputError, match="a link that leads to"), committed(enclosed / ".download/0_0.npz") as part:
        part.write_text("x")
    with pytest.raises(OutputError, match="a link that leads to"), Outputs(enclosed / ".download", "predict"):
        pass
    assert sorted(os.listdir(secrets.folder)) == before
