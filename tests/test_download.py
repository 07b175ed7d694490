"""download: the made-up town as scenes and labels, and the user's own imagery left alone."""

import json

import geopandas as gpd
import numpy as np
import pytest
import rasterio

from download.download import main
from sources.synthetic import quarters, scene_name

SIZE = 512


@pytest.fixture
def line(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"download_args": {"size": SIZE}}))
    return ["--settings", str(tmp_path / "settings.json"), "--data", str(tmp_path / "data"), "--quiet"]


def digest_all(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.*")) if p.is_file()}


def test_quarters_by_hand():
    assert quarters(8) == [(0, 0), (0, 4), (4, 0), (4, 4)]
    assert scene_name(0, 4) == "synthetic_town_0_4.tif"


def test_the_town_is_four_adjoining_scenes_and_labels(line, tmp_path, capsys):
    assert main([*line, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["source"], report["scenes"], report["made"]) == ("sample (synthetic)", 4, 5)
    scenes = [rasterio.open(tmp_path / "data" / "scenes" / scene_name(*q)) for q in quarters(SIZE)]
    try:
        assert {(s.count, s.dtypes[0], s.crs.to_epsg(), s.res, s.nodata) for s in scenes} == {
            (4, "uint16", 32644, (0.5, 0.5), 0)
        }
        assert scenes[0].descriptions == ("red", "green", "blue", "nir")
        assert scenes[0].bounds.right == scenes[1].bounds.left
        assert scenes[0].bounds.bottom == scenes[2].bounds.top
        assert max(int(s.read().max()) for s in scenes) < 2048
        invalid = [float((s.dataset_mask() == 0).mean()) for s in scenes]
    finally:
        for scene in scenes:
            scene.close()
    assert sum(share > 0 for share in invalid) == 1
    roofs = gpd.read_file(tmp_path / "data" / "labels" / "roofs.gpkg")
    assert set(roofs["material"]) == {"metal", "concrete", "tile", "thatch"}


def test_finished_is_kept_and_made_again_the_same(line, tmp_path, capsys):
    main(line)
    before = digest_all(tmp_path / "data")
    main([*line, "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kept"] == 5
    (tmp_path / "data" / "scenes" / scene_name(0, 0)).unlink()
    main([*line, "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["made"] == 1
    assert digest_all(tmp_path / "data") == before


def test_another_seed_is_another_town(line, tmp_path):
    main(line)
    with rasterio.open(tmp_path / "data" / "scenes" / scene_name(0, 0)) as src:
        before = src.read()
    assert main([*line, "--seed", "5"]) == 0
    with rasterio.open(tmp_path / "data" / "scenes" / scene_name(0, 0)) as src:
        assert not np.array_equal(src.read(), before)


def test_own_imagery_is_left_alone(line, make_raster, tmp_path, capsys):
    make_raster(np.ones((3, 8, 8), np.uint8), "data/scenes/mine.tif")
    assert main([*line, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "holds imagery of your own (mine.tif" in err
    assert json.loads(out.splitlines()[-1])["made"] == 0
    assert [p.name for p in (tmp_path / "data" / "scenes").iterdir()] == ["mine.tif"]


def test_own_labels_are_not_written_over(line, tmp_path, capsys):
    (tmp_path / "data" / "labels").mkdir(parents=True)
    (tmp_path / "data" / "labels" / "roofs.gpkg").write_text("mine")
    assert main(line) == 1
    assert "roofs.gpkg: a file that this stage did not write" in capsys.readouterr().err
    assert (tmp_path / "data" / "labels" / "roofs.gpkg").read_text() == "mine"


def test_an_unknown_source_is_one_line(line, capsys):
    assert main([*line, "--source", "moon"]) == 1
    assert 'download_args.source is "moon"' in capsys.readouterr().err


def test_labels_for_imagery_of_ones_own(line, make_raster, tmp_path):
    from shapely.geometry import box

    make_raster(np.ones((3, 80, 80), np.uint8), "data/scenes/mine.tif")
    roofs = [box(735002, 2959990, 735006, 2959996), box(700000, 2959990, 700006, 2959996)]
    gpd.GeoDataFrame({"n": [1, 2]}, geometry=roofs, crs="EPSG:32644").to_file(tmp_path / "drawn.gpkg")
    assert main([*line, "--labels", "file", "--labels-file", str(tmp_path / "drawn.gpkg")]) == 0
    assert list(gpd.read_file(tmp_path / "data/labels/roofs.gpkg")["n"]) == [1]
    assert [p.name for p in (tmp_path / "data/scenes").iterdir()] == ["mine.tif"]


def test_the_towns_roofs_go_with_the_town(line, make_raster, tmp_path):
    assert main(line) == 0
    make_raster(np.full((3, 80, 80), 7, np.uint8), "mine.tif")
    assert main([*line, "--source", "cog", "--address", str(tmp_path / "mine.tif")]) == 0
    assert [p.name for p in (tmp_path / "data/scenes").iterdir()] == ["mine.tif"]
    assert not (tmp_path / "data/labels/roofs.gpkg").exists()
