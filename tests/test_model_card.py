"""What is said of a model beside it: a STAC item that validates, and a card with the same numbers."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import pytest
from pystac.extensions.mlm import MLMExtension
from pystac.validation import validate_dict

from roofkit.artifacts import Outputs
from roofkit.errors import OutputError
from roofkit.model_card import About, Array, bounds_of, card_keys, card_text, frame_scores, stac_item, write_cards
from roofkit.pairs import Pair
from roofkit.settings import EvaluateArgs

COUNTS = np.array([[8, 1, 1, 90], [4, 2, 0, 94], [0, 1, 3, 96]])  # IoU 12 / 20


@pytest.fixture
def about(make_raster):
    def pair(name, seconds=0):
        paths = [make_raster(np.ones((2, 8, 8), "uint8"), f"{kind}/{name}.tif") for kind in ("frames", "masks")]
        os.utime(paths[0], (seconds, seconds))
        return Pair(*paths)

    return About(
        architecture="a network", framework=("NumPy", "numpy"), parameters=1234, bands=("red", "nir"),
        taken=Array((-1, 8, 8, 2), ("batch", "height", "width", "bands")),
        given=Array((-1, 8, 8, 1), ("batch", "height", "width", "channel")), preparation="It takes raw pixels.",
        threshold=0.375, frames=([pair("a", 1_700_000_000), pair("b")], [pair("c")]),
        scored=frame_scores(COUNTS, 0.03125, EvaluateArgs(bootstrap=200)),
        settings={"some_args": {"rate": 0.5, "size": [8, 8]}}, artifact="some.dump", use="    use it so",
        started_from="other weights",
    )  # fmt: skip


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "results" / "network.h5"
    path.parent.mkdir()
    path.write_bytes(b"model")
    return path


def test_scores_by_hand():
    found = frame_scores(COUNTS, 0.1, EvaluateArgs(bootstrap=500, confidence=0.9))
    assert found.values["iou"] == 12 / 20
    assert found.values["precision"] == 12 / 16
    assert found.values["recall"] == 12 / 16
    low, high = found.intervals["iou"]
    assert 0 <= low < 12 / 20 < high <= 8 / 10  # draws of one frame alone are 0, 4/6 and 8/10
    assert frame_scores(COUNTS[:1], 0.1, EvaluateArgs()).intervals["iou"] is None


def test_the_item_validates_and_says_what_the_model_takes_and_gives(about, model):
    item = stac_item(model, about)
    document = item.to_dict(include_self_link=False)
    names = [uri.split("/")[3] for uri in document["stac_extensions"]]
    assert sorted(names) == ["classification", "mlm"]
    validate_dict(
        document | {"stac_extensions": []}
    )  # by the schemas that pystac brings; those of extensions are online
    again = MLMExtension.ext(pystac.Item.from_dict(json.loads(json.dumps(document))))
    assert (again.properties["mlm:name"], again.architecture) == ("metal-roofs-a-network", "a network")
    assert [str(task) for task in again.tasks] == ["semantic-segmentation"]
    assert (again.framework, again.total_parameters, again.memory_size) == ("NumPy", 1234, 4936)
    assert again.framework_version == np.__version__
    [taken], [given] = again.input, again.output
    assert (taken.bands, taken.input.shape, taken.input.data_type) == (["red", "nir"], [-1, 8, 8, 2], "float32")
    assert (given.result.shape, given.result.dim_order[0]) == ([-1, 8, 8, 1], "batch")
    assert [(c.value, c.name) for c in given.classes] == [(0, "background"), (1, "metal_roof")]
    assert again.hyperparameters.to_dict() == {"some_args.rate": 0.5, "some_args.size": [8, 8], "threshold": 0.375}
    properties = document["properties"]
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]", properties["mlm:name"])  # as the schema has it
    assert re.fullmatch(r"\d+\.\d+\.\d+", properties["mlm:framework_version"])
    assert (properties["mlm:pretrained"], properties["mlm:pretrained_source"]) == (True, "other weights")
    assert properties["bands"] == [{"name": "red"}, {"name": "nir"}]  # what the input's names refer to
    assert "bands" in taken.input.dim_order
    assert "bands" not in given.result.dim_order
    assert {key for key, value in properties.items() if value is None} <= {"mlm:accelerator"}  # it may be null
    alone = stac_item(model, replace(about, started_from=None)).properties
    assert (alone["mlm:pretrained"], alone["mlm:pretrained_source"]) == (False, None)  # as the schema ties them
    assert ["mlm:artifact_type" in one for one in document["assets"].values()] == [True, False]
    asset = document["assets"]["model"]
    assert (asset["href"], asset["roles"][0], asset["mlm:artifact_type"]) == ("network.h5", "mlm:model", "some.dump")
    assert document["assets"]["card"]["href"] == "network.md"
    assert document["properties"]["datetime"] == "2023-11-14T22:13:20Z"
    assert document["bbox"] == pytest.approx([83.37, 26.74, 83.37, 26.74], abs=0.02)
    ring = document["geometry"]["coordinates"][0]
    assert [min(x for x, _ in ring), max(y for _, y in ring)] == [document["bbox"][0], document["bbox"][3]]


def test_frames_without_a_place_make_an_item_without_one(about, model, make_raster):
    path = make_raster(np.ones((2, 8, 8), "uint8"), "plain.tif", crs=None)
    item = stac_item(model, replace(about, frames=([Pair(path, path)], [])))
    assert (item.geometry, item.bbox) == (None, None)
    validate_dict(item.to_dict(include_self_link=False) | {"stac_extensions": []})


def test_the_card_has_the_numbers(about, model, run):
    text = card_text(model, about, run)
    low, high = about.scored.intervals["iou"]
    assert f"| IoU | 0.600 | {low:.3f} to {high:.3f} |" in text
    assert "| calibration error | 0.031 | |" in text
    assert "2 training frames and 1 validation frames, of the bands red, nir" in text
    assert "from the probability 0.375 on" in text
    assert "not known: the frames came as they are" in text
    assert '- `some_args`: `{"rate": 0.5, "size": [8, 8]}`' in text
    assert "use it so" in text
    assert "Training started from other weights." in text
    for heading in ("Data", "Scores", "Limits", "Use", "Made from"):
        assert f"\n## {heading}\n" in text
    run.paths.data.mkdir()
    run.paths.split.touch()
    assert "`split_args.by` block" in card_text(model, about, run)
    alone = replace(about, scored=frame_scores(COUNTS[:1], 0.0, EvaluateArgs()))
    assert "| IoU | 0.800 | none: too few frames |" in card_text(model, alone, run)


def test_both_are_written_once_and_again_where_one_is_gone(about, model, run):
    asked = []

    def describe():
        asked.append(1)
        return about

    def write(key="key"):
        with Outputs(model.parent, "train", name=model.name) as outputs:
            keys = card_keys(model, key, run)
            todo = outputs.plan(keys)
            write_cards(model, describe, run, outputs, {name: keys[name] for name in todo})
            outputs.finish()
        return todo

    assert sorted(write()) == ["network.md", "network.stac.json"]
    assert write() == []
    card = model.with_name("network.md")
    before = card.read_text()
    card.unlink()
    assert write() == ["network.md"]
    assert card.read_text() == before
    assert len(asked) == 2
    card.write_text("my own words")
    with pytest.raises(OutputError, match=r"network\.md: changed since"):
        write("another")
    assert card.read_text() == "my own words"


def test_bounds_are_of_all_frames(about, make_raster):
    assert bounds_of([]) is None
    west, south, east, north = bounds_of(about.frames[0])
    assert 0 < east - west < 1e-4
    assert 0 < north - south < 1e-4


def test_nothing_here_reads_the_machine(about, model, run, tmp_path):
    """What is written has no path of this machine in it: it goes to other people."""
    for text in (card_text(model, about, run), json.dumps(stac_item(model, about).to_dict(include_self_link=False))):
        assert str(tmp_path) not in text
        assert str(Path.home()) + "/" not in text
