"""report: cells and counts by hand, places, the page and what it says where something is missing."""

import base64
import html.parser
import json
import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from imagery import TRANSFORM, UTM, real
from rasterio.crs import CRS
from report_project import THRESHOLD, Project, make_project, write

from evaluate.evaluate import main as evaluate
from report.report import main
from roofkit import scores
from roofkit.artifacts import Outputs
from roofkit.errors import BadInputError, MissingInputError
from roofkit.paths import project_paths
from roofkit.raster import Grid
from roofkit.settings import Settings
from webpage import figures
from webpage.contents import duration, size_words
from webpage.counts import Frame, Tally, calibration, curve, empty, precision_recall, ranked, thresholds
from webpage.facts import SCORES, band_rows, read_history, read_json, read_split, score_rows, split_lines, split_summary
from webpage.findings import findings
from webpage.layers import (
    KNOWN_LABEL,
    LABEL,
    MEASURED,
    UNKNOWN,
    Canvas,
    Cells,
    Overlay,
    Piece,
    averaged,
    packed,
    read_colours,
    read_share,
    read_values,
    stretched,
)
from webpage.page import as_json
from webpage.places import Place, Scene, name_of, places_of, shown_bands
from webpage.sections import best_threshold, changed_settings, factor_of

# Cells


def values(path, factor, height, width, row=0, col=0):
    """Means of one band over cells, and where they are known."""
    canvas = averaged([Piece(path, row, col)], Cells.over(height, width, factor), read_values)
    return canvas.mean[0].tolist(), canvas.known.tolist()


def test_a_cell_is_the_mean_of_its_valid_pixels(make_raster):
    array = np.array([[1, 3, 10], [5, 7, 30], [2, 4, 50]], np.float32)
    valid = [[True, True, True], [True, False, False], [False, False, True]]
    means, known = values(make_raster(array, valid=valid), 2, 3, 3)
    assert means == [[3.0, 10.0], [0.0, 50.0]]
    assert known == [[True, True], [False, True]]


def test_pieces_lie_where_they_are_told_to_and_beyond_the_edge_is_cut_off(make_raster):
    path = make_raster(np.array([[2, 4], [6, 8]], np.uint8))
    assert values(path, 2, 4, 4, row=1, col=1)[0] == [[2.0, 4.0], [6.0, 8.0]]
    assert values(path, 1, 2, 2, row=1, col=-1)[0] == [[0.0, 0.0], [4.0, 0.0]]
    assert values(path, 1, 2, 2, row=5)[1] == [[False, False], [False, False]]


def test_overlapping_pieces_are_averaged(make_raster):
    one, two = make_raster(np.full((2, 2), 10, np.uint8), "a.tif"), make_raster(np.full((2, 2), 20, np.uint8), "b.tif")
    canvas = averaged([Piece(one), Piece(two, 0, 1)], Cells(2, 3, 1), read_values)
    assert canvas.mean[0, 0].tolist() == [10.0, 15.0, 20.0]


def test_of_large_cells_a_grid_of_pixels_is_looked_at(make_raster):
    array = np.repeat(np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4), 16, axis=0), 16, axis=1)
    assert values(make_raster(array), 16, 48, 64)[0] == np.arange(12.0).reshape(3, 4).tolist()


def test_windows_do_not_show(make_raster, monkeypatch):
    array = np.random.default_rng(0).integers(0, 255, (37, 53)).astype(np.uint8)
    path = make_raster(array)
    whole = values(path, 3, 37, 53)
    monkeypatch.setattr("webpage.layers.SIDE", 8)
    assert values(path, 3, 37, 53) == whole
    assert whole[0][1][2] == pytest.approx(array[3:6, 6:9].mean())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_imagery_of_any_dtype(make_raster, dtype):
    array = np.arange(24).reshape(4, 2, 3).astype(dtype)
    if dtype == "float32":
        array[2, 0, 0], array[3, 1, 1] = np.nan, np.inf
    canvas = averaged([Piece(make_raster(array, nodata=5))], Cells(2, 3, 1), read_colours((4, 3, 9)), 3)
    assert canvas.mean[:, 0, 1].tolist() == [19.0, 13.0, 19.0]
    assert canvas.known[0, 0] == (dtype != "float32")
    assert canvas.known[1, 1] == (dtype != "float32")
    assert np.isfinite(canvas.mean).all()


def test_masks_are_shares(make_raster):
    canvas = averaged([Piece(make_raster(np.array([[255, 0], [255, 255]], np.uint8)))], Cells(1, 1, 2), read_share)
    assert canvas.mean.tolist() == [[[0.75]]]


def test_colours_are_stretched_between_percentiles_and_unknown_is_transparent():
    means = np.array([[[0.0, 10.0, 20.0, 99.0]]], np.float32)
    rgba = stretched(means, np.array([[True, True, True, False]]), (0.0, 100.0))
    assert rgba.tolist() == [[[0, 0, 0, 255], [128, 128, 128, 255], [255, 255, 255, 255], [0, 0, 0, 0]]]


def test_colours_of_a_flat_band_or_of_nothing_are_no_problem():
    flat = stretched(np.full((3, 1, 1), 7, np.float32), np.ones((1, 1), bool), (2.0, 98.0))
    assert flat.tolist() == [[[0, 0, 0, 255]]]
    assert not stretched(np.zeros((3, 1, 1), np.float32), np.zeros((1, 1), bool), (2.0, 98.0)).any()


def canvas_of(mean, known):
    canvas = Canvas(Cells(1, len(mean), 1), 1)
    canvas.add(np.array([[mean]]), np.array([known]), np.array([0]), np.arange(len(mean)))
    return canvas


def test_levels_and_bits_of_an_overlay():
    levels = np.array([0.25, 0.5, 0.75], np.float32)
    overlay = Overlay(
        levels,
        label=canvas_of([1.0, 0.4, 0.5, 0.0], [True, True, True, False]),
        probability=canvas_of([0.2, 0.25, 0.8, 0.9], [True, True, True, False]),
    )
    assert overlay.reached((1, 4)).tolist() == [[0, 1, 3, UNKNOWN]]
    roof, blank = MEASURED | KNOWN_LABEL | LABEL, MEASURED | KNOWN_LABEL
    assert overlay.flags(np.array([[True, True, True, False]])).tolist() == [[roof, blank, roof, 0]]
    assert Overlay(levels).reached((1, 2)).tolist() == [[UNKNOWN, UNKNOWN]]


def test_bytes_come_back_as_they_were():
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert zlib.decompress(base64.b64decode(packed(array))) == array.tobytes()


# Counts


def test_pixels_that_reach_levels_by_hand():
    probability = np.array([[0.0, 0.5, 0.6, 1.0, 0.9]], np.float32)
    truth, valid = np.array([[False, True, False, True, True]]), np.array([[True, True, True, True, False]])
    reached = scores.level_counts(probability, truth, valid, np.array([0.5, 0.6, 0.7], np.float32))
    assert reached.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]
    assert scores.counts_at_levels(reached).tolist() == [[2, 1, 0, 1], [1, 1, 1, 1], [1, 0, 1, 2]]


def test_counts_at_a_level_are_those_of_masks_of_that_threshold():
    rng = np.random.default_rng(1)
    levels = np.array([0.1, 0.3, 0.7, 0.9], np.float32)
    probability = rng.choice([*levels, 0.0, 1.0, 0.35], (40, 50)).astype(np.float32)  # 0.7 is not a float32
    truth, valid = rng.random((2, 40, 50)) < 0.6
    found = scores.counts_at_levels(scores.level_counts(probability, truth, valid, levels))
    for level, counts in zip((0.1, 0.3, 0.7, 0.9), found):
        assert counts.tolist() == scores.pixel_counts(probability >= level, truth, valid).tolist()


def test_thresholds_are_even_and_hold_the_projects_own():
    shown, levels = thresholds(0.4137)
    assert len(shown) == 500
    assert shown[0] == 0.002
    assert 0.4137 in shown
    assert (np.diff(levels) > 0).all()
    assert len(thresholds(0.4)[0]) == len(thresholds(None)[0]) == 499


def test_best_median_and_worst_are_frames_with_labelled_roofs():
    frames = [Frame(Path(), Path(), name=name) for name in "abcde"]
    pixels = [np.array(p) for p in ((1, 1, 0, 5), (0, 3, 0, 5), (4, 0, 0, 5), (1, 0, 2, 5), (0, 0, 0, 9))]
    assert ranked(frames, pixels) == [("best", 2), ("median", 0), ("worst", 3)]
    assert ranked(frames[:2], pixels[:2]) == [("best", 0)]
    assert ranked(frames[1:2], pixels[1:2]) == [("best", 0)]  # no other: then one without labels
    assert ranked(frames[4:], pixels[4:]) == []


def test_curves_of_frames_together():
    none = np.zeros((2, scores.BINS), np.int64)
    one = Tally(np.array([1, 0, 0, 2]), np.array([[2, 0], [0, 1]]), none)
    total = one.plus(Tally(np.array([0, 1, 1, 0]), np.array([[0, 1], [1, 0]]), none))
    assert total.pixels.tolist() == [1, 1, 1, 2]
    assert curve(total) == {"tp": [1], "fp": [1], "fn": [1]}
    assert curve(empty(np.array([0.5], np.float32))) is None


def histogram_of(background, roof):
    everywhere = np.ones(len(background) + len(roof), bool)[None]
    truth = np.array([[False] * len(background) + [True] * len(roof)])
    return scores.frame_counts(np.array([[*background, *roof]], np.float32), truth, everywhere)


def test_precision_and_recall_by_hand():
    found = precision_recall(histogram_of([0.1, 0.6], [0.4, 0.9]))
    assert found == {"recall": [0.5, 0.5, 1.0, 1.0], "precision": [1.0, 0.5, 0.66667, 0.5]}
    assert precision_recall(histogram_of([0.1], [])) == {"recall": [], "precision": []}


def test_calibration_by_hand():
    found = calibration(histogram_of([0.5, 0.5, 0.99], [0.5, 0.99]))
    assert found["found"] == [0.33333, 0.5]
    assert found["share"] == [0.6, 0.4]
    assert found["expected"] == pytest.approx([0.5, 0.99], abs=1e-3)


def test_the_best_threshold_is_in_the_middle_of_equals():
    assert best_threshold({"tp": [3, 4, 4, 4, 1], "fp": [5, 1, 1, 1, 0], "fn": [1, 0, 0, 0, 3]}) == 2


# Places


def scene(name, col, row, *, size=0.5, crs=UTM, turn=0.0, height=10, width=20):
    transform = Affine(size, turn, 735000 + 0.5 * col, turn, -size, 2960000 - 0.5 * row)
    return Scene(Path(f"{name}.tif"), Grid(CRS.from_user_input(crs) if crs else None, transform, height, width))


def test_scenes_that_adjoin_are_one_place():
    (place,) = places_of([scene("town_1", 0, 3), scene("town_2", 20, 0)])
    assert place.name == "town (2 scenes)"
    assert (place.height, place.width) == (13, 40)
    assert place.offsets == {"town_1": (3, 0), "town_2": (0, 20)}
    assert place.metres == pytest.approx((0.5, 0.5), rel=1e-3)


def test_scenes_apart_are_places_the_largest_first():
    found = places_of([scene("a", 0, 0), scene("b", 100, 0), scene("c", 130, 0, height=11), scene("d", 150, 0)])
    assert [place.name for place in found] == ["c (2 scenes)", "a", "b"]


@pytest.mark.parametrize("other", [{"size": 0.6}, {"crs": "EPSG:32645"}, {"crs": None}, {"turn": 0.1}])
def test_scenes_of_another_kind_are_places_of_their_own(other):
    assert len(places_of([scene("a", 0, 0), scene("b", 20, 0, **other)])) == 2


def test_a_place_without_crs_has_pixels_and_no_metres():
    (place,) = places_of([scene("a", 0, 0, crs=None)])
    assert (place.metres, place.height) == (None, 10)


def test_pixels_of_degrees_are_as_wide_as_on_the_ground():
    grid = Grid(CRS.from_epsg(4326), Affine(1e-5, 0, 85.5, 0, -1e-5, 60.0), 10, 10)
    (place,) = places_of([Scene(Path("a.tif"), grid)])
    assert place.metres == pytest.approx((1.114, 0.558), abs=2e-3)


def test_files_are_laid_where_their_names_say():
    place = Place("town", (Piece(Path("town.tif"), 5, 7), Piece(Path("t_r1_c2.tif"))), 50, 50, None)
    files = [Path(name) for name in ("town_r10_c20.tif", "town.tif", "other_r0_c0.tif", "t_r1_c2.tif")]
    assert [(piece.row, piece.col) for piece in place.pieces(files)] == [(15, 27), (5, 7), (0, 0)]


def test_names_of_places():
    assert name_of(["a_1"]) == "a_1"
    assert name_of(["banepa_1_2", "banepa_1_3", "banepa_2_2"]) == "banepa (3 scenes)"
    assert name_of(["north", "south"]) == "north (2 scenes)"


def test_bands_that_are_shown(make_raster):
    path = make_raster(np.zeros((5, 2, 2), np.uint8))
    assert shown_bands(path, None) == ((1, 2, 3), ["band 1", "band 2", "band 3"])
    assert shown_bands(path, (5, 3, 2))[0] == (5, 3, 2)
    with pytest.raises(BadInputError, match=r"5 bands, where report_args.bands is \[6, 1, 1\]; expected bands that it"):
        shown_bands(path, (6, 1, 1))
    assert shown_bands(make_raster(np.zeros((2, 2, 2), np.uint8), "two.tif"), None) == ((1,), ["band 1"])
    with rasterio.open(path, "r+") as dst:
        for band, name in enumerate(("coastal", "Blue", "green", "red", "nir"), start=1):
            dst.set_band_description(band, name)
    assert shown_bands(path, None) == ((4, 3, 2), ["red", "green", "Blue"])


def test_cells_stay_within_a_side_and_a_number():
    place = Place("a", (), 20000, 20000, None)
    assert factor_of(place, 1600, 10**9) == 13
    assert factor_of(place, 1600, 10**6) == 20
    assert factor_of(replace(place, height=100, width=90), 1600, 10**6) == 1


# Files


def test_history(tmp_path):
    path = tmp_path / "history.csv"
    with pytest.raises(
        MissingInputError, match=r"history.csv: no such file; expected a row for each epoch. Run python"
    ):
        read_history(path)
    path.write_text("epoch,loss\n1,2\n")
    with pytest.raises(BadInputError, match="not readable; expected a row for each epoch: epoch, loss, val_loss"):
        read_history(path)
    path.write_text("epoch,loss,val_loss,iou,val_iou\n1,x,1,1,1\n")
    with pytest.raises(BadInputError, match="values that are no numbers"):
        read_history(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match="not readable"):
        read_history(path)


def test_json_of_another_kind(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(MissingInputError, match="no such file; expected scores"):
        read_json(path, "scores", "Run.")
    for text in ("[1]", "{", ""):
        path.write_text(text)
        with pytest.raises(BadInputError, match="not readable; expected scores"):
            read_json(path, "scores", "Run.")
    with pytest.raises(BadInputError, match="not what evaluate writes"):
        score_rows({"models": {"network": {}}}, path)
    with pytest.raises(BadInputError, match="not what evaluate writes"):
        score_rows({"models": {"network": dict.fromkeys((*SCORES, "buildings", "intervals"), "x")}}, path)
    bars = {"from": 1, "to": 1, "shares": [1]}
    for band in ({}, {"histogram": bars, "min": 1, "max": 1, "mean": 1, "std": 0, "saturated_share": 0}):
        with pytest.raises(BadInputError, match="no histograms; expected what summarize writes"):
            band_rows({"bands": [{"name": "red", **band}]}, path)


def test_split(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("frame,split,chip,scene,row,col\nval_0,val,a_r0_c0,a,0,zero\n")
    with pytest.raises(BadInputError, match="places that are no numbers, or an unknown side"):
        read_split(path)
    path.write_text("frame,split,chip,scene,row,col\nval_0,val,a_r0_c0,a,0,4\ntrain_0,train,a_r4_c4,a,4,4\n")
    rows = read_split(path)
    assert split_summary(rows) == [
        {"side": "training", "chips": 1, "roof": None},
        {"side": "validation", "chips": 1, "roof": None},
    ]
    place = Place("a", (Piece(Path("a.tif"), 0, 10),), 6, 18, None)
    lines = split_lines(rows, place, (4, 4))
    assert {tuple(point) for point in lines["validation"][0]} == {(0, 14), (0, 18), (4, 14), (4, 18)}
    assert max(row for row, _ in lines["training"][0]) == 6  # cut off at the edge


def test_checks_find_what_the_doctor_would(tmp_path, make_raster):
    settings = Settings()
    paths = project_paths(settings, tmp_path)
    assert findings(paths, settings) == []
    make_raster(np.zeros((5, 8, 8), np.uint8), "data/val_frames/a.tif")
    make_raster(np.zeros((8, 8), np.uint8), "data/val_masks/a.tif")
    make_raster(np.full((8, 8), 7, np.uint8), "results/predictions/a.tif")
    found = [(one.check, one.status) for one in findings(paths, settings)]
    assert ("rasters: validation", "fail") in found
    assert ("masks: validation", "fail") in found
    assert ("masks written", "fail") in found


def test_words_of_numbers():
    assert [duration(s) for s in (4.24, 75, 3720)] == ["4.2 s", "1 min 15 s", "1 h 2 min"]
    assert [size_words(n) for n in (12, 1500, 2_500_000, 3 * 10**9)] == ["12 B", "1.5 kB", "2.5 MB", "3.0 GB"]


def test_settings_that_differ():
    given = Settings.model_validate({"chip_args": {"size": (8, 8)}})
    assert changed_settings(given) == [{"name": "chip_args.size", "value": "[8, 8]", "default": "[640, 640]"}]


def test_json_between_script_tags_ends_no_script():
    text = as_json({"name": "</script><!--", "other": "a&b\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": "</script><!--", "other": "a&b\u2028"}
    with pytest.raises(ValueError, match="Out of range"):
        as_json(float("nan"))


def test_the_document_of_the_same_plots_is_the_same():
    def made():
        return figures.document(
            figures.maps(3, 4) | {"x": figures.calibration({"a": {"expected": [0], "found": [1], "share": [1]}})}
        )

    assert made() == made()
    assert sorted(made()["roots"].values()) == ["map-left", "map-right", "x"]


# The stage


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Project:
    """A finished project; nobody writes into it."""
    return make_project(tmp_path_factory.mktemp("finished"), names=("town_1", "town_2"))


@pytest.fixture
def project(finished, tmp_path) -> Project:
    """A copy of it."""
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path, tmp_path / "settings.json")


def run(project, *options, status=0, capsys=None):
    """Run the stage; the page's text, what its script reads, and the stage's report."""
    assert main([*project.options, "--json", *map(str, options)]) == status
    if status:
        return None
    page = (project.results / "report.html").read_text(encoding="utf-8")
    report = json.loads(capsys.readouterr().out.splitlines()[-1]) if capsys else None
    return page, data_of(page), report


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="page-data">(.*?)</script>', page, re.S)[1])


class Parser(html.parser.HTMLParser):
    """What a page is made of: its tags, whether they close in order, ids, labels, addresses."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.targets, self.addresses, self.controls, self.text = [], [], [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.targets += [value for name in ("for", "aria-labelledby", "aria-describedby") if (value := found.get(name))]
        self.addresses += [value for name in ("src", "href", "action") if (value := found.get(name))]
        if tag in ("input", "select", "button"):
            self.controls.append(found | {"inside": list(self.open)})

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += [text] if self.open and self.open[-1] not in ("script", "style") else []


def test_the_page_is_whole_asks_for_nothing_and_names_its_controls(project, capsys):
    page, data, report = run(project, capsys=capsys)
    parsed = Parser(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert set(parsed.targets) <= set(parsed.ids)
    assert all(address.startswith(("data:", "#")) for address in parsed.addresses)
    for control in parsed.controls:
        assert (
            "label" in control["inside"]
            or "aria-label" in control
            or control["id"] in parsed.targets
            or ("button" in control["inside"])
        ), control
    assert set(data["plots"]["roots"].values()) <= set(parsed.ids)
    assert (report["places"], report["frames"], report["notes"], report["kept"]) == (1, 4, [], False)
    assert str(project.folder) not in page
    assert len(page) < 4e6


def test_scores_at_every_threshold_are_those_that_evaluate_counts(project, tmp_path, capsys):
    _, data, _ = run(project)
    metrics = json.loads((project.results / "metrics.json").read_text())
    at = data["thresholds"].index(THRESHOLD)
    assert data["start"] == at
    for name in ("tp", "fp", "fn"):
        assert data["curve"][name][at] == metrics["counts"][name]
    for threshold in (0.5, 0.002, 0.998):
        for path in (project.results / "probabilities").glob("*.tif"):
            with rasterio.open(path) as src:
                mask = np.where(src.read(1) >= threshold, 255, 0).astype(np.uint8)
                corner, valid = (src.transform.c, src.transform.f), src.dataset_mask() > 0
            write(tmp_path / "thresholded" / path.name, mask, corner, valid=valid)
        masks, dst = project.data / "val_masks", tmp_path / "metrics.json"
        assert evaluate([str(tmp_path / "thresholded"), str(masks), str(dst), *project.options, "--overwrite"]) == 0
        counts = json.loads(dst.read_text())["counts"]
        at = data["thresholds"].index(threshold)
        assert [data["curve"][name][at] for name in ("tp", "fp", "fn")] == [counts[n] for n in ("tp", "fp", "fn")]


def unpacked(picture):
    """Levels and bits of a map, as the page's script unpacks them."""
    low, high, flags = (
        np.frombuffer(zlib.decompress(base64.b64decode(picture[k])), np.uint8) for k in ("low", "high", "flags")
    )
    shape = picture["rows"], picture["cols"]
    return (low + 256 * high.astype(np.int64)).reshape(shape), flags.reshape(shape)


def test_the_map_holds_what_the_rasters_hold(project):
    _, data, _ = run(project)
    (place,) = data["places"]
    assert (place["rows"], place["cols"], place["factor"]) == (64, 192, 1)
    level, flags = unpacked(place)
    with rasterio.open(project.results / "map_probabilities/town_2.tif") as src:
        probability, valid = src.read(1), src.dataset_mask() > 0
    with rasterio.open(project.results / "map/town_2.tif") as src:
        mapped = src.read(1) > 0
    known, at = level[:, 96:] != UNKNOWN, data["thresholds"].index(THRESHOLD)
    assert (known == valid).all()
    assert ((level[:, 96:] > at)[valid] == mapped[valid]).all()
    half = data["thresholds"].index(0.5)
    assert ((level[:, 96:] > half)[valid] == (probability >= 0.5)[valid]).all()
    with rasterio.open(project.data / "masks/town_2_r32_c64.tif") as src:
        truth, measured = src.read(1) > 0, src.dataset_mask() > 0
    assert ((flags[32:, 160:] & LABEL > 0) == (truth & measured)).all()
    assert {tuple(p) for p in place["split"]["validation"][0]} >= {(0, 32), (0, 64)}


def test_finished_is_kept_and_the_same_inputs_make_the_same_bytes(project, capsys):
    first, _, _ = run(project, capsys=capsys)
    assert run(project, capsys=capsys)[2]["kept"]
    (project.results / "run.json").write_text(
        json.dumps(json.loads((project.results / "run.json").read_text()) | {"report": {"seconds": 1, "peak_mb": 1}})
    )
    assert run(project, capsys=capsys)[2]["kept"]  # its own time changes nothing
    again, _, report = run(project, "--overwrite", capsys=capsys)
    assert not report["kept"]
    assert again == first


def test_whatever_is_missing_is_said_in_its_place(project, capsys):
    for name in ("predictions", "history.csv", "metrics.json", "run.json", "map", "map_probabilities"):
        path = project.results / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("histograms", "masks"):
        shutil.rmtree(project.data / name)
    (project.data / "split.csv").unlink()
    page, data, report = run(project, capsys=capsys)
    Parser(page)
    said = "\n".join(report["notes"])
    for words in (
        "results/predictions: no predictions; expected masks of frames. Run python predict/predict.py.",
        "results/history.csv: no such file",
        "results/metrics.json: no such file",
        "results/run.json: no such file",
        "summary.json: no such file",
        "No labels: data/masks holds no masks",
        "No map: results/map holds no masks",
        "data/split.csv: no such file",
    ):
        assert words in said
        assert words in page
    assert data["curve"] is None
    assert "map-left" in data["plots"]["roots"].values()


def test_frames_alone_make_a_page(project, capsys):
    for name in ("scenes", "chips", "masks", "histograms"):
        shutil.rmtree(project.data / name)
    for name in ("probabilities", "forest_probabilities", "regression_predictions"):
        shutil.rmtree(project.results / name)
    page, data, report = run(project, capsys=capsys)
    Parser(page)
    assert "data/scenes: no imagery; expected scenes to draw a map of" in page
    assert "no probabilities of these frames" in page
    assert (report["places"], report["frames"], data["places"]) == (0, 4, [])
    assert len(data["frames"]) == 3
    assert all(frame["curve"] is None for frame in data["frames"])


def test_a_pixel_classifier_whose_map_it_is_is_named(project, capsys):
    assert "Network: satellite_unet." in run(project)[0]
    with Outputs(project.results / "predictions", "predict") as outputs:
        for name in outputs.names():
            outputs.record(name, "key", threshold=THRESHOLD, model="forest.skops")
    page = run(project, "--overwrite")[0]
    assert "Model: forest.skops." in page
    assert '<th scope="row">forest.skops</th>' in page
    assert "network (U-Net)" not in page


def test_without_probabilities_of_scenes_those_of_the_frames_are_shown(project, capsys):
    shutil.rmtree(project.results / "map_probabilities")
    _, data, report = run(project, capsys=capsys)
    level, _ = unpacked(data["places"][0])
    assert (level[:32, 32:64] != UNKNOWN).all()
    assert (level[:32, :32] == UNKNOWN).all()
    assert "Probabilities are known only in the validation frames" in report["notes"][0]


def test_broken_files_are_named_and_the_rest_is_shown(project, capsys):
    (project.results / "run.json").write_text("[]")
    (project.results / ".evaluate.metrics.json.ledger.jsonl").unlink()  # as if somebody else had made the file
    (project.results / "metrics.json").write_text("{}")
    (project.results / "predictions" / "val_1.tif").unlink()
    next((project.data / "scenes").iterdir()).write_text("no raster")
    page, data, report = run(project, capsys=capsys)
    said = "\n".join(report["notes"])
    assert "1 of 4 masks without prediction" in said
    assert "not what evaluate writes" in said
    assert "not readable as GTiff" in said
    assert report["warnings"] >= 1
    assert set(data["plots"]["roots"].values()) == {"plot-history-loss", "plot-history-iou", "plot-bands"}
    Parser(page)


def test_what_changed_since_its_stage_wrote_it_is_not_shown(project, capsys):
    dst = project.results / "metrics.json"
    where = [str(project.results / "predictions"), str(project.data / "val_masks"), str(dst), *project.options]
    assert evaluate([*where, "--overwrite"]) == 0
    dst.write_bytes(dst.read_bytes().replace(b"1", b"3", 1))
    capsys.readouterr()
    assert main(project.options) == 1
    assert "metrics.json: changed since evaluate wrote it; expected" in capsys.readouterr().err
    assert not (project.results / "report.html").exists()


def test_a_page_that_was_edited_can_be_kept(project, capsys):
    page, _, _ = run(project, capsys=capsys)
    dst = project.results / "report.html"
    dst.write_text(page + "<!-- by hand -->")
    assert main(project.options) == 1
    assert "report.html: changed since this stage wrote it" in capsys.readouterr().err
    assert main([*project.options, "--keep-edits"]) == 0
    assert dst.read_text().endswith("by hand -->")


def test_scores_of_other_masks_are_called_out(project, capsys):
    path = project.results / "metrics.json"
    (project.results / ".evaluate.metrics.json.ledger.jsonl").unlink()  # as if somebody else had made the file
    metrics = json.loads(path.read_text())
    metrics["counts"]["tp"] += 1
    path.write_text(json.dumps(metrics))
    assert "was made from other masks than lie there now" in run(project, capsys=capsys)[2]["notes"][0]


def test_names_cannot_break_out(tmp_path, capsys):
    evil = "<script>alert(1)</script>".replace("/", "\u2215")
    project = make_project(
        tmp_path, names=(f"{evil}&amp;",), band_names=("</script><b>red", "'\"><img src=x>", "blue"), scored=False
    )
    page, data, _ = run(project, capsys=capsys)
    parsed = Parser(page)
    assert page.count("<script") == 3
    assert "<img src=x" not in page
    assert any(evil in text for text in parsed.text)
    assert data["places"][0]["name"] == f"{evil}&amp;"


@pytest.mark.parametrize(
    "look",
    [
        {"bands": 1, "dtype": "uint16"},
        {"bands": 13, "dtype": "int16", "crs": "EPSG:4326", "size": 5e-6},
        {"bands": 4, "dtype": "float32", "crs": None},
    ],
)
def test_any_imagery(tmp_path, capsys, look):
    project = make_project(tmp_path, **look, scored=False)
    page, data, report = run(project, capsys=capsys)
    (place,) = data["places"]
    assert place["metres"] == (look.get("crs", UTM) is not None)
    assert (place["rows"], place["cols"]) == (64, 96)
    assert all(name in note for name, note in zip(("metrics.json", "summary.json"), report["notes"], strict=True))
    Parser(page)


def test_places_apart_can_be_chosen_and_only_so_many(tmp_path, capsys):
    settings = {"report_args": {"places": 2, "map_side": 64, "frame_side": 32}}
    project = make_project(tmp_path, names=("a", "b", "c"), gap=100.0, settings=settings, scored=False)
    page, data, report = run(project, capsys=capsys)
    assert [place["name"] for place in data["places"]] == ["a", "b"]
    assert data["places"][0]["factor"] == 2
    assert '<select id="place">' in page
    assert report["notes"][0] == "The 2 largest areas are shown; 1 are not (report_args.places)."


def test_frames_of_png(tmp_path, capsys):
    rng = np.random.default_rng(0)
    project = Project(tmp_path, tmp_path / "settings.json")
    project.settings.write_text('{"extension_args": {"extension": "png"}}')
    profile = dict(driver="PNG", height=16, width=16, dtype="uint8")
    for folder, bands in (("data/val_frames", 3), ("data/val_masks", 1), ("results/predictions", 1)):
        (tmp_path / folder).mkdir(parents=True)
        array = rng.integers(0, 2, (bands, 16, 16)).astype(np.uint8) * 255
        with (
            pytest.warns(rasterio.errors.NotGeoreferencedWarning),
            rasterio.open(tmp_path / folder / "f.png", "w", count=bands, **profile) as dst,
        ):
            dst.write(array)
    _, data, report = run(project, capsys=capsys)
    assert [frame["rows"] for frame in data["frames"]] == [16]
    assert report["frames"] == 1


def test_nothing_to_show_is_an_error(tmp_path, capsys):
    project = Project(tmp_path, tmp_path / "settings.json")
    project.settings.write_text("{}")
    run(project, status=1)
    error = capsys.readouterr().err
    assert f"error: {project.data}: nothing to show; expected imagery, frames, masks or scores. Run python run" in error
    assert not project.results.exists()


def test_a_page_is_html_and_no_other_file_is_written_over(project, capsys):
    run(project, project.results / "page.txt", status=1)
    assert "page.txt: a .txt file; expected .html. Rename the page." in capsys.readouterr().err
    (project.results / "report.html").write_text("mine")
    run(project, status=1)
    assert "report.html: a file that this stage did not write" in capsys.readouterr().err
    assert (project.results / "report.html").read_text() == "mine"
    assert main([*project.options, str(project.folder / "elsewhere" / "page.html")]) == 0
    assert (project.folder / "elsewhere" / "page.html").is_file()


def test_real_imagery(tmp_path, capsys):
    scenes = sorted(real("banepa/scenes").iterdir())
    project = Project(tmp_path, tmp_path / "settings.json")
    project.settings.write_text('{"report_args": {"map_side": 300}}')
    (project.data / "scenes").mkdir(parents=True)
    for path in scenes:
        shutil.copy(path, project.data / "scenes")
    _, data, report = run(project, capsys=capsys)
    (place,) = data["places"]
    assert place["name"] == "banepa (36 scenes)"
    assert abs(place["rows"] - place["cols"]) < 3
    assert place["factor"] == 11
    assert place["pixel"] == pytest.approx([0.132, 0.132], abs=0.002)
    _, flags = unpacked(place)
    assert (flags == MEASURED).mean() > 0.99
    assert report["megabytes"] < 3


@pytest.mark.slow
def test_a_scene_of_20_000_pixels_a_side_makes_a_small_page(tmp_path, capsys):
    import resource

    project = Project(tmp_path, tmp_path / "settings.json")
    project.settings.write_text("{}")
    (project.data / "scenes").mkdir(parents=True)
    tile = np.random.default_rng(0).integers(0, 255, (3, 512, 512)).astype(np.uint8)
    profile = dict(
        driver="GTiff", count=3, height=20000, width=20000, dtype="uint8", tiled=True, compress="deflate", zlevel=1
    )
    with rasterio.open(project.data / "scenes/large.tif", "w", crs=UTM, transform=TRANSFORM, **profile) as dst:
        for row in range(0, 20000, 512):
            height = min(512, 20000 - row)
            strip = np.tile(tile[:, :height], (1, 1, 40))[:, :, :20000]
            dst.write(strip, window=rasterio.windows.Window(0, row, 20000, height))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, data, report = run(project, capsys=capsys)
    assert data["places"][0]["factor"] == 13
    assert report["megabytes"] < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700e3  # kilobytes
