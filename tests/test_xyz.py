"""xyz: tiles of a server on 127.0.0.1, put together to scenes, with the faults of a network."""

import json
import struct
import zlib

import numpy as np
import pytest
import rasterio
from imagery import real
from test_cog import FAULTS, TOKEN, snapshot
from web_server import web_server

from download.download import main
from roofkit.raster import gdal_env
from roofkit.settings import DownloadArgs
from roofkit.web import Web
from sources.xyz import HALF, Xyz, decoded, tile_at

pytestmark = pytest.mark.usefixtures("quick")

ZOOM, LEFT, TOP = 17, 95_897, 55_400
SIZE = 3  # tiles a side


def encoded(pixels, driver="PNG", **options):
    with gdal_env(), rasterio.MemoryFile() as file:
        profile = dict(driver=driver, count=pixels.shape[0], height=pixels.shape[1], width=pixels.shape[2])
        with file.open(**profile, dtype=pixels.dtype, **options) as dst:
            dst.write(pixels)
        return file.read()


@pytest.fixture
def town():
    """Three by three tiles of RGB."""
    return np.random.default_rng(2).integers(0, 256, (3, SIZE * 256, SIZE * 256)).astype(np.uint8)


def tiles(town, encode=encoded, side=256, path="/{z}/{x}/{y}.png"):
    return {
        path.format(z=ZOOM, x=LEFT + col, y=TOP + row): encode(
            town[:, row * side : (row + 1) * side, col * side : (col + 1) * side]
        )
        for row in range(SIZE)
        for col in range(SIZE)
    }


def bbox():
    """All of the tiles but a margin."""

    def place(col, row):
        x, y = col / 2**ZOOM * 360 - 180, np.pi * (1 - 2 * row / 2**ZOOM)
        return x, float(np.degrees(np.arctan(np.sinh(y))))

    (west, north), (east, south) = place(LEFT + 0.1, TOP + 0.1), place(LEFT + SIZE - 0.1, TOP + SIZE - 0.1)
    return [west, south, east, north]


@pytest.fixture
def line(tmp_path):
    def make(*address, **values):
        values = {
            "source": "xyz", "address": list(address), "bbox": bbox(), "zoom": ZOOM, "retries": 3, "timeout": 0.5,
            "parallel": 4,
        } | values  # fmt: skip
        (tmp_path / "settings.json").write_text(json.dumps({"download_args": values}))
        return ["--settings", str(tmp_path / "settings.json"), "--data", str(tmp_path / "data"), "--quiet", "--json"]

    return make


def check(folder, town):
    """One scene that is the town, in its place."""
    (path,) = (folder / "scenes").glob("*.tif")
    assert path.name == f"xyz_z{ZOOM}_{LEFT}_{TOP}.tif"
    with rasterio.open(path) as src:
        np.testing.assert_array_equal(src.read(), town)
        assert src.crs.to_epsg() == 3857
        pixel = 2 * HALF / 256 / 2**ZOOM
        assert src.res == pytest.approx((pixel, pixel))
        assert src.bounds.left == pytest.approx(LEFT * 256 * pixel - HALF)
        assert src.bounds.top == pytest.approx(HALF - TOP * 256 * pixel)
        assert src.colorinterp[0].name == "red"


def test_by_hand():
    assert tile_at(-180.0, 85.05112877980659, 3) == pytest.approx((0, 0), abs=1e-9)
    assert tile_at(0.0, 0.0, 1) == pytest.approx((1, 1))


def test_tiles_become_a_scene(town, line, tmp_path):
    with web_server(tiles(town)) as server:
        assert main(line(f"{server.url}/{{z}}/{{x}}/{{y}}.png")) == 0
        assert len(server.paths) == 10  # one more for the size of a tile
        assert server.most <= 4
    check(tmp_path / "data", town)


def test_scale_chooses_the_zoom_and_tms_counts_from_below(town, line, tmp_path):
    files = {f"/{ZOOM}/{LEFT + c}/{2**ZOOM - 1 - TOP - r}.png": data
             for (r, c), data in zip(np.ndindex(SIZE, SIZE), tiles(town).values())}  # fmt: skip
    with web_server(files) as server:
        assert main(line(f"{server.url}/{{z}}/{{x}}/{{-y}}.png", zoom=None, scale=1.1)) == 0
    check(tmp_path / "data", town)


@pytest.mark.parametrize("driver", ["WEBP", "GTiff"])
def test_other_formats(driver, town, line, tmp_path):
    town = np.repeat(np.repeat(town[:, ::8, ::8], 8, 1), 8, 2)  # lossless WebP of noise takes seconds
    options = {"QUALITY": 100, "WEBP_LOSSLESS": True, "LOSSLESS": True} if driver == "WEBP" else {}
    with web_server(tiles(town, lambda part: encoded(part, driver, **options))) as server:
        assert main(line(f"{server.url}/{{z}}/{{x}}/{{y}}.png")) == 0
    check(tmp_path / "data", town)


def test_jpeg_gray_and_alpha(town, line, tmp_path):
    smooth = np.repeat(np.repeat(town[:, ::64, ::64], 64, 1), 64, 2)
    with web_server(tiles(smooth, lambda part: encoded(part, "JPEG", QUALITY=100))) as server:
        assert main(line(f"{server.url}/{{z}}/{{x}}/{{y}}.png")) == 0
    (path,) = (tmp_path / "data/scenes").glob("*.tif")
    with rasterio.open(path) as src:
        assert np.abs(src.read().astype(int) - smooth).mean() < 12
    gray = np.repeat(town[:1], 3, 0)
    with web_server(tiles(gray, lambda part: encoded(part[:1]))) as server:
        assert main([*line(f"{server.url}/{{z}}/{{x}}/{{y}}.png"), "--overwrite"]) == 0
    check(tmp_path / "data", gray)


def test_a_tile_that_is_not_there_is_invalid(town, line, tmp_path, capsys):
    files = tiles(town)
    del files[f"/{ZOOM}/{LEFT + 2}/{TOP}.png"]
    with web_server(files) as server:
        assert main(line(f"{server.url}/{{z}}/{{x}}/{{y}}.png")) == 0
    out, err = capsys.readouterr()
    assert f"no tile at {ZOOM}/{LEFT + 2}/{TOP}" in err
    assert json.loads(out.splitlines()[-1])["missing_tiles"] == 1
    (path,) = (tmp_path / "data/scenes").glob("*.tif")
    with rasterio.open(path) as src:
        valid = src.dataset_mask() > 0
    assert not valid[:256, 512:].any()
    assert valid.sum() == 8 * 256 * 256


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_pass_end_pixel_exact(fault, town, line, tmp_path):
    with web_server(tiles(town), faults=[fault, None, fault, fault, None, fault]) as server:
        assert main(line(f"{server.url}/{{z}}/{{x}}/{{y}}.png")) == 0
    check(tmp_path / "data", town)


@pytest.mark.parametrize("place", [0, 5])
@pytest.mark.parametrize("fault", [400, 401, 403])
def test_faults_that_stay_end_at_once_with_one_line(fault, place, town, line, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MAP_KEY", TOKEN)
    files = tiles(town, path=f"/{TOKEN}/{{z}}/{{x}}/{{y}}.png")
    with web_server(files, faults=[None] * place + [fault] * 50) as server:
        address = (
            f"http://user:{TOKEN}@127.0.0.1:{server.server_address[1]}/${{MAP_KEY}}/{{z}}/{{x}}/{{y}}.png?k={TOKEN}"
        )
        assert main(line(address, parallel=1)) == 1
        assert len(server.paths) <= place + 2
    out, err = capsys.readouterr()
    assert len([text for text in err.splitlines() if text.startswith("error")]) == 1
    assert TOKEN not in out + err
    assert not any(TOKEN.encode() in p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file())


def test_an_error_half_way_keeps_what_was_fetched(town, line, tmp_path):
    with web_server(tiles(town)) as server:
        assert main([*line(f"{server.url}/{{z}}/{{x}}/{{y}}.png"), "--data", str(tmp_path / "whole")]) == 0
        server.paths.clear()
        server.faults = [None] * 6 + [403]
        assert main(line(f"{server.url}/{{z}}/{{x}}/{{y}}.png", parallel=1)) == 1
        first = server.paths[1:6]
        server.paths.clear()
        assert main(line(f"{server.url}/{{z}}/{{x}}/{{y}}.png", parallel=1)) == 0
        assert set(first).isdisjoint(server.paths[1:])
    assert snapshot(tmp_path / "data") == snapshot(tmp_path / "whole")


def html(part):
    return b"<html>log in</html>"


def deep(part):
    return encoded(part.astype(np.uint16))


@pytest.mark.parametrize(
    ("encode", "address", "values", "words"),
    [
        (html, "{z}/{x}/{y}.png", {}, "a web page, no image"),
        (deep, "{z}/{x}/{y}.png", {}, "256 x 256 uint16"),
        (lambda part: encoded(part)[:300], "{z}/{x}/{y}.png", {}, "a broken image"),
        (lambda part: encoded(part[:, :100, :100]), "{z}/{x}/{y}.png", {}, "100 x 100"),
        (encoded, "tiles.png", {}, "expected {z}, {x} and {y} in it"),
        (encoded, "{z}/{x}/{y}.png", {"zoom": None}, "Give --zoom Z"),
        (encoded, "{z}/{x}/{y}.png", {"address": ["http://[x/{z}/{x}/{y}.png"]}, "not an address"),
        (encoded, "{z}/{x}/{y}.png", {"address": ["http://host:port/{z}/{x}/{y}.png"]}, "not an address"),
        (encoded, "{z}/{x}/{y}.png", {"bbox": None}, "an area for source xyz"),
        (encoded, "none/{z}/{x}/{y}.png", {}, "no tile in the middle"),
    ],
)
def test_every_problem_is_one_line(encode, address, values, words, town, line, capsys):
    with web_server(tiles(town, encode)) as server:
        assert main(line(f"{server.url}/{address}", **values)) == 1
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    assert len(errors) == 1
    assert words in errors[0]


def test_real_tiles_of_a_town(line, tmp_path):
    names = [(x, y) for y in (220_243, 220_244) for x in (386_690, 386_691)]
    paths = [real("banepa/scenes") / f"banepa_{x}_{y}.tif" for x, y in names]
    pixels, bounds = [], []
    for path in paths:
        with rasterio.open(path) as src:
            pixels.append(src.read())
            bounds.append(src.bounds)
    box = bounds[2].left, bounds[2].bottom, bounds[1].right, bounds[1].top
    inner = [box[0] + 1e-5, box[1] + 1e-5, box[2] - 1e-5, box[3] - 1e-5]
    files = {f"/19/{x}/{y}.tif": path.read_bytes() for (x, y), path in zip(names, paths)}
    with web_server(files) as server:
        assert main(line(f"{server.url}/{{z}}/{{x}}/{{y}}.tif", zoom=19, bbox=inner)) == 0
    with rasterio.open(tmp_path / "data/scenes/xyz_z19_386690_220243.tif") as src:
        valid = src.dataset_mask() > 0
        expected = np.concatenate([np.concatenate(pixels[i : i + 2], 2) for i in (0, 2)], 1)
        np.testing.assert_array_equal(src.read()[:, valid], expected[:, valid])
        assert rasterio.warp.transform_bounds(src.crs, "EPSG:4326", *src.bounds) == pytest.approx(box, abs=1e-6)


def palette_png(alpha):
    """256 x 256 pixels whose rows are colour 0, 1, 2, 0, …, with an alpha for each colour."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([row % 3] * 256) for row in range(256))
    header = struct.pack(">IIBBBBB", 256, 256, 8, 3, 0, 0, 0)
    chunks = {b"IHDR": header, b"PLTE": bytes(range(10, 100, 10)), b"tRNS": bytes(alpha), b"IDAT": zlib.compress(rows)}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(k, v) for k, v in chunks.items()) + chunk(b"IEND", b"")


@pytest.mark.parametrize("alpha", [[0, 0, 255], [0, 128, 255], [255, 0, 255]])
def test_transparent_colours_of_a_palette_are_invalid(alpha):
    pixels, valid = decoded(palette_png(alpha), "tile")
    assert [bool(valid[row].all()) for row in range(3)] == [value > 0 for value in alpha]
    assert valid[0].any() == (alpha[0] > 0)
    assert pixels[:, 2, 0].tolist() == [70, 80, 90]


def test_tiles_of_512_without_the_middle_one(line, tmp_path):
    large = np.random.default_rng(3).integers(0, 256, (3, SIZE * 512, SIZE * 512)).astype(np.uint8)
    files = tiles(large, side=512)
    del files[f"/{ZOOM}/{LEFT + 1}/{TOP + 1}.png"]
    with web_server(files) as server:
        assert main(line(f"{server.url}/{{z}}/{{x}}/{{y}}.png")) == 0
    (path,) = (tmp_path / "data/scenes").glob("*.tif")
    with rasterio.open(path) as src:
        valid = src.dataset_mask() > 0
        np.testing.assert_array_equal(src.read()[:, valid], large[:, valid])
    assert (valid.sum(), valid[512:1024, 512:1024].any()) == (8 * 512 * 512, False)


def test_a_key_that_an_address_quotes_is_hidden_too(line, capsys, monkeypatch):
    monkeypatch.setenv("MAP_KEY", "planted key/with+odd=signs")
    with web_server(faults=[403] * 9) as server:
        assert main(line(f"{server.url}/${{MAP_KEY}}/{{z}}/{{x}}/{{y}}.png")) == 1
    assert "planted" not in "".join(capsys.readouterr())


def test_all_servers_of_a_template_are_allowed(tmp_path):
    web = Web()
    settings = DownloadArgs(source="xyz", address=("http://[::{s}]/{z}/{x}/{y}.png",))
    Xyz(settings, None, web, tmp_path)._template()
    for server in "abc":
        web.check(f"http://[::{server}]/1/0/0.png")


def test_a_wrong_template_ends_after_a_few_requests(town, line):
    west, south, _, _ = bbox()
    with web_server(tiles(town)) as server:
        address = f"{server.url}/wrong/{{z}}/{{x}}/{{y}}.png"
        assert main(line(address, bbox=[west, south, west + 0.05, south + 0.05])) == 1
        assert len(server.paths) <= 9
