"""stac: a STAC API and a static catalogue on 127.0.0.1, found by the real client."""

import json

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_bounds
from test_cog import FAULTS, TOKEN, bbox_of, check_exact, snapshot
from web_server import web_server

from download.download import main
from sources.stac import PRESETS, flat

pytestmark = pytest.mark.usefixtures("quick")

STAC = "1.0.0"


@pytest.fixture
def bands(make_raster):
    """Red and green of 800 x 700 pixels, and a near infrared of half the resolution."""
    rng = np.random.default_rng(5)
    red, green = (rng.integers(1, 900, (1, 800, 700)).astype(np.uint16) for _ in range(2))
    nir = rng.integers(1, 900, (1, 400, 350)).astype(np.uint16)
    from affine import Affine

    coarse = Affine(1.0, 0, 735000, 0, -1.0, 2960000)
    return {
        "red": make_raster(red, "red.tif"),
        "green": make_raster(green, "green.tif"),
        "nir": make_raster(nir, "nir.tif", transform=coarse),
    }


def item(name, paths, prefix, day="2024-03-05", cloud=4.0, **links):
    with rasterio.open(paths["red"]) as src:
        w, s, e, n = transform_bounds(src.crs, "EPSG:4326", *src.bounds)
    ring = [[w, s], [e, s], [e, n], [w, n], [w, s]]
    return {
        "type": "Feature", "stac_version": STAC, "id": name, "collection": "town", "bbox": [w, s, e, n],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": f"{day}T10:00:00Z", "eo:cloud_cover": cloud, "license": "CC-BY-4.0"},
        "assets": {k: {"href": f"{prefix}{k}.tif", "type": "image/tiff; application=geotiff"} for k in paths},
        "links": [{"rel": "self", "href": links["self"]}] if links else [],
    }  # fmt: skip


class Api:
    """A STAC API of one collection; two items a page."""

    def __init__(self, bands, count=3):
        self.bands, self.count = bands, count

    @property
    def files(self):
        return {f"/files/{key}.tif": path.read_bytes() for key, path in self.bands.items()}

    def routes(self):
        return {"/stac": self.landing, "/stac/search": self.search, "/stac/collections": self.collections}

    def landing(self, handler):
        url = handler.server.url
        links = [
            {"rel": "self", "href": f"{url}/stac"}, {"rel": "root", "href": f"{url}/stac"},
            {"rel": "data", "href": f"{url}/stac/collections"},
            {"rel": "search", "href": f"{url}/stac/search", "method": "POST", "type": "application/geo+json"},
            {"rel": "search", "href": f"{url}/stac/search", "method": "GET", "type": "application/geo+json"},
        ]  # fmt: skip
        conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
        body = {"type": "Catalog", "id": "api", "stac_version": STAC, "description": "a test", "links": links}
        self.json(handler, body | {"conformsTo": conforms})

    def collections(self, handler):
        self.json(handler, {"collections": [], "links": []})

    def search(self, handler):
        url = handler.server.url
        asked = json.loads(handler.body or b"{}")
        first = int(asked.get("token", 0))
        days = [f"2024-03-{5 + n:02}" for n in range(self.count)]
        found = [item(f"scene{n}", self.bands, f"{url}/files/", day, cloud=30.0 * n) for n, day in enumerate(days)]
        links = []
        if first + 2 < self.count:
            body = {**asked, "token": first + 2}
            links = [{"rel": "next", "href": f"{url}/stac/search", "method": "POST", "body": body}]
        self.json(handler, {"type": "FeatureCollection", "features": found[first : first + 2], "links": links})

    @staticmethod
    def json(handler, value):
        handler.answer(200, json.dumps(value).encode(), "application/json")


@pytest.fixture
def line(tmp_path, bands):
    def make(address, **values):
        values = {
            "source": "stac", "address": address, "bbox": bbox_of(bands["red"]), "collection": "town", "retries": 3,
            "timeout": 0.5, "parallel": 4, "assets": ["red"], "items": 1,
        } | values  # fmt: skip
        (tmp_path / "settings.json").write_text(json.dumps({"download_args": values}))
        return ["--settings", str(tmp_path / "settings.json"), "--data", str(tmp_path / "data"), "--quiet", "--json"]

    return make


def served(bands, **options):
    api = Api(bands)
    return web_server(api.files, routes=api.routes(), **options)


def test_by_hand():
    assert flat([1, 2, 3, 4]) == [1, 2, 3, 4]
    assert flat([1, 2, 0, 3, 4, 9]) == [1, 2, 3, 4]
    assert all(preset.address.startswith("https://") for preset in PRESETS.values())


def test_the_newest_item_of_an_api(bands, line, tmp_path, capsys):
    with served(bands) as server:
        assert main(line(f"{server.url}/stac")) == 0
        count = len(server.paths)
        before = snapshot(tmp_path / "data")
        assert main(line(f"{server.url}/stac")) == 0
        assert len(server.paths) < 2 * count
    check_exact(bands["red"], tmp_path / "data")
    assert snapshot(tmp_path / "data") == before
    assert [p.name for p in (tmp_path / "data/scenes").iterdir()] == ["scene2.tif"]
    assert "CC-BY-4.0" in capsys.readouterr().err


def test_dates_and_clouds_choose(bands, line, tmp_path, capsys):
    with served(bands) as server:
        assert main(line(f"{server.url}/stac", items=9, cloud=40.0)) == 0
        assert {p.stem for p in (tmp_path / "data/scenes").iterdir()} == {"scene0", "scene1"}
        assert main([*line(f"{server.url}/stac", start="2024-03-06", end="2024-03-07"), "--overwrite"]) == 0
        assert {p.stem for p in (tmp_path / "data/scenes").iterdir()} == {"scene1"}
        capsys.readouterr()
        assert main([*line(f"{server.url}/stac", start="2025-01-01"), "--overwrite"]) == 1
    assert "no item of town in the area, 2025-01-01 to now" in capsys.readouterr().err


def test_assets_become_bands(bands, line, tmp_path):
    with served(bands) as server:
        assert main(line(f"{server.url}/stac", assets=["green", "red", "nir"], resampling="nearest")) == 0
    with rasterio.open(tmp_path / "data/scenes/scene2.tif") as dst:
        assert dst.descriptions == ("green", "red", "nir")
        assert dst.res == (0.5, 0.5)
        for number, name, step in ((1, "green", 0.5), (2, "red", 0.5), (3, "nir", 1.0)):
            with rasterio.open(bands[name]) as src:
                y, x = np.mgrid[: dst.height, : dst.width] + 0.5
                xs, ys = dst.transform.c + 0.5 * x, dst.transform.f - 0.5 * y
                cols, rows = ((xs - 735000) / step).astype(int), ((2960000 - ys) / step).astype(int)
                np.testing.assert_array_equal(dst.read(number), src.read(1)[rows, cols])


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_pass_end_pixel_exact(fault, bands, line, tmp_path):
    with served(bands, faults=[fault, None, fault, fault, None, fault]) as server:
        assert main(line(f"{server.url}/stac")) == 0
    check_exact(bands["red"], tmp_path / "data")


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("fault", [400, 401, 403])
def test_faults_that_stay_end_at_once_with_one_line(fault, place, bands, line, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STAC_KEY", TOKEN)
    with served(bands, faults=[None] * place + [fault] * 50) as server:
        assert main(line(f"{server.url}/stac?key=${{STAC_KEY}}", parallel=1)) == 1
        assert len(server.paths) <= place + 2
    out, err = capsys.readouterr()
    lines = [text for text in err.splitlines() if text.startswith("error")]
    assert len(lines) == 1
    assert TOKEN not in out + err
    assert not any(TOKEN.encode() in p.read_bytes() for p in tmp_path.rglob("data/**/*") if p.is_file())


def catalogue(folder, bands, prefix="./"):
    folder.mkdir(parents=True, exist_ok=True)
    for key, path in bands.items():
        (folder / f"{key}.tif").write_bytes(path.read_bytes())
    found = item("one", bands, prefix, self="./item.json")
    extent = {"spatial": {"bbox": [found["bbox"]]}, "temporal": {"interval": [[None, None]]}}
    root = {"type": "Catalog", "id": "events", "stac_version": STAC, "description": "a test"}
    town = {"type": "Collection", "id": "town", "stac_version": STAC, "description": "a test", "license": "other"}
    far = town | {"id": "far", "extent": extent | {"spatial": {"bbox": [[0, 0, 1, 1]]}}, "links": []}
    links = [{"rel": "child", "href": "./town.json"}, {"rel": "child", "href": "./far.json"}]
    documents = {
        "catalog.json": root | {"links": links}, "far.json": far, "item.json": found,
        "town.json": town | {"extent": extent, "links": [{"rel": "item", "href": "./item.json"}]},
    }  # fmt: skip
    for name, value in documents.items():
        (folder / name).write_text(json.dumps(value))


@pytest.mark.parametrize("collection", ["town", None])
def test_a_static_catalogue_on_the_disk_and_on_a_server(collection, bands, line, tmp_path):
    catalogue(tmp_path / "cat", bands)
    assert main(line("cat/catalog.json", collection=collection)) == 0
    check_exact(bands["red"], tmp_path / "data")
    files = {f"/x/{path.name}": path.read_bytes() for path in (tmp_path / "cat").iterdir()}
    with web_server(files) as server:
        assert main([*line(f"{server.url}/x/catalog.json", collection=collection), "--overwrite"]) == 0
    check_exact(bands["red"], tmp_path / "data")


@pytest.mark.parametrize("prefix", ["/etc/", "file:///etc/", "../../other/"])
def test_a_server_cannot_name_files_of_this_machine(prefix, bands, line, tmp_path, capsys):
    catalogue(tmp_path / "cat", bands, prefix)
    files = {f"/{path.name}": path.read_bytes() for path in (tmp_path / "cat").glob("*.json")}
    with web_server(files) as server:
        assert main(line(f"{server.url}/catalog.json")) == 1
    err = capsys.readouterr().err
    assert any(words in err for words in ("named by a catalogue elsewhere", "not an address", "404"))


@pytest.mark.parametrize(
    ("address", "values", "words"),
    [
        ([], {}, "Give --address ADDRESS"),
        ([], {"preset": "moon"}, "one of earth-search"),
        ("cat/none.json", {}, "no such file"),
        ("cat/red.tif", {}, "no STAC catalogue"),
        ("cat/catalog.json", {"collection": "sea"}, "'sea'; expected one of far, town"),
        ("cat/catalog.json", {"assets": ["blue"]}, "'blue'; expected of one: red, green, nir"),
        ("cat/catalog.json", {"assets": None}, "which to fetch"),
        ("cat/catalog.json", {"bbox": None}, "an area for source stac"),
    ],
)
def test_every_problem_is_one_line(address, values, words, bands, line, tmp_path, capsys):
    catalogue(tmp_path / "cat", bands)
    assert main(line(address, **values)) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert words in err


def changed(bands, change, **options):
    """An API whose items are changed."""
    api = Api(bands, count=1)

    def search(handler):
        found = item("scene0", bands, f"{handler.server.url}/files/")
        change(found)
        api.json(handler, {"type": "FeatureCollection", "features": [found], "links": []})

    return web_server(api.files, routes=api.routes() | {"/stac/search": search}, **options)


def test_a_collection_that_an_api_does_not_have(bands, line, capsys):
    def none(handler):
        Api.json(handler, {"type": "FeatureCollection", "features": [], "links": []})

    def collections(handler):
        Api.json(handler, {"collections": [{"id": "town"}, {"id": "tower"}], "links": []})

    with served(bands) as server:
        server.routes |= {"/stac/search": none, "/stac/collections": collections}
        assert main(line(f"{server.url}/stac", collection="twon")) == 1
        assert "'twon'; expected one of town, tower" in capsys.readouterr().err
        assert main(line(f"{server.url}/stac")) == 1
        assert "no item of town in the area" in capsys.readouterr().err


def test_an_api_that_cannot_search_is_walked(bands, line, tmp_path):
    catalogue(tmp_path / "cat", bands)
    root = json.loads((tmp_path / "cat/catalog.json").read_text())
    root["conformsTo"] = ["https://api.stacspec.org/v1.0.0/core"]
    (tmp_path / "cat/catalog.json").write_text(json.dumps(root))
    assert main(line("cat/catalog.json")) == 0
    check_exact(bands["red"], tmp_path / "data")


@pytest.mark.parametrize("start", ["catalog.json", "town.json", "item.json"])
@pytest.mark.parametrize("collection", ["town", None])
def test_a_catalogue_that_leads_back_to_itself(start, collection, bands, line, tmp_path):
    catalogue(tmp_path / "cat", bands)
    town = json.loads((tmp_path / "cat/town.json").read_text())
    town["links"].append({"rel": "child", "href": "./catalog.json"})
    (tmp_path / "cat/town.json").write_text(json.dumps(town))
    assert main(line(f"cat/{start}", collection=collection)) == 0
    check_exact(bands["red"], tmp_path / "data")


def test_a_document_that_is_refused_says_so(bands, line, tmp_path, capsys):
    catalogue(tmp_path / "cat", bands)
    files = {f"/{path.name}": path.read_bytes() for path in (tmp_path / "cat").glob("*.json")}
    with web_server(files, faults=[None, None, 403, 403, 403]) as server:
        assert main(line(f"{server.url}/catalog.json")) == 1
        assert len(server.paths) == 3
    assert "403 Forbidden" in capsys.readouterr().err


def test_names_of_bands(bands, make_raster, line, tmp_path):
    pixels = np.random.default_rng(6).integers(1, 9, (3, 80, 70)).astype(np.uint8)
    bands["red"] = make_raster(pixels, "all.tif")
    for key in ("bands", "eo:bands"):
        named = {key: [{"name": n} for n in "RGN"]}
        with changed(bands, lambda item, named=named: item["assets"]["red"].update(named)) as server:
            assert main([*line(f"{server.url}/stac", bands=["N", "R"]), "--overwrite"]) == 0
        with rasterio.open(tmp_path / "data/scenes/scene0.tif") as dst:
            assert dst.descriptions == ("N", "R")
    with rasterio.open(bands["green"]) as src, served({"red": bands["green"]}) as server:
        assert main([*line(f"{server.url}/stac", bbox=bbox_of(src.name)), "--overwrite"]) == 0
    with rasterio.open(tmp_path / "data/scenes/scene2.tif") as dst:
        assert dst.descriptions == ("red",)


def test_bands_do_not_choose_among_assets(bands, line, capsys):
    with served(bands) as server:
        assert main(line(f"{server.url}/stac", assets=["red", "green"], bands=["1"])) == 1
    assert "download_args.bands: 1; expected null" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [
    {"geometry": {"type": "Nonsense"}}, {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}},
    {"properties": {"datetime": "soon"}}, {"properties": {"datetime": None}}, {"properties": []}, {"links": None},
    {"properties": {"datetime": "2024-03-05T10:00:00Z", "eo:cloud_cover": "much"}}, {"id": 5},
])  # fmt: skip
def test_malformed_items_are_one_line(wrong, bands, line, capsys):
    with changed(bands, lambda found: found.update(wrong)) as server:
        assert main(line(f"{server.url}/stac", cloud=50.0)) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "no STAC catalogue" in err


def test_malformed_providers_are_not_shown(bands, line, capsys):
    with changed(bands, lambda found: found["properties"].update(providers="x")) as server:
        assert main(line(f"{server.url}/stac")) == 0
    assert "CC-BY-4.0" in capsys.readouterr().err
