"""Whatever settings, options and small rasters go in: a right result, or one line that names the problem.

python -m pytest tests/fuzz                  the short form, always the same examples
python -m pytest tests/fuzz -m slow          the long form: hundreds of examples for each stage, train among them
"""

import contextlib
import importlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from corpus import make_corpus
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rasterio.errors import NotGeoreferencedWarning

from roofkit.errors import RoofError
from roofkit.raster import open_raster, read_pixels
from roofkit.settings import Settings, load_settings

CHECKS = list(HealthCheck)
DTYPES = ("uint8", "uint16", "int16", "float32", "int32", "float64", "complex64", "uint32", "int8")
PLACES = (
    Affine(0.5, 0, 735000, 0, -0.5, 2960000),
    Affine(1e-5, 0, 83.4, 0, -1e-5, 26.7),
    Affine(0.3, 0.2, 735000, 0.2, -0.3, 2960000),
    Affine.identity(),
    Affine(0.5, 0, 735000, 0, 0.5, 2960000),
    Affine(0, 0, 1, 0, 0, 1),
    Affine(1e-12, 0, 0, 0, -1e-12, 0),
    Affine(1e9, 0, 735000, 0, -1e9, 2960000),
    Affine(0.5, 0, 1e15, 0, -0.5, -1e15),
)
CRSS = ("EPSG:32644", "EPSG:4326", None, "EPSG:3857", "EPSG:4978", 'LOCAL_CS["a plane"]')
ODD = st.sampled_from(
    [
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        1.5,
        0.5,
        10**30,
        -(10**30),
        1e300,
        "",
        "tif",
        "auto",
        "é",
        [],
        [1],
        [1, 2],
        {},
        [None],
        "\ud800",
    ]
)


def fuzz(count: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Check so many examples: always the same few, or new ones where they are many."""
    few = count < 100
    phases = [Phase.explicit, Phase.generate] if few else list(Phase)
    options = settings(
        max_examples=count, derandomize=few, deadline=None, suppress_health_check=CHECKS, database=None, phases=phases
    )
    options(given(strategy)(check))()


def long(count: int) -> Any:
    return pytest.param(count, marks=pytest.mark.slow)


# ------------------------------------------------------------------------------------------------------------ settings

BLOCKS = Settings().model_dump(mode="json")
VALUES = st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def documents(draw: Any) -> bytes:
    """Settings as people might spoil them: keys, values, blocks, text."""
    values = json.loads(json.dumps(BLOCKS))
    for _ in range(draw(st.integers(1, 3))):
        block = draw(st.sampled_from(sorted(values)) | st.text(max_size=5))
        if draw(st.booleans()) and isinstance(values.get(block), dict) and values[block]:
            key = draw(st.sampled_from(sorted(values[block])) | st.text(max_size=5))
            values[block][key] = draw(VALUES)
        else:
            values[block] = draw(VALUES | st.just({}))
    text = json.dumps(values).encode()
    for _ in range(draw(st.integers(0, 1)) and draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(max_size=3)) + text[at + draw(st.integers(0, 3)) :]
    return text


@pytest.mark.parametrize("count", [80, long(20_000)])
def test_settings(count, tmp_path):
    path = tmp_path / "settings.json"

    def check(document: bytes) -> None:
        path.write_bytes(document)
        try:
            found = load_settings(path)
        except RoofError as error:
            line = str(error)
        else:
            line = f"{path}; expected "
            json.dumps(found.model_dump(mode="json"), allow_nan=False).encode()
        assert str(path) in line
        assert "; expected " in line
        assert "\n" not in line

    fuzz(count, documents(), check)


# ------------------------------------------------------------------------------------------------------------- rasters


@st.composite
def pictures(draw: Any, *, plain: bool = False) -> dict[str, Any]:
    """An array, its validity, and what else a GeoTIFF says; mostly sound, now and then odd in one way or other."""
    odd = 0 if plain else draw(st.integers(0, 3)) == 3
    dtype = draw(st.sampled_from(DTYPES if odd else DTYPES[:4]))
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    kind = draw(st.sampled_from(("noise", "flat", "extremes", "nothing" if odd else "noise")))
    pixels = rng.integers(0, 100, shape).astype(dtype)
    if kind == "flat":
        pixels[:] = 7
    if kind == "extremes" and dtype in DTYPES[:4]:
        values = [np.inf, -np.inf, np.nan, 3e38] if dtype == "float32" else [np.iinfo(dtype).min, np.iinfo(dtype).max]
        pixels[rng.random(shape) < 0.2] = rng.choice(values)
    if kind == "nothing" and dtype == "float32":
        pixels[:] = np.nan
    valid = draw(st.sampled_from((None, "some", "none" if odd else "some")))
    return dict(
        pixels=pixels,
        valid=None if valid is None else rng.random(shape[1:]) < (0.7 if valid == "some" else 0),
        nodata=draw(st.sampled_from((None, None, 0, 7))) if valid is None else None,
        transform=draw(st.sampled_from(PLACES if odd else PLACES[:3])),
        crs=draw(st.sampled_from(CRSS if odd else CRSS[:1])),
    )


def write(path: Path, picture: dict[str, Any]) -> Path:
    """A GeoTIFF of a picture."""
    pixels = picture["pixels"]
    size = dict(count=len(pixels), height=pixels.shape[1], width=pixels.shape[2], dtype=pixels.dtype)
    tags = {name: picture[name] for name in ("crs", "transform", "nodata")} | dict(photometric="minisblack", alpha="no")
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", **size, **tags) as dst:
            dst.write(pixels)
            if picture["valid"] is not None:
                dst.write_mask(picture["valid"])
    return path


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with open_raster(path) as src:
        return read_pixels(src)


def run(stage: str, folder: Path, *line: object, values: object = None) -> dict[str, Any] | None:
    """The report of a stage; None: it named a problem, in one line."""
    (folder / "settings.json").write_text(json.dumps(values or {}))
    options = ["--settings", folder / "settings.json", "--data", folder / "data", "--results", folder / "results"]
    words, out = io.StringIO(), io.StringIO()
    main = importlib.import_module("run.local" if stage == "local" else f"{stage}.{stage}").main
    with contextlib.redirect_stderr(words), contextlib.redirect_stdout(out):
        status = main([*map(str, [*line, *options]), "--workers", "1", "--quiet", "--json"])
    errors = [text for text in words.getvalue().splitlines() if text.startswith("error: ")]
    assert status in (0, 1)
    assert len(errors) == status, words.getvalue()
    assert all("; expected " in error for error in errors), errors
    assert not list(folder.rglob(".part-*"))
    return None if status else json.loads(out.getvalue().splitlines()[-1])


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "size": st.integers(1, 50) | st.tuples(st.integers(1, 50), st.integers(1, 50)) | ODD,
        "overlap": st.integers(0, 8) | ODD,
        "pad": st.sampled_from(["white", "nodata", 0, 255, -5, 1e40]) | ODD,
        "min_valid": st.floats(0, 1) | ODD,
    },
)


@pytest.mark.parametrize("count", [12, long(600)])
def test_chips_are_the_scene(count):
    def check(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
        picture, options = case
        with scratch() as folder:
            scene = write(folder / "scenes/a.tif", picture)
            report = run("chip", folder, scene.parent, folder / "out", values={"chip_args": {"size": 16} | options})
            if report is None:
                return
            pixels, valid = read(scene)
            seen = np.zeros(valid.shape, bool)
            for path in (folder / "out").glob("*.tif"):
                row, col = (int(part[1:]) for part in path.stem.split("_")[1:])
                chip, chip_valid = read(path)
                rows, cols = (min(a - b, c) for a, b, c in zip(valid.shape, (row, col), chip_valid.shape))
                here = np.s_[row : row + rows, col : col + cols]
                np.testing.assert_array_equal(chip[:, :rows, :cols], pixels[(slice(None), *here)])
                np.testing.assert_array_equal(chip_valid[:rows, :cols], valid[here])
                assert not chip_valid[rows:].any()
                assert not chip_valid[:, cols:].any()
                seen[here] = True
            assert seen.all() or report["left_out"]

    fuzz(count, st.tuples(pictures(), OPTIONS), check)


@pytest.mark.parametrize("count", [10, long(500)])
def test_a_mosaic_holds_its_tiles(count):
    def check(case: tuple[dict[str, Any], dict[str, Any], int, bool, str]) -> None:
        first, second, shift, alike, method = case
        if alike:
            second = {**first, "transform": first["transform"] @ Affine.translation(shift, shift // 2)}
        with scratch() as folder:
            tiles = [write(folder / f"tiles/{n}.tif", picture) for n, picture in (("a", first), ("b", second))]
            report = run("mosaic", folder, folder / "tiles", folder / "m.tif", "--method", method)
            if report is not None and report["rows"] * report["cols"] < 10**7:
                pixels, valid = read(folder / "m.tif")
                found = [read(tile) for tile in tiles]
                assert len(pixels) == len(found[0][0])
                assert valid.sum() <= sum(v.sum() for _, v in found)
                assert valid.any() == any(v.any() for _, v in found)

    methods = st.sampled_from(("last", "first", "max", "mean"))
    fuzz(count, st.tuples(pictures(), pictures(), st.integers(-50, 50), st.booleans(), methods), check)


@pytest.mark.parametrize("count", [10, long(500)])
def test_masks(count):
    def check(case: tuple[dict[str, Any], list[Any], str | None, bool]) -> None:
        picture, corners, where, touched = case
        with scratch() as folder:
            frame = write(folder / "frames/a.tif", picture)
            shapes = [shapely.Polygon([picture["transform"] @ corner for corner in ring]) for ring in corners]
            gpd.GeoDataFrame({"kind": ["tin", "tile", None][: len(shapes)]}, geometry=shapes, crs="EPSG:32644").to_file(
                folder / "l.gpkg", engine="pyogrio"
            )
            line = [frame, folder / "l.gpkg", folder / "out", *(["--where", where] if where else [])]
            if run("mask", folder, *line, *["--all-touched"][: int(touched)]) is None:
                return
            mask, valid = read(folder / "out/a.tif")
            assert mask.shape[1:] == picture["pixels"].shape[1:]
            assert set(np.unique(mask)) <= {0, 255}
            np.testing.assert_array_equal(valid, read(frame)[1])
            assert not mask[0][~valid].any()

    corner = st.tuples(st.floats(-5, 45), st.floats(-5, 45))
    rings = st.lists(st.lists(corner, min_size=3, max_size=6), min_size=1, max_size=3)
    where = st.sampled_from([None, "kind = 'tin'", "kind LIKE", "hue = 1", "kind IS NULL", "1", "'", "kind = 'tin' --"])
    fuzz(count, st.tuples(pictures(), rings, where, st.booleans()), check)


@pytest.mark.parametrize("count", [8, long(500)])
def test_tables_hold_valid_pixels(count):
    def check(case: tuple[dict[str, Any], Any, str]) -> None:
        picture, sample, suffix = case
        with scratch() as folder:
            frame = write(folder / "frames/a.tif", picture)
            table = folder / f"p{suffix}"
            report = run("flatten", folder, frame, table, values={"flatten_args": {"sample": sample}})
            if report is not None:
                pixels, valid = read(frame)
                wanted = min(int(valid.sum()), sample or 10**9) * len(pixels)
                assert report["rows"] == wanted
                assert suffix != ".csv" or len(table.read_text().splitlines()) == wanted + 1

    fuzz(
        count, st.tuples(pictures(), st.none() | st.integers(1, 9) | ODD, st.sampled_from((".csv", ".parquet"))), check
    )


@pytest.mark.parametrize("count", [4, long(300)])
def test_summaries_count_valid_pixels(count):
    def check(case: tuple[dict[str, Any], Any]) -> None:
        picture, bins = case
        with scratch() as folder:
            frame = write(folder / "frames/a.tif", picture)
            report = run("summarize", folder, frame, folder / "out", values={"summarize_args": {"bins": bins}})
            if report is not None:
                pixels, valid = read(frame)
                found = json.loads((folder / "out/summary.json").read_text())["bands"]
                shares = [float((valid & np.isfinite(band)).mean()) for band in pixels]
                assert [band["valid_share"] for band in found] == pytest.approx(shares)
                assert all(band["min"] <= band["mean"] <= band["max"] for band in found)

    fuzz(count, st.tuples(pictures(), st.integers(2, 300) | ODD), check)


@pytest.mark.parametrize("count", [5, long(300)])
def test_splits_share_no_pixel(count):
    def check(case: tuple[dict[str, Any], int, dict[str, Any]]) -> None:
        picture, number, options = case
        with scratch() as folder:
            for i in range(number):
                place = {"transform": picture["transform"] @ Affine.translation(i * picture["pixels"].shape[2], 0)}
                frame = write(folder / f"frames/a_{i}.tif", picture | place)
                roof = np.where(picture["pixels"][:1].real > 50, 255, 0).astype("uint8")
                write(folder / f"masks/{frame.name}", picture | place | {"pixels": roof, "nodata": None})
            line = folder / "frames", folder / "masks", folder / "out"
            report = run("split", folder, *line, values={"split_args": options})
            if report is not None:
                made = {kind: len([*(folder / "out" / kind).glob("*.tif")]) for kind in ("train_frames", "val_frames")}
                assert made == {"train_frames": report["train_frames"], "val_frames": report["val_frames"]}
                assert sum(made.values()) + report["left_out"] + report["without_valid_pixel"] == number
                assert min(made.values()) > 0

    options = st.fixed_dictionaries(
        {},
        optional={
            "by": st.sampled_from(("block", "random", "scene")) | ODD,
            "val_fraction": st.floats(0.1, 0.9) | ODD,
            "block_size": st.integers(1, 3) | ODD,
            "seed": st.integers(0, 9),
        },
    )
    fuzz(count, st.tuples(pictures(), st.integers(1, 5), options), check)


@pytest.mark.parametrize("count", [4, long(300)])
def test_predictions_have_the_grid_of_their_raster(count, tmp_path):
    models = make_corpus("skops", tmp_path)

    def check(case: tuple[dict[str, Any], dict[str, Any], Path, bool]) -> None:
        picture, options, model, vectors = case
        with scratch() as folder:
            frame = write(folder / "frames/a.tif", picture)
            line = [model, frame, folder / "out", "--probabilities", folder / "p"]
            line += ["--vectors", folder / "v.gpkg"] if vectors else []
            report = run("predict", folder, *line, values={"predict_args": options})
            if report is not None:
                (mask,), valid = read(folder / "out/a.tif")
                (probability,), _ = read(folder / "p/a.tif")
                np.testing.assert_array_equal(valid, read(frame)[1])
                assert set(np.unique(mask)) <= {0, 255}
                assert probability.min() >= 0
                assert probability.max() <= 1
                assert not mask[~valid].any()

    options = st.fixed_dictionaries(
        {}, optional={"threshold": st.floats(0.01, 0.99) | ODD, "simplify": st.floats(0, 5) | ODD, "min_area": ODD}
    )
    three = pictures().map(
        lambda picture: picture | {"pixels": np.resize(picture["pixels"], (3, *picture["pixels"].shape[1:]))}
    )
    fuzz(count, st.tuples(three | pictures(), options, st.sampled_from(models), st.booleans()), check)


@pytest.mark.parametrize("count", [8, long(400)])
def test_scores_are_shares(count):
    def check(case: tuple[dict[str, Any], dict[str, Any], bool, dict[str, Any]]) -> None:
        truth, prediction, same, options = case
        prediction = truth | {"pixels": np.flip(truth["pixels"])} if same else prediction
        with scratch() as folder:
            for name, picture in (("masks", truth), ("predictions", prediction)):
                write(
                    folder / name / "a.tif",
                    picture | {"pixels": np.where(picture["pixels"].real > 50, 255, 0).astype("uint8"), "nodata": None},
                )
            line = folder / "predictions", folder / "masks", folder / "m.json"
            report = run("evaluate", folder, *line, values={"evaluate_args": {"bootstrap": 20} | options})
            for name in ("iou", "f1", "precision", "recall", "boundary_iou") if report else ():
                assert report[name] is None or 0 <= report[name] <= 1

    one = pictures().map(lambda picture: picture | {"pixels": picture["pixels"][:1]})
    options = st.fixed_dictionaries(
        {}, optional={"confidence": ODD, "boundary": ODD, "min_building": ODD | st.floats(0, 9)}
    )
    fuzz(count, st.tuples(one, one | pictures(), st.booleans(), options), check)


@st.composite
def projects(draw: Any) -> list[tuple[str, dict[str, Any], np.ndarray]]:
    """Frames with masks, mostly of one kind."""
    found = []
    first = draw(pictures())
    for kind in ("train", "train", "val"):
        picture = draw(pictures()) if draw(st.integers(0, 9)) == 0 else first
        limit = draw(st.sampled_from((50, 50, 50, 1000, -1)))
        found.append((kind, picture, np.where(picture["pixels"][:1].real > limit, 255, 0).astype("uint8")))
    return found


@pytest.mark.parametrize(
    ("stage", "count"),
    [
        ("forest", 3),
        ("regression", 3),
        *(
            pytest.param(s, n, marks=pytest.mark.slow)
            for s, n in (("forest", 200), ("regression", 200), ("train", 30), ("doctor", 20))
        ),
    ],
)
def test_models_of_any_project(stage, count):
    def check(case: tuple[list[Any], dict[str, Any]]) -> None:
        frames, options = case
        bands = len(frames[0][1]["pixels"])
        with scratch() as folder:
            for i, (kind, picture, roof) in enumerate(frames):
                write(folder / f"data/{kind}_frames/f{i}.tif", picture)
                write(folder / f"data/{kind}_masks/f{i}.tif", picture | {"pixels": roof, "nodata": None})
            values = {
                "load_dataset_args": {"target_size": 16, "channels": bands, "batch_size": 2},
                "model_args": {"input_shape": [16, 16, bands], "num_layers": 1, "filters": 2, "upconv_filters": 2},
                "training_args": {"epochs": 1},
                "doctor_args": {"overfit_steps": 2, "overfit_iou": 0.01, "sample": 2},
                "pixel_args": {"pixels": 60, "scales": [1.0]} | options,
                "forest_args": {"trees": 2, "leaf": 1, "importance": 10},
                "regression_args": {"strengths": [1.0], "folds": 2},
            }
            run(stage, folder, values=values)

    options = st.fixed_dictionaries({}, optional={"pairs": st.sampled_from(("auto", "all", "adjacent")), "values": ODD})
    fuzz(count, st.tuples(projects(), options), check)


@pytest.mark.parametrize("count", [4, long(300)])
def test_downloads_from_a_file(count):
    def check(case: tuple[dict[str, Any], list[float], dict[str, Any]]) -> None:
        picture, box, options = case
        with scratch() as folder:
            raster = write(folder / "in/a.tif", picture)
            values = {"download_args": {"source": "cog", "address": [str(raster)], "bbox": box} | options}
            report = run("download", folder, values=values)
            assert report is None or report["scenes"] == len([*(folder / "data/scenes").glob("*.tif")])

    near = st.tuples(st.floats(83.0, 83.39), st.floats(26.5, 26.7399), st.floats(83.4, 83.7), st.floats(26.74, 26.9))
    boxes = near.map(list) | st.lists(st.floats(-200, 200), min_size=4, max_size=4)
    scales = st.none() | st.floats(0.5, 100) | ODD
    options = st.fixed_dictionaries(
        {},
        optional={
            "scale": scales,
            "crs": st.sampled_from([None, "EPSG:4326", "EPSG:3857", "EPSG:0", "", "x"]),
            "dtype": ODD,
            "resampling": st.sampled_from(["nearest", "cubic"]),
        },
    )
    fuzz(count, st.tuples(pictures(), boxes, options), check)


@pytest.mark.parametrize("count", [30, long(2000)])
def test_runs_of_any_stages(count, tmp_path):
    from run.local import NAMES

    (tmp_path / "settings.json").write_text("{}")

    def check(line: list[str]) -> None:
        words, out = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(words), contextlib.redirect_stdout(out):
            status = importlib.import_module("run.local").main(
                [*line, "--dry-run", "--settings", str(tmp_path / "settings.json"), "--data", str(tmp_path / "data")]
            )
        commands = [text for text in out.getvalue().splitlines() if text.startswith("$ ")]
        errors = [text for text in words.getvalue().splitlines() if text.startswith("error: ")]
        assert (status, bool(commands), len(errors)) in ((0, True, 0), (1, False, 1))

    names = st.sampled_from(NAMES)
    limits = st.lists(st.tuples(st.sampled_from(("--from", "--until")), names).map(list), max_size=2).map(
        lambda found: [part for pair in found for part in pair]
    )
    fuzz(
        count,
        st.tuples(st.lists(names.map("--{}".format), max_size=4), limits).map(lambda pair: pair[0] + pair[1]),
        check,
    )
