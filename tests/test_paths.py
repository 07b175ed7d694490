"""Paths: where everything lies, and that no name in settings leads outside."""

import pytest

from roofkit.errors import MissingInputError, SettingsError
from roofkit.paths import find_labels, project_paths
from roofkit.settings import check_settings

FOUR = ("train_frames", "train_masks", "val_frames", "val_masks")


def paths(base, values=None, **folders):
    return project_paths(check_settings(values or {}), base, **folders)


def test_defaults(tmp_path):
    found = paths(tmp_path)
    assert found.data == tmp_path / "data"
    assert found.train_frames == tmp_path / "data/train_frames"
    assert found.labels == tmp_path / "data/labels/roofs.gpkg"
    assert found.checkpoint == tmp_path / "results/results_4.h5"
    assert found.predictions == tmp_path / "results/predictions"
    assert found.metrics == tmp_path / "results/metrics.json"


def test_the_folder_that_four_names_share_is_the_data_folder(tmp_path):
    found = paths(tmp_path, {"path_args": {name: f"town/{name}" for name in FOUR}})
    assert (found.data, found.val_masks) == (tmp_path / "town", tmp_path / "town/val_masks")
    assert found.chips == tmp_path / "town/chips"


def test_a_shared_absolute_folder(tmp_path):
    found = paths(tmp_path / "project", {"path_args": {name: f"{tmp_path}/town/{name}" for name in FOUR}})
    assert found.train_masks == tmp_path / "town/train_masks"


def test_a_name_that_starts_with_its_folder(tmp_path):
    values = {"path_args": {"chips": "data/chips"}, "checkpoint_args": {"checkpoint_path": "results/best.h5"}}
    found = paths(tmp_path, values)
    assert (found.chips, found.checkpoint) == (tmp_path / "data/chips", tmp_path / "results/best.h5")


def test_options_replace_the_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    found = paths(tmp_path / "project", data=Path("d"), results=tmp_path / "r")
    assert (found.scenes, found.history) == (tmp_path / "d/scenes", tmp_path / "r/history.csv")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc", "data/../../x"])
def test_names_that_leave_their_folder(tmp_path, name):
    with pytest.raises(SettingsError, match=r"path_args .*(it holds '..'|leaves that folder).*expected a name inside"):
        paths(tmp_path, {"path_args": {"chips": name}})
    with pytest.raises(SettingsError, match="expected a name inside"):
        paths(tmp_path, {"checkpoint_args": {"checkpoint_path": name}})


def test_a_symbolic_link_that_leaves_the_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/scenes").symlink_to("/etc")
    with pytest.raises(SettingsError, match=r"leaves that folder, to /etc; expected a name inside .*--data"):
        paths(tmp_path)


def test_the_data_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "far")
    assert paths(tmp_path).scenes == tmp_path / "far/scenes"


def test_labels(tmp_path):
    wanted = tmp_path / "roofs.gpkg"
    with pytest.raises(MissingInputError, match=r"no roof polygons; expected roofs.gpkg, or one file of"):
        find_labels(wanted)
    (tmp_path / "houses.geojson").touch()
    (tmp_path / ".hidden.gpkg").touch()
    (tmp_path / "notes.txt").touch()
    assert find_labels(wanted) == tmp_path / "houses.geojson"
    assert find_labels(tmp_path) == tmp_path / "houses.geojson"
    (tmp_path / "other.SHP").touch()
    with pytest.raises(MissingInputError, match=r"2 label files \(houses.geojson, other.SHP\); expected roofs.gpkg"):
        find_labels(wanted)
    assert find_labels(tmp_path) == tmp_path  # a folder that settings name: all its files
    wanted.touch()
    assert find_labels(wanted) == wanted
