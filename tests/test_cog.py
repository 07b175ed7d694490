"""cog: GeoTIFFs of a server or the disk, only their part inside the area, with the faults of a network."""

import json

import numpy as np
import pytest
import rasterio
from imagery import real
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from web_server import web_server

from download.download import main

TOKEN = "planted-token-51c0de"
FAULTS = [429, 500, 503, "reset", "truncated", "hang"]


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def scene(make_raster):
    """1200 x 1100 pixels of 0.5 m in UTM 44 N, four bands, tiled, a corner invalid."""
    array = np.random.default_rng(1).integers(1, 2000, (4, 1200, 1100)).astype(np.uint16)
    valid = np.ones((1200, 1100), bool)
    valid[:390, :370] = False
    return make_raster(array, "source/scene.tif", valid=valid, tiled=True, blockxsize=256, blockysize=256)


def bbox_of(path, rows=(0.3, 0.7), cols=(0.2, 0.6)):
    with rasterio.open(path) as src:
        left, bottom, right, top = src.bounds
        dx, dy = right - left, bottom - top
        part = left + cols[0] * dx, top + rows[1] * dy, left + cols[1] * dx, top + rows[0] * dy
        return list(transform_bounds(src.crs, "EPSG:4326", *part, densify_pts=21))


@pytest.fixture
def line(tmp_path, scene):
    def make(*addresses, **values):
        values = {
            "source": "cog", "address": list(addresses), "bbox": bbox_of(scene), "retries": 3, "timeout": 0.5,
            "parallel": 4,
        } | values  # fmt: skip
        (tmp_path / "settings.json").write_text(json.dumps({"download_args": values}))
        return ["--settings", str(tmp_path / "settings.json"), "--data", str(tmp_path / "data"), "--quiet", "--json"]

    return make


def snapshot(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.tif"))}


def check_exact(scene, folder, count=1):
    """Each scene holds the source's own pixels."""
    paths = sorted((folder / "scenes").glob("*.tif"))
    assert len(paths) == count
    for path in paths:
        with rasterio.open(path) as dst, rasterio.open(scene) as src:
            col, row = ~src.transform @ (dst.transform.c, dst.transform.f)
            assert (abs(col - round(col)), abs(row - round(row))) < (1e-6, 1e-6)
            window = Window(round(col), round(row), dst.width, dst.height)
            valid = src.dataset_mask(window=window) > 0
            np.testing.assert_array_equal(dst.dataset_mask() > 0, valid)
            np.testing.assert_array_equal(dst.read(), src.read(window=window) * valid)
            assert (dst.crs, dst.dtypes) == (src.crs, src.dtypes)


def test_the_part_inside_the_area_and_no_more(scene, line, tmp_path):
    with web_server({"/a/scene.tif": scene.read_bytes()}) as server:
        assert main(line(f"{server.url}/a/scene.tif")) == 0
        check_exact(scene, tmp_path / "data")
        fetched = len(server.paths) * 64 * 1024
        assert fetched < 0.6 * scene.stat().st_size
        before = snapshot(tmp_path / "data")
        assert main(line(f"{server.url}/a/scene.tif")) == 0
        assert snapshot(tmp_path / "data") == before


def test_a_file_by_name_and_the_same_through_a_server_without_ranges(scene, line, tmp_path):
    assert main(line("source/scene.tif", bbox=None)) == 0
    with rasterio.open(tmp_path / "data/scenes/scene.tif") as dst, rasterio.open(scene) as src:
        valid = src.dataset_mask() > 0
        np.testing.assert_array_equal(dst.read(), src.read() * valid)
    with web_server({"/scene.tif": scene.read_bytes()}, ranges=False) as server:
        assert main([*line(f"{server.url}/scene.tif"), "--overwrite"]) == 0
    check_exact(scene, tmp_path / "data")


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_pass_end_pixel_exact(fault, scene, line, tmp_path):
    with web_server({"/scene.tif": scene.read_bytes()}, faults=[None, fault, None, fault, fault]) as server:
        assert main(line(f"{server.url}/scene.tif", scene_size=256)) == 0
    check_exact(scene, tmp_path / "data", 4)


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("fault", [400, 401, 403, 404])
def test_faults_that_stay_end_at_once_with_one_line(fault, place, scene, line, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MAP_KEY", TOKEN)
    with web_server({"/scene.tif": scene.read_bytes()}, faults=[None] * place + [fault] * 50) as server:
        assert main(line(f"{server.url}/scene.tif?key=${{MAP_KEY}}", parallel=1)) == 1
        assert len(server.paths) <= place + 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert str(fault) in err
    assert TOKEN not in out + err
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert TOKEN.encode() not in path.read_bytes()


def test_an_error_half_way_keeps_what_was_fetched(scene, line, tmp_path):
    files = {"/scene.tif": scene.read_bytes()}
    with web_server(files) as server:
        address = f"{server.url}/scene.tif"
        assert main([*line(address, scene_size=256, parallel=1), "--data", str(tmp_path / "whole")]) == 0
        count = len(server.paths)
    with web_server(files, faults=[None] * (count - 2) + [403] * 9) as server:
        assert main(line(f"{server.url}/scene.tif", scene_size=256, parallel=1)) == 1
        assert list((tmp_path / "data/.download").rglob("*.npz"))
        server.faults = []
        server.paths.clear()
        assert main(line(f"{server.url}/scene.tif", scene_size=256, parallel=1)) == 0
        assert len(server.paths) < count
    assert snapshot(tmp_path / "data") == snapshot(tmp_path / "whole")


def test_a_file_that_changes_half_way_is_an_error(scene, line, capsys):
    with web_server({"/scene.tif": scene.read_bytes()}) as server:
        server.routes["/scene.tif"] = lambda handler: changing(handler, scene.read_bytes())
        assert main(line(f"{server.url}/scene.tif")) == 1
    assert "it changed while it was read" in capsys.readouterr().err


def changing(handler, data):
    first, last = handler.range(len(data))
    handler.server.version += 1
    headers = {"ETag": f'"{handler.server.version}"', "Content-Range": f"bytes {first}-{last}/{len(data)}"}
    handler.answer(206, data[first : last + 1], headers=headers)


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/x.tif", "http://10.0.0.1/x.tif", "http://127.0.0.1:1/x.tif"]
)
def test_redirects_to_private_networks_are_refused(target, scene, line, capsys):
    with web_server({"/scene.tif": scene.read_bytes()}, faults=[target]) as server:
        assert main(line(f"{server.url}/scene.tif")) == 1
    err = capsys.readouterr().err
    assert "a redirect to a private network" in err
    assert len(err.splitlines()) == 1


def test_redirects_on_the_same_server_are_followed(scene, line, tmp_path):
    with web_server({"/scene.tif": scene.read_bytes()}) as server:
        server.faults = [f"{server.url}/scene.tif"]
        assert main(line(f"{server.url}/old.tif".replace("old", "scene"))) == 0
    check_exact(scene, tmp_path / "data")


def test_warped_to_another_crs_and_scale(scene, line, tmp_path):
    assert main(line("source/scene.tif", crs="EPSG:3857", scale=2.0, bands=["band 3", "1"])) == 0
    with rasterio.open(tmp_path / "data/scenes/scene.tif") as dst:
        assert (dst.crs.to_epsg(), dst.count, dst.res) == (3857, 2, (2.0, 2.0))
        assert dst.descriptions == ("band 3", "band 1")
        share = (dst.dataset_mask() > 0).mean()
        assert 0.9 < share <= 1.0
        assert dst.transform.c % 2.0 == 0
        pixels = dst.read()[:, 20:-20, 20:-20]
    assert 400 < pixels.mean() < 1200


def test_nodata_stays_nodata(make_raster, line, tmp_path):
    array = np.arange(1, 1 + 3 * 40 * 30).reshape(3, 40, 30).astype(np.int16)
    array[:, :5, :7] = -9999
    path = make_raster(array, "landsat.tif", nodata=-9999)
    assert main(line("landsat.tif", bbox=None)) == 0
    with rasterio.open(tmp_path / "data/scenes/landsat.tif") as dst:
        assert dst.nodata == -9999
        np.testing.assert_array_equal(dst.read(), array)
    assert path.exists()


@pytest.mark.parametrize(("dtype", "wanted", "status"), [
    ("float64", None, 0), ("uint32", None, 1), ("uint32", "uint16", 0), ("int32", "uint8", 1),
])  # fmt: skip
def test_other_dtypes(dtype, wanted, status, make_raster, line, tmp_path, capsys):
    make_raster(np.full((1, 20, 20), 700, dtype), "other.tif")
    assert main(line("other.tif", bbox=None, dtype=wanted)) == status
    err = capsys.readouterr().err
    if status:
        assert "dtype" in err
    else:
        with rasterio.open(tmp_path / "data/scenes/other.tif") as dst:
            assert dst.dtypes[0] == (wanted or "float32")
            assert (dst.read() == 700).all()


@pytest.mark.parametrize(
    ("addresses", "values", "words"),
    [
        ([], {}, "Give --address"),
        (["nothing.tif"], {}, "nothing.tif: no such file"),
        (["broken.tif"], {}, "broken.tif: not readable"),
        (["note.txt"], {}, "a .txt file"),
        (["source/scene.tif"], {"bbox": [10.0, 10.0, 10.1, 10.1]}, "none with a pixel inside the area"),
        (["source/scene.tif"], {"bands": ["nir"]}, "'nir'; expected one of 1 band 1, 2 band 2"),
        (["source/scene.tif"], {"crs": "EPSG:1"}, "download_args.crs"),
        (["ftp://host/scene.tif"], {}, "no http or https address"),
        (["http://${NO_SUCH_VARIABLE}/x.tif"], {}, "a variable of the environment"),
        (["http://127.0.0.1:9/x.tif"], {}, "not reached after 4 tries"),
    ],
)
def test_every_problem_is_one_line(addresses, values, words, line, tmp_path, capsys):
    (tmp_path / "broken.tif").write_bytes(b"II*\0broken")
    (tmp_path / "note.txt").write_text("hello")
    assert main(line(*addresses, **values)) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert words in err


def test_two_files_of_one_name(scene, line, tmp_path):
    with web_server({"/a/scene.tif": scene.read_bytes(), "/b/Scene.tif": scene.read_bytes()}) as server:
        assert main(line(f"{server.url}/a/scene.tif", f"{server.url}/b/Scene.tif")) == 0
    check_exact(scene, tmp_path / "data", 2)


def test_banepa_by_address(line, tmp_path):
    path = sorted(real("banepa/scenes").glob("*.tif"))[7]
    with web_server({"/tile.tif": path.read_bytes()}) as server:
        assert main(line(f"{server.url}/tile.tif", bbox=bbox_of(path))) == 0
    check_exact(path, tmp_path / "data")


def test_a_file_that_lies_nowhere(make_raster, line, tmp_path, capsys):
    array = np.random.default_rng(3).integers(0, 9, (3, 40, 30)).astype(np.uint8)
    make_raster(array, "photo.tif", crs=None, transform=rasterio.Affine(1, 0, 5, 0, -1, 9))
    assert main(line("photo.tif", bbox=None)) == 0
    with rasterio.open(tmp_path / "data/scenes/photo.tif") as dst:
        np.testing.assert_array_equal(dst.read(), array)
    assert main([*line("photo.tif"), "--overwrite"]) == 1
    assert "photo.tif: no CRS" in capsys.readouterr().err


def test_a_server_that_forgets_about_ranges_half_way(scene, line, tmp_path):
    data, count = scene.read_bytes(), [0]

    def forgetful(handler):
        count[0] += 1
        first, last = handler.range(len(data))
        headers = {"ETag": "1"} | ({"Content-Range": f"bytes {first}-{last}/{len(data)}"} if count[0] < 3 else {})
        handler.answer(206 if count[0] < 3 else 200, data[first : last + 1] if count[0] < 3 else data, headers=headers)

    with web_server(routes={"/scene.tif": forgetful}) as server:
        assert main(line(f"{server.url}/scene.tif")) == 0
    check_exact(scene, tmp_path / "data")


@pytest.mark.parametrize(("crs", "scale", "expected"), [("EPSG:3857", 1.0, 32633), ("EPSG:32644", 1.0, 32644)])
def test_a_scale_is_metres_of_ground(crs, scale, expected, make_raster, line, tmp_path):
    at = rasterio.Affine(0.5, 0, 1_700_000, 0, -0.5, 8_400_000 if crs == "EPSG:3857" else 2_960_000)
    at = at if crs == "EPSG:3857" else rasterio.Affine(0.5, 0, 735_000, 0, -0.5, 2_960_000)
    make_raster(np.full((3, 120, 130), 9, np.uint8), "there.tif", crs=crs, transform=at)
    assert main(line("there.tif", bbox=None, scale=scale)) == 0
    with rasterio.open(tmp_path / "data/scenes/there.tif") as dst:
        assert (dst.crs.to_epsg(), dst.res) == (expected, (scale, scale))


@pytest.mark.parametrize("values", [{}, {"scale": 1.0}, {"bbox": [77.3, 26.7, 77.4, 26.8]}])
@pytest.mark.parametrize("transform", [
    (0, 0, 735000, 0, 0, 2960000), (0.5, 0.5, 735000, -0.5, -0.5, 2960000), (0.5, 0, 1e30, 0, -0.5, 1e30),
    (1e300, 0, 0, 0, -1e300, 0), (1e-12, 0, 735000, 0, -1e-12, 2960000),
])  # fmt: skip
def test_pixels_that_lie_nowhere(transform, values, make_raster, line, capsys):
    make_raster(np.ones((1, 20, 20), np.uint8), "odd.tif", transform=rasterio.Affine(*transform))
    assert main(line("odd.tif", **{"bbox": None} | values)) == 1
    assert "odd.tif: pixels of" in capsys.readouterr().err


def test_more_pixels_than_can_be_meant(scene, line, capsys):
    assert main(line("source/scene.tif", scale=1e-5)) == 1
    assert "expected at most 100,000,000,000" in capsys.readouterr().err


def test_a_secret_in_a_file_name_names_no_scene(scene, line, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MAP_KEY", f"{TOKEN} ü")
    with web_server() as server:
        server.routes[f"/{TOKEN}%20%C3%BC.tif"] = lambda handler: server_file(handler, scene.read_bytes())
        assert main([*line(f"{server.url}/${{MAP_KEY}}.tif")]) == 0
        server.faults = [404] * 9
        assert main([*line(f"{server.url}/${{MAP_KEY}}.tif"), "--overwrite"]) == 1
    assert TOKEN not in "".join(capsys.readouterr())
    for path in (p for p in (tmp_path / "data").rglob("*") if p.is_file()):
        assert TOKEN not in path.name
        assert TOKEN.encode() not in path.read_bytes()


def server_file(handler, data):
    first, last = handler.range(len(data))
    handler.answer(206, data[first : last + 1], headers={"Content-Range": f"bytes {first}-{last}/{len(data)}"})


def test_a_file_beside_it_that_changes_is_heeded(make_raster, line, tmp_path, capsys):
    array = np.arange(1, 1 + 40 * 30).reshape(1, 40, 30).astype(np.uint16)
    path = make_raster(array, "photo.tif")
    assert main(line("photo.tif", bbox=None)) == 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path) as src:
        mask = np.where(array[0] > 50, 255, 0).astype(np.uint8)
        profile = {"crs": src.crs, "transform": src.transform, "count": 1, "height": 40, "width": 30, "dtype": "uint8"}
        with rasterio.open(f"{path}.msk", "w", driver="GTiff", **profile) as dst:
            dst.write(mask, 1)
            dst.update_tags(INTERNAL_MASK_FLAGS_1=2)
    assert main(line("photo.tif", bbox=None)) == 1  # it is not the same any more, and what was fetched is protected
    assert "with other settings" in capsys.readouterr().err
    assert main([*line("photo.tif", bbox=None), "--overwrite"]) == 0
    with rasterio.open(tmp_path / "data/scenes/photo.tif") as dst:
        np.testing.assert_array_equal(dst.dataset_mask(), mask)


@pytest.mark.parametrize("values", [{"scale": 100.0}, {"crs": "EPSG:3857"}])
def test_a_raster_across_180_degrees_is_not_warped(values, make_raster, line, capsys):
    array = np.ones((1, 300, 300), np.uint8)
    make_raster(array, "utm.tif", crs="EPSG:32701", transform=rasterio.Affine(100, 0, 176000, 0, -100, 8187000))
    make_raster(array, "lonlat.tif", crs="EPSG:4326", transform=rasterio.Affine(0.001, 0, 179.9, 0, -0.001, 10))
    for name in ("utm.tif", "lonlat.tif"):
        assert main(line(name, bbox=None, **values)) == 1
        assert "across 180 degrees" in capsys.readouterr().err
    assert main(line("lonlat.tif", bbox=None)) == 0


@pytest.mark.parametrize("bands", [["1"], None])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_nodata_of_one_band_stays_invalid_when_warped(bands, dtype, make_raster, line, tmp_path):
    array = np.full((2, 60, 60), 50, np.int16)
    array[0, :, :30] = -9999
    make_raster(array, "two.tif", nodata=-9999)
    assert main(line("two.tif", bbox=None, scale=1.0, bands=bands, dtype=dtype)) == 0
    with rasterio.open(tmp_path / "data/scenes/two.tif") as dst:
        first = dst.read(1, masked=True)
    assert 0.4 < first.mask.mean() < 0.6
    assert first.min() == first.max() == 50


def test_colours_by_a_palette_are_refused(make_raster, line, tmp_path, capsys):
    make_raster(np.ones((1, 20, 20), np.uint8), "map.tif")
    with rasterio.open(tmp_path / "map.tif", "r+") as dst:
        dst.write_colormap(1, {1: (255, 0, 0, 255)})
    assert main(line("map.tif", bbox=None)) == 1
    assert "colours by a palette" in capsys.readouterr().err


def test_a_turned_raster_keeps_its_pixel_size(make_raster, line, tmp_path):
    turned = (
        rasterio.Affine.translation(735000, 2960000) @ rasterio.Affine.rotation(45) @ rasterio.Affine.scale(0.5, -0.5)
    )
    make_raster(np.full((1, 80, 80), 9, np.uint8), "turned.tif", transform=turned)
    assert main(line("turned.tif", bbox=None, crs="EPSG:32644")) == 0
    with rasterio.open(tmp_path / "data/scenes/turned.tif") as dst:
        assert dst.res == pytest.approx((0.5, 0.5), rel=0.01)
        assert (dst.dataset_mask() > 0).sum() == pytest.approx(6400, rel=0.05)
