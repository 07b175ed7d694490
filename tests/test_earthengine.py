"""earthengine: the real client against a server of its own, with the faults of a network."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from earth_engine_server import TOKEN, earth_engine
from imagery import real
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

import roofkit.web
from download.download import main
from sources.earthengine import dtype_of, native_scale, tile_side

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["B1", "B2", "B3"]


@pytest.fixture(autouse=True)
def quick(monkeypatch, only_this_machine):
    """A token, no other machine, and no long pauses."""
    monkeypatch.setenv("EARTHENGINE_TOKEN", TOKEN)
    monkeypatch.setattr(roofkit.web, "PAUSE", 0.01)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def scene(make_raster):
    """600 x 500 pixels of 0.5 m in UTM 44 N, three bands, a corner invalid."""
    rng = np.random.default_rng(1)
    array = rng.integers(0, 2000, (3, 600, 500)).astype(np.uint16)
    valid = np.ones((600, 500), bool)
    valid[:90, :70] = False
    return make_raster(array, "source/scene.tif", valid=valid)


def bbox_of(path, shrink=0.0):
    with rasterio.open(path) as src:
        left, bottom, right, top = rasterio.warp.transform_bounds(src.crs, "EPSG:4326", *src.bounds, densify_pts=21)
    dx, dy = shrink * (right - left), shrink * (top - bottom)
    return [left + dx, bottom + dy, right - dx, top - dy]


@pytest.fixture
def line(tmp_path, scene):
    def make(server, **values):
        values = {
            "source": "earthengine", "collection": "X/Y", "project": "p", "ee_url": server.url, "scale": 0.5,
            "resampling": "nearest", "bbox": bbox_of(scene, 0.05), "retries": 3, "timeout": 1.0, "parallel": 4,
        } | values  # fmt: skip
        (tmp_path / "settings.json").write_text(json.dumps({"download_args": values}))
        return ["--settings", str(tmp_path / "settings.json"), "--data", str(tmp_path / "data"), "--quiet", "--json"]

    return make


def report(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def snapshot(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.tif"))}


def truth(path, like):
    """What the service's pixels are on the grid of `like`, and where they are valid."""
    with rasterio.open(like) as dst, rasterio.open(path) as src:
        options = dict(crs=dst.crs, transform=dst.transform, height=dst.height, width=dst.width)
        with WarpedVRT(src, resampling=Resampling.nearest, add_alpha=True, **options) as vrt:
            found = vrt.read()
    valid = found[-1] > 0
    return found[:-1] * valid, valid


def check_exact(scene, folder):
    paths = sorted((folder / "scenes").glob("*.tif"))
    assert paths
    for path in paths:
        pixels, valid = truth(scene, path)
        with rasterio.open(path) as src:
            np.testing.assert_array_equal(src.read(), pixels)
            np.testing.assert_array_equal(src.dataset_mask() > 0, valid)
            assert src.descriptions == tuple(NAMES)
            assert src.dtypes[0] == "uint16"
            assert src.profile["blockxsize"] == (256 if min(src.shape) >= 256 else src.width)


def test_by_hand():
    assert dtype_of([{"precision": "int", "min": 0, "max": 255}]) == "uint8"
    assert dtype_of([{"precision": "int", "min": 0, "max": 255}, {"precision": "int", "min": -5, "max": 5}]) == "int16"
    assert dtype_of([{"precision": "int", "min": -(2**31), "max": 2**31 - 1}]) == "float32"
    assert dtype_of([{"precision": "double"}]) == "float32"
    assert tile_side(4, "uint16") == 1792
    for bands, dtype in ((1, "uint8"), (4, "uint16"), (13, "float32"), (200, "uint16")):
        side = tile_side(bands, dtype)
        assert side % 256 == 0
        assert side**2 * (bands + 1) * (np.dtype(dtype).itemsize + 1) <= 50_331_648
    assert native_scale({"crs": "EPSG:32644", "crs_transform": [10, 0, 0, 0, -10, 0]}) == 10
    assert native_scale({"crs": "EPSG:4326", "crs_transform": [1, 0, 0, 0, 1, 0]}) is None


def test_scenes_are_pixel_exact_and_kept(scene, line, tmp_path, capsys):
    with earth_engine(scene, NAMES) as server:
        assert main(line(server, scene_size=256)) == 0
        found = report(capsys)
        assert found["scenes"] == 6
        assert found["metres_a_pixel"] == pytest.approx(0.5, rel=1e-3)
        check_exact(scene, tmp_path / "data")
        before, count = snapshot(tmp_path / "data"), len(server.pixel_requests)
        assert main(line(server, scene_size=256)) == 0
        assert report(capsys)["kept"] == 6
        assert len(server.pixel_requests) == count
    assert snapshot(tmp_path / "data") == before
    assert not (tmp_path / "data/.download").exists()


def test_dry_run_fetches_no_pixel(scene, line, tmp_path, capsys):
    with earth_engine(scene, NAMES) as server:
        assert main([*line(server), "--dry-run", "--scale", "10"]) == 0
        assert server.pixel_requests == []
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["tiles"] == 1
    assert "a pixel is 10 m wide" in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("fault", [429, 500, 503, "reset", "truncated", "cut", "hang"])
def test_faults_that_pass_end_pixel_exact(fault, scene, line, tmp_path):
    with earth_engine(scene, NAMES, faults=[None, fault, fault, None, fault]) as server:
        assert main(line(server, scene_size=256)) == 0
    check_exact(scene, tmp_path / "data")


@pytest.mark.parametrize("fault", [400, 401, 403])
def test_faults_that_stay_end_at_once_with_one_line(fault, scene, line, tmp_path, capsys):
    with earth_engine(scene, NAMES, faults=[fault] * 50) as server:
        assert main(line(server, scene_size=256)) == 1
        assert len(server.pixel_requests) <= 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert TOKEN not in out + err
    assert not list(tmp_path.glob("data/scenes/*"))


@pytest.mark.parametrize("options", [{"limit": 400_000}, {"memory": 20_000}])
def test_tiles_are_halved_until_the_service_delivers(options, scene, line, tmp_path):
    with earth_engine(scene, NAMES, **options) as server:
        assert main(line(server)) == 0
        check_exact(scene, tmp_path / "data")
        assert len(server.pixel_requests) > 4


def test_an_error_half_way_keeps_what_was_fetched(scene, line, tmp_path, capsys):
    with earth_engine(scene, NAMES) as server:
        assert main([*line(server, scene_size=256), "--data", str(tmp_path / "whole")]) == 0
    with earth_engine(scene, NAMES, faults=[None, None, None, 403]) as server:
        assert main(line(server, scene_size=256, parallel=1)) == 1
        first = [json.dumps(grid) for grid in server.pixel_requests]
        server.pixel_requests.clear()
        assert main(line(server, scene_size=256, parallel=1)) == 0
        second = [json.dumps(grid) for grid in server.pixel_requests]
    assert set(first[:3]).isdisjoint(second)
    assert snapshot(tmp_path / "data") == snapshot(tmp_path / "whole")


def test_never_more_requests_at_once_than_the_cap(scene, line):
    with earth_engine(scene, NAMES, memory=300, slow=0.01) as server:
        assert main(line(server, parallel=3, bbox=bbox_of(scene, 0.46))) == 0
        assert server.most <= 3
    with earth_engine(scene, NAMES, slow=0.05) as server:
        assert main([*line(server, scale=0.5, scene_size=512, parallel=3), "--overwrite"]) == 0
        assert server.most <= 3


def run_killed(line, seconds):
    env = os.environ | {"EARTHENGINE_TOKEN": TOKEN}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "download/download.py"), *line], env=env, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return process.returncode


def kills(scene, line, tmp_path, count):
    with earth_engine(scene, NAMES, slow=0.02, memory=9000) as server:
        started = time.monotonic()
        assert run_killed([*line(server), "--data", str(tmp_path / "whole")], 120) == 0
        whole = time.monotonic() - started
        rng = random.Random(3)
        for number in range(count):
            data = tmp_path / f"killed{number}"
            status = run_killed([*line(server), "--data", str(data)], rng.uniform(0.5, 1.0) * whole)
            assert status in (0, -signal.SIGKILL)
            assert run_killed([*line(server), "--data", str(data)], 120) == 0
            assert snapshot(data) == snapshot(tmp_path / "whole")


def test_killed_and_run_again_gives_the_same_bytes(scene, line, tmp_path):
    kills(scene, line, tmp_path, 1)


@pytest.mark.slow
def test_killed_15_times(scene, line, tmp_path):
    kills(scene, line, tmp_path, 15)


def test_a_service_account(scene, line, tmp_path, monkeypatch, capsys):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    monkeypatch.delenv("EARTHENGINE_TOKEN")
    pem = (
        rsa.generate_private_key(65537, 2048)
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )
    with earth_engine(scene, NAMES) as server:
        key = {"type": "service_account", "client_email": "a@b.c", "private_key": pem, "project_id": "own",
               "token_uri": f"{server.url}/token", "private_key_id": "1", "client_id": "2"}  # fmt: skip
        (tmp_path / "key.json").write_text(json.dumps(key))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        assert main(line(server, project=None)) == 0
        assert any("/projects/own/image:computePixels" in path for path in server.requests)
        assert "/token" in server.requests
    assert "PRIVATE" not in "".join(capsys.readouterr())
    (tmp_path / "key.json").write_text("{}")
    with earth_engine(scene, NAMES) as server:
        assert main([*line(server), "--overwrite"]) == 1
    assert "credentials of type None" in capsys.readouterr().err


def test_no_credentials_give_the_steps(scene, line, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("EARTHENGINE_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CLOUDSDK_CONFIG", raising=False)
    with earth_engine(scene, NAMES) as server:
        assert main(line(server)) == 1
        assert server.requests == []
    err = capsys.readouterr().err
    assert "no credentials" in err
    assert "earthengine authenticate" in err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bbox": None}, "expected an area"),
        ({"bbox": [10, 0, 5, 1]}, "west below east"),
        ({"collection": None}, "Give --collection ID"),
        ({"preset": "moon", "collection": None}, "one of sentinel2, landsat, naip"),
        ({"bands": ["B9"]}, "'B9'; expected of B1, B2, B3"),
        ({"project": None}, "Google Cloud project"),
        ({"crs": "EPSG:0"}, "download_args.crs"),
        ({"cloud": 10.0}, "download_args.cloud"),
        ({"image": "X", "collection": None, "start": "2024-01-01"}, "which is one already"),
        ({"image": "X"}, "are both set"),
        ({"start": "2024-02-01", "end": "2024-01-01"}, "a start before the end"),
        ({"start": "yesterday"}, "download_args.start"),
        ({"parallel": 41}, "download_args.parallel"),
        ({"dtype": "uint8"}, "expected uint8"),
    ],
)
def test_every_problem_is_one_line(values, words, scene, line, capsys):
    with earth_engine(scene, NAMES) as server:
        assert main(line(server, **values)) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert words in err


def test_an_empty_collection(scene, line, capsys):
    with earth_engine(scene, NAMES, info={"type": "Image", "bands": []}) as server:
        assert main(line(server)) == 1
    assert "no image in this area" in capsys.readouterr().err


def test_nothing_but_masked_pixels_is_an_error(scene, line, capsys):
    west, south, _, _ = bbox_of(scene)
    with earth_engine(scene, NAMES) as server:
        assert main(line(server, bbox=[west - 0.01, south - 0.01, west - 0.009, south - 0.009])) == 1
        assert "not one valid pixel" in capsys.readouterr().err
        assert main(line(server, bbox=bbox_of(scene, 0.3))) == 0  # nothing is lost with blank scenes


def test_a_redirect_to_a_private_network_is_refused(scene, line, capsys, monkeypatch):
    import earth_engine_server

    with earth_engine(scene, NAMES) as server:

        def redirect(handler):
            handler.send_response(302)
            handler.send_header("Location", "http://169.254.169.254/latest/meta-data")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        monkeypatch.setattr(earth_engine_server.Handler, "do_GET", redirect)
        assert main(line(server)) == 1
    err = capsys.readouterr().err
    assert "redirect to a private network (169.254.169.254)" in err


def test_other_settings_do_not_lose_what_was_fetched(scene, line, tmp_path, capsys):
    with earth_engine(scene, NAMES) as server:
        assert main(line(server)) == 0
        before = snapshot(tmp_path / "data")
        assert main(line(server, bbox=bbox_of(scene, 0.2))) == 1
        assert "fetched from earthengine with other settings" in capsys.readouterr().err
        assert snapshot(tmp_path / "data") == before
        assert main([*line(server, bbox=bbox_of(scene, 0.2)), "--overwrite"]) == 0
    assert snapshot(tmp_path / "data") != before


def test_an_area_with_corners(scene, line, tmp_path):
    import geopandas as gpd
    import shapely

    west, south, east, north = bbox_of(scene, 0.1)
    triangle = shapely.Polygon([(west, south), (east, south), (west, north)])
    gpd.GeoSeries([triangle], crs="EPSG:4326").to_file(tmp_path / "area.gpkg")
    with earth_engine(scene, NAMES) as server:
        assert main(line(server, bbox=None, aoi="area.gpkg", scene_size=256)) == 0
    valid = total = 0
    for path in (tmp_path / "data/scenes").glob("*.tif"):
        with rasterio.open(path) as src:
            valid += int((src.dataset_mask() > 0).sum())
            total += src.width * src.height
    whole = 0.25 * 0.5 * 0.8 * 600 * 0.8 * 500 / 0.25
    assert valid == pytest.approx(whole, rel=0.1)


def test_banepa_through_earth_engine(line, tmp_path):
    folder = real("banepa/scenes")
    path = sorted(folder.glob("*.tif"))[7]
    with earth_engine(path, ["red", "green", "blue"]) as server:
        assert main(line(server, bbox=bbox_of(path, 0.2), scale=0.26)) == 0
    with rasterio.open(tmp_path / "data/scenes/earthengine.tif") as src:
        assert (src.crs.to_epsg(), src.dtypes[0], src.count) == (32645, "uint8", 3)
        assert src.read().std() > 10


def test_a_service_that_sends_no_validity(scene, line, tmp_path, capsys):
    with earth_engine(scene, NAMES, validity=False) as server:
        assert main(line(server, bbox=bbox_of(scene, 0.2))) == 0
    assert "no band of validity" in capsys.readouterr().err
    check_exact(scene, tmp_path / "data")
