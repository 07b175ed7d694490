import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from imagery import TRANSFORM, UTM, real
from rasterio.crs import CRS
from rasterio.features import rasterize

from mask import mask
from mask.mask import draw, footprint, main, place_group, roof_mask, touching
from roofkit.ledger import read_ledger
from roofkit.misplaced import Spots, extent, local_crs
from roofkit.raster import Grid

METAL = "\"roof:material\" IN ('tin','metal')"
LEFT, TOP = TRANSFORM.c, TRANSFORM.f  # of half-metre pixels


def pixel_box(col: float, row: float, end_col: float, end_row: float) -> shapely.Polygon:
    """A rectangle in pixel coordinates of the usual test raster, as a polygon in UTM."""
    corners = [TRANSFORM @ (col, row), TRANSFORM @ (end_col, end_row)]
    return shapely.box(*corners[0], *corners[1])


def write_labels(path: Path, rows: dict[str, shapely.Polygon], crs: str = UTM, to: str | None = None) -> Path:
    labels = gpd.GeoDataFrame({"kind": [name.split()[0] for name in rows]}, geometry=list(rows.values()), crs=crs)
    labels.to_crs(to or crs).to_file(path)
    return path


def read(path: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    with rasterio.open(path) as src:
        return src.read(1), src.dataset_mask(), dict(src.profile, flags=src.mask_flag_enums)


def test_draw_takes_pixels_whose_centre_is_inside():
    half = shapely.box(0, 0, 1.6, 1)  # centres at 0.5 and 1.5, of the lower row only
    expected = [[False, False, False], [True, True, False]]
    assert draw([half], Affine(1, 0, 0, 0, -1, 2), (2, 3)).tolist() == expected
    touched = draw([shapely.box(0.1, 0.1, 1.2, 0.9)], Affine(1, 0, 0, 0, -1, 2), (2, 3), all_touched=True)
    assert touched.tolist() == expected
    assert not draw([], Affine.identity(), (2, 3)).any()


@pytest.mark.parametrize("all_touched", [False, True])
def test_draw_is_what_gdal_draws_shape_by_shape(all_touched):
    generator = np.random.default_rng(0)
    corners = np.round(generator.random((30, 2)) * 40, 1)  # some on the centres and the edges of pixels
    shapes = [shapely.box(x, y, x + width, y + 3.5) for (x, y), width in zip(corners, generator.random(30) * 9)]
    shapes += [shapely.Point(20, 20).buffer(9).difference(shapely.Point(21, 19).buffer(4)), shapes[0].union(shapes[1])]
    to = Affine.rotation(10) @ Affine.translation(-3, 2)
    expected = rasterize([(shape, 1) for shape in shapes], (45, 50), transform=to, all_touched=all_touched)
    assert np.array_equal(draw(shapes, to, (45, 50), all_touched=all_touched), expected)
    assert 0.1 < expected.mean() < 0.9


def test_draw_on_a_turned_grid():
    turned = Affine(0, 1, 0, 1, 0, 0)  # x is the row, y the column
    assert draw([shapely.box(0, 0, 1, 2)], turned, (2, 3)).tolist() == [[True, True, False], [False, False, False]]


def test_roof_mask():
    roof = np.array([[True, True, False, False, True]])
    unknown = np.array([[False, True, True, False, False]])
    frame_valid = np.array([[True, True, True, True, False]])
    pixels, valid = roof_mask(roof, unknown, frame_valid)
    assert pixels.tolist() == [[[255, 255, 0, 0, 0]]]
    assert pixels.dtype == np.uint8
    assert valid.tolist() == [[True, True, False, True, False]]


@pytest.mark.parametrize("turn", [0, 90, 45])
def test_touching_gives_the_pairs_that_share_a_point(turn):
    grids = [Grid(CRS.from_string(UTM), Affine.rotation(turn) @ Affine.translation(x, 0), 1, 3) for x in (4, 20, -2.5)]
    boxes = [shapely.box(0, 0, 1, 1), shapely.box(5, 0, 6, 1), shapely.box(0, 0, 6, 1), shapely.box(6.5, 0.5, 8, 2)]
    shapes = shapely.transform([*boxes, None], lambda xy: np.column_stack(Affine.rotation(turn) @ xy.T))
    utm = CRS.from_string(UTM).to_wkt()
    rows, found = touching(shapes, place_group(utm, [7, 8, 9], grids))
    assert sorted(zip(rows.tolist(), found.tolist())) == [(0, 2), (1, 0), (2, 0), (2, 2), (3, 0)]
    assert [len(found) for found in touching(np.array([], object), place_group(utm, [7], grids[:1]))] == [0, 0]


def test_footprint_and_extent():
    grid = Grid(CRS.from_string(UTM), Affine(2, 0, 10, 0, -2, 20), 3, 4)
    assert footprint(grid).bounds == (10, 14, 18, 20)
    assert extent((1.23456, 2, 3, 4)) == "1.2346..3.0000, 2.0000..4.0000"
    assert extent((735000, 2959968, 735032, 2960000)) == "735000..735032, 2959968..2960000"
    assert extent(None) == "outside it"


def test_local_crs_begins_with_the_zone():
    found = local_crs((83.3, 26.7, 83.4, 26.8))
    assert [next(found).to_epsg() for _ in range(3)] == [32644, 32744, 32643]
    assert next(local_crs((179, 0, 179.5, 1))).to_epsg() == 32660


@pytest.fixture
def place(make_raster, tmp_path):
    """Two frames side by side, the second with an unmeasured corner, and labels in lon/lat."""
    image = np.arange(3 * 12 * 16, dtype="uint16").reshape(3, 12, 16)
    make_raster(image, "frames/a.tif")
    valid = np.ones((12, 16), bool)
    valid[:4, :5] = False
    make_raster(image, "frames/b.tif", transform=TRANSFORM @ Affine.translation(16, 0), valid=valid)
    rows = {
        "tin 1": pixel_box(2, 1, 6, 4),  # in a
        "tin 2": pixel_box(14, 6, 19, 9),  # across both
        "tin 3": pixel_box(18, 2, 24, 6),  # in b, partly unmeasured
        "brick": pixel_box(8, 1, 11, 3),
        "unknown": pixel_box(4, 2, 8, 6),  # partly under the first
    }
    return tmp_path, write_labels(tmp_path / "roofs.gpkg", rows, to="EPSG:4326")


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--quiet"])


def test_masks_lie_on_their_frames(place, capsys):
    folder, labels = place
    dst = folder / "masks"
    sql = ("--where", "kind = 'tin'", "--ignore", "kind = 'unknown'")
    assert run(folder / "frames", labels, dst, *sql, "--json") == 0
    report = json.loads(capsys.readouterr().out)

    roof, valid, profile = read(dst / "a.tif")
    expected = np.zeros((12, 16), "uint8")
    expected[1:4, 2:6] = expected[6:9, 14:16] = 255
    expected_valid = np.full((12, 16), 255)
    expected_valid[2:6, 4:8] = 0
    expected_valid[2:4, 4:6] = 255  # the roof wins
    assert np.array_equal(roof, expected)
    assert np.array_equal(valid, expected_valid)
    assert (profile["crs"], profile["transform"], profile["dtype"], profile["count"]) == (UTM, TRANSFORM, "uint8", 1)

    roof, valid, _ = read(dst / "b.tif")
    expected = np.zeros((12, 16), "uint8")
    expected[6:9, 0:3] = expected[2:6, 2:8] = 255
    expected[:4, :5] = 0  # nothing was measured there
    assert np.array_equal(roof, expected)
    assert np.array_equal(valid == 0, np.pad(np.ones((4, 5), bool), ((0, 8), (0, 11))))

    assert report["masks_made"] == 2
    assert (report["features"], report["selected"], report["on_imagery"], report["ignored"]) == (5, 3, 3, 1)
    assert report["empty_masks"] == 0
    assert report["roof_fraction"] == pytest.approx((18 + 27) / (192 - 12 + 192 - 20))


def test_no_internal_mask_where_all_is_valid(place):
    folder, labels = place
    assert run(folder / "frames" / "a.tif", labels, folder / "masks", "--where", "kind = 'tin'") == 0
    assert [flag.name for flag in read(folder / "masks" / "a.tif")[2]["flags"][0]] == ["all_valid"]


def test_all_touched(place):
    folder, _ = place
    labels = write_labels(folder / "sliver.gpkg", {"tin": pixel_box(2.1, 1.1, 3.2, 1.4)})
    for options, count in ((), 0), (("--all-touched",), 2):
        assert run(folder / "frames" / "a.tif", labels, folder / f"masks{count}", *options) == 0
        assert np.count_nonzero(read(folder / f"masks{count}" / "a.tif")[0]) == count


def test_float_frames_are_invalid_at_nan(make_raster, tmp_path):
    image = np.ones((2, 8, 8), "float32")
    image[1, 0, 3] = np.nan
    make_raster(image, "frames/f.tif")
    labels = write_labels(tmp_path / "r.gpkg", {"tin": pixel_box(0, 0, 8, 8)})
    assert run(tmp_path / "frames", labels, tmp_path / "masks") == 0
    roof, valid, _ = read(tmp_path / "masks" / "f.tif")
    assert np.argwhere(valid == 0).tolist() == np.argwhere(roof == 0).tolist() == [[0, 3]]


def test_an_edited_polygon_remakes_only_its_masks(place, capsys):
    folder, labels = place
    arguments = (folder / "frames", labels, folder / "masks", "--json")
    assert run(*arguments) == 0
    before = (folder / "masks" / "a.tif").read_bytes()
    assert run(*arguments) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["masks_kept"] == 2
    frame = gpd.read_file(labels).iloc[[0, 1, 3, 4]]  # without "tin 3", which only b has
    labels.unlink()
    frame.to_file(labels)
    assert run(*arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["masks_made"], report["masks_kept"]) == (1, 1)
    assert (folder / "masks" / "a.tif").read_bytes() == before
    assert run(*arguments, "--overwrite") == 0
    assert (folder / "masks" / "a.tif").read_bytes() == before


def test_where_nothing_changed_polygons_are_not_read_again(monkeypatch, place, capsys):
    folder, path = place
    line = [folder / "frames", path, folder / "masks", "--json"]
    opened, labels = [], mask.opened_labels
    monkeypatch.setattr(mask, "opened_labels", lambda *given: opened.append(0) or labels(*given))

    def looked(*options):
        opened.clear()
        assert run(*line, *options) == 0
        return len(opened)

    def report():
        said = capsys.readouterr()
        return json.loads(said.out.splitlines()[-1]) | {"seconds": 0}, said.err.count("warning")

    assert looked() == 1
    first, warnings = report()
    assert looked() == 0
    assert report() == (first | {"masks_made": 0, "masks_kept": 2}, warnings)
    assert looked("--where", "kind = 'tin'") == 1
    assert looked("--where", "kind = 'tin'") == 0
    assert looked() == 1
    (folder / "masks/a.tif").unlink()
    assert [looked(), looked()] == [1, 0]
    (folder / "frames/a.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><NoDataValue>3</NoDataValue></PAMRasterBand></PAMDataset>"
    )
    assert [looked(), looked()] == [1, 0]
    (folder / "frames/b.tif").unlink()
    assert [looked(), looked()] == [1, 0]
    assert not (folder / "masks/b.tif").exists()


def test_large_frames_are_drawn_in_windows(monkeypatch, make_raster, tmp_path):
    generator = np.random.default_rng(0)
    make_raster(np.ones((40, 56), "uint8"), "frames/all.tif")
    make_raster(np.ones((40, 56), "uint8"), "frames/part.tif", valid=generator.random((40, 56)) > 0.3)
    make_raster(np.ones((40, 56), "uint8"), "frames/none.tif", valid=np.zeros((40, 56)))
    rows = {"tin": pixel_box(3, 2, 30, 20), "tin 2": pixel_box(40, 30, 55, 39), "unknown": pixel_box(20, 10, 50, 35)}
    labels = write_labels(tmp_path / "r.gpkg", rows)
    masks = {}
    for window in (1024, 16):
        monkeypatch.setattr("mask.mask.WINDOW", window)
        dst = tmp_path / f"masks{window}"
        assert run(tmp_path / "frames", labels, dst, "--where", "kind = 'tin'", "--ignore", "kind = 'unknown'") == 0
        masks[window] = [np.stack(read(dst / f"{name}.tif")[:2]) for name in ("all", "part", "none")]
    for whole, parts in zip(*masks.values()):
        assert np.array_equal(whole, parts)


@pytest.mark.parametrize("ignore", [(), ("--ignore", "kind = 'unknown'")])
def test_a_large_frame_is_drawn_once_where_nothing_can_be_invalid(monkeypatch, make_raster, tmp_path, ignore):
    monkeypatch.setattr("mask.mask.WINDOW", 16)
    make_raster(np.ones((40, 56), "uint8"), "frames/all.tif")
    rows = {"tin": pixel_box(3, 2, 30, 20), "unknown": pixel_box(20, 10, 25, 15)}
    labels = write_labels(tmp_path / "r.gpkg", rows)
    drawn = []
    monkeypatch.setattr("mask.mask.draw", lambda *a, **k: drawn.append(len(a[0])) or draw(*a, **k))
    assert run(tmp_path / "frames", labels, tmp_path / "masks", "--where", "kind = 'tin'", *ignore) == 0
    assert read(tmp_path / "masks" / "all.tif")[1].all()
    assert len(drawn) == 2 * 12 + (2 if ignore else 0)  # windows; that which a polygon of unknown class is in
    assert sum(drawn) < 24


def test_batches_of_labels_change_nothing(monkeypatch, place):
    folder, labels = place
    sql = ("--where", "kind = 'tin'", "--ignore", "kind = 'unknown'")
    contents = []
    for batch in (1, 2, 100):
        monkeypatch.setattr("roofkit.label_files.BATCH", batch)
        assert run(folder / "frames", labels, folder / f"masks{batch}", *sql) == 0
        contents.append({path.name: path.read_bytes() for path in (folder / f"masks{batch}").iterdir()})
    assert contents[0] == contents[1] == contents[2]
    assert sorted(contents[0]) == [".mask.ledger.jsonl", "a.tif", "b.tif"]


def test_the_order_of_features_changes_no_key(place):
    folder, labels = place
    turned = folder / "turned.gpkg"
    gpd.read_file(labels).iloc[::-1].to_file(turned)
    for path in (labels, turned):
        assert run(folder / "frames", path, folder / path.stem) == 0
    ledgers = [read_ledger(folder / path.stem / ".mask.ledger.jsonl").records for path in (labels, turned)]
    assert ledgers[0] == ledgers[1]


def test_only_what_a_mask_is_made_from_remakes_it(place, make_raster, capsys):
    folder, labels = place
    arguments = (folder / "frames", labels, folder / "masks", "--json")

    def made() -> int:
        assert run(*arguments) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])["masks_made"]

    assert made() == 2
    make_raster(np.zeros((3, 12, 16), "uint16"), "frames/a.tif")  # other pixels, all of them valid as before
    assert made() == 0
    make_raster(np.zeros((3, 12, 16), "uint16"), "frames/a.tif", transform=TRANSFORM @ Affine.translation(1, 0))
    assert made() == 1
    make_raster(np.ones((3, 12, 16), "uint16"), "frames/a.tif", nodata=0)
    assert made() == 1
    make_raster(np.eye(16, dtype="uint16")[:12], "frames/a.tif", nodata=0)
    assert made() == 1
    assert np.array_equal(read(folder / "masks" / "a.tif")[1] != 0, np.eye(16)[:12] == 1)


def test_shards_give_what_one_run_gives(place, make_raster, capsys):
    folder, labels = place
    for number in range(3):
        make_raster(np.ones((1, 8, 8), "uint8"), f"frames/c{number}.tif", transform=TRANSFORM @ Affine.scale(0.5))
    sql = ("--where", "kind = 'tin'", "--ignore", "kind = 'unknown'")
    assert run(folder / "frames", labels, folder / "one", *sql, "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    for shard in range(7):  # two of which have no frame
        assert run(folder / "frames", labels, folder / "many", *sql, "--shard", f"{shard}/7", "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert report["masks_made"] == (shard < 5)
        assert (report["features"], report["selected"]) == (5, 3)
    assert run(folder / "frames", labels, folder / "many", *sql, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["masks_made"], report["masks_kept"]) == (0, 5)
    same = ("on_imagery", "ignored", "empty_masks", "roof_fraction", "valid_fraction")
    assert [report[name] for name in same] == [whole[name] for name in same]
    one, many = ({path.name: path.read_bytes() for path in (folder / name).iterdir()} for name in ("one", "many"))
    assert one == many


def test_a_shard_opens_its_own_frames_alone(place):
    folder, labels = place
    (folder / "frames" / "b.tif").write_text("rubbish")
    assert run(folder / "frames", labels, folder / "masks", "--shard", "0/2") == 0
    assert run(folder / "frames", labels, folder / "masks", "--shard", "1/2") == 1
    assert run(folder / "frames", labels, folder / "masks") == 1


def test_no_roof_on_the_frames_of_a_shard(place, capsys):
    folder, _ = place
    labels = write_labels(folder / "one.gpkg", {"tin": pixel_box(2, 1, 6, 4)})  # in a only
    for shard in (0, 1):
        assert run(folder / "frames", labels, folder / "masks", "--shard", f"{shard}/2", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["on_imagery"] == 0
    assert run(folder / "frames", labels, folder / "masks") == 0
    labels = write_labels(folder / "far.gpkg", {"tin": pixel_box(900, 1, 906, 4)})
    assert run(folder / "frames", labels, folder / "none", "--shard", "0/2") == 0
    assert "no roof lies on the imagery" in failure(capsys, folder / "frames", labels, folder / "none")
    assert not list((folder / "none").glob(".*polygons"))


def test_every_core_gives_the_same(monkeypatch, place):
    folder, labels = place
    monkeypatch.setattr("mask.mask.POOL_FROM", 1)
    for workers in (1, 2):
        assert run(folder / "frames", labels, folder / f"masks{workers}", "--workers", workers) == 0
    for name in ("a.tif", "b.tif"):
        assert (folder / "masks1" / name).read_bytes() == (folder / "masks2" / name).read_bytes()


def failure(capsys, *arguments: object) -> str:
    assert run(*arguments) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


def test_labels_on_the_wrong_continent(place, capsys):
    folder, _ = place
    labels = write_labels(folder / "rio.geojson", {"tin": shapely.box(-43.7, -23, -43.6, -22.9)}, crs="EPSG:4326")
    line = failure(capsys, folder / "frames", labels, folder / "masks")
    assert "the labels span -43.7000..-43.6000, -23.0000..-22.9000 in EPSG:4326" in line
    assert "No usual CRS brings them together" in line
    assert not (folder / "masks" / "a.tif").exists()


def test_labels_on_the_wrong_continent_of_imagery_whose_rows_run_north(make_raster, tmp_path, capsys):
    place = dict(crs="EPSG:4326", transform=Affine(1e-5, 0, 83.4, 0, 1e-5, 26.7))
    frame = make_raster(np.ones((8, 8), "uint8"), "frames/a.tif", **place)
    labels = write_labels(tmp_path / "rio.geojson", {"tin": shapely.box(-43.7, -23, -43.6, -22.9)}, crs="EPSG:4326")
    line = failure(capsys, frame, labels, tmp_path / "masks")
    assert "No usual CRS brings them together" in line


def test_spots_remember_a_part_of_very_many(monkeypatch):
    monkeypatch.setattr("roofkit.misplaced.MOST", 10)
    spots = Spots()
    for start in range(0, 99, 9):
        spots.add(np.array([shapely.box(x, -x, x + 1, 0) for x in range(start, start + 9)]))
    assert spots.bounds == (0, -98, 99, 0)
    assert spots.boxes[:, 0].tolist() == list(range(0, 99, 16))


@pytest.mark.parametrize(
    ("real_crs", "scale", "swap", "said", "words"),
    [
        (UTM, 1, False, "EPSG:4326", "EPSG:32644: correct it"),
        (UTM, 1, False, "EPSG:32645", "EPSG:32644: correct it"),
        ("EPSG:3857", 1, False, UTM, "EPSG:3857: correct it"),
        ("EPSG:4326", 1, True, "EPSG:4326", "EPSG:4326 with its axes swapped"),
        (UTM, 1 / 0.3048, False, UTM, "EPSG:32644 in feet"),
        ("EPSG:32643", 1, False, UTM, "EPSG:32643: correct it"),
        ("EPSG:24344", 1, False, "EPSG:3857", "EPSG:"),
    ],
)
def test_the_crs_that_would_fit_is_named(place, capsys, real_crs, scale, swap, said, words):
    folder, _ = place
    row = gpd.GeoSeries([pixel_box(2, 1, 6, 4)], crs=UTM).to_crs(real_crs)
    geometry = shapely.transform(row.to_numpy(), lambda xy: (xy[:, ::-1] if swap else xy) * scale)
    labels = folder / "wrong.fgb"
    gpd.GeoDataFrame({"kind": ["tin"]}, geometry=geometry, crs=said).to_file(labels)
    line = failure(capsys, folder / "frames", labels, folder / "masks")
    assert "no roof lies on the imagery: the labels span" in line
    assert f"would lie on the imagery if their CRS were {words}" in line


def test_frames_without_crs(make_raster, tmp_path, capsys):
    make_raster(np.ones((1, 8, 8), "uint8"), "frames/f.tif", crs=None)
    labels = write_labels(tmp_path / "r.gpkg", {"tin": pixel_box(0, 0, 8, 8)})
    assert "f.tif: no CRS; expected a georeferenced frame" in failure(
        capsys, tmp_path / "frames", labels, tmp_path / "m"
    )


def test_frames_of_one_name(make_raster, tmp_path, capsys):
    make_raster(np.ones((1, 8, 8), "uint8"), "frames/f.tif")
    make_raster(np.ones((1, 8, 8), "uint8"), "frames/f.tiff")
    labels = write_labels(tmp_path / "r.gpkg", {"tin": pixel_box(0, 0, 8, 8)})
    assert "the same name as" in failure(capsys, tmp_path / "frames", labels, tmp_path / "m")


def test_other_failures(place, capsys):
    folder, labels = place
    frames, dst = folder / "frames", folder / "masks"
    assert "no such file or folder" in failure(capsys, folder / "none", labels, dst)
    assert "no such file or folder" in failure(capsys, frames, folder / "none.gpkg", dst)
    assert 'kind" holds tin (3), brick (1)' in failure(capsys, frames, labels, dst, "--where", "kind = 'gold'")
    assert 'the nearest: "kind"' in failure(capsys, frames, labels, dst, "--where", "knd = 'tin'")
    assert "one of the layers 'roofs'" in failure(capsys, frames, labels, dst, "--layer", "rooves")
    with pytest.raises(SystemExit, match="2"):
        run("--where")


def test_frames_without_a_roof_are_counted(place, make_raster, capsys):
    folder, labels = place
    make_raster(np.ones((1, 8, 8), "uint8"), "frames/c.tif", transform=TRANSFORM @ Affine.translation(500, 0))
    make_raster(np.ones((1, 8, 8), "uint8"), "frames/d.tif", crs="EPSG:32645")
    assert run(folder / "frames", labels, folder / "masks", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["empty_masks"], report["empty_share"]) == (2, 0.5)
    assert not read(folder / "masks" / "c.tif")[0].any()


def test_materials_unused_are_told(place, capsys):
    folder, _ = place
    labels = folder / "m.geojson"
    shapes = [pixel_box(2, 1, 6, 4), pixel_box(8, 1, 11, 3)]
    gpd.GeoDataFrame({"material": ["tin", "clay"]}, geometry=shapes, crs=UTM).to_crs(4326).to_file(labels)
    assert run(folder / "frames", labels, folder / "masks") == 0
    line = capsys.readouterr().err
    assert run(folder / "frames", labels, folder / "masks") == 0  # nothing to do, and the polygons are not read
    assert capsys.readouterr().err == line
    assert 'every polygon counts as roof, but "material" holds tin (1), clay (1). Select with --where' in line


def test_defaults_are_the_folders_that_settings_name(place, make_raster):
    folder, labels = place
    (folder / "chips").mkdir()
    (folder / "frames" / "a.tif").rename(folder / "chips" / "a.tif")
    (folder / "labels").mkdir()
    labels.rename(folder / "labels" / "mine.gpkg")
    assert run("--data", folder) == 0
    assert read(folder / "masks" / "a.tif")[0].any()


@pytest.fixture(scope="module")
def banepa_chips(tmp_path_factory):
    from chip.chip import main as chip

    folder = tmp_path_factory.mktemp("banepa")
    scenes = [str(path) for path in sorted(real("banepa/scenes").glob("*.tif"))[:6]]
    for scene in scenes:
        assert chip([scene, str(folder / Path(scene).stem), "--size", "256", "--workers", "1", "--quiet"]) == 0
    (folder / "chips").mkdir()
    for path in folder.glob("banepa*/*.tif"):
        path.rename(folder / "chips" / path.name)
    return folder / "chips"


def test_real_town(banepa_chips, tmp_path, capsys):
    labels = real("banepa/labels/roofs.geojson")
    sql = ("--where", METAL, "--ignore", '"roof:material" IS NULL')
    assert run(banepa_chips, labels, tmp_path, *sql, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["masks_made"], report["features"], report["selected"]) == (24, 1070, 384)
    assert 0.02 < report["roof_fraction"] < 0.4
    assert report["valid_fraction"] < 1
    truth = gpd.read_file(labels, where=METAL).geometry.union_all()
    for path in tmp_path.glob("*.tif"):
        roof, _, profile = read(path)
        outline = shapely.box(*rasterio.transform.array_bounds(256, 256, profile["transform"]))
        pixel = outline.area / 256**2
        assert np.count_nonzero(roof) == pytest.approx(truth.intersection(outline).area / pixel, rel=0.02, abs=60)


def test_real_tiles_with_a_file_of_labels_each(tmp_path, capsys):
    frames, labels = real("spacenet1_rio/8band"), real("spacenet1_rio/vectorData/geoJson")
    assert run(frames, labels, tmp_path, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["masks_made"], report["features"], report["empty_masks"]) == (10, 119, 3)
    assert run(real("landsat"), labels, tmp_path / "no") == 1
    assert "no roof lies on the imagery" in capsys.readouterr().err


def test_frames_one_after_another_stay(make_raster, tmp_path, capsys):
    labels = write_labels(tmp_path / "roofs.gpkg", {"tin": pixel_box(2, 2, 9, 9)})
    for name in ("a", "b"):
        frame = make_raster(np.full((32, 32), 7, "uint8"), f"frames/{name}.tif")
        assert run(frame, labels, tmp_path / "each") == 0
    assert run(frame.parent, labels, tmp_path / "all") == 0
    for name in ("a.tif", "b.tif"):
        assert (tmp_path / "each" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
    frame.unlink()
    assert run(frame.parent, labels, tmp_path / "all") == 0
    assert "removed 1 file that an earlier run made and this one does not (b.tif)" in capsys.readouterr().err
