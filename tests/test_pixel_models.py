"""pixelwise.models and pixelwise.model_file: the same probabilities as scikit-learn, and files that cannot do harm."""

import io
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from skops import io as skops

from pixelwise.classifier import Calibration, PixelClassifier
from pixelwise.features import Bands, Features
from pixelwise.model_file import load_classifier, save_classifier
from pixelwise.models import Forest, Regression, rounded_down, standardised
from roofkit.errors import BadInputError, MissingInputError, OutputError
from roofkit.settings import PixelArgs

ARGS = PixelArgs(
    values=("bands", "differences"), mean=("bands",), deviation=(), edges=(), texture=(), hessian=(), scales=(1.5,)
)
FEATURES = Features(ARGS, Bands(("red", "nir"), (123.4567890123, 2.0), (1234567890.5, 0.125)))
COUNT = len(FEATURES.names)


def table(rows=3000, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, COUNT)).astype("f4")
    return values, values[:, 0] * values[:, 1] + rng.normal(size=rows) * 0.3 > 0.2


@pytest.fixture(scope="module")
def trained():
    return RandomForestClassifier(20, min_samples_leaf=3, random_state=1).fit(*table())


@pytest.mark.parametrize("options", [{}, {"max_depth": 1}, {"min_samples_leaf": 40}, {"max_leaf_nodes": 9}])
def test_a_forest_says_what_scikit_learn_says(options):
    trees = RandomForestClassifier(15, random_state=3, **options).fit(*table())
    forest, values = Forest.of(trees), table(5001, seed=9)[0]
    np.testing.assert_allclose(
        forest.probability(np.ascontiguousarray(values.T)), trees.predict_proba(values)[:, 1], atol=1e-6
    )
    assert forest.fault(COUNT) == ""


def test_values_on_a_threshold_go_the_same_way():
    values = np.repeat(np.array([0.1, 0.1 + 2**-27, 0.3], "f4"), 30)[:, None]
    trees = RandomForestClassifier(5, random_state=0).fit(values, np.repeat([False, True, True], 30))
    for row in (values, np.nextafter(values, np.float32(1)), np.nextafter(values, np.float32(0))):
        np.testing.assert_allclose(
            Forest.of(trees).probability(row.T.copy()), trees.predict_proba(row)[:, 1], atol=1e-6
        )


def test_rounding_down_by_hand():
    assert rounded_down(np.array([0.1, 0.5, -0.1])).tolist() == [0.09999999403953552, 0.5, -0.10000000149011612]


def test_a_regression_by_hand():
    line = Regression(*(np.array(v, "f4") for v in ([1, 0], [2, 1], [1, -1], [], [0.5])))
    found = line.probability(np.array([[3, 101], [0, 0]], "f4"))
    np.testing.assert_allclose(found, 1 / (1 + np.exp([-1.5, -4.5])), rtol=1e-6)  # 101 is 50 deviations off: 4 count
    squared = replace(line, squares=np.array([0.5, 0], "f4"))
    np.testing.assert_allclose(squared.probability(np.array([[3], [0]], "f4")), 1 / (1 + np.exp([-2.0])), rtol=1e-6)


def test_outliers_are_cut_off():
    assert standardised(np.array([1e9, -1e9, 3], "f4"), np.float32(1), np.float32(1)).tolist() == [4, -4, 2]


def test_calibration_keeps_the_order_and_the_ends():
    raw = np.array([0, 1e-9, 0.2, 0.5, 0.9, 1])
    found = Calibration(0.7, -1.0)(raw)
    assert (np.diff(found) >= 0).all()
    assert found[0] > 0
    assert found[-1] < 1
    assert found[3] == pytest.approx(1 / (1 + np.e))


def classifier(trained, kind="forest"):
    rng = np.random.default_rng(0)
    line = Regression(
        *(rng.random(COUNT).astype("f4") for _ in range(3)), rng.random(COUNT).astype("f4"), np.ones(1, "f4")
    )
    model = Forest.of(trained) if kind == "forest" else line
    return PixelClassifier(kind, FEATURES, model, Calibration(0.8, -0.3), 0.123456789012)


@pytest.mark.parametrize("kind", ["forest", "regression"])
def test_saved_and_loaded_it_is_the_same(trained, tmp_path, kind):
    made = classifier(trained, kind)
    save_classifier(made, tmp_path / "a.skops")
    save_classifier(made, tmp_path / "b.skops")
    assert (tmp_path / "a.skops").read_bytes() == (tmp_path / "b.skops").read_bytes()
    loaded = load_classifier(tmp_path / "a.skops")
    assert (loaded.kind, loaded.calibration, loaded.threshold) == (kind, made.calibration, made.threshold)
    assert (loaded.features.settings, loaded.features.bands) == (ARGS, FEATURES.bands)
    pixels = np.random.default_rng(1).integers(0, 250, (2, 70, 80)).astype("uint8")
    valid = np.ones((70, 80), bool)
    np.testing.assert_array_equal(loaded.probability(pixels, valid), made.probability(pixels, valid))


def test_anybody_can_read_it_with_skops_alone(trained, tmp_path):
    save_classifier(classifier(trained), tmp_path / "a.skops")
    assert skops.get_untrusted_types(file=tmp_path / "a.skops") == []
    content = skops.load(tmp_path / "a.skops")
    assert json.loads(content["roof_classify"])["band_names"] == ["red", "nir"]
    assert len(content["arrays"]["roots"]) == 21


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"children": lambda a: np.where(a == a.max(), a + 100_000, a)}, "a child outside its tree"),
        ({"children": lambda a: np.where(np.arange(len(a)) == 1, 0, a)}, "before its parent"),
        ({"children": lambda a: a[:-1]}, "columns of different length"),
        ({"children": lambda a: a.astype("int64")}, "children that is no row of uint32"),
        ({"features": lambda a: np.full_like(a, 60_000)}, f"feature 60000 of {COUNT}"),
        ({"thresholds": lambda a: np.where(a < np.inf, np.nan, a).astype("f4")}, "a threshold that is no number"),
        ({"thresholds": lambda a: np.minimum(a, 1)}, "a leaf that is none"),
        ({"values": lambda a: a + 2}, "a share of roof"),
        ({"values": lambda a: a.reshape(1, -1)}, "values that is no row"),
        ({"roots": lambda a: a[:-1]}, "do not fill"),
        ({"roots": lambda a: a[::-1].copy()}, "do not fill"),
        ({"roots": lambda a: a[:1]}, "do not fill"),
    ],
)
def test_damaged_trees_are_found_before_they_are_walked(trained, tmp_path, change, line):
    path = tmp_path / "a.skops"
    save_classifier(classifier(trained), path)
    content = skops.load(path)
    for name, work in change.items():
        content["arrays"][name] = work(content["arrays"][name])
    skops.dump(content, path)
    with pytest.raises(BadInputError, match=line):
        load_classifier(path)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"weights": lambda a: a[:-1]}, "weights for"),
        ({"bias": lambda a: a * np.nan}, "a weight that is no number"),
        ({"deviation": lambda a: a * 0}, "a deviation of 0"),
        ({"extra": lambda a: a}, "the arrays"),
    ],
)
def test_damaged_regressions_are_found(trained, tmp_path, change, line):
    path = tmp_path / "a.skops"
    save_classifier(classifier(trained, "regression"), path)
    content = skops.load(path)
    for name, work in change.items():
        content["arrays"][name] = work(content["arrays"].get(name, np.zeros(3, "f4")))
    skops.dump(content, path)
    with pytest.raises(BadInputError, match=line):
        load_classifier(path)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"threshold": 2.0}, "threshold: Input should be less than 1"),
        ({"kind": "network"}, "kind: String should match"),
        ({"unheard": 1}, "unheard: Extra inputs"),
        ({"band_names": ["red"]}, "as many names as means"),
        ({"band_deviation": [1.0, 0.0]}, "not above 0"),
        ({"slope": -1.0}, "not above 0"),
    ],
)
def test_facts_are_checked(trained, tmp_path, change, line):
    path = tmp_path / "a.skops"
    save_classifier(classifier(trained), path)
    content = skops.load(path)
    content["roof_classify"] = json.dumps(json.loads(content["roof_classify"]) | change)
    skops.dump(content, path)
    with pytest.raises(BadInputError, match=line):
        load_classifier(path)


def test_other_objects_are_refused_before_they_are_made(trained, tmp_path):
    path = tmp_path / "a.skops"
    for content, name in (
        (trained, "sklearn.ensemble._forest.RandomForestClassifier"),
        ({"roof_classify": "{}", "arrays": {"x": trained.estimators_[0].tree_}}, "sklearn.tree._tree.Tree"),
        ({"roof_classify": np.array([{}, None], object)}, "an array of objects"),
        ({"roof_classify": print}, "builtins.print|builtins.builtin_function"),
    ):
        skops.dump(content, path)
        with pytest.raises(BadInputError, match=f"not a pixel classifier .*({name})"):
            load_classifier(path)


@pytest.mark.parametrize("content", [b"", b"PK", pickle.dumps({"a": 1}), b"\x89HDF\r\n\x1a\n"])
def test_other_files_are_one_line(tmp_path, content):
    (tmp_path / "a.skops").write_bytes(content)
    with pytest.raises(BadInputError, match="not a pixel classifier"):
        load_classifier(tmp_path / "a.skops")


def test_a_file_cut_short_anywhere_is_one_line(trained, tmp_path):
    path = tmp_path / "a.skops"
    save_classifier(classifier(trained), path)
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInputError, match="not a pixel classifier"):
            load_classifier(path)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    path, memory = tmp_path / "a.skops", io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", " " * 2_000_000)
    path.write_bytes(memory.getvalue())
    with pytest.raises(BadInputError, match="too long a schema"):
        load_classifier(path)
    monkeypatch.setattr("pixelwise.model_file.LARGEST", 1000)
    with pytest.raises(BadInputError, match="too large"):
        load_classifier(path)


def test_no_file_and_another_suffix(trained, tmp_path):
    with pytest.raises(MissingInputError, match="no such file"):
        load_classifier(tmp_path / "a.skops")
    with pytest.raises(OutputError, match=r"a \.pkl file; expected \.skops"):
        save_classifier(classifier(trained), tmp_path / "a.pkl")
